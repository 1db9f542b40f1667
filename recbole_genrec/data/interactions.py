"""Steps on whole columns of interactions: filter by count, number tokens, leave the last ones out.

Shapes: N interactions, K tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

Interval = tuple[
    str, float, float, str
]  # as RecBole parses "[5,inf)": bracket, left, right, bracket


class FilterAxis(NamedTuple):
    """Users or items in a filter by number of interactions.

    Attributes:
        codes: integers [N] in 0 .. n_tokens - 1, the user or item of each interaction.
        n_tokens: number of different codes that may occur.
        intervals: allowed numbers of interactions, one interval or more; empty or None: no filter.
        listed: codes of the rows of a file of users or items, -1 for a token without interactions;
            None if there is no such file.
    """

    codes: np.ndarray
    n_tokens: int
    intervals: Sequence[Interval] | None
    listed: np.ndarray | None = None


class FilterResult(NamedTuple):
    """Rows that a filter by number of interactions keeps.

    Attributes:
        rows: int64, increasing row numbers of the interactions.
        listed: for each axis bool [rows of its file], or None where there is no file.
    """

    rows: np.ndarray
    listed: tuple[np.ndarray | None, ...]


def is_within(numbers: np.ndarray, intervals: Sequence[Interval]) -> np.ndarray:
    """Return a bool array of the shape of `numbers`: True where one of the intervals holds it."""
    inside = np.zeros(numbers.shape, dtype=bool)
    for left_bracket, left, right, right_bracket in intervals:
        above = numbers >= left if left_bracket == "[" else numbers > left
        below = numbers <= right if right_bracket == "]" else numbers < right
        inside |= above & below
    return inside


def keep_by_number(axes: Sequence[FilterAxis]) -> FilterResult:
    """Drop users and items with too few or too many interactions, in rounds, until none is left.

    As in RecBole, a round drops everything out of bounds at once, and a listed token goes if it has
    fewer interactions than the left end of the first interval.
    """
    rows = np.arange(len(axes[0].codes))
    codes = [axis.codes for axis in axes]
    is_listed = [None if axis.listed is None else np.ones(len(axis.listed), bool) for axis in axes]
    while True:
        goes = np.zeros(len(rows), dtype=bool)
        for number, axis in enumerate(axes):
            if not axis.intervals:
                continue
            # The code -1 takes the last count, which stays 0.
            counts = np.bincount(codes[number], minlength=axis.n_tokens + 1)
            banned = (counts > 0) & ~is_within(counts, axis.intervals)
            kept = is_listed[number]
            if axis.listed is not None and kept is not None:
                too_few = counts[axis.listed] < axis.intervals[0][1]
                banned[axis.listed[kept & too_few]] = True
                kept &= ~banned[axis.listed]
            goes |= banned[codes[number]]
        if not goes.any():
            return FilterResult(rows, tuple(is_listed))
        rows, codes = rows[~goes], [column[~goes] for column in codes]


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the largest part in which each user and item has k interactions or more.

    Args:
        users: codes, integers [N] >= 0.
        items: codes, integers [N] >= 0.
        k: min number of interactions.

    Returns:
        int64 [0 .. N rows], increasing.
    """
    at_least_k = [("[", k, np.inf, "]")]
    axes = [
        FilterAxis(codes, int(codes.max(initial=-1)) + 1, at_least_k) for codes in (users, items)
    ]
    return keep_by_number(axes).rows


def number_tokens(
    columns: Sequence[np.ndarray | pd.Categorical],
) -> tuple[list[np.ndarray], np.ndarray]:
    """Number tokens from 1 in order of first appearance, column after column; 0 is a missing one.

    Returns:
        int64 [length of the column] for each column, and the tokens, object [K].
    """
    firsts = [
        pd.factorize(column) if isinstance(column, pd.Categorical) else (None, column)
        for column in columns
    ]
    tokens = [np.asarray(uniques, dtype=object) for _, uniques in firsts]
    numbers, names = pd.factorize(np.concatenate(tokens))
    parts = np.split(numbers.astype(np.int64) + 1, np.cumsum([len(part) for part in tokens])[:-1])
    # The code -1 of a missing token takes the appended 0.
    ids = [
        part if codes is None else np.append(part, 0)[codes]
        for part, (codes, _) in zip(parts, firsts)
    ]
    return ids, names


def leave_out(users: np.ndarray, n_last: int) -> list[np.ndarray]:
    """Split off the last rows of every user, but never the first one.

    Args:
        users: int [N], the user of each row; the rows of a user are in order.
        n_last: number of rows to split off.

    Returns:
        n_last + 1 arrays of row numbers. The first holds the rows that stay, user by user in the
        order of their first rows. The others hold one row of each user: the n_last-th row from the
        end, ..., the last one. A user with few rows is missing from the earlier of these.
    """
    user, _ = pd.factorize(users)
    order = np.argsort(user, kind="stable")
    counts = np.bincount(user)
    user = user[order]
    from_end = (np.cumsum(counts) - 1)[user] - np.arange(len(user))
    n_left_out = np.minimum(n_last, counts - 1)[user]
    parts = [order[from_end >= n_left_out]]
    parts += [order[(from_end == last) & (last < n_left_out)] for last in reversed(range(n_last))]
    return parts
