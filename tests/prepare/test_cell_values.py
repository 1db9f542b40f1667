from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_genrec.errors import UserError
from recbole_genrec.prepare.cell_values import ids, is_iso_date, ratings, times


def describe_row(row):
    return f"row {row}"


def test_ids_are_stripped_and_in_order_of_first_appearance():
    texts = ["007", "7", " 7", "", "NA", "7.0", "nan", "7.0 ", "  ", "007"]
    found = ids(pd.Series(texts), "user", describe_row)
    assert list(found.categories) == ["007", "7", "NA", "7.0", "nan"]
    assert found.codes.tolist() == [0, 1, 1, -1, 2, 3, 4, 3, -1, 0]
    assert ids(pd.Series([], dtype=object), "user", describe_row).tolist() == []


@pytest.mark.parametrize("breaking", ["\t", "\n", "\r", "\x0b", "\x1c", "\x85", "\u2028"])
def test_ids_with_breaks_are_refused_with_their_row(breaking):
    texts = pd.Series(["a", f"b{breaking}c", f"b{breaking}c"], index=[10, 11, 12])
    with pytest.raises(UserError) as refusal:
        ids(texts, "item", describe_row)
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
    assert times(pd.Series([text, text]), True, describe_row).tolist() == [seconds, seconds]


def test_numbers_stay_as_they_are():
    texts = pd.Series(["1400000000.125", " 5", "-1e3", "20240531"])
    assert times(texts, False, describe_row).tolist() == [1400000000.125, 5.0, -1000.0, 20240531.0]


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
def test_malformed_times_are_refused_with_row_and_value(bad, is_date):
    good = "2024-05-01" if is_date else "3"
    with pytest.raises(UserError) as refusal:
        times(pd.Series([good, bad, bad], index=[4, 5, 6]), is_date, describe_row)
    assert f"time {bad!r} in row 5" in str(refusal.value)
    assert ("as in the rows before" in str(refusal.value)) == is_date


def test_ratings_are_numbers_or_missing():
    values = ratings(pd.Series(["5", "", "4.5", " "]), describe_row)
    assert np.array_equal(values, [5, np.nan, 4.5, np.nan], equal_nan=True)
    for bad in ("good", "nan", "inf"):
        with pytest.raises(UserError, match=f"rating '{bad}' in row 8"):
            ratings(pd.Series(["5", bad], index=[7, 8]), describe_row)
