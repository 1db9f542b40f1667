from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_genrec.prepare.cell_values import Tokens, is_iso_date, ratings, times


def place(row):
    return f"row {row}"


def test_ids_are_numbered_as_they_come_over_several_pieces():
    tokens = Tokens("user", place)
    first = tokens.numbers(pd.Series(["007", "7", " 7", "", "NA", "7.0"]))
    second = tokens.numbers(pd.Series(["nan", "7.0 ", "  ", "007"]))
    assert (first.tolist(), second.tolist()) == ([0, 1, 1, -1, 2, 3], [4, 3, -1, 0])
    ids = tokens.categories(np.concatenate([first, second]))
    assert list(ids.categories) == ["007", "7", "NA", "7.0", "nan"]
    assert list(ids.dropna()) == ["007", "7", "7", "NA", "7.0", "nan", "7.0", "007"]


@pytest.mark.parametrize("breaking", ["\t", "\n", "\r", "\x0b", "\x1c", "\x85", "\u2028"])
def test_ids_with_breaks_are_refused_with_their_row(breaking):
    texts = pd.Series(["a", f"b{breaking}c", f"b{breaking}c"], index=[10, 11, 12])
    with pytest.raises(ValueError) as refusal:
        Tokens("item", place).numbers(texts)
    assert f"item id {f'b{breaking}c'!r} in row 11" in str(refusal.value)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1970-01-02", 86400),
        ("1970-01-01T00:01", 60),
        ("1970-01-01 00:00:01.25", 1.25),
        ("1970-01-01T00:00:01.123456789Z", 1.123456789),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01T02:00:00+0200", 0),
        ("1969-12-31 19:30 -04:30", 0),
        ("2024-02-29T12:00:00 UTC", 1709208000),
        (" 1970-01-02 ", 86400),
    ],
)
def test_iso_dates_are_seconds(text, seconds):
    assert is_iso_date(text)
    assert times(pd.Series([text, text]), True, place).tolist() == [seconds, seconds]


def test_numbers_stay_as_they_are():
    texts = pd.Series(["1400000000.125", " 5", "-1e3", "20240531"])
    assert times(texts, False, place).tolist() == [1400000000.125, 5.0, -1000.0, 20240531.0]


@pytest.mark.parametrize(
    "bad, is_date",
    [
        ("", False),
        ("nan", False),
        ("inf", False),
        ("x", False),
        ("2024-05-01", False),
        ("5", True),
        ("", True),
        ("2023-02-29", True),
        ("2024-05-01T25:00", True),
        ("01/05/2024", True),
        ("2024-5-1", True),
    ],
)
def test_times_that_are_none_are_refused_with_row_and_value(bad, is_date):
    good = "2024-05-01" if is_date else "3"
    with pytest.raises(ValueError) as refusal:
        times(pd.Series([good, bad, bad], index=[4, 5, 6]), is_date, place)
    assert f"time {bad!r} in row 5" in str(refusal.value)
    assert ("as in the rows before" in str(refusal.value)) == is_date


def test_ratings():
    values = ratings(pd.Series(["5", "", "4.5", " "]), place)
    assert np.array_equal(values, [5, np.nan, 4.5, np.nan], equal_nan=True)
    for bad in ("good", "nan", "inf"):
        with pytest.raises(ValueError, match=f"rating '{bad}' in row 8"):
            ratings(pd.Series(["5", bad], index=[7, 8]), place)
