"""Read the files of the three releases of Amazon reviews, line by line.

- amazon-2014 (J. McAuley et al., SIGIR 2015): reviews are JSON lines; metadata are lines of Python
  literals, which are parsed as literals and never evaluated.
- amazon-2018 (J. Ni et al., EMNLP 2019): reviews and metadata are JSON lines; texts hold pieces of
  HTML and of scripts.
- amazon-2023 (Y. Hou et al., arXiv 2403.03952): reviews are CSV with the columns user_id,
  parent_asin, rating, timestamp (milliseconds); metadata are JSON lines.

Files may be compressed by gzip or plain.
"""

from __future__ import annotations

import ast
import gzip
import html
import json
import logging
import re
import zlib
from array import array
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from tqdm import tqdm

from recbole_genrec.errors import UserError

logger = logging.getLogger(__name__)

TEXT_FIELDS = ("title", "brand", "categories", "description")
# Max characters of one field. The published processing of UniSRec and LC-Rec drops texts of 2,000
# characters and more; a cut keeps more.
TEXT_LIMIT = 2000
_BROKEN_SHARE = 0.01
_BROKEN = (ValueError, OverflowError, KeyError, TypeError, SyntaxError, MemoryError, RecursionError)
_SCRIPT = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)|<!--.*?(-->|$)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


class Reviews(NamedTuple):
    """Reviews in the order of the file.

    Attributes:
        users: int32 [N], rows of user_tokens.
        items: int32 [N], rows of item_tokens.
        times: int64 [N], seconds since 1970 (amazon-2014, amazon-2018) or milliseconds
            (amazon-2023).
        ratings: float32 [N], 1 .. 5.
        user_tokens: external ids in order of first appearance.
        item_tokens: external ids in order of first appearance.
        n_skipped: number of lines that could not be read.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    ratings: np.ndarray
    user_tokens: list[str]
    item_tokens: list[str]
    n_skipped: int


class Metadata(NamedTuple):
    """Texts of items.

    Attributes:
        texts: item token -> one clean text for each of TEXT_FIELDS, "" where there is none.
        n_skipped: number of lines that could not be read.
    """

    texts: dict[str, tuple[str, ...]]
    n_skipped: int


def read_reviews(path: Path, release: str, show_progress: bool) -> Reviews:
    """Read a file of reviews; skip, count and log lines that cannot be read.

    Args:
        path: file of reviews, gzip or plain.
        release: amazon-2014, amazon-2018 or amazon-2023.
        show_progress: show a progress bar.

    Raises:
        UserError: the file is cut off or damaged, holds no review, or more than 1 % of its lines
            cannot be read.
    """
    lines = _Lines(path, _RELEASES[release].parse_review, show_progress)
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    users, items, times, ratings = array("i"), array("i"), array("q"), array("f")
    for user, item, time, rating in filter(None, lines):
        users.append(user_codes.setdefault(user, len(user_codes)))
        items.append(item_codes.setdefault(item, len(item_codes)))
        times.append(time)
        ratings.append(rating)
    if not users:
        raise UserError(
            f"the file {str(path)!r} holds no review: delete it and run again to fetch it again"
        )
    columns = (np.array(users), np.array(items), np.array(times), np.array(ratings))
    return Reviews(*columns, list(user_codes), list(item_codes), lines.n_broken)


def read_metadata(
    path: Path, release: str, wanted: Collection[str], show_progress: bool
) -> Metadata:
    """Read the texts of the wanted items; the first record of an item counts.

    HTML is unescaped and its tags are removed, white space becomes one space, and a text is cut
    after TEXT_LIMIT characters. In amazon-2023 the brand is the `store`, and the description begins
    with the list of features.

    Args:
        path: file of metadata, gzip or plain.
        release: amazon-2014, amazon-2018 or amazon-2023.
        wanted: item tokens.
        show_progress: show a progress bar.

    Raises:
        UserError: the file is cut off or damaged, or more than 1 % of its lines cannot be read.
    """
    form = _RELEASES[release]
    texts: dict[str, tuple[str, ...]] = {}
    missing = set(wanted)
    pattern = re.compile(rb"""["']%s["']:\s*["']([^"']*)["']""" % form.item_key.encode())

    def parse(line: bytes) -> tuple[str, tuple[str, ...]] | None:
        # Parsing takes most of the time, and most records belong to items that are not wanted.
        found = pattern.findall(line)
        if found and not any(token.decode("utf-8", "replace") in missing for token in found):
            return None
        record = form.parse_metadata(line)
        token = record[form.item_key]
        if token not in missing:
            return None
        fields = form.fields(record)
        return token, tuple(_clean(fields[name]) for name in TEXT_FIELDS)

    lines = _Lines(path, parse, show_progress)
    for token, fields in filter(None, lines):
        missing.discard(token)
        texts[token] = fields
    return Metadata(texts, lines.n_broken)


class _Lines:
    """Parsed lines of a file without its empty lines; n_broken counts lines that do not parse."""

    def __init__(self, path: Path, parse: Callable[[bytes], Any], show_progress: bool):
        self._path, self._parse, self._show_progress = path, parse, show_progress
        self.n_broken = 0

    def __iter__(self) -> Iterator[Any]:
        n_lines, first_broken = 0, 0
        lines = tqdm(
            _raw_lines(self._path),
            self._path.name,
            unit=" lines",
            disable=not self._show_progress,
        )
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            n_lines += 1
            try:
                parsed = self._parse(line)
            except _BROKEN:
                self.n_broken += 1
                first_broken = first_broken or number
                continue
            yield parsed
        self._report_broken(n_lines, first_broken)

    def _report_broken(self, n_lines: int, first_broken: int) -> None:
        if self.n_broken > _BROKEN_SHARE * n_lines:
            raise UserError(
                f"{self.n_broken} of the {n_lines} lines of {str(self._path)!r} cannot be read "
                f"(the first is line {first_broken}), but at most {_BROKEN_SHARE:.0%} may be "
                "broken: delete the file and run again to fetch it again"
            )
        if self.n_broken:
            logger.warning(
                "%s: skipped %d of %d lines, the first is line %d",
                self._path,
                self.n_broken,
                n_lines,
                first_broken,
            )


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"the file {str(path)!r} is cut off or damaged ({error}): delete it and run again "
            "to fetch it again"
        ) from error


def _open(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    if is_packed:
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return open(path, "rb")


def _checked(user: Any, item: Any, time: Any, rating: Any) -> tuple[str, str, int, float]:
    if not (isinstance(user, str) and isinstance(item, str) and user and item):
        raise UserError("a review needs a user and an item")
    time = int(time)
    if not 0 <= time < 2**53:
        raise UserError("a time is a number of seconds or milliseconds since 1970")
    return user, item, time, float(rating)


def _json_review(line: bytes) -> tuple[str, str, int, float]:
    record = json.loads(line)
    return _checked(
        record["reviewerID"], record["asin"], record["unixReviewTime"], record["overall"]
    )


def _csv_review(line: bytes) -> tuple[str, str, int, float] | None:
    if line.startswith(b"user_id,"):
        return None  # the header
    user, item, rating, time = line.decode("utf-8").strip().split(",")
    return _checked(user, item, time, rating)


def _literal(line: bytes) -> dict[str, Any]:
    return ast.literal_eval(line.decode("utf-8").strip())


def _fields_2014(record: dict[str, Any]) -> dict[str, Any]:
    categories = ", ".join(dict.fromkeys(_strings(record.get("categories"))))
    return {
        **{name: record.get(name) for name in ("title", "brand", "description")},
        "categories": categories,
    }


def _fields_2018(record: dict[str, Any]) -> dict[str, Any]:
    title = " ".join(_strings(record.get("title")))
    if "getTime" in title:
        title = ""  # a script of the page; the publishers' notebook drops these rows too
    categories = []
    for category in _strings(record.get("category")):
        if "</span>" in category:
            break  # the rest of the list is pieces of the page, not categories
        categories.append(category)
    brand = re.sub(r"^by\s*\n", "", " ".join(_strings(record.get("brand"))))
    return {
        "title": title,
        "brand": brand,
        "categories": ", ".join(categories),
        "description": record.get("description"),
    }


def _fields_2023(record: dict[str, Any]) -> dict[str, Any]:
    categories = ", ".join(
        dict.fromkeys(_strings([record.get("main_category"), record.get("categories")]))
    )
    description = [record.get("features"), record.get("description")]
    return {
        "title": record.get("title"),
        "brand": record.get("store"),
        "categories": categories,
        "description": description,
    }


def _strings(value: Any) -> list[str]:
    """Return all texts in nested lists, in order; nothing for None."""
    if isinstance(value, (list, tuple)):
        return [text for entry in value for text in _strings(entry)]
    if isinstance(value, dict):
        return _strings(list(value.values()))
    return [] if value is None else [str(value)]


def _clean(value: Any) -> str:
    text = html.unescape(" ".join(_strings(value)))
    text = " ".join(_TAG.sub(" ", _SCRIPT.sub(" ", text)).split())
    return text[:TEXT_LIMIT].rstrip()


class _Release(NamedTuple):
    parse_review: Callable[[bytes], Any]
    parse_metadata: Callable[[bytes], dict[str, Any]]
    item_key: str
    fields: Callable[[dict[str, Any]], dict[str, Any]]


_RELEASES = {
    "amazon-2014": _Release(_json_review, _literal, "asin", _fields_2014),
    "amazon-2018": _Release(_json_review, json.loads, "asin", _fields_2018),
    "amazon-2023": _Release(_csv_review, json.loads, "parent_asin", _fields_2023),
}
