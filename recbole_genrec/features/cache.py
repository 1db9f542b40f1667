"""Keep slow results on disk, each under the hash of everything that it depends on."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.storage import load_plain, save_plain, sha256

logger = logging.getLogger(__name__)


def cache_path(folder: str, name: str, key: Mapping[str, Any]) -> str:
    """Return the file of a key: <folder>/<name>-<first 16 digits of the key's SHA-256>.pth."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name)
    return os.path.join(folder, f"{readable}-{sha256(_as_json(key))[:16]}.pth")


def cached(
    folder: str | None,
    name: str,
    key: Mapping[str, Any],
    make: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Return the content of a key, read from its file or made and written there.

    A file that is unreadable, damaged or of another key is made again. If the file cannot be
    written, the next run makes the content again. The log warns of both.

    Args:
        folder: folder of the files, created if needed; None: nothing is read or written.
        name: readable part of the file's name.
        key: everything that the content depends on, of JSON's types.
        make: gives tensors and values of JSON's types by name.

    Returns:
        what `make` gives, now or earlier; tensors are on the CPU if they are read.
    """
    if folder is None:
        return make()
    path = cache_path(folder, name, key)
    content = _load(path, key)
    if content is not None:
        logger.info("%s is read from %s", name, path)
        return content
    content = make()
    try:
        save_plain(path, {"key": _as_json(key), "sha256": _content_hash(content), **content})
    except OSError as error:
        logger.warning("%s is not kept, and the next run makes it again: %s", name, error)
    else:
        logger.info("%s is kept in %s", name, path)
    return content


def _load(path: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        content = load_plain(path, "cpu")
    except MissingFileError:
        return None
    except (UserError, OSError) as error:
        logger.warning("%s is made again: %s", path, error)
        return None
    saved_key, saved_hash = content.pop("key", None), content.pop("sha256", None)
    if saved_key == _as_json(key) and saved_hash == _content_hash(content):
        return content
    logger.warning("%s is made again: it is damaged or was made with other settings", path)
    return None


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _content_hash(content: dict[str, Any]) -> str:
    parts = []
    for name, value in sorted(content.items()):
        parts += [name, value if hasattr(value, "numpy") else _as_json(value)]
    return sha256(*parts)
