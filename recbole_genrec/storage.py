"""Write files whole or not at all, and read tensors without executing anything."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_genrec.errors import MissingFileError, UserError, disk_errors

_PLAIN_TYPES = (str, bool, int, float, type(None), torch.Tensor)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, and rename it to `path` on success.

    A run that is killed meanwhile leaves the old file. On an error the temporary file is removed.

    Raises:
        DiskError: the folder or the file cannot be written.
    """
    path = Path(path)
    with disk_errors(path):
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


def sha256(*parts: str | bytes | np.ndarray | torch.Tensor | Path) -> str:
    """Return the SHA-256 of all parts, one after another, 64 hexadecimal digits.

    Text is hashed as UTF-8, an array by its values and a path by the contents of its file.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with open(part, "rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
            continue
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            part = part.tobytes()
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def to_plain(value: Any) -> Any:
    """Turn a value into tensors, numbers, strings and containers of them.

    torch.load(weights_only=True) accepts these; arrays and sparse matrices become tensors.

    Raises:
        TypeError: the value has a type without such a form.
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
        "a checkpoint holds tensors, numbers, strings and containers of them, "
        f"but got {type(value).__name__}"
    )


def from_plain(value: Any) -> Any:
    """Invert to_plain."""
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


def save_plain(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write tensors and plain values; load_plain reads them.

    Args:
        path: the file to write or replace; its folder is made if needed.
        content: see to_plain.

    Raises:
        DiskError: the file cannot be written.
        TypeError: a value is neither a tensor nor plain.
    """
    plain = to_plain(content)
    # Given a path instead of a file, torch reports a full disk as a RuntimeError.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(plain, file)


def load_plain(path: str | os.PathLike, device: torch.device | str) -> dict[str, Any]:
    """Read a file of tensors and plain values; nothing in it is executed.

    Raises:
        MissingFileError: there is no such file.
        UserError: the file has other contents, such as a pickled RecBole Config.
    """
    if not os.path.isfile(path):
        raise MissingFileError(
            f"the checkpoint {str(path)!r} does not exist: give the path of a .pth file that a run "
            "has written"
        )
    try:
        with disk_errors(path):
            content = torch.load(path, map_location=device, weights_only=True)
    except UserError:
        raise
    except Exception as error:
        # torch raises UnpicklingError, RuntimeError, EOFError, KeyError and others, depending on
        # the contents.
        raise UserError(
            f"{str(path)!r} is not a checkpoint of tensors and plain values "
            f"({type(error).__name__}): give a .pth file that this package has written"
        ) from error
    return content
