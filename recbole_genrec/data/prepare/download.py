"""Fetch one file: resumed, retried, checked, and under its final name only when it is whole."""

from __future__ import annotations

from pathlib import Path

from recbole_genrec.data.prepare.catalog import RawFile


def fetch(file: RawFile, folder: Path, show_progress: bool) -> Path:
    """The path of the file in `folder`, downloaded if it is not there yet."""
    raise NotImplementedError
