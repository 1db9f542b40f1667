"""What the cells of a user's table say: ids, times, ratings; each refusal names the row and the value."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from recbole_genrec.errors import UserError

# What ends a field or a line in some reader: tabs, and all that str.splitlines knows.
_BREAK = re.compile("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?"
)


class Tokens:
    """Ids by number: the text without white space around it, numbered in the order in which they come; an empty id is -1.

    Args:
        kind: what they are ids of, for messages.
        place: words for the place of a row, by its index.
    """

    def __init__(self, kind: str, place: Callable[[Any], str]):
        self._kind, self._place = kind, place
        self._number_of: dict[str, int] = {}

    def numbers(self, texts: pd.Series) -> np.ndarray:
        """int64, one for each text.

        Raises:
            ValueError: an id has a tab or a line break inside.
        """
        # Each distinct text is looked at once: there are far fewer than rows.
        codes, distinct = pd.factorize(texts)
        stripped = [text.strip() for text in distinct]
        for code, text in enumerate(stripped):
            if _BREAK.search(text):
                place = self._place(texts.index[int((codes == code).argmax())])
                raise UserError(
                    f"the {self._kind} id {text!r} in {place} holds a tab or a line break: clean it first"
                )
        known = self._number_of
        return np.array(
            [known.setdefault(text, len(known)) if text else -1 for text in stripped],
            dtype=np.int64,
        )[codes]

    def categories(self, numbers: np.ndarray) -> pd.Categorical:
        """The ids of numbers that this object has given."""
        return pd.Categorical.from_codes(numbers, list(self._number_of))


def is_iso_date(text: str) -> bool:
    """Whether a text has the form of an ISO date, alone or with a time of day and a zone."""
    return _DATE.fullmatch(text.strip()) is not None


def times(texts: pd.Series, is_date: bool, place: Callable[[Any], str]) -> np.ndarray:
    """Times as float64: numbers as they are, ISO dates as seconds since 1970, in UTC where they name no zone.

    Args:
        texts: one for each row.
        is_date: whether all are dates; otherwise all are numbers.
        place: words for the place of a row, by its index.

    Raises:
        ValueError: a text is nothing of the kind.
    """
    if is_date:
        codes, distinct = pd.factorize(texts)
        values = np.array([_seconds(text.strip()) for text in distinct])[codes]
    else:
        values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        wanted = (
            "an ISO date such as 2024-05-31 or 2024-05-31T14:00:00Z, as in the rows before"
            if is_date
            else "a number or an ISO date"
        )
        row = texts.index[bad[0]]
        raise UserError(
            f"the time {texts[row]!r} in {place(row)} is not {wanted}: correct it, or name another --time_column"
        )
    return values


def _seconds(text: str) -> float:
    """Seconds since 1970 of an ISO date, NaN if it is none."""
    found = _DATE.fullmatch(text)
    if found is None:
        return np.nan
    day, clock, fraction, zone = found.groups()
    offset = "+00:00" if zone in (None, "Z", "UTC") else f"{zone[:3]}:{zone[-2:]}"
    try:
        return datetime.fromisoformat(f"{day}T{clock or '00:00'}{offset}").timestamp() + float(
            f"0.{fraction or 0}"
        )
    except ValueError:
        return np.nan


def ratings(texts: pd.Series, place: Callable[[Any], str]) -> np.ndarray:
    """Ratings as float64, NaN where there is none.

    Raises:
        ValueError: a text is neither empty nor a number.
    """
    codes, distinct = pd.factorize(texts)
    values = pd.to_numeric(pd.Series(distinct), errors="coerce").to_numpy(dtype=np.float64)
    is_bad = ~np.isfinite(values) & np.array([text.strip() != "" for text in distinct], dtype=bool)
    if is_bad.any():
        row = texts.index[int(is_bad[codes].argmax())]
        raise UserError(
            f"the rating {texts[row]!r} in {place(row)} is no number: correct it, or name another --rating_column"
        )
    return values[codes]
