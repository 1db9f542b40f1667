"""Steps on whole columns of interactions: filter by number, turn tokens into ids, leave the last ones out."""

# Shapes: N interactions, K tokens.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

Interval = tuple  # RecBole's (left bracket, left point, right point, right bracket)


class Side(NamedTuple):
    """Users or items in a filter by number of interactions.

    tokens: Categorical [N] without missing values, whose it is.
    intervals: the numbers allowed, any of them; none of them or None: no filter.
    listed: tokens that a file of users or items lists, or None.
    """

    tokens: pd.Categorical
    intervals: Sequence[Interval] | None
    listed: np.ndarray | None


class Kept(NamedTuple):
    """interactions: bool [N]; listed: for each side bool [rows of its file], or None where there is no file."""

    interactions: np.ndarray
    listed: tuple[np.ndarray | None, ...]


def is_within(numbers: np.ndarray, intervals: Sequence[Interval]) -> np.ndarray:
    """Whether each number is in one of the intervals; bool, shape of numbers."""
    inside = np.zeros(numbers.shape, dtype=bool)
    for left_bracket, left, right, right_bracket in intervals:
        above = numbers >= left if left_bracket == "[" else numbers > left
        below = numbers <= right if right_bracket == "]" else numbers < right
        inside |= above & below
    return inside


def keep_by_number(sides: Sequence[Side]) -> Kept:
    """What is left when users and items with too few or too many interactions go, again and again until none is left to go.

    As in RecBole, all that is out of bounds goes at once in a round, and what a file lists goes
    with fewer interactions than the
    left point of the first interval.
    """
    # A listed token without interactions has the code -1: the last of the counts, which stays 0.
    codes = [side.tokens.codes for side in sides]
    listed = [
        None if side.listed is None else side.tokens.categories.get_indexer(side.listed)
        for side in sides
    ]
    is_left = np.ones(len(codes[0]), dtype=bool)
    is_listed = [None if rows is None else np.ones(len(rows), dtype=bool) for rows in listed]
    while True:
        goes = np.zeros(len(is_left), dtype=bool)
        for number, side in enumerate(sides):
            if not side.intervals:
                continue
            counts = np.bincount(codes[number][is_left], minlength=len(side.tokens.categories) + 1)
            banned = (counts > 0) & ~is_within(counts, side.intervals)
            if listed[number] is not None:
                rows = listed[number]
                banned[rows[is_listed[number] & (counts[rows] < side.intervals[0][1])]] = True
                is_listed[number] &= ~banned[rows]
            goes |= banned[codes[number]]
        goes &= is_left
        if not goes.any():
            return Kept(is_left, tuple(is_listed))
        is_left &= ~goes


def number_tokens(
    columns: Sequence[np.ndarray | pd.Categorical],
) -> tuple[list[np.ndarray], np.ndarray]:
    """Number tokens from 1 in the order in which they first appear, column after column; 0 is a missing one.

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
    # The code -1 of a missing token takes the last entry.
    ids = [
        part if codes is None else np.append(part, 0)[codes]
        for part, (codes, _) in zip(parts, firsts)
    ]
    return ids, names


def leave_out(users: np.ndarray, n_last: int) -> list[np.ndarray]:
    """Leave the last rows of every user out, but never the first one.

    Args:
        users: int [N], the user of each row, rows of a user in their order.
        n_last: how many rows to leave out.

    Returns:
        n_last + 1 arrays of row numbers: what stays, user by user in the order of their first rows;
        then the n_last-th row from a
        user's end, ..., the last one. A user with fewer rows is missing from the earlier ones of
        these.
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
