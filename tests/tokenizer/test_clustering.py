from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer import clustering
from recbole_genrec.tokenizer.clustering import closeness, kmeans, nearest


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def blobs(n: int, n_centers: int, width: int, noise: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(n_centers, width, generator=generator)
    rows = torch.randint(n_centers, (n,), generator=generator)
    return centers[rows] + noise * torch.randn(n, width, generator=generator)


def inertia(points: torch.Tensor, centroids: torch.Tensor) -> float:
    return float(torch.cdist(points.double(), centroids.double()).square().min(dim=1).values.sum())


def test_separable_points_are_clustered_exactly():
    points = torch.tensor(
        [[0.0, 0.0], [0.0, 1.0], [10.0, 0.0], [10.0, 1.0], [0.0, 20.0], [0.0, 22.0]]
    )
    centroids, assignments = kmeans(points, 3, seed=0, n_iterations=10)
    assert sorted(map(tuple, centroids.tolist())) == [(0.0, 0.5), (0.0, 21.0), (10.0, 0.5)]
    torch.testing.assert_close(
        centroids[assignments], points.reshape(3, 2, 2).mean(1).repeat_interleave(2, dim=0)
    )


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_inertia_is_close_to_scikit_learn(noise):
    points = blobs(2000, 40, 8, noise)
    centroids, assignments = kmeans(points, 40, seed=0, n_iterations=100)
    reference = KMeans(40, n_init=1, random_state=0).fit(points.numpy()).inertia_
    own = inertia(points, centroids)
    assert own <= 1.05 * reference
    assert float((points - centroids[assignments]).double().square().sum()) == pytest.approx(
        own, rel=1e-5
    )


def test_start_alone_beats_random_points():
    points = blobs(2000, 40, 8, 0.1)
    started, _ = kmeans(points, 40, seed=0, n_iterations=0)
    random = points[torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:40]]
    assert inertia(points, started) < 0.5 * inertia(points, random)


def test_no_cluster_is_empty_when_points_abound():
    points = blobs(3000, 5, 4, 0.01)
    _, assignments = kmeans(points, 100, seed=0, n_iterations=50)
    assert torch.bincount(assignments, minlength=100).min() >= 1


def test_seed_decides_everything():
    points = blobs(500, 20, 4, 1.0)
    first, again, other = (kmeans(points, 20, seed=seed, n_iterations=5)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    kmeans(torch.ones(10, 2), 3, seed=0, n_iterations=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_emptied_cluster_moves_to_the_farthest_point():
    points = torch.tensor([[0.0], [1.0], [9.0]])
    centroids = torch.tensor([[0.5], [50.0]])
    moved = clustering._update(points, centroids, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(moved, torch.tensor([[10.0 / 3], [9.0]]))


@pytest.mark.parametrize(
    "points", [torch.zeros(20, 3), torch.tensor([[0.0, 1.0], [5.0, 5.0]]).repeat(10, 1)]
)
def test_fewer_distinct_points_than_clusters(points):
    centroids, assignments = kmeans(points, 8, seed=0, n_iterations=20)
    assert torch.isfinite(centroids).all()
    assert len(centroids.unique(dim=0)) == 8
    torch.testing.assert_close(centroids[assignments], points, atol=1e-2, rtol=0)


def test_fewer_points_than_clusters_is_an_error():
    with pytest.raises(
        UserError,
        match="catalogue of 3 items is smaller than codebook_size 4: lower codebook_size",
    ):
        kmeans(torch.randn(3, 2), 4, seed=0, n_iterations=5)


def test_as_many_clusters_as_points():
    points = torch.arange(6.0)[:, None] ** 2
    centroids, assignments = kmeans(points, 6, seed=0, n_iterations=5)
    assert torch.equal(centroids[assignments], points)


def test_closeness_is_norm_minus_squared_distance():
    points, centroids = (
        torch.randn(7, 5, dtype=torch.float64),
        torch.randn(4, 5, dtype=torch.float64),
    )
    expected = points.square().sum(1, keepdim=True) - torch.cdist(points, centroids).square()
    torch.testing.assert_close(closeness(points, centroids), expected)


def test_chunks_do_not_change_the_nearest(monkeypatch):
    points, centroids = torch.randn(101, 5), torch.randn(4, 5)
    expected = torch.from_numpy(
        np.argmin(np.square(points.numpy()[:, None] - centroids.numpy()).sum(-1), axis=1)
    )
    assert torch.equal(nearest(points, centroids), expected)
    monkeypatch.setattr(clustering, "MATRIX_ENTRIES", 40)
    assert torch.equal(nearest(points, centroids), expected)
    small, _ = kmeans(points, 4, seed=0, n_iterations=20)
    monkeypatch.setattr(clustering, "MATRIX_ENTRIES", 2**24)
    torch.testing.assert_close(small, kmeans(points, 4, seed=0, n_iterations=20)[0])


def test_autocast_does_not_lower_the_precision():
    points, centroids = torch.randn(64, 32), torch.randn(16, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = closeness(points, centroids)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, closeness(points, centroids))
