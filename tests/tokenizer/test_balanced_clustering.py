from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.balanced_clustering import balanced_assignment, balanced_kmeans


def sizes_of(clusters: torch.Tensor, n_clusters: int) -> torch.Tensor:
    return torch.bincount(clusters, minlength=n_clusters)


def inertia(points: torch.Tensor, clusters: torch.Tensor) -> float:
    return sum(
        (points[clusters == c] - points[clusters == c].mean(0)).square().sum().item()
        for c in clusters.unique()
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("min_size", "max_size"), [(1, 3), (2, 3), (1, 6), (2, 2), (0, 3)])
def test_assignment_is_the_cheapest_of_all_allowed(seed, min_size, max_size):
    distances = np.random.default_rng(seed).random((6, 3)) * [0.2, 1, 3]
    allowed = [
        ways
        for ways in itertools.product(range(3), repeat=6)
        if all(min_size <= count <= max_size for count in np.bincount(ways, minlength=3))
    ]
    costs = [distances[np.arange(6), ways].sum() for ways in allowed]
    found = balanced_assignment(distances, min_size, max_size)
    assert tuple(found) in allowed
    assert distances[np.arange(6), found].sum() == pytest.approx(min(costs), abs=1e-12)
    assert min(costs) < max(costs)


def test_assignment_at_any_scale():
    """Reach the minimum sizes for tiny, huge and equal distances."""
    for scale in (1e-12, 1e12):
        found = balanced_assignment(
            np.array([[0.0, 3.0], [0.1, 1.0], [0.2, 2.0], [0.3, 9.0]]) * scale, 1, 3
        )
        assert found.tolist() == [0, 1, 0, 0]
    assert sorted(balanced_assignment(np.zeros((5, 2)), 2, 3).tolist()) in (
        [0, 0, 0, 1, 1],
        [0, 0, 1, 1, 1],
    )


def test_letter_sizes():
    """Cluster 256 codewords, most of them close together, into ten groups of 10 to 60."""
    torch.manual_seed(0)
    codebook = torch.cat((torch.randn(200, 32) * 0.01, torch.randn(56, 32)))
    clusters = balanced_kmeans(codebook, None, 10, 10, 60, seed=0)
    sizes = sizes_of(clusters, 10)
    assert sizes.sum() == 256 and sizes.min() >= 10 and sizes.max() <= 60
    assert sizes.max() == 60, "more codewords lie close together than a group may have"
    assert torch.equal(clusters, balanced_kmeans(codebook, None, 10, 10, 60, seed=0))


def test_plain_kmeans_where_sizes_do_not_matter():
    torch.manual_seed(3)
    points = (
        torch.randn(10, 8, dtype=torch.double)[torch.arange(250) % 10] * 3
        + torch.randn(250, 8, dtype=torch.double) * 0.3
    )
    clusters = balanced_kmeans(points, None, 10, 10, 60, seed=1)
    reference = KMeans(10, n_init=10, random_state=0).fit(points.numpy())
    assert inertia(points, clusters) <= 1.05 * reference.inertia_
    assert sizes_of(clusters, 10).tolist() == [25] * 10


def test_clustering_continues_from_given_clusters():
    """Keep clusters that are still the best, with their numbers."""
    torch.manual_seed(0)
    points = torch.randn(60, 4)
    first = balanced_kmeans(points, None, 5, 6, 20, seed=0)
    for _ in range(20):
        first, before = balanced_kmeans(points, first, 5, 6, 20, seed=9), first
        if torch.equal(first, before):
            break
    assert torch.equal(balanced_kmeans(points, first, 5, 6, 20, seed=9), first)
    renamed = (first + 1) % 5
    assert torch.equal(balanced_kmeans(points, renamed, 5, 6, 20, seed=9), renamed)
    assert inertia(
        points, balanced_kmeans(points, torch.arange(60) % 5, 5, 6, 20, seed=0)
    ) < 0.9 * inertia(points, torch.arange(60) % 5)


def test_equal_points_fill_all_clusters():
    sizes = sizes_of(balanced_kmeans(torch.zeros(40, 3), None, 4, 5, 12, seed=0), 4)
    assert sizes.sum() == 40 and sizes.min() >= 5 and sizes.max() <= 12


@pytest.mark.parametrize(
    ("n_points", "min_size", "max_size", "text"),
    [(9, 5, 6, "hold 10 to 12"), (13, 5, 6, "there are 13"), (9, 0, 9, "0 to 9"), (9, 5, 4, "")],
)
def test_impossible_sizes_are_refused(n_points, min_size, max_size, text):
    with pytest.raises(UserError, match=rf"{text}.*: change n_groups or group_sizes"):
        balanced_kmeans(torch.randn(n_points, 2), None, 2, min_size, max_size, seed=0)
