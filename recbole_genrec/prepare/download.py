"""Fetch one file: resumed, retried, checked, and under its final name only once it is complete.

Received bytes are in <name>.part. A note beside it, <name>.part.json, says which version of which
address they belong to. A broken download continues by an HTTP range request as long as the server
still has that version, and starts again otherwise.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import ssl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, InvalidURL
from logging import getLogger
from pathlib import Path
from socket import gaierror
from time import sleep
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.prepare.catalog import MIRROR_VARIABLE, RawFile
from recbole_genrec.storage import sha256

logger = getLogger(__name__)

# Seconds without a byte after which a connection counts as broken.
TIMEOUT = 30.0
# Seconds before each further attempt at an address. An attempt that got further than all before it
# starts again with the first wait.
WAITS = (1.0, 5.0, 20.0)
# Max seconds that a server may ask to wait; beyond that, the next address is tried.
MAX_WAIT = 120.0
_CHUNK = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
# A retry in a few seconds does not help against these (a str: an address of an unknown kind).
_LASTING = (
    str,
    gaierror,
    ConnectionRefusedError,
    ssl.SSLCertVerificationError,
    FileNotFoundError,
    IsADirectoryError,
    PermissionError,
)
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH)


class _Unusable(Exception):
    """The address does not give the file; another one may."""


class _Interrupted(Exception):
    """The address may give the file, or the rest of it, at another attempt."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def fetch(file: RawFile, folder: Path, show_progress: bool) -> Path:
    """Return the path of the file in `folder`; download it if it is missing.

    An existing file is checked like a download and needs no request. A download that ends early,
    also by the user's interrupt, continues at the next call.

    Args:
        file: its addresses are tried in their order.
        folder: created if it does not exist.
        show_progress: show a progress bar.

    Raises:
        MissingFileError: no address gave the file; the message says what was tried and how to get
            it by hand.
        UserError: the folder cannot be written, the disk is full, or the existing file is not the
            right one.
    """
    path = Path(folder) / file.name
    if path.is_file():
        fault = _fault(path, file)
        if fault:
            raise UserError(
                f"{path} is not the file that it should be ({fault}): remove it, and it is fetched "
                "again"
            )
        logger.info("%s is there already", path)
        return path
    part = _Part(path)
    part.create()
    failures = []
    for url in file.urls:
        try:
            _fetch_from(url, file, part, show_progress)
        except _Unusable as error:
            logger.warning("%s did not give %s: %s", url, file.name, error)
            failures.append(f"{url} ({error})")
        else:
            part.finish()
            logger.info("%s is fetched: %s", path, _megabytes(path.stat().st_size))
            return path
    if not part.size():
        part.remove()
    raise MissingFileError(
        f"{file.name} could not be fetched, tried were {', '.join(failures)}: fetch it by hand "
        f"from one of these addresses and put it at {path}, or name a folder or server that has it "
        f"as the mirror (environment variable {MIRROR_VARIABLE})"
    )


class _Part:
    """The received bytes of a file, and the note that says where they come from."""

    def __init__(self, final: Path):
        self.final = final
        self.path = final.with_name(f"{final.name}.part")
        self.note_path = final.with_name(f"{final.name}.part.json")

    def create(self) -> None:
        with _disk(self.final):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def note(self, url: str) -> dict[str, Any] | None:
        """Return url, version and total size of what has arrived; None if it cannot continue."""
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            fits = note["url"] == url and note["version"] and 0 < self.size() <= note["total"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return note if fits else None

    def start(self, url: str, headers: Message, total: int | None) -> None:
        """Empty it, and only then note the version that now arrives."""
        tag = headers.get("ETag", "")
        # A weak tag may stand for files that differ in bytes.
        version = tag if tag.startswith('"') else headers.get("Last-Modified")
        self.path.write_bytes(b"")
        note = {"url": url, "version": version, "total": total}
        self.note_path.write_text(json.dumps(note), encoding="utf-8")

    def finish(self) -> None:
        with _disk(self.final):
            os.replace(self.path, self.final)
            self.note_path.unlink(missing_ok=True)

    def remove(self) -> None:
        self.note_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): make room or the folder "
            "writable, or choose another folder; the next call continues with what has arrived"
        ) from error


def _fetch_from(url: str, file: RawFile, part: _Part, show_progress: bool) -> None:
    """Bring the complete, checked file into `part`, in as many attempts as WAITS allows."""
    n_failed = furthest = 0
    while True:
        try:
            is_resumed = _receive(url, file, part, show_progress)
            fault = _fault(part.path, file)
            if not fault:
                return
            part.remove()
            # The pieces may be sound, but of two versions.
            raise _Interrupted(fault) if is_resumed else _Unusable(fault)
        except _Interrupted as error:
            if part.size() > furthest:
                n_failed, furthest = 0, part.size()
            if n_failed == len(WAITS):
                raise _Unusable(f"{error}, {n_failed + 1} times") from error
            wait = max(WAITS[n_failed], error.wait)
            n_failed += 1
            logger.warning("%s: %s; trying again in %g s", url, error, wait)
        sleep(wait)


def _receive(url: str, file: RawFile, part: _Part, show_progress: bool) -> bool:
    """Receive the missing bytes. Return True if some were there already."""
    note = part.note(url)
    offset = part.size() if note else 0
    if note and offset == note["total"]:
        return True
    with _open(url, offset, note, part) as response:
        headers = response.headers
        if headers.get_content_type() == "text/html":
            raise _Unusable("it is an HTML page, not data")
        if getattr(response, "status", None) != 206:
            offset = 0
        elif note and headers.get("Content-Range") != (
            f"bytes {offset}-{note['total'] - 1}/{note['total']}"
        ):
            part.remove()
            raise _Interrupted("it answered with another part of the file")
        length = headers.get("Content-Length")
        total = offset + int(length) if length and length.isdigit() else None
        chunk = _read(response)
        if not offset:
            _check_beginning(chunk, file)
        size = "of unknown size" if total is None else _megabytes(total)
        there = _megabytes(offset)
        logger.info("fetching %s (%s, %s are there) from %s", file.name, size, there, url)
        # An OSError in here is the disk's: _read translates the network's.
        with _disk(part.final):
            if not offset:
                part.start(url, headers, total)
            _append(response, chunk, part, tqdm(
                total=total, initial=offset, unit="B", unit_scale=True, desc=file.name,
                disable=not show_progress,
            ))  # fmt: skip
    if total is not None and part.size() != total:
        raise _Interrupted(f"the connection ended after {part.size()} of {total} bytes")
    return offset > 0


def _append(response: Any, chunk: bytes, part: _Part, bar: tqdm) -> None:
    """Append a first chunk and the rest of the response to the part."""
    with bar, open(part.path, "ab") as stream:
        while chunk:
            stream.write(chunk)
            bar.update(len(chunk))
            chunk = _read(response)


def _open(url: str, offset: int, note: dict[str, Any] | None, part: _Part) -> Any:
    headers = {"User-Agent": "recbole-genrec", "Accept-Encoding": "identity"}
    if note and offset:
        headers.update({"Range": f"bytes={offset}-", "If-Range": note["version"]})
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        reason = f"HTTP status {error.code}"
        if error.code == 416:
            part.remove()
        elif error.code not in (408, 429) and error.code < 500:
            raise _Unusable(reason) from error
        raise _Interrupted(reason, _requested_wait(error.headers)) from error
    except URLError as error:
        is_lasting = isinstance(error.reason, _LASTING)
        if is_lasting or getattr(error.reason, "errno", None) in _UNREACHABLE:
            raise _Unusable(_words(error.reason)) from error
        raise _Interrupted(_words(error.reason)) from error
    except (ValueError, InvalidURL) as error:
        raise _Unusable(f"no valid address: {error}") from error
    except (OSError, HTTPException) as error:
        raise _Interrupted(_words(error)) from error


def _read(response: Any) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, HTTPException) as error:
        raise _Interrupted(_words(error)) from error


def _requested_wait(headers: Message) -> float:
    """Return the seconds that Retry-After asks for, 0 without it."""
    value = headers.get("Retry-After", "")
    try:
        seconds = (
            float(value)
            if value.isdigit()
            else (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds()
        )
    except (ValueError, TypeError):
        return 0.0
    if seconds > MAX_WAIT:
        raise _Unusable(f"it asks to come back in {seconds:.0f} s")
    return max(seconds, 0.0)


def _check_beginning(chunk: bytes, file: RawFile) -> None:
    if len(chunk) < len(_GZIP_MAGIC):
        raise _Interrupted("the connection ended at once")
    if chunk[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise _Unusable("it is an HTML page, not data")
    if file.name.endswith(".gz") and not chunk.startswith(_GZIP_MAGIC):
        raise _Unusable("it is not compressed by gzip")


def _fault(path: Path, file: RawFile) -> str | None:
    """Return what is wrong with a complete file: its checksum or, without one, the gzip's own."""
    if file.sha256:
        found, wanted = sha256(path), file.sha256.lower()
        return None if found == wanted else f"its SHA-256 is {found}, not {wanted}"
    if file.name.endswith(".gz"):
        try:
            with gzip.open(path) as stream:
                while stream.read(_CHUNK):
                    pass
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            return f"it is damaged: {error}"
    return None


def _words(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
