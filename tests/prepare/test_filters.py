from __future__ import annotations

import numpy as np
import pytest

from recbole_genrec.prepare.filters import earliest_of_each_pair, history_order, k_core


def brute_force_core(users, items, k):
    rows = set(range(len(users)))
    while True:
        of_user, of_item = {}, {}
        for row in rows:
            of_user.setdefault(users[row], []).append(row)
            of_item.setdefault(items[row], []).append(row)
        weak = {
            row
            for group in (*of_user.values(), *of_item.values())
            if len(group) < k
            for row in group
        }
        if not weak:
            return sorted(rows)
        rows -= weak


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_core_is_that_of_a_brute_force(seed, k):
    random = np.random.default_rng(seed)
    users, items = random.integers(0, 25, 130), random.integers(0, 20, 130)
    assert k_core(users, items, k).tolist() == brute_force_core(users.tolist(), items.tolist(), k)


def test_core_needs_more_than_one_round():
    # Item 2 has one user; without it user 1 has one item; without user 1 item 1 has one user, and
    # so on down to a block of 2 x 2.
    users = np.array([1, 1, 2, 2, 3, 3, 4, 4])
    items = np.array([2, 1, 1, 0, 0, 3, 0, 3])
    assert k_core(users, items, 2).tolist() == [4, 5, 6, 7]


def test_core_may_be_empty_and_of_nothing():
    assert k_core(np.array([0, 1]), np.array([0, 1]), 2).tolist() == []
    assert k_core(np.array([], dtype=np.int32), np.array([], dtype=np.int32), 5).tolist() == []


def test_core_of_the_deduplicated_core_is_the_core_of_the_deduplicated_whole():
    """Why LC-Rec's sets, made from all reviews, come out of the published 5-core files."""
    random = np.random.default_rng(3)
    users, items = random.integers(0, 60, 500), (40 * random.random(500) ** 2).astype(int)
    times = random.integers(0, 9, 500)
    single = earliest_of_each_pair(users, items, times)
    expected = single[k_core(users[single], items[single], 5)]
    core = k_core(users, items, 5)
    kept = core[earliest_of_each_pair(users[core], items[core], times[core])]
    found = kept[k_core(users[kept], items[kept], 5)]
    assert 0 < len(found) < len(kept) < len(core) < 500
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_earliest_of_each_pair_is_that_of_a_dictionary(seed):
    random = np.random.default_rng(seed)
    users, items, times = (
        random.integers(0, 6, 80),
        random.integers(0, 5, 80),
        random.integers(0, 4, 80),
    )
    best = {}
    for row, key in enumerate(zip(users.tolist(), items.tolist())):
        if key not in best or times[row] < times[best[key]]:
            best[key] = row
    assert earliest_of_each_pair(users, items, times).tolist() == sorted(best.values())


def test_exact_duplicates_leave_the_first_row():
    zeros = np.zeros(3, dtype=np.int64)
    assert earliest_of_each_pair(zeros, zeros, zeros).tolist() == [0]
    assert earliest_of_each_pair(zeros[:0], zeros[:0], zeros[:0]).tolist() == []


def test_histories_are_in_time_order_and_ties_in_file_order():
    users = np.array([1, 0, 1, 0, 1, 0, 1])
    times = np.array([7, 5, 7, 5, 3, 5, 7])
    assert history_order(users, times).tolist() == [1, 3, 5, 4, 0, 2, 6]
