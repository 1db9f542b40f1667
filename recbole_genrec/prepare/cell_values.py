"""Values of a user's table: ids, times and ratings. Each refusal names the row and the value."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from recbole_genrec.errors import UserError

# Words for a row of a file, by its index, for messages.
DescribeRow = Callable[[Any], str]
# Characters that end a field or a line in some reader: tabs, and all that str.splitlines knows.
_BREAK = re.compile("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# pandas' ISO8601 parser is not used: it takes "2024", "2024-5-1" and "now" for dates, rejects
# "2024-05-31 10:00 UTC", and ends in 2262.
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?"
)


def ids(texts: pd.Series, kind: str, describe_row: DescribeRow) -> pd.Categorical:
    """Return ids: the texts without surrounding white space, missing where that leaves nothing.

    Args:
        texts: str, one per row.
        kind: "user" or "item", for messages.
        describe_row: words for a row, by its index in `texts`.

    Raises:
        UserError: an id has a tab or a line break inside.
    """
    # Only distinct texts are inspected: there are far fewer than rows.
    codes, distinct = pd.factorize(texts)
    stripped = [text.strip() for text in distinct]
    for code, text in enumerate(stripped):
        if _BREAK.search(text):
            row = describe_row(texts.index[int((codes == code).argmax())])
            raise UserError(
                f"the {kind} id {text!r} in {row} holds a tab or a line break: clean it first"
            )
    numbers, names = pd.factorize(np.array([text or None for text in stripped], dtype=object))
    return pd.Categorical.from_codes(numbers[codes], names)


def is_iso_date(text: str) -> bool:
    """Return True for an ISO date, alone or with a time of day and a zone."""
    return _DATE.fullmatch(text.strip()) is not None


def times(texts: pd.Series, is_date: bool, describe_row: DescribeRow) -> np.ndarray:
    """Return times as float64: numbers unchanged, ISO dates as seconds since 1970.

    Dates without a zone are in UTC.

    Args:
        texts: str, one per row.
        is_date: True if all are dates, False if all are numbers.
        describe_row: words for a row, by its index in `texts`.

    Raises:
        UserError: a text is neither.
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
            f"the time {texts[row]!r} in {describe_row(row)} is not {wanted}: correct it, "
            "or name another --time_column"
        )
    return values


def _seconds(text: str) -> float:
    """Return the seconds since 1970 of an ISO date, NaN for any other text."""
    found = _DATE.fullmatch(text)
    if found is None:
        return np.nan
    day, clock, fraction, zone = found.groups()
    offset = "+00:00" if zone in (None, "Z", "UTC") else f"{zone[:3]}:{zone[-2:]}"
    try:
        whole = datetime.fromisoformat(f"{day}T{clock or '00:00'}{offset}").timestamp()
    except ValueError:
        return np.nan
    return whole + float(f"0.{fraction or 0}")


def ratings(texts: pd.Series, describe_row: DescribeRow) -> np.ndarray:
    """Return ratings as float64, NaN where a text is empty.

    Args:
        texts: str, one per row.
        describe_row: words for a row, by its index in `texts`.

    Raises:
        UserError: a text is neither empty nor a number.
    """
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
    is_bad = ~np.isfinite(values) & (texts.str.strip() != "").to_numpy()
    if is_bad.any():
        row = texts.index[int(is_bad.argmax())]
        raise UserError(
            f"the rating {texts[row]!r} in {describe_row(row)} is no number: correct it, "
            "or name another --rating_column"
        )
    return values
