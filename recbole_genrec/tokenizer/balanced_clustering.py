"""K-means whose clusters have a least and a most size: the groups of codewords of LETTER.

Shapes: N points, D their width, G clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.clustering import kmeans

N_ITERATIONS = 5  # ours: of a start from the last clusters; assignments settle after two or three
_START_ITERATIONS = 100


def balanced_assignment(distances: np.ndarray, least: int, most: int) -> np.ndarray:
    """The clusters of points that cost least in sum, each cluster with `least` to `most` points.

    A cluster stands for as many places as it may have points, and its first `least` places are
    worth more than all distances
    together, so that they are filled.

    Args:
        distances: float [N, G], finite; G * least <= N <= G * most.

    Returns:
        int64 [N], from 0 to G - 1.
    """
    n_points, n_clusters = distances.shape
    nearest = distances.argmin(axis=1)
    counts = np.bincount(nearest, minlength=n_clusters)
    if counts.min() >= least and counts.max() <= most:
        return nearest
    places = np.concatenate(
        [np.repeat(np.arange(n_clusters), least), np.repeat(np.arange(n_clusters), most - least)]
    )
    costs = distances[:, places]
    costs[:, : n_clusters * least] -= (n_points + 1) * np.ptp(distances) or 1.0
    return places[linear_sum_assignment(costs)[1]]


def check_sizes(n_points: int, n_clusters: int, least: int, most: int) -> None:
    """Refuse sizes that cannot be.

    Raises:
        ValueError: unless 1 <= least <= most and n_clusters * least <= n_points <= n_clusters *
            most.
    """
    if not 1 <= least <= most or not n_clusters * least <= n_points <= n_clusters * most:
        raise UserError(
            f"{n_clusters} groups of {least} to {most} codewords hold {n_clusters * least} to {n_clusters * most}, but there are "
            f"{n_points}: change n_groups or group_sizes (a least and a most size)"
        )


@torch.no_grad()
def balanced_kmeans(
    points: Tensor, start: Tensor | None, n_clusters: int, least: int, most: int, seed: int
) -> Tensor:
    """Lloyd's k-means with balanced assignments; its result does not depend on the device.

    Args:
        points: [N, D], finite.
        start: LongTensor [N], clusters to start from; None: from those of a plain k-means.
        n_clusters: G.
        least, most: sizes of a cluster.
        seed: of the plain k-means.

    Returns:
        LongTensor [N], the cluster of every point, on the points' device.

    Raises:
        ValueError: see check_sizes.
    """
    check_sizes(len(points), n_clusters, least, most)
    values = points.cpu().double()
    if start is None:
        centers = kmeans(values, n_clusters, seed=seed, n_iterations=_START_ITERATIONS)[0].numpy()
    else:
        centers = _means(values.numpy(), start.cpu().numpy(), n_clusters)
    clusters = np.full(len(points), -1) if start is None else start.cpu().numpy()
    for _ in range(N_ITERATIONS):
        updated = balanced_assignment(_squared_distances(values.numpy(), centers), least, most)
        if np.array_equal(updated, clusters):
            break
        clusters, centers = updated, _means(values.numpy(), updated, n_clusters)
    return torch.from_numpy(clusters).to(points.device)


def _means(points: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    is_member = clusters == np.arange(n_clusters)[:, None]
    return is_member @ points / is_member.sum(axis=1, keepdims=True)


def _squared_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.square(points[:, None] - centers).sum(axis=2)
