"""Beam search over semantic ids for a whole batch: deterministic, and with a proof of exactness."""

# Shapes: B batch, W beams, F largest number of children at a level, K codes of a level

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.trie import Children, CompleteTree, Trie

Step = Callable[[int, Tensor | None, Tensor | None], Tensor]


class Beams(NamedTuple):
    """The best items of every history.

    Attributes:
        item_ids: int64 [B, W], 0 where codes name no item.
        log_probs: float32 [B, W], best first.
        bound: float32 [B], upper bound of the log-probabilities of everything that was dropped;
            -inf if nothing was.
    """

    item_ids: Tensor
    log_probs: Tensor
    bound: Tensor

    def proven(self, k: int) -> Tensor:
        """Return whether the first k items are certainly the exact ranking, bool [B].

        For a catalogue of fewer than k items, all of them count.
        """
        return self.log_probs[:, : max(k, 1)][:, -1] > self.bound


def beam_search(
    step: Step, tree: Trie | CompleteTree, n_beams: int, renormalize: bool = False
) -> Beams:
    """Find the most likely semantic ids of each history.

    With a trie, the beams of a level are distinct prefixes of items, and there are always
    min(n_beams, prefixes of the level) of them, so no beam ever dies. With at least as many beams
    as items, the result is the exact ranking of the catalogue. With fewer, the search still tells
    which positions are exact: log-probabilities only fall from a prefix to its continuations,
    renormalized or not, so the best prefix that was ever dropped bounds all items that were not
    found. Over the complete tree, the same holds for code sequences.

    Args:
        step: `step(level, codes, parents)` returns log-probabilities [B, W, K] of the codes of
            `level` after the beams' last `codes` [B, W]; beam w continues beam `parents[:, w]`.
            Both are None at level 0, where W = 1.
        tree: The codes that may follow a prefix: the trie of the catalogue, or the complete tree
            for unconstrained decoding.
        n_beams: Number of beams, at least 1; a smaller catalogue is returned whole.
        renormalize: True to share the probability of codes that lead nowhere among the codes that
            lead to items; False to keep the model's own joint probability.

    Returns:
        Beams sorted by log-probability, ties by item id.

    Raises:
        UserError: n_beams < 1.
    """
    check_n_beams(n_beams)
    codes: Tensor | None = None
    parents: Tensor | None = None
    log_probs = step(0, codes, parents).float()
    nodes = torch.zeros(len(log_probs), 1, dtype=torch.long, device=log_probs.device)
    scores = log_probs.new_zeros(len(log_probs), 1)
    bound = log_probs.new_full((len(log_probs), 1), float("-inf"))
    for level in range(tree.n_levels):
        if level:
            log_probs = step(level, codes, parents).float()
        children, scores = extend(tree, level, nodes, scores, log_probs, renormalize)
        width = min(n_beams, tree.n_nodes(level + 1))
        # One more than the beams: the best dropped prefix.
        scores, best = scores.topk(min(width + 1, scores.shape[1]))
        bound = torch.cat((bound, scores[:, width:]), dim=1).amax(1, keepdim=True)
        scores, best = scores[:, :width], best[:, :width]
        parents = best // children.codes.shape[-1]
        codes = children.codes.flatten(1).gather(1, best)
        nodes = children.nodes.flatten(1).gather(1, best)
    return Beams(*sort_items(tree.items(nodes), scores), bound.squeeze(1))


def check_n_beams(n_beams: int) -> None:
    """Raise UserError if n_beams < 1."""
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
    """Return the children [B, W, F] of prefixes and their scores [B, W * F].

    Args:
        tree: The codes that may follow a prefix.
        level: Length of the prefixes.
        nodes: Node numbers of the prefixes, int64 [B, W].
        scores: Log-probabilities of the prefixes, float [B, W].
        log_probs: Log-probabilities of the next codes, float [B, W, K].
        renormalize: See beam_search.

    Returns:
        The children, and their scores; -inf where there is no child.
    """
    children = tree.children(level, nodes)
    gains = log_probs.gather(-1, children.codes).masked_fill(~children.exist, float("-inf"))
    if renormalize:
        gains = gains.log_softmax(-1)
    return children, (scores.unsqueeze(-1) + gains).flatten(1)


def sort_items(item_ids: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Sort items [B, W] by log-probability, ties by item id.

    After topk alone, the order of ties would depend on the device.
    """
    item_ids, order = item_ids.sort(dim=1)
    log_probs, best = log_probs.gather(1, order).sort(dim=1, descending=True, stable=True)
    return item_ids.gather(1, best), log_probs
