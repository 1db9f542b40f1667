"""Residual k-means whose codes are unique and still a hierarchy: items that collide move to the nearest free codeword.

Shapes: N items, n items of a group, L levels, K codebook size, D feature width.
"""

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
    """Residual k-means (UNGER §3.3.5) that gives every item of a catalogue codes of its own, without a counter level."""

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Unique codes [N, L] of the whole catalogue [N, D]; where no items collide, those of the nearest codewords.

        Raises:
            ValueError: if the levels have fewer codes than there are items.
        """
        codes = super().encode(features)
        unique = unique_codes(features, codes, self.codebooks)
        counts = codes.unique(dim=0, return_counts=True)[1]
        logger.info(
            "unique codes: %d of %d items shared theirs, %d have other codes now; mean squared error %.4g, was %.4g",
            int(counts[counts > 1].sum()),
            len(codes),
            int((codes != unique).any(dim=1).sum()),
            float(_residuals(features, unique, self.codebooks).square().sum(1).mean()),
            float(_residuals(features, codes, self.codebooks).square().sum(1).mean()),
        )
        return unique


@torch.no_grad()
def unique_codes(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Codes without collisions, each change made at the deepest level that can make room, and as cheap as possible there.

    From the top: a prefix with more items than codes below it sends those that lose least to
    siblings with room; the last codes
    of a group with a collision are then assigned anew, all different, with the least sum of squared
    distances.

    Args:
        points: [N, D], the vectors that the codes stand for.
        codes: LongTensor [N, L].
        codebooks: [L, K, D].

    Returns:
        LongTensor [N, L], no two rows equal; `codes` themselves if they are.

    Raises:
        ValueError: if K ** L is smaller than N.
    """
    n_levels, size = codebooks.shape[:2]
    if size**n_levels < len(codes):
        raise UserError(
            f"{n_levels} levels of {size} codes name at most {size**n_levels} items, but there are {len(codes)}: "
            "raise n_levels or codebook_size"
        )
    codes = codes.clone()
    for level in range(n_levels - 1):
        _make_room(points, codes, codebooks, level)
    return match_last_codes(
        codes, lambda group: _distances(points[group], codes[group, :-1], codebooks)
    )


def _make_room(points: Tensor, codes: Tensor, codebooks: Tensor, level: int) -> None:
    """Change codes of `level`, in place, until no prefix that ends with it has more items than codes below it."""
    n_levels, size = codebooks.shape[:2]
    capacity = size ** (n_levels - 1 - level)
    rooted = F.pad(codes, (1, 0))  # the root is a prefix, too
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
    """Codes [n] of which none has more than `capacity` items, from codes `own` [n] and squared distances [n, K]."""
    own = own.clone()
    while True:
        room = capacity - torch.bincount(own, minlength=distances.shape[1])
        excess = (-room).clamp(min=0)
        if not excess.any():
            return own
        cost, goal = distances.masked_fill(room <= 0, float("inf")).min(dim=1)
        penalty = cost - distances.gather(1, own.unsqueeze(1)).squeeze(1)
        # The cheapest of every overfull code go, as many as are too many; of those with one goal,
        # as many as it has room for.
        order = penalty.argsort(stable=True)
        leaving = order[counter_level(own[order].unsqueeze(1)) < excess[own[order]]]
        arriving = leaving[counter_level(goal[leaving].unsqueeze(1)) < room[goal[leaving]]]
        own[arriving] = goal[arriving]


def _residuals(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """What the codewords of codes [n, any number of levels] leave of points [n, D]."""
    for code, codebook in zip(codes.t(), codebooks):
        points = points - F.embedding(code, codebook)
    return points


def _distances(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Squared distances [n, K] of what codes [n, l] leave of points [n, D] to the codewords of the level after them."""
    residuals, codebook = _residuals(points, codes, codebooks), codebooks[codes.shape[1]]
    with full_precision(points):
        return torch.cdist(residuals.double(), codebook.double()).square()
