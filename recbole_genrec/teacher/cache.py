"""Trained teachers on disk: one file per teacher, named by a hash of everything that shapes it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Callable
from typing import NamedTuple

import torch

from recbole_genrec.storage import replacing

logger = logging.getLogger(__name__)


class Teacher(NamedTuple):
    """item_embeddings: FloatTensor [n_items, D] (CPU), row i = internal item id i, row 0 zeros.

    metrics: {"valid": {metric: value}, "test": the same, "best_epoch", "n_epochs"}.
    path: the file that holds the teacher, if it could be written.
    """

    item_embeddings: torch.Tensor
    metrics: dict
    path: str


def load_or_train(
    folder: str | None, model_name: str, dataset_name: str, meta: dict, train: Callable[[], dict]
) -> tuple[dict, str]:
    """Read a teacher from its file, or train it and write that file; a file that cannot be read is made anew.

    A folder that cannot be written costs no more than the training of the next run; it is warned
    of.

    Args:
        folder: where the files are; None: nothing is read or written.
        meta: plain values; together with the model's name what tells this teacher from every other
            one.
        train: makes what is to be kept, tensors and plain values, among them "metrics" as Teacher
            has it.

    Returns:
        what `train` made, now or earlier, with `meta` added; the path of the file, "" without a
        folder.
    """
    if folder is None:
        return {**train(), "meta": meta}, ""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    path = os.path.join(folder, f"{model_name}-{dataset_name}-{digest}.pth")
    saved = _load(path, meta)
    if saved is not None:
        _log(model_name, "loaded from", path, saved["metrics"])
        return saved, path
    saved = {**train(), "meta": meta}
    try:
        with replacing(path) as temporary:
            torch.save(saved, temporary)
    except (OSError, RuntimeError) as error:  # of a full disk torch makes a RuntimeError
        logger.warning(
            "the teacher cannot be kept in %s (%s): the next run trains it again",
            path,
            " ".join(str(error).split()),
        )
        _log(model_name, "trained, not saved to", path, saved["metrics"])
    else:
        _log(model_name, "trained and saved to", path, saved["metrics"])
    return saved, path


def _load(path: str, meta: dict) -> dict | None:
    if not os.path.isfile(path):
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["meta"] == meta:
            return saved
        reason = "it was made with other settings"
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = f"it cannot be read ({type(error).__name__})"
    logger.warning("the cached teacher %s is not used: %s; it will be trained again", path, reason)
    return None


def _log(model_name: str, what: str, path: str, metrics: dict) -> None:
    figures = ", ".join(
        f"{part} {name} {value:.4f}"
        for part in ("valid", "test")
        for name, value in metrics[part].items()
    )
    epochs = f"best of {metrics['n_epochs']} epochs: {metrics['best_epoch'] + 1}"
    logger.info("Teacher %s %s %s (%s): %s", model_name, what, path, epochs, figures)
