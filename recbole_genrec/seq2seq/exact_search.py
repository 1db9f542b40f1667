"""The exact best items of every history: beam searches until nothing left open can matter.

Each search continues what the earlier ones left open.
"""

# Shapes: B histories, U of them that are searched together, W beams, N open prefixes, E expanded
# prefixes, F children, K best items

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_genrec.semantic_ids.trie import Children, Trie
from recbole_genrec.seq2seq.base import DecoderCache, KeyValue
from recbole_genrec.seq2seq.beam_search import Beams, check_n_beams, extend, sort_items

CachedStep = Callable[[DecoderCache, int, Tensor | None, Tensor | None], Tensor]

EMPTY = float("-inf")  # score of an empty slot
# A batch is split when its cached prefixes exceed this multiple of all beams at all levels.
MAX_GROWTH = 2


class OpenPrefixes(NamedTuple):
    """Prefixes of one length that have not been continued, each part [U, N].

    Attributes:
        scores: Log-probabilities; -inf marks an empty slot.
        nodes: Node numbers in the trie.
        codes: Last codes.
        parents: Slots of the prefixes before the last code among the expanded ones.
    """

    scores: Tensor
    nodes: Tensor
    codes: Tensor
    parents: Tensor

    def take(self, slots: Tensor) -> OpenPrefixes:
        """Return the prefixes in `slots`, int64 [U, W]."""
        return OpenPrefixes(*(part.gather(1, slots) for part in self))

    def take_best(self, n: int) -> tuple[OpenPrefixes, OpenPrefixes]:
        """Return the n best, and all prefixes with the slots of the n best emptied."""
        slots = self.scores.topk(min(n, self.scores.shape[1])).indices
        return self.take(slots), self._replace(scores=self.scores.scatter(1, slots, EMPTY))

    def reaching(self, threshold: Tensor) -> OpenPrefixes:
        """Keep the prefixes with scores >= `threshold` [U, 1], in as few slots as possible."""
        scores = self.scores.masked_fill(self.scores < threshold, EMPTY)
        return self._replace(scores=scores).take_best(_max_filled(scores))[0]

    def append(self, others: OpenPrefixes) -> OpenPrefixes:
        """Return these prefixes and the others behind them."""
        return OpenPrefixes(*(torch.cat(parts, dim=1) for parts in zip(self, others)))


@dataclass
class Search:
    """Histories that are searched together.

    Attributes:
        rows: Their rows of the batch, int64 [U].
        cross: Their cross keys and values, as in DecoderCache.
        mask_bias: Their mask bias, as in DecoderCache.
        expanded: For every prefix length after the root's, the cached keys and values [U, E, ...]
            of the prefixes that have been continued, per layer; empty before the first.
        open: For every prefix length, the prefixes that have not been continued.
        item_ids: The best items so far, [U, K]; 0 where there are fewer.
        log_probs: Their scores, [U, K]; -inf where there are fewer.
    """

    rows: Tensor
    cross: list[KeyValue]
    mask_bias: Tensor
    expanded: list[list[KeyValue]]
    open: list[OpenPrefixes]
    item_ids: Tensor
    log_probs: Tensor

    @property
    def threshold(self) -> Tensor:
        """Score below which a prefix cannot matter, [U, 1]: the K-th best so far."""
        return self.log_probs[:, -1:]

    def n_cached(self) -> int:
        """Return the number of prefixes in the cache, added up over the histories."""
        return len(self.rows) * sum(pairs[0][0].shape[1] for pairs in self.expanded if pairs)

    def cache(self, level: int) -> DecoderCache:
        """Return a cache in which a step finds the parents of prefixes of length `level`.

        Its list is new, so the step cannot change the prefixes that the search keeps.
        """
        own: list[KeyValue | None] = [None] * len(self.cross)
        if level:
            own = [*self.expanded[level - 1]]
        return DecoderCache(self.cross, own, self.mask_bias)

    def add_items(self, item_ids: Tensor, log_probs: Tensor) -> None:
        """Rank items [U, N] among the best so far; ties by item id."""
        n_best = self.log_probs.shape[1]
        item_ids = torch.cat((self.item_ids, item_ids), dim=1)
        log_probs = torch.cat((self.log_probs, log_probs), dim=1)
        # Sort all that tie with the last position, because topk alone may keep any of them.
        threshold = log_probs.topk(n_best).values[:, -1:]
        log_probs = log_probs.masked_fill(log_probs < threshold, EMPTY)
        log_probs, slots = log_probs.topk(max(n_best, _max_filled(log_probs)))
        item_ids, log_probs = sort_items(item_ids.gather(1, slots), log_probs)
        self.item_ids, self.log_probs = item_ids[:, :n_best], log_probs[:, :n_best]

    def add_prefixes(
        self, level: int, children: Children, scores: Tensor, own: list[KeyValue | None]
    ) -> None:
        """Open the children of prefixes of length `level` and keep the prefixes' cache.

        Args:
            level: Length of the prefixes, shorter than a semantic id by two or more.
            children: Their children, [U, W, F].
            scores: Scores of the children, [U, W * F].
            own: Keys and values that the step has cached for the prefixes, per layer.
        """
        fresh = [pair for pair in own if pair is not None]
        earlier = self.expanded[level]
        n_earlier = earlier[0][0].shape[1] if earlier else 0
        _, n_prefixes, fan_out = children.codes.shape
        slots = torch.arange(n_earlier, n_earlier + n_prefixes, device=scores.device)
        parents = slots.repeat_interleave(fan_out).expand_as(scores)
        opened = OpenPrefixes(
            scores, children.nodes.flatten(1), children.codes.flatten(1), parents
        ).reaching(self.threshold)
        self.open[level + 1] = self.open[level + 1].append(opened)
        self.expanded[level] = _append(earlier, fresh) if earlier else fresh

    def prune(self) -> Tensor:
        """Drop open prefixes that cannot matter; return the histories with others left, int64."""
        self.open = [prefixes.reaching(self.threshold) for prefixes in self.open]
        counts = torch.stack([(prefixes.scores > EMPTY).sum(1) for prefixes in self.open])
        return counts.sum(0).nonzero().squeeze(1)

    def select(self, histories: Tensor) -> Search:
        """Return the search of some of the histories, given by index, int64 [n]."""
        return Search(
            rows=self.rows[histories],
            cross=_select(self.cross, histories),
            mask_bias=self.mask_bias[histories],
            expanded=[_select(pairs, histories) for pairs in self.expanded],
            open=[OpenPrefixes(*(part[histories] for part in prefixes)) for prefixes in self.open],
            item_ids=self.item_ids[histories],
            log_probs=self.log_probs[histories],
        )


def exact_search(
    step: CachedStep,
    cache: DecoderCache,
    tree: Trie,
    n_beams: int,
    n_best: int,
    renormalize: bool = False,
) -> Beams:
    """Find the most likely items of the whole catalogue for each history, with certainty.

    A beam search comes first and keeps the prefixes that it does not continue. Every prefix below
    the K-th best item so far is dropped: log-probabilities only fall, so its items cannot be
    better. For histories with prefixes left, a further search continues the best of each length,
    until none is left. No prefix is decoded twice, and each search raises the threshold for the
    next.

    Args:
        step: As for `beam_search`, with the cache to read and extend as its first argument.
        cache: Fresh cache of the batch, from `start_cache`.
        tree: The trie of the catalogue.
        n_beams: Maximum number of prefixes of a length that are continued at once, at least 1; the
            result does not depend on it.
        n_best: K; a smaller catalogue is returned whole.
        renormalize: As for `beam_search`.

    Returns:
        Beams sorted by log-probability, ties by item id: the ranking of all items by their decoded
        scores, up to the rounding of float32.

    Raises:
        UserError: n_beams < 1.
    """
    check_n_beams(n_beams)
    search = _start(cache, tree, n_best)
    item_ids, log_probs = search.item_ids.clone(), search.log_probs.clone()
    max_cached = MAX_GROWTH * len(item_ids) * n_beams * tree.n_levels
    waiting = [search]
    while waiting:
        search = waiting.pop()
        if search.n_cached() > max_cached and len(search.rows) > 1:
            halves = torch.arange(len(search.rows), device=item_ids.device).chunk(2)
            waiting.extend(search.select(half) for half in halves)
            continue
        _sweep(step, tree, search, n_beams, renormalize)
        unfinished = search.prune()
        item_ids[search.rows], log_probs[search.rows] = search.item_ids, search.log_probs
        if len(unfinished):
            waiting.append(search.select(unfinished))
    return Beams(item_ids, log_probs, torch.full_like(log_probs[:, 0], EMPTY))


def _start(cache: DecoderCache, tree: Trie, n_best: int) -> Search:
    """Return the search of a whole batch, in which only the root is open."""
    n_rows, device = len(cache.mask_bias), cache.mask_bias.device
    n_best = min(n_best, tree.n_nodes(tree.n_levels))
    root = OpenPrefixes(
        torch.zeros(n_rows, 1, device=device),
        *torch.zeros(3, n_rows, 1, dtype=torch.long, device=device),
    )
    none = OpenPrefixes(*(part[:, :0] for part in root))
    return Search(
        rows=torch.arange(n_rows, device=device),
        cross=cache.cross,
        mask_bias=cache.mask_bias,
        expanded=[[] for _ in range(tree.n_levels)],
        open=[root, *[none] * (tree.n_levels - 1)],
        item_ids=torch.zeros(n_rows, n_best, dtype=torch.long, device=device),
        log_probs=torch.full((n_rows, n_best), EMPTY, device=device),
    )


def _sweep(step: CachedStep, tree: Trie, search: Search, n_beams: int, renormalize: bool) -> None:
    """Continue the best open prefixes of each length.

    The shortest come first, so that their children compete at the next length.
    """
    for level in range(tree.n_levels):
        n_chosen = min(n_beams, _max_filled(search.open[level].scores))
        if not n_chosen:
            continue
        chosen, search.open[level] = search.open[level].take_best(n_chosen)
        cache = search.cache(level)
        last = (chosen.codes, chosen.parents) if level else (None, None)
        log_probs = step(cache, level, *last).float()
        children, scores = extend(tree, level, chosen.nodes, chosen.scores, log_probs, renormalize)
        if level == tree.n_levels - 1:
            search.add_items(tree.items(children.nodes).flatten(1), scores)
        else:
            search.add_prefixes(level, children, scores, cache.own)


def _append(earlier: list[KeyValue], fresh: list[KeyValue]) -> list[KeyValue]:
    """Append the keys and values of new prefixes to the earlier ones, layer by layer."""
    return [
        (torch.cat((key, new_key), dim=1), torch.cat((value, new_value), dim=1))
        for (key, value), (new_key, new_value) in zip(earlier, fresh)
    ]


def _select(pairs: list[KeyValue], histories: Tensor) -> list[KeyValue]:
    """Return the keys and values of some of the histories, layer by layer."""
    return [(key[histories], value[histories]) for key, value in pairs]


def _max_filled(scores: Tensor) -> int:
    """Return the largest number of filled slots of a history, from scores [U, N]."""
    return int((scores > EMPTY).sum(1).amax())
