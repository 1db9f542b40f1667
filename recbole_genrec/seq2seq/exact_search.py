"""The exact best items of every history: beam searches that go on from what the earlier ones left open, until it cannot matter."""

# Shapes: B histories, U of them that are searched together, W beams, N open prefixes, E expanded
# prefixes, F children, K best items

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_genrec.semantic_ids.trie import Trie
from recbole_genrec.seq2seq.beam_search import Beams, Step, check_n_beams, extend, in_order
from recbole_genrec.seq2seq.t5 import DecoderCache

NOTHING = float("-inf")
MOST_GROWTH = (
    2  # times the prefixes that the beams of the whole batch would be with all their levels kept
)


class Prefixes(NamedTuple):
    """Prefixes of one length, all [U, N]; a score of -inf marks an empty place.

    Attributes:
        scores: log-probabilities.
        nodes: their numbers in the trie.
        codes: their last codes.
        parents: the places of the prefixes that they continue among the expanded ones.
    """

    scores: Tensor
    nodes: Tensor
    codes: Tensor
    parents: Tensor

    def at(self, places: Tensor) -> Prefixes:
        """Those at `places` [U, W] of each history."""
        return Prefixes(*(part.gather(1, places) for part in self))

    def best(self, n: int) -> tuple[Prefixes, Prefixes]:
        """The n best, and all with those places empty."""
        places = self.scores.topk(min(n, self.scores.shape[1])).indices
        return self.at(places), self._replace(scores=self.scores.scatter(1, places, NOTHING))

    def at_least(self, least: Tensor) -> Prefixes:
        """Those whose scores reach `least` [U, 1], in as few places as the history with most of them needs."""
        scores = self.scores.masked_fill(self.scores < least, NOTHING)
        return self._replace(scores=scores).best(_largest_count(scores))[0]


@dataclass
class Search:
    """Histories that are searched together.

    Attributes:
        rows: their places in the batch, int64 [U].
        cross, mask_bias: the part of the decoder's cache that is theirs.
        expanded: by length, the cache's keys and values [U, E, ...] of the prefixes that have been
            continued.
        open: by length, the prefixes that have not.
        item_ids, log_probs: the best items so far, [U, K]; 0 and -inf where there are fewer.
    """

    rows: Tensor
    cross: list[tuple[Tensor, Tensor]]
    mask_bias: Tensor
    expanded: list[list[tuple[Tensor, Tensor]]]
    open: list[Prefixes]
    item_ids: Tensor
    log_probs: Tensor

    @property
    def least(self) -> Tensor:
        """What a prefix has to reach to matter, [U, 1]: the K-th best score so far."""
        return self.log_probs[:, -1:]

    def n_held(self) -> int:
        """How many prefixes the cache remembers, those of all histories together."""
        return len(self.rows) * sum(pairs[0][0].shape[1] for pairs in self.expanded if pairs)

    def add_items(self, item_ids: Tensor, log_probs: Tensor) -> None:
        """Rank items [U, N] among the best so far; those of equal scores by item id."""
        n_best = self.log_probs.shape[1]
        item_ids, log_probs = (
            torch.cat((self.item_ids, item_ids), 1),
            torch.cat((self.log_probs, log_probs), 1),
        )
        least = log_probs.topk(n_best).values[:, -1:]
        log_probs = log_probs.masked_fill(log_probs < least, NOTHING)
        log_probs, places = log_probs.topk(max(n_best, _largest_count(log_probs)))
        item_ids, log_probs = in_order(item_ids.gather(1, places), log_probs)
        self.item_ids, self.log_probs = item_ids[:, :n_best], log_probs[:, :n_best]

    def close(self) -> Tensor:
        """Drop what is open but cannot matter; returns the histories that have more to do, int64 [their number]."""
        self.open = [prefixes.at_least(self.least) for prefixes in self.open]
        counts = torch.stack([(prefixes.scores > NOTHING).sum(1) for prefixes in self.open])
        return counts.sum(0).nonzero().squeeze(1)

    def of(self, histories: Tensor) -> Search:
        """The search of some of the histories, int64 [their number]."""
        return Search(
            rows=self.rows[histories],
            cross=_select(self.cross, histories),
            mask_bias=self.mask_bias[histories],
            expanded=[_select(pairs, histories) for pairs in self.expanded],
            open=[Prefixes(*(part[histories] for part in prefixes)) for prefixes in self.open],
            item_ids=self.item_ids[histories],
            log_probs=self.log_probs[histories],
        )


def exact_search(
    step: Step,
    cache: DecoderCache,
    tree: Trie,
    n_beams: int,
    n_best: int,
    renormalize: bool = False,
) -> Beams:
    """Find the most likely items of the whole catalogue for each history, for certain.

    A beam search comes first. It keeps what it does not continue, and all prefixes below the K-th
    best item so far are dropped: their
    items cannot be better, as log-probabilities only fall. Of histories with prefixes left, a
    further search continues the best of each
    length, and so on until nothing is left. No prefix is decoded twice, and each search raises the
    bar for the next.

    Args:
        step: as for `beam_search`; it reads `cache`, which is given other content here.
        cache: fresh from `start_cache`.
        tree: the trie of the catalogue.
        n_beams: most prefixes of a length that are continued at once, at least 1; the result does
            not depend on it.
        n_best: how many items are wanted; fewer are returned if the catalogue is smaller.
        renormalize: as for `beam_search`.

    Returns:
        Beams sorted by log-probability, ties by item id: the ranking of all items by the scores
        that decoding gives them, up to the
        rounding of float32.

    Raises:
        ValueError: if n_beams < 1.
    """
    check_n_beams(n_beams)
    search = _start(cache, tree, n_best)
    item_ids, log_probs = search.item_ids.clone(), search.log_probs.clone()
    most_held = MOST_GROWTH * len(item_ids) * n_beams * tree.n_levels
    waiting = [search]
    while waiting:
        search = waiting.pop()
        if search.n_held() > most_held and len(search.rows) > 1:
            halves = torch.arange(len(search.rows), device=item_ids.device).chunk(2)
            waiting.extend(search.of(half) for half in halves)
            continue
        _sweep(step, cache, tree, search, n_beams, renormalize)
        left = search.close()
        item_ids[search.rows], log_probs[search.rows] = search.item_ids, search.log_probs
        if len(left):
            waiting.append(search.of(left))
    return Beams(item_ids, log_probs, torch.full_like(log_probs[:, 0], NOTHING))


def _start(cache: DecoderCache, tree: Trie, n_best: int) -> Search:
    """Nothing but the root is open."""
    n_rows, device = len(cache.mask_bias), cache.mask_bias.device
    rows, n_best = torch.arange(n_rows, device=device), min(n_best, tree.n_nodes(tree.n_levels))
    root = Prefixes(
        torch.zeros(n_rows, 1, device=device),
        *torch.zeros(3, n_rows, 1, dtype=torch.long, device=device),
    )
    none = Prefixes(*(part[:, :0] for part in root))
    item_ids = torch.zeros(n_rows, n_best, dtype=torch.long, device=device)
    log_probs = torch.full((n_rows, n_best), NOTHING, device=device)
    opened = [root, *[none] * (tree.n_levels - 1)]
    return Search(
        rows, cache.cross, cache.mask_bias, [[]] * tree.n_levels, opened, item_ids, log_probs
    )


def _sweep(
    step: Step, cache: DecoderCache, tree: Trie, search: Search, n_beams: int, renormalize: bool
) -> None:
    """Continue the best open prefixes of each length, the shortest first: their continuations then compete for the next length."""
    cache.cross, cache.mask_bias = search.cross, search.mask_bias
    for level in range(tree.n_levels):
        n_chosen = min(n_beams, _largest_count(search.open[level].scores))
        if not n_chosen:
            continue
        chosen, search.open[level] = search.open[level].best(n_chosen)
        if level:
            cache.own = list(search.expanded[level - 1])
        log_probs = step(
            level, chosen.codes if level else None, chosen.parents if level else None
        ).float()
        children, scores = extend(tree, level, chosen.nodes, chosen.scores, log_probs, renormalize)
        if level == tree.n_levels - 1:
            search.add_items(tree.items(children.nodes).flatten(1), scores)
            continue
        n_before = search.expanded[level][0][0].shape[1] if search.expanded[level] else 0
        parents = torch.arange(
            n_before, n_before + n_chosen, device=scores.device
        ).repeat_interleave(children.codes.shape[-1])
        fresh = Prefixes(
            scores, children.nodes.flatten(1), children.codes.flatten(1), parents.expand_as(scores)
        ).at_least(search.least)
        search.open[level + 1] = Prefixes(
            *(torch.cat(parts, dim=1) for parts in zip(search.open[level + 1], fresh))
        )
        search.expanded[level] = _joined(search.expanded[level], cache.own)


def _joined(
    old: list[tuple[Tensor, Tensor]], new: list[tuple[Tensor, Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of all layers, those of the new beams behind the old ones."""
    return (
        [tuple(torch.cat(parts, dim=1) for parts in zip(*pairs)) for pairs in zip(old, new)]
        if old
        else new
    )


def _select(pairs: list[tuple[Tensor, Tensor]], histories: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of all layers of some of the histories."""
    return [(key[histories], value[histories]) for key, value in pairs]


def _largest_count(scores: Tensor) -> int:
    """Places that the history with most of them fills, of scores [U, N]."""
    return int((scores > NOTHING).sum(1).amax())
