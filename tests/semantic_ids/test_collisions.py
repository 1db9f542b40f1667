from __future__ import annotations

from collections import Counter

import pytest
import torch

from recbole_genrec.semantic_ids.collisions import counter_level


def naive_counter(codes: torch.Tensor) -> list[int]:
    seen: Counter = Counter()
    counters = []
    for row in map(tuple, codes.tolist()):
        counters.append(seen[row])
        seen[row] += 1
    return counters


def test_literal():
    codes = torch.tensor([[5, 1], [0, 2], [5, 1], [5, 0], [0, 2], [5, 1]])
    counter = counter_level(codes)
    assert counter.tolist() == [0, 0, 1, 0, 1, 2]
    assert counter.dtype == torch.int64


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_items, n_levels, codebook_size", [(1, 1, 1), (40, 1, 3), (300, 2, 5), (300, 3, 4), (200, 3, 256)])
def test_equals_a_dictionary_of_counts(n_items, n_levels, codebook_size, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(codebook_size, (n_items, n_levels), generator=generator)
    assert counter_level(codes).tolist() == naive_counter(codes)


def test_one_large_group_is_numbered_by_row():
    assert counter_level(torch.full((1000, 3), 7)).tolist() == list(range(1000))


def test_the_set_of_ids_does_not_depend_on_the_order_of_items():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(3, (100, 2), generator=generator)
    shuffled = codes[torch.randperm(100, generator=generator)]

    def ids(rows):
        return sorted(map(tuple, torch.cat((rows, counter_level(rows).unsqueeze(1)), dim=1).tolist()))

    assert not torch.equal(codes, shuffled)
    assert ids(codes) == ids(shuffled)
    assert len(set(ids(codes))) == 100


def test_no_items():
    counter = counter_level(torch.zeros((0, 3), dtype=torch.long))
    assert counter.shape == (0,) and counter.dtype == torch.int64
