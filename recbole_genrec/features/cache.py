"""Item features that take long to make, kept on disk under the hash of everything they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from recbole_genrec.storage import replacing

logger = logging.getLogger(__name__)


def cached_features(
    folder: str | None, name: str, key: Mapping, n_rows: int, make: Callable[[], np.ndarray]
) -> np.ndarray:
    """The features of a key: from their file in the folder, or made and written there.

    A file that cannot be read, is damaged (the file has a checksum) or holds other rows is made
    again, and a folder that cannot be
    written costs no more than the saved time of the next run; both are warned of.

    Args:
        folder: where the files are kept, made when missing; None: nothing is read or written.
        name: the readable part of the file's name.
        key: everything that the features depend on, of JSON's types.
        n_rows: the rows that the features must have.
        make: gives float32 [n_rows, d].

    Returns:
        float32 [n_rows, d].
    """
    if folder is None:
        return make()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = os.path.join(folder, f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}-{digest[:16]}.npz")
    features = _load(path, digest, n_rows)
    if features is not None:
        logger.info("Item features loaded from %s", path)
        return features
    features = make()
    _save(path, digest, features)
    return features


def _load(path: str, digest: str, n_rows: int) -> np.ndarray | None:
    if not os.path.isfile(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            features, saved_digest = file["features"], str(file["key"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        reason = f"it cannot be read ({type(error).__name__})"
    else:
        if (
            saved_digest == digest
            and features.dtype == np.float32
            and features.ndim == 2
            and len(features) == n_rows
        ):
            return features
        reason = f"it holds other features, {features.dtype} {list(features.shape)}"
    logger.warning(
        "the cached item features %s are not used: %s; they are made again", path, reason
    )
    return None


def _save(path: str, digest: str, features: np.ndarray) -> None:
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            # The archive's checksum is tested whenever it is read; a bare .npy file has none.
            np.savez(file, features=features, key=np.array(digest))
    except OSError as error:
        logger.warning(
            "the item features cannot be kept in %s (%s): the next run makes them again",
            path,
            error,
        )
    else:
        logger.info("Item features saved to %s", path)
