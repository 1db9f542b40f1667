from __future__ import annotations

import itertools

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.residual_kmeans import (
    ResidualKMeans,
    fit_codebooks,
    quantize_by_nearest,
)
from recbole_genrec.tokenizer.unique_kmeans import UniqueResidualKMeans, unique_codes


def fitted(
    points: torch.Tensor,
    n_levels: int,
    codebook_size: int,
    kind=UniqueResidualKMeans,
    iterations: int = 10,
):
    tokenizer = kind(
        n_features=points.shape[1],
        n_levels=n_levels,
        codebook_size=codebook_size,
        kmeans_iterations=iterations,
    )
    tokenizer.start(points, seed=0)
    return tokenizer


def is_unique(codes: torch.Tensor) -> bool:
    return len(codes.unique(dim=0)) == len(codes)


def test_a_grid_of_crosses_is_its_own_hierarchy():
    centers, steps = [(0, 0), (100, 0), (0, 100), (100, 100)], [(1, 0), (-1, 0), (0, 1), (0, -1)]
    points = torch.tensor(
        [[x + dx, y + dy] for x, y in centers for dx, dy in steps], dtype=torch.float
    )
    codes = fitted(points, 2, 4).encode(points)
    assert is_unique(codes)
    assert [len(codes[4 * group : 4 * group + 4, 0].unique()) for group in range(4)] == [1] * 4
    codebooks = fitted(points, 2, 4).codebooks
    torch.testing.assert_close(codebooks[0][codes[:, 0]] + codebooks[1][codes[:, 1]], points)


def test_residual_energy_never_increases():
    torch.manual_seed(0)
    points = torch.randn(500, 8)
    codebooks, residual, energies = (
        fit_codebooks(points, n_levels=4, codebook_size=16, seed=0, n_iterations=20),
        points,
        [],
    )
    codes = quantize_by_nearest(points, codebooks).codes
    for level in range(4):
        residual = residual - codebooks[level][codes[:, level]]
        energies.append(residual.square().sum().item())
    assert energies == sorted(energies, reverse=True) and energies[0] < points.square().sum().item()
    total = sum(codebooks[level][codes[:, level]] for level in range(4))
    torch.testing.assert_close(total + residual, points, atol=1e-5, rtol=0)


def test_codes_without_collisions_stay():
    torch.manual_seed(0)
    points = torch.randn(40, 6)
    plain, unique = fitted(points, 4, 8, ResidualKMeans), fitted(points, 4, 8)
    assert is_unique(plain.encode(points))
    assert torch.equal(unique.encode(points), plain.encode(points))


def test_three_hundred_equal_items_among_two_thousand():
    """Fill one third code with 256 of the items, and the next nearest with the other 44."""
    torch.manual_seed(0)
    points = torch.cat((torch.randn(1, 8).expand(300, 8) * 0 + 50, torch.randn(1700, 8)))
    tokenizer = fitted(points, 4, 256, iterations=3)
    codes = tokenizer.encode(points)
    assert is_unique(codes)
    assert len(codes[:300, :2].unique(dim=0)) == 1
    assert sorted(codes[:300, 2].unique(return_counts=True)[1].tolist()) == [44, 256]
    plain = quantize_by_nearest(points, tokenizer.codebooks).codes
    assert torch.equal(codes[300:, :3], plain[300:, :3]), "other items keep their prefixes"
    assert torch.equal(tokenizer.encode(points), codes)


def test_last_codes_of_a_group_have_the_lowest_total_distance():
    codebooks = torch.tensor([[[0.0], [100.0], [200.0], [300.0]], [[0.0], [3.0], [7.0], [12.0]]])
    points = torch.tensor([[102.9], [103.1], [103.4], [12.0]])
    nearest = quantize_by_nearest(points, codebooks).codes
    assert nearest.tolist() == [[1, 1], [1, 1], [1, 1], [0, 3]]
    codes = unique_codes(points, nearest, codebooks)
    costs = {
        last: sum(
            (point - 100 - codebooks[1, code]).square().item()
            for point, code in zip(points[:3], last)
        )
        for last in itertools.permutations(range(4), 3)
    }
    assert tuple(codes[:3, 1].tolist()) == min(costs, key=costs.get)
    assert codes[:, 0].tolist() == [1, 1, 1, 0] and codes[3].tolist() == [0, 3]


def test_the_item_that_loses_least_moves_to_a_sibling():
    """Move only the item nearest to code 1 from code 0, which has three items and room for two."""
    codebooks = torch.tensor([[[0.0], [10.0]], [[-1.0], [1.0]]])
    points = torch.tensor([[0.0], [4.0], [1.0], [9.0]])
    nearest = quantize_by_nearest(points, codebooks).codes
    assert nearest[:, 0].tolist() == [0, 0, 0, 1]
    codes = unique_codes(points, nearest, codebooks)
    assert codes[:, 0].tolist() == [0, 1, 0, 1]
    assert is_unique(codes) and codes[1, 1] == 0 and codes[3, 1] == 1, "4 is below 10 and below 9"


def test_the_growth_of_the_distance_counts():
    """Move the second item, which is far from both codes but about equally far from each."""
    codebooks = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]])
    points = torch.tensor([[4.0, 0.0], [4.9, 30.0], [0.0, 0.0]])
    codes = unique_codes(points, quantize_by_nearest(points, codebooks).codes, codebooks)
    assert codes[:, 0].tolist() == [0, 1, 0]


def test_a_sibling_takes_no_more_than_fit():
    """Move one of two items from code 0 to code 1, and the other to code 2, as code 1 is full."""
    codebooks = torch.tensor([[[0.0], [10.0], [100.0]], [[-1.0], [0.0], [1.0]]])
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [9.0], [30.0]])
    codes = unique_codes(points, quantize_by_nearest(points, codebooks).codes, codebooks)
    assert codes[:, 0].tolist() == [0, 0, 0, 2, 1, 1, 1]
    assert is_unique(codes)


@pytest.mark.parametrize(
    ("n_levels", "size", "n_items"), [(1, 8, 8), (2, 3, 9), (3, 2, 8), (3, 3, 26), (4, 2, 15)]
)
def test_even_a_full_tree_of_equal_items_gets_unique_codes(n_levels, size, n_items):
    points, codebooks = (
        torch.zeros(n_items, 2),
        torch.randn(n_levels, size, 2, generator=torch.Generator().manual_seed(1)),
    )
    nearest = quantize_by_nearest(points, codebooks).codes
    codes = unique_codes(points, nearest, codebooks)
    assert is_unique(codes) and codes.min() >= 0 and codes.max() < size
    assert (nearest == nearest[0]).all(), "the argument must not change"


def test_random_catalogues_that_nearly_fill_the_tree():
    for seed in range(5):
        points = torch.randn(60, 3, generator=torch.Generator().manual_seed(seed))
        codes = fitted(points, 3, 4).encode(points)
        assert is_unique(codes)


def test_more_items_than_codes_are_refused():
    with pytest.raises(
        UserError,
        match="2 levels of 3 codes name at most 9 items, but there are 10: raise n_levels",
    ):
        unique_codes(torch.zeros(10, 2), torch.zeros(10, 2, dtype=torch.long), torch.zeros(2, 3, 2))


def test_the_log_counts_the_changes(caplog):
    points = torch.zeros(9, 2)
    tokenizer = fitted(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), 2, 3)
    with caplog.at_level("INFO"):
        tokenizer.encode(points)
    assert "unique codes: 9 of 9 items shared their codes, 8 have other codes now" in caplog.text
