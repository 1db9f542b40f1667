"""Files that are written whole or not at all, and values that torch reads without executing anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_genrec.errors import MissingFileError, UserError

_PLAIN_TYPES = (str, bool, int, float, type(None), torch.Tensor)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it takes the place of `path`, on an error it is removed.

    torch.save and RecBole write in place: a run that is killed meanwhile leaves half a file under
    the final name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a checkpoint is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_plain(value: Any) -> Any:
    """Turn a value into tensors, numbers, strings and containers of them, which torch.load(weights_only=True) accepts.

    Raises:
        TypeError: the value is of a type that has no such form.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _PLAIN_TYPES):
        return value
    if isinstance(value, dict):
        return {to_plain(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [to_plain(entry) for entry in value]
        return tuple(entries) if isinstance(value, tuple) else entries
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"__numpy__": torch.from_numpy(np.ascontiguousarray(value))}
    if scipy.sparse.issparse(value):
        matrix = value.tocsr()
        parts = [
            torch.from_numpy(np.array(part))
            for part in (matrix.data, matrix.indices, matrix.indptr)
        ]
        return {"__sparse__": parts, "format": value.format, "shape": tuple(value.shape)}
    raise TypeError(
        f"a checkpoint holds tensors, numbers, strings and containers of them, but got {type(value).__name__}"
    )


def from_plain(value: Any) -> Any:
    """The inverse of to_plain."""
    if isinstance(value, dict):
        if "__numpy__" in value:
            return value["__numpy__"].cpu().numpy()
        if "__sparse__" in value:
            parts = tuple(part.cpu().numpy() for part in value["__sparse__"])
            return scipy.sparse.csr_matrix(parts, shape=value["shape"]).asformat(value["format"])
        return {key: from_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        entries = [from_plain(entry) for entry in value]
        return tuple(entries) if isinstance(value, tuple) else entries
    return value


def load_plain(path: str | os.PathLike, device: torch.device | str) -> dict[str, Any]:
    """Read a file of tensors and plain values; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read in this way, such as a checkpoint with a pickled RecBole
            Config.
    """
    if not os.path.isfile(path):
        raise MissingFileError(
            f"the checkpoint {str(path)!r} does not exist: give the path of a .pth file that a run has written"
        )
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        # torch raises UnpicklingError, RuntimeError, EOFError, KeyError ... according to what the
        # file holds instead.
        raise UserError(
            f"{str(path)!r} is not a checkpoint of tensors and plain values ({type(error).__name__}): "
            "give a .pth file that this package has written"
        ) from error
