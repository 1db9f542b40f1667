"""K-means in torch, which initializes every codebook."""

# Shapes: N points, D their width, K clusters

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.runtime.precision import full_precision

MATRIX_ENTRIES = 2**24


def closeness(points: Tensor, centroids: Tensor) -> Tensor:
    """Return 2 <p, c> - |c|^2, the squared norm of p minus its squared distance to c, [N, K]."""
    with full_precision(points):
        return torch.addmm(-centroids.square().sum(dim=1), points, centroids.t(), alpha=2)


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of each point's nearest centroid, int64 [N], with bounded memory."""
    n_rows = max(1, MATRIX_ENTRIES // len(centroids))
    return torch.cat(
        [closeness(chunk, centroids).max(dim=1).indices for chunk in points.split(n_rows)]
    )


@torch.no_grad()
def kmeans(
    points: Tensor, n_clusters: int, *, seed: int, n_iterations: int
) -> tuple[Tensor, Tensor]:
    """Run Lloyd's k-means from a greedy k-means++ start (Arthur and Vassilvitskii 2007).

    A cluster that loses all its points moves to the point farthest from its own centroid. If the
    points have fewer distinct values than `n_clusters`, each surplus centroid lies beside a random
    point, a thousandth of the points' spread away: it is unused, but no two are equal.

    Args:
        points: [N, D], finite.
        n_clusters: K, from 1 to N.
        seed: Seed of all random draws, which are made on the CPU, so that all devices agree.
        n_iterations: Maximum number of updates; fewer if no point changes its cluster.

    Returns:
        Centroids [K, D], and the index of each point's nearest centroid, int64 [N].

    Raises:
        UserError: There are fewer points than clusters.
    """
    if n_clusters > len(points):
        raise UserError(
            f"the catalogue of {len(points)} items is smaller than codebook_size {n_clusters}: "
            f"lower codebook_size to at most {len(points)}"
        )
    generator = torch.Generator().manual_seed(seed)
    centroids = _plus_plus_start(points, n_clusters, generator)
    assignments = nearest(points, centroids)
    for _ in range(n_iterations):
        centroids = _update(points, centroids, assignments)
        updated = nearest(points, centroids)
        if torch.equal(updated, assignments):
            break
        assignments = updated
    return _without_duplicates(points, centroids, assignments, generator)


def _plus_plus_start(points: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    n_trials = 2 + int(math.log(n_clusters))
    draws = torch.rand(n_clusters, n_trials, generator=generator, dtype=torch.float64).to(
        points.device
    )
    squared_norms = points.square().sum(dim=1)
    first = (draws[0, :1] * len(points)).long()
    chosen = [first]
    distances = _squared_distances(points, squared_norms, first).squeeze(0)
    for trials in draws[1:]:
        cumulative = distances.double().cumsum(dim=0)
        candidates = torch.searchsorted(cumulative, trials * cumulative[-1], right=True).clamp_(
            max=len(points) - 1
        )
        candidate_distances = torch.minimum(
            _squared_distances(points, squared_norms, candidates), distances
        )
        best = candidate_distances.sum(dim=1).argmin(dim=0, keepdim=True)
        distances = candidate_distances.index_select(0, best).squeeze(0)
        chosen.append(candidates[best])
    return points[torch.cat(chosen)]


def _squared_distances(points: Tensor, squared_norms: Tensor, rows: Tensor) -> Tensor:
    """Return squared distances [len(rows), N] from the points of `rows` to all points."""
    with full_precision(points):
        products = points[rows] @ points.t()
    return (squared_norms[rows, None] + squared_norms - 2 * products).clamp_(min=0)


def _update(points: Tensor, centroids: Tensor, assignments: Tensor) -> Tensor:
    sums, counts = _sums_and_counts(points, assignments, len(centroids))
    means = sums / counts.clamp(min=1)[:, None]
    empty = torch.nonzero(counts == 0).squeeze(1)
    if len(empty):
        own_distances = (points - centroids[assignments]).square().sum(dim=1)
        means[empty] = points[own_distances.topk(len(empty)).indices]
    return means


def _sums_and_counts(points: Tensor, assignments: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """Return sum [K, D] and number [K] of the points of each cluster."""
    sums = points.new_zeros(n_clusters, points.shape[1])
    n_rows = max(1, MATRIX_ENTRIES // n_clusters)
    # A product with one-hot rows, because index_add_ adds in no fixed order on a GPU and two runs
    # would differ.
    with full_precision(points):
        for chunk, chunk_assignments in zip(points.split(n_rows), assignments.split(n_rows)):
            sums += F.one_hot(chunk_assignments, n_clusters).to(points.dtype).t() @ chunk
    return sums, torch.bincount(assignments, minlength=n_clusters)


def _without_duplicates(
    points: Tensor, centroids: Tensor, assignments: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    empty = torch.nonzero(torch.bincount(assignments, minlength=len(centroids)) == 0).squeeze(1)
    if not len(empty):
        return centroids, assignments
    deviations = points - points.mean(dim=0)
    spread = deviations.square().mean().sqrt().clamp(min=torch.finfo(points.dtype).eps)
    rows = torch.randint(len(points), (len(empty),), generator=generator).to(points.device)
    noise = torch.randn(len(empty), points.shape[1], generator=generator).to(points)
    centroids[empty] = points[rows] + 1e-3 * spread * noise
    return centroids, nearest(points, centroids)
