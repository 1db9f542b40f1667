from __future__ import annotations

import numpy as np
import pytest

from recbole_genrec.data.interactions import k_core
from recbole_genrec.prepare.filters import earliest_of_each_pair, history_order


def test_core_of_the_deduplicated_core_is_the_core_of_the_deduplicated_whole():
    """LC-Rec starts from all reviews, so its sets can come from the published 5-core files."""
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
def test_earliest_of_each_pair_equals_a_dictionary(seed):
    random = np.random.default_rng(seed)
    users, items, times = (random.integers(0, end, 80) for end in (6, 5, 4))
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
