"""Residual k-means with unique codes that stay hierarchical.

Items that collide move to the nearest codewords with room.
"""

# Shapes: N items, n items of a group, L levels, l levels of a prefix, K codebook size, D feature
# width

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.semantic_ids.collisions import counter_level, match_last_codes
from recbole_genrec.tokenizer.residual_kmeans import ResidualKMeans, quantize_by_nearest

logger = logging.getLogger(__name__)


class UniqueResidualKMeans(ResidualKMeans):
    """Residual k-means with unique codes for a catalogue, without a counter (UNGER §3.3.5)."""

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Return unique codes [N, L] of the whole catalogue [N, D].

        Items without collisions get the codes of the nearest codewords.

        Raises:
            UserError: The levels have fewer code sequences than there are items.
        """
        codes = super().encode(features)
        unique = unique_codes(features, codes, self.codebooks)
        counts = codes.unique(dim=0, return_counts=True)[1]
        logger.info(
            "unique codes: %d of %d items shared their codes, %d have other codes now; "
            "mean squared error %.4g, was %.4g",
            int(counts[counts > 1].sum()),
            len(codes),
            int((codes != unique).any(dim=1).sum()),
            float(_residuals(features, unique, self.codebooks).square().sum(1).mean()),
            float(_residuals(features, codes, self.codebooks).square().sum(1).mean()),
        )
        return unique


@torch.no_grad()
def unique_codes(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Remove collisions by changing the deepest codes possible, at the lowest cost there.

    The levels are handled from the top. If a prefix holds more items than it has codes, the items
    whose squared distance grows least move to a sibling that has room. At the last level, each
    group with a collision gets the distinct last codes with the lowest sum of squared distances.

    Args:
        points: The vectors that the codes stand for, [N, D].
        codes: int64 [N, L].
        codebooks: [L, K, D].

    Returns:
        int64 [N, L] without equal rows; equal to `codes` if these are unique.

    Raises:
        UserError: K ** L < N.
    """
    n_levels, size = codebooks.shape[:2]
    if size**n_levels < len(codes):
        raise UserError(
            f"{n_levels} levels of {size} codes name at most {size**n_levels} items, but there are "
            f"{len(codes)}: raise n_levels or codebook_size"
        )
    codes = codes.clone()
    for level in range(n_levels - 1):
        _make_room(points, codes, codebooks, level)
    return match_last_codes(
        codes, lambda group: _distances(points[group], codes[group, :-1], codebooks)
    )


def _make_room(points: Tensor, codes: Tensor, codebooks: Tensor, level: int) -> None:
    """Change codes of `level` in place until no prefix ending there holds too many items."""
    n_levels, size = codebooks.shape[:2]
    capacity = size ** (n_levels - 1 - level)
    rooted = F.pad(codes, (1, 0))  # so that the prefixes before level 0 have a column as well
    prefixes, counts = rooted[:, : level + 2].unique(dim=0, return_counts=True)
    for parent in prefixes[counts > capacity][:, : level + 1].unique(dim=0):
        group = (rooted[:, : level + 1] == parent).all(dim=1).nonzero().squeeze(1)
        distances = _distances(points[group], codes[group, :level], codebooks[: level + 1])
        own = _spread(distances, codes[group, level], capacity)
        moved = group[own != codes[group, level]]
        codes[group, level] = own
        residuals = _residuals(points[moved], codes[moved, : level + 1], codebooks)
        codes[moved, level + 1 :] = quantize_by_nearest(residuals, codebooks[level + 1 :]).codes


def _spread(distances: Tensor, own: Tensor, capacity: int) -> Tensor:
    """Change codes `own` [n] until none has more than `capacity` items.

    Args:
        distances: Squared distances to all codes, [n, K].
        own: The codes before, int64 [n].
        capacity: Maximum number of items of a code.

    Returns:
        int64 [n].
    """
    own = own.clone()
    while True:
        room = capacity - torch.bincount(own, minlength=distances.shape[1])
        excess = (-room).clamp(min=0)
        if not excess.any():
            return own
        cost, goal = distances.masked_fill(room <= 0, float("inf")).min(dim=1)
        penalty = cost - distances.gather(1, own.unsqueeze(1)).squeeze(1)
        # The cheapest of every overfull code leave; a goal takes no more of them than fit.
        order = penalty.argsort(stable=True)
        leaving = order[counter_level(own[order].unsqueeze(1)) < excess[own[order]]]
        arriving = leaving[counter_level(goal[leaving].unsqueeze(1)) < room[goal[leaving]]]
        own[arriving] = goal[arriving]


def _residuals(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Subtract the codewords of codes [n, l] from points [n, D]."""
    for code, codebook in zip(codes.t(), codebooks):
        points = points - F.embedding(code, codebook)
    return points


def _distances(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Return squared distances [n, K] of residuals to the codewords of the next level.

    Args:
        points: [n, D].
        codes: Codes whose codewords are subtracted from the points, int64 [n, l].
        codebooks: [L, K, D], L > l.
    """
    residuals, codebook = _residuals(points, codes, codebooks), codebooks[codes.shape[1]]
    with full_precision(points):
        return torch.cdist(residuals.double(), codebook.double()).square()
