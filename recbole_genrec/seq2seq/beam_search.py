"""Beam search over semantic ids, for a whole batch at once: deterministic, and every beam is an item."""

# Shapes: B batch, W beams, F largest number of children at a level, K codes of a level

from __future__ import annotations

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from recbole_genrec.semantic_ids.trie import CompleteTree, Trie

Step = Callable[[int, "Tensor | None", "Tensor | None"], Tensor]


class Beams(NamedTuple):
    """The best items of every history: item ids [B, W] int64 (0 = no item), log-probabilities [B, W] float32."""

    item_ids: Tensor
    log_probs: Tensor


def beam_search(step: Step, tree: Trie | CompleteTree, n_beams: int, renormalize: bool = False) -> Beams:
    """Find the most likely semantic ids of each history.

    With a trie, the beams of a level are distinct prefixes of items and there are as many as the level has, so no
    beam ever dies; with `n_beams` >= number of items the result is the exact ranking of the catalogue.

    Args:
        step: `step(level, codes, parents)` gives log-probabilities [B, W, K] of the codes of `level` after the
            beams' last `codes` [B, W]; beam w continues beam `parents[:, w]`. Both are None at level 0, where W = 1.
        tree: which codes may follow: the trie of the catalogue, or the complete tree (decoding unconstrained).
        n_beams: beams kept, at least 1; fewer are returned if the catalogue is smaller.
        renormalize: share the probability of codes that lead nowhere among those that lead to items; off keeps the
            model's own joint probability.

    Returns:
        Beams sorted by log-probability, ties by item id.

    Raises:
        ValueError: if n_beams < 1.
    """
    if n_beams < 1:
        raise ValueError(f"n_beams is {n_beams}, but a search needs at least 1 beam.")
    codes = parents = nodes = scores = None
    for level in range(tree.n_levels):
        log_probs = step(level, codes, parents).float()
        if nodes is None:
            nodes = torch.zeros(len(log_probs), 1, dtype=torch.long, device=log_probs.device)
            scores = log_probs.new_zeros(len(log_probs), 1)
        children = tree.children(level, nodes)
        gains = log_probs.gather(-1, children.codes).masked_fill(~children.exist, float("-inf"))
        if renormalize:
            gains = gains.log_softmax(-1)
        width = min(n_beams, tree.n_nodes(level + 1))
        scores, best = (scores.unsqueeze(-1) + gains).flatten(1).topk(width)
        parents = best // children.codes.shape[-1]
        nodes, codes = children.nodes.flatten(1).gather(1, best), children.codes.flatten(1).gather(1, best)
    return _sorted(tree.items(nodes), scores)


def _sorted(item_ids: Tensor, log_probs: Tensor) -> Beams:
    """Order by log-probability, ties by item id: top-k alone leaves the order of ties to the device."""
    item_ids, order = item_ids.sort(dim=1)
    log_probs, best = log_probs.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Beams(item_ids.gather(1, best), log_probs)
