"""Beam search over semantic ids, for a whole batch at once: deterministic, every beam is an item, and it says what it proves."""

# Shapes: B batch, W beams, F largest number of children at a level, K codes of a level

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.trie import Children, CompleteTree, Trie

Step = Callable[[int, "Tensor | None", "Tensor | None"], Tensor]


class Beams(NamedTuple):
    """The best items of every history.

    Attributes:
        item_ids: int64 [B, W], 0 where codes name no item.
        log_probs: float32 [B, W], best first.
        bound: float32 [B]; nothing that the search has left out is more likely, -inf if it has left
            out nothing.
    """

    item_ids: Tensor
    log_probs: Tensor
    bound: Tensor

    def proven(self, k: int) -> Tensor:
        """Whether the first k places are certainly those of the exact ranking, bool [B]; of catalogues smaller than k, the whole one."""
        return self.log_probs[:, : max(k, 1)][:, -1] > self.bound


def beam_search(
    step: Step, tree: Trie | CompleteTree, n_beams: int, renormalize: bool = False
) -> Beams:
    """Find the most likely semantic ids of each history.

    With a trie, the beams of a level are distinct prefixes of items and there are as many as the
    level has, so no
    beam ever dies; with `n_beams` >= number of items the result is the exact ranking of the
    catalogue. With fewer, the search still
    tells which places are exact: log-probabilities only fall from a prefix to its continuations,
    renormalized or not, so the best
    prefix that was ever dropped bounds all items that were not found. Over the complete tree the
    same holds of code sequences.

    Args:
        step: `step(level, codes, parents)` gives log-probabilities [B, W, K] of the codes of
            `level` after the
            beams' last `codes` [B, W]; beam w continues beam `parents[:, w]`. Both are None at
            level 0, where W = 1.
        tree: which codes may follow: the trie of the catalogue, or the complete tree (decoding
            unconstrained).
        n_beams: beams kept, at least 1; fewer are returned if the catalogue is smaller.
        renormalize: share the probability of codes that lead nowhere among those that lead to
            items; off keeps the
            model's own joint probability.

    Returns:
        Beams sorted by log-probability, ties by item id.

    Raises:
        ValueError: if n_beams < 1.
    """
    check_n_beams(n_beams)
    codes = parents = nodes = scores = bound = None
    for level in range(tree.n_levels):
        log_probs = step(level, codes, parents).float()
        if nodes is None:
            nodes = torch.zeros(len(log_probs), 1, dtype=torch.long, device=log_probs.device)
            scores = log_probs.new_zeros(len(log_probs), 1)
            bound = log_probs.new_full((len(log_probs),), float("-inf"))
        children, scores = extend(tree, level, nodes, scores, log_probs, renormalize)
        width = min(n_beams, tree.n_nodes(level + 1))
        scores, best = scores.topk(min(width + 1, scores.shape[1]))
        bound = torch.cat((bound.unsqueeze(1), scores[:, width:]), dim=1).amax(1)
        scores, best = scores[:, :width], best[:, :width]
        parents = best // children.codes.shape[-1]
        nodes, codes = (
            children.nodes.flatten(1).gather(1, best),
            children.codes.flatten(1).gather(1, best),
        )
    return Beams(*in_order(tree.items(nodes), scores), bound)


def check_n_beams(n_beams: int) -> None:
    """Raises ValueError if n_beams < 1."""
    if n_beams < 1:
        raise UserError(f"n_beams is {n_beams}, but a search needs at least 1 beam.")


def extend(
    tree: Trie | CompleteTree,
    level: int,
    nodes: Tensor,
    scores: Tensor,
    log_probs: Tensor,
    renormalize: bool,
) -> tuple[Children, Tensor]:
    """The children [B, W, F] of prefixes [B, W] and their scores [B, W * F]; -inf where there is no child."""
    children = tree.children(level, nodes)
    gains = log_probs.gather(-1, children.codes).masked_fill(~children.exist, float("-inf"))
    if renormalize:
        gains = gains.log_softmax(-1)
    return children, (scores.unsqueeze(-1) + gains).flatten(1)


def in_order(item_ids: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Order [B, W] by log-probability, ties by item id: top-k alone leaves the order of ties to the device."""
    item_ids, order = item_ids.sort(dim=1)
    log_probs, best = log_probs.gather(1, order).sort(dim=1, descending=True, stable=True)
    return item_ids.gather(1, best), log_probs
