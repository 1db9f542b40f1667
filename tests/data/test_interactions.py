from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from recbole_genrec.data.interactions import (
    FilterAxis,
    is_within,
    k_core,
    keep_by_number,
    leave_out,
    number_tokens,
)

INF = float("inf")


def intervals_of(text):
    """'[5,inf);(1,3]' as RecBole parses it."""
    if text is None:
        return None
    pairs = [
        (part[0], *map(float, part[1:-1].split(",")), part[-1]) for part in text.split(";") if part
    ]
    return pairs


def inside(number, intervals):
    return any(
        (number >= left if a == "[" else number > left)
        and (number <= right if b == "]" else number < right)
        for a, left, right, b in intervals
    )


@pytest.mark.parametrize(
    "text, numbers",
    [("[2,4)", [2, 3]), ("(2,4]", [3, 4]), ("[0,0];(4,inf)", [0, 5])],
)
def test_bounds_of_intervals(text, numbers):
    assert np.flatnonzero(is_within(np.arange(6), intervals_of(text))).tolist() == numbers


def axis_of(tokens, intervals, listed=None):
    column = pd.Categorical(tokens)
    rows = None if listed is None else column.categories.get_indexer(listed)
    return FilterAxis(column.codes, len(column.categories), intervals, rows)


def filtered_by_loops(users, items, names, intervals):
    """Repeat RecBole's Dataset._filter_by_inter_num with lists."""
    rows = list(range(len(users)))
    listed = [None if tokens is None else list(range(len(tokens))) for tokens in names]
    while True:
        banned = []
        for number, tokens in enumerate((users, items)):
            counts = Counter(tokens[row] for row in rows) if intervals[number] else Counter()
            ban = {token for token in counts if not inside(counts[token], intervals[number])}
            if listed[number] is not None:
                left = intervals[number][0][1] if intervals[number] else -1
                ban |= {
                    names[number][row]
                    for row in listed[number]
                    if counts[names[number][row]] < left
                }
            banned.append(ban)
        if not any(banned):
            return rows, listed
        listed = [
            None if some is None else [row for row in some if file[row] not in ban]
            for some, file, ban in zip(listed, names, banned)
        ]
        rows = [row for row in rows if users[row] not in banned[0] and items[row] not in banned[1]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "bounds",
    [
        ("[3,inf)", "[3,inf)"),
        ("[4,9]", "[0,inf)"),
        ("(5,8];[2,3]", "[4,inf)"),
        (None, "[4,inf)"),
        ("", "[2,inf)"),
        ("[30,inf)", "[1,inf)"),
    ],
)
@pytest.mark.parametrize("has_files", [False, True])
def test_filter_equals_loops(seed, bounds, has_files):
    generator = np.random.default_rng(seed)
    users = [f"u{number}" for number in generator.integers(25, size=120)]
    items = [f"i{int(20 * number**2)}" for number in generator.random(120)]
    intervals = [intervals_of(text) for text in bounds]
    names = (
        [[f"u{number}" for number in range(0, 30, 2)], [f"i{number}" for number in range(25)]]
        if has_files
        else [None, None]
    )
    kept = keep_by_number([axis_of(*parts) for parts in zip((users, items), intervals, names)])
    rows, listed = filtered_by_loops(users, items, names, intervals)
    assert kept.rows.tolist() == rows
    for mask, left in zip(kept.listed, listed):
        assert (mask is None) == (left is None)
        assert left is None or np.flatnonzero(mask).tolist() == left


def test_filters_continue_until_nothing_goes():
    """Without item z user b has one interaction left; without b item y has one left."""
    at_least_2 = intervals_of("[2,inf)")
    kept = keep_by_number(
        [axis_of(list("aabbaa"), at_least_2), axis_of(list("xxyzyx"), at_least_2)]
    )
    assert kept.rows.tolist() == [0, 1, 5]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_core_equals_a_brute_force(seed, k):
    random = np.random.default_rng(seed)
    users, items = random.integers(0, 25, 130), random.integers(0, 20, 130)
    rows, _ = filtered_by_loops(
        users.tolist(), items.tolist(), [None, None], [[("[", k, INF, "]")]] * 2
    )
    assert k_core(users, items, k).tolist() == rows


def test_core_needs_more_than_one_round():
    """Item 2 has one user, then user 1 one item, then item 1 one user, down to a 2 x 2 block."""
    users = np.array([1, 1, 2, 2, 3, 3, 4, 4])
    items = np.array([2, 1, 1, 0, 0, 3, 0, 3])
    assert k_core(users, items, 2).tolist() == [4, 5, 6, 7]


def test_core_may_be_empty_and_of_nothing():
    assert k_core(np.array([0, 1]), np.array([0, 1]), 2).tolist() == []
    assert k_core(np.array([], dtype=np.int32), np.array([], dtype=np.int32), 5).tolist() == []


def test_numbers_equal_one_factorization():
    nan = np.nan
    first = np.array(["c", "a", nan, "c", "b"], dtype=object)
    second = np.array(["d", "a", "e", nan, "d"], dtype=object)
    theirs, tokens = pd.factorize(np.concatenate([first, second]))
    unused = pd.Categorical(first, ["x", "b", "c", "a"])
    for columns in (
        [pd.Categorical(first), second],
        [unused, pd.Categorical(second)],
        [first, second],
    ):
        ids, names = number_tokens(columns)
        assert names.tolist() == tokens.tolist() == ["c", "a", "b", "d", "e"]
        assert np.concatenate(ids).tolist() == (theirs + 1).tolist()
        assert all(part.dtype == np.int64 and len(part) == 5 for part in ids)


def test_the_last_rows_of_literal_users():
    """User 7 has rows 0, 2, 5, 6; user 3 has 1, 4; user 9 has 3."""
    users = np.array([7, 3, 7, 9, 3, 7, 7])
    train, valid, test = leave_out(users, 2)
    assert (train.tolist(), valid.tolist(), test.tolist()) == ([0, 2, 1, 3], [5], [6, 4])
    train, test = leave_out(users, 1)
    assert (train.tolist(), test.tolist()) == ([0, 2, 5, 1, 3], [6, 4])
