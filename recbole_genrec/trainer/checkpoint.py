"""Checkpoints: tensors and plain Python values, written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from recbole.utils import get_local_time

from recbole_genrec.errors import UserError
from recbole_genrec.storage import load_plain, save_plain

FORMAT = "recbole_genrec checkpoint 2"
_FORMAT_OF_0_1 = "recbole_genrec checkpoint 1"  # its settings have other names


def new_checkpoint_path(config) -> Path:
    """Return an unused path: <checkpoint_dir>/<model>-<data set>-<time>[-<number>].pth."""
    stem = f"{config['model']}-{config['dataset']}-{get_local_time()}"
    folder = Path(config["checkpoint_dir"])
    path, number = folder / f"{stem}.pth", 1
    while path.exists() or path.with_suffix(".resume.pth").exists():
        number += 1
        path = folder / f"{stem}-{number}.pth"
    return path


def resume_files(config, suffix: str) -> list[str]:
    """Return the files of this model and data set that end with `suffix`, newest first."""
    stem = re.escape(f"{config['model']}-{config['dataset']}-")
    # The time follows the data set: `amazon` must not find runs on `amazon-beauty`.
    name = re.compile(rf"{stem}[^-]+-\d+-\d+_\d+-\d+-\d+(-\d+)?{re.escape(suffix)}")
    files = (
        file for file in Path(config["checkpoint_dir"]).glob("*.pth") if name.fullmatch(file.name)
    )
    return [
        str(file) for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    ]


def save_checkpoint(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: `path` holds the old content or the whole new one.

    Args:
        path: the file to write or replace; its folder is made if needed.
        content: tensors, numbers, strings, None, and dicts, lists and tuples of them. The keys
            `model` (str) and `dataset_fingerprint` (str) name the model and the data.

    Raises:
        KeyError: `model` or `dataset_fingerprint` is missing.
        TypeError: a value is neither a tensor nor plain.
    """
    missing = sorted({"model", "dataset_fingerprint"} - set(content))
    if missing:
        raise KeyError(f"the content of the checkpoint {str(path)!r} lacks {missing}")
    save_plain(path, {**content, "format": FORMAT})


def load_checkpoint(
    path: str | os.PathLike,
    device: torch.device | str,
    model: str | None = None,
    dataset_fingerprint: str | None = None,
) -> dict[str, Any]:
    """Read a checkpoint that save_checkpoint has written; nothing in the file is executed.

    Args:
        path: the file.
        device: device of its tensors.
        model: name of the model that the checkpoint must have; None accepts any.
        dataset_fingerprint: fingerprint that its data set must have; None accepts any.

    Returns:
        The content given to save_checkpoint.

    Raises:
        MissingFileError: there is no such file.
        UserError: the file is no checkpoint of this package, or of another model or data set.
    """
    content = load_plain(path, device)
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found == _FORMAT_OF_0_1:
        raise UserError(
            f"{str(path)!r} was written by recbole_genrec 0.1, whose settings had other names: "
            "train the model again, or use recbole_genrec 0.1"
        )
    if found != FORMAT:
        raise UserError(
            f"{str(path)!r} has the format {found!r}, not {FORMAT!r}: "
            "give a .pth file that a generative model has written"
        )
    if model is not None and content["model"] != model:
        raise UserError(
            f"{str(path)!r} is a checkpoint of {content['model']}, not of {model}: "
            f"use --model={content['model']}"
        )
    trained_on = content["dataset_fingerprint"]
    if dataset_fingerprint is not None and trained_on != dataset_fingerprint:
        raise UserError(
            f"{str(path)!r} was trained on data with the fingerprint {trained_on[:12]}, but the "
            f"data set has {dataset_fingerprint[:12]}: use the data, filters and split of the "
            "training run"
        )
    return content
