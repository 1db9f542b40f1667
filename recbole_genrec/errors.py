"""Errors that a user can mend: input, settings, files and missing packages."""

from __future__ import annotations


class UserError(ValueError):
    """A fault of input, settings or files.

    The message is one sentence with the value, the rule and the way out; the command line prints
    it without a traceback. Anything else that is raised is a bug.
    """

    def __str__(self) -> str:
        """The message as it was given; FileNotFoundError and ImportError would format it."""
        return str(self.args[0]) if self.args else ""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that a setting or argument names does not exist."""


class MissingPackageError(UserError, ImportError):
    """An optional package that a setting needs is not installed."""
