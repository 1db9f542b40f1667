"""Errors that a user can mend: input, settings, files, disks and missing packages."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_DISK_ERRNOS = frozenset(
    [
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
    ]
)


class UserError(ValueError):
    """A fault of input, settings or files.

    The message is one sentence with the value, the rule and the way out; the command line prints
    it without a traceback. Anything else that is raised is a bug.
    """

    def __str__(self) -> str:
        """Return the message as given; FileNotFoundError and ImportError would format it."""
        return str(self.args[0]) if self.args else ""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a setting or argument names does not exist."""


class DiskError(UserError, OSError):
    """The operating system refuses to read or write a file, for want of permission or room."""


class MissingPackageError(UserError, ImportError):
    """An optional package that a setting needs is not installed."""


@contextmanager
def disk_errors(path: str | os.PathLike | None = None) -> Iterator[None]:
    """Translate the operating system's refusal of a file into a DiskError.

    Every other OSError passes unchanged. A decorator as well as a context manager.

    Args:
        path: the file to name when the error names none.

    Raises:
        DiskError: a file cannot be read or written.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno not in _DISK_ERRNOS:
            raise
        name = path if error.filename is None else error.filename
        file = "a file" if name is None else repr(str(name))
        raise DiskError(
            f"{file} cannot be read or written ({error.strerror}): make room or change its "
            "permissions, or choose another folder, as with --checkpoint_dir or --data_path"
        ) from error
