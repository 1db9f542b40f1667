"""K-means whose clusters have a minimum and a maximum size: LETTER's groups of codewords."""

# Shapes: N points, D their width, G clusters

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.clustering import kmeans

N_ITERATIONS = 5  # ours: from the last clusters, assignments settle after two or three
_START_ITERATIONS = 100


def balanced_assignment(distances: NDArray[Any], min_size: int, max_size: int) -> NDArray[Any]:
    """Assign points to clusters at the lowest total distance, within the sizes of a cluster.

    Every cluster has one slot per point that it may hold. Its first `min_size` slots are cheaper by
    more than all distances together, so that they are filled.

    Args:
        distances: Float [N, G], finite; G * min_size <= N <= G * max_size.
        min_size: Minimum number of points in a cluster.
        max_size: Maximum number of points in a cluster.

    Returns:
        Cluster of every point, int64 [N], from 0 to G - 1.
    """
    n_points, n_clusters = distances.shape
    nearest = distances.argmin(axis=1)
    counts = np.bincount(nearest, minlength=n_clusters)
    if counts.min() >= min_size and counts.max() <= max_size:
        return nearest
    clusters = np.arange(n_clusters)
    slots = np.concatenate(
        [np.repeat(clusters, min_size), np.repeat(clusters, max_size - min_size)]
    )
    costs = distances[:, slots]
    costs[:, : n_clusters * min_size] -= (n_points + 1) * np.ptp(distances) or 1.0
    return slots[linear_sum_assignment(costs)[1]]


def check_sizes(n_points: int, n_clusters: int, min_size: int, max_size: int) -> None:
    """Refuse sizes that no clustering can have.

    Raises:
        UserError: Unless 1 <= min_size <= max_size and
            n_clusters * min_size <= n_points <= n_clusters * max_size.
    """
    smallest, largest = n_clusters * min_size, n_clusters * max_size
    if not 1 <= min_size <= max_size or not smallest <= n_points <= largest:
        raise UserError(
            f"{n_clusters} groups of {min_size} to {max_size} codewords hold {smallest} to "
            f"{largest}, but there are {n_points}: change n_groups or group_sizes (a minimum and a "
            "maximum)"
        )


@torch.no_grad()
def balanced_kmeans(
    points: Tensor, start: Tensor | None, n_clusters: int, min_size: int, max_size: int, seed: int
) -> Tensor:
    """Run Lloyd's k-means with balanced assignments; the result does not depend on the device.

    Args:
        points: [N, D], finite.
        start: Clusters to start from, int64 [N]; None to start from a plain k-means.
        n_clusters: G.
        min_size: Minimum number of points in a cluster.
        max_size: Maximum number of points in a cluster.
        seed: Seed of the plain k-means.

    Returns:
        Cluster of every point, int64 [N], on the points' device.

    Raises:
        UserError: See check_sizes.
    """
    check_sizes(len(points), n_clusters, min_size, max_size)
    values = points.cpu().double()
    if start is None:
        clusters = np.full(len(points), -1)
        centers = kmeans(values, n_clusters, seed=seed, n_iterations=_START_ITERATIONS)[0].numpy()
    else:
        clusters = start.cpu().numpy()
        centers = _means(values.numpy(), clusters, n_clusters)
    for _ in range(N_ITERATIONS):
        distances = _squared_distances(values.numpy(), centers)
        updated = balanced_assignment(distances, min_size, max_size)
        if np.array_equal(updated, clusters):
            break
        clusters, centers = updated, _means(values.numpy(), updated, n_clusters)
    return torch.from_numpy(clusters).to(points.device)


def _means(points: NDArray[Any], clusters: NDArray[Any], n_clusters: int) -> NDArray[Any]:
    is_member = clusters == np.arange(n_clusters)[:, None]
    return is_member @ points / is_member.sum(axis=1, keepdims=True)


def _squared_distances(points: NDArray[Any], centers: NDArray[Any]) -> NDArray[Any]:
    return np.square(points[:, None] - centers).sum(axis=2)
