from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.collisions import check_distinct, counter_level, match_last_codes


def naive_counter(codes: torch.Tensor) -> list[int]:
    seen: Counter = Counter()
    counters = []
    for row in map(tuple, codes.tolist()):
        counters.append(seen[row])
        seen[row] += 1
    return counters


def test_counters_by_hand():
    codes = torch.tensor([[5, 1], [0, 2], [5, 1], [5, 0], [0, 2], [5, 1]])
    counter = counter_level(codes)
    assert counter.tolist() == [0, 0, 1, 0, 1, 2]
    assert counter.dtype == torch.int64


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("n_items", "n_levels", "codebook_size"),
    [(1, 1, 1), (40, 1, 3), (300, 2, 5), (300, 3, 4), (200, 3, 256)],
)
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
        return sorted(
            map(tuple, torch.cat((rows, counter_level(rows).unsqueeze(1)), dim=1).tolist())
        )

    assert not torch.equal(codes, shuffled)
    assert ids(codes) == ids(shuffled)
    assert len(set(ids(codes))) == 100


def test_no_items():
    counter = counter_level(torch.zeros((0, 3), dtype=torch.long))
    assert counter.shape == (0,) and counter.dtype == torch.int64


def squared_distances(residuals: torch.Tensor, codebook: torch.Tensor):
    return lambda rows: torch.cdist(residuals[rows], codebook).square()


@pytest.mark.parametrize("seed", range(6))
def test_matching_is_the_cheapest_of_all_distinct_last_codes(seed):
    torch.manual_seed(seed)
    residuals, codebook = (
        torch.randn(7, 2, dtype=torch.double),
        torch.randn(5, 2, dtype=torch.double),
    )
    codes = torch.tensor(
        [[0, 1, 2], [0, 1, 2], [3, 1, 2], [0, 1, 4], [0, 1, 2], [3, 1, 0], [3, 2, 2]]
    )
    matched = match_last_codes(codes, squared_distances(residuals, codebook))
    group = [0, 1, 3, 4]
    costs = torch.cdist(residuals[group], codebook).square()
    best = min(
        itertools.permutations(range(5), 4),
        key=lambda choice: sum(costs[row, code].item() for row, code in enumerate(choice)),
    )
    assert matched[group].tolist() == [[0, 1, code] for code in best]
    assert torch.equal(matched[[2, 5, 6]], codes[[2, 5, 6]]), "no collision, no change"


def test_five_equal_items_get_the_five_nearest_codes():
    codebook = torch.tensor([[float(value)] for value in (9, 1, 7, 2, 3, 8, 4, 5)])
    codes = torch.tensor([[6, 1]] * 5)
    matched = match_last_codes(codes, squared_distances(torch.zeros(5, 1), codebook))
    assert (matched[:, 0] == 6).all()
    assert sorted(matched[:, 1].tolist()) == [1, 3, 4, 6, 7]
    assert codes.tolist() == [[6, 1]] * 5, "the argument must not change"


def test_matching_does_not_depend_on_the_order_of_items():
    torch.manual_seed(1)
    residuals, codebook = torch.randn(60, 3), torch.randn(16, 3)
    codes = torch.randint(8, (60, 2))
    codes[:, 1] = torch.cdist(residuals, codebook).argmin(1)
    matched = match_last_codes(codes, squared_distances(residuals, codebook))
    assert len(matched.unique(dim=0)) == 60
    order = torch.randperm(60)
    assert torch.equal(
        match_last_codes(codes[order], squared_distances(residuals[order], codebook)),
        matched[order],
    )


def test_codes_without_collisions_stay_without_asking_for_costs():
    codes = torch.tensor([[0, 1], [1, 1], [0, 0]])
    assert torch.equal(match_last_codes(codes, lambda rows: pytest.fail("asked")), codes)


def test_matching_works_on_a_single_level():
    one_level = match_last_codes(
        torch.tensor([[2], [2], [0]]), lambda rows: torch.tensor([[1.0, 2.0, 0.0]] * 3)[: len(rows)]
    )
    assert sorted(one_level.flatten().tolist()) == [0, 1, 2]


def test_more_items_than_last_codes_are_refused():
    with pytest.raises(
        UserError,
        match="3 items share all codes but the last, which has 2 values: raise codebook_size",
    ):
        match_last_codes(
            torch.zeros(3, 2, dtype=torch.long), lambda rows: torch.zeros(len(rows), 2)
        )


def test_too_many_equal_features_are_refused():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1e-6], [1.0, 0.0]])
    check_distinct(features, 3)
    with pytest.raises(
        UserError,
        match=r"3 items have the same features .* but counter_size is 2: raise it",
    ):
        check_distinct(features, 2)
