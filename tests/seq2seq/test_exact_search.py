from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.model.unger.transformer import Transformer, TransformerSize
from recbole_genrec.semantic_ids.semantic_ids import SemanticIDs
from recbole_genrec.semantic_ids.trie import Trie
from recbole_genrec.seq2seq import exact_search as module
from recbole_genrec.seq2seq.base import DecoderCache
from recbole_genrec.seq2seq.beam_search import Beams, beam_search
from recbole_genrec.seq2seq.exact_search import exact_search


class Table:
    """Decoder that looks log-probabilities up by the whole prefix, which it finds in its cache.

    In the cache, rows of the batch stand for encoder states, and prefixes for keys and values. A
    `sharpness` of 0 makes all codes equally likely.
    """

    def __init__(
        self,
        n_rows: int,
        sizes: tuple[int, ...],
        sharpness: float,
        seed: int = 0,
        rounded: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = [(n_rows, *sizes[: level + 1]) for level in range(len(sizes))]
        self.tables = [
            torch.randn(shape, generator=generator).mul(sharpness).log_softmax(-1)
            for shape in shapes
        ]
        if rounded:
            self.tables = [table.mul(2).round().div(2).clamp(max=0.0) for table in self.tables]
        self.rows, self.n_decoded, self.widest = torch.arange(n_rows), 0, 0

    def cache(self) -> DecoderCache:
        return DecoderCache([(self.rows, self.rows)], [None], self.rows)

    def step(
        self, cache: DecoderCache, level: int, codes: Tensor | None, parents: Tensor | None
    ) -> Tensor:
        rows = cache.mask_bias.unsqueeze(1)
        assert torch.equal(cache.cross[0][0], cache.mask_bias)
        prefixes = torch.zeros(len(rows), 1, 0, dtype=torch.long)
        if level:
            cache.follow(parents)
            prefixes = torch.cat((cache.own[0][0], codes.unsqueeze(-1)), dim=-1)
        else:
            assert codes is None and parents is None and cache.own == [None]
        cache.own[0] = (prefixes, prefixes)
        assert prefixes.shape[2] == level
        self.n_decoded += prefixes.shape[0] * prefixes.shape[1]
        self.widest = max(self.widest, prefixes.shape[1])
        return self.tables[level][(rows, *prefixes.unbind(-1))]

    def search(self, trie: Trie, n_beams: int, k: int, renormalize: bool = False) -> Beams:
        """Search exactly, and count the decoded prefixes."""
        self.n_decoded = self.widest = 0
        return exact_search(self.step, self.cache(), trie, n_beams, k, renormalize)

    def beams(self, trie: Trie, n_beams: int, renormalize: bool = False) -> Beams:
        return beam_search(partial(self.step, self.cache()), trie, n_beams, renormalize)

    def scores(self, codes: Tensor) -> Tensor:
        """Score every item by adding up in the order of decoding: [n_rows, n_items]."""
        total = torch.zeros(len(self.rows), len(codes))
        for level, table in enumerate(self.tables):
            total = total + table[(self.rows.unsqueeze(1), *codes[:, : level + 1].T.unsqueeze(1))]
        return total


def catalogue(
    n_items: int, sizes: tuple[int, ...], seed: int, skewed: bool = False
) -> tuple[Trie, Tensor, Tensor]:
    """Return trie, codes and item ids; if skewed, few first codes have most of the items."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))
    weights = torch.exp(-1.0 * every[:, 0]) if skewed else torch.ones(len(every))
    codes = every[torch.multinomial(weights, n_items, generator=generator)]
    item_ids = torch.randperm(n_items, generator=generator) + 1
    return Trie(codes, item_ids, sizes), codes, item_ids


def ranking(scores: Tensor, item_ids: Tensor, k: int) -> tuple[list[list[int]], Tensor]:
    """Rank all items by score, ties by id."""
    pairs = [sorted(zip((-row).tolist(), item_ids.tolist()))[:k] for row in scores]
    return [[item for _, item in row] for row in pairs], torch.tensor(
        [[-score for score, _ in row] for row in pairs]
    )


TREES = [
    (300, (12, 8, 6), False),
    (150, (12, 8, 6), True),
    (60, (60,), False),
    (200, (4, 5, 3, 6), False),
    (90, (30, 4), True),
]


@pytest.mark.parametrize("n_beams, k", [(1, 1), (1, 7), (5, 5), (8, 3), (20, 10), (64, 20)])
@pytest.mark.parametrize("sharpness", [0.05, 0.7, 3.0])
@pytest.mark.parametrize("n_items, sizes, skewed", TREES)
def test_equals_brute_force(n_items, sizes, skewed, sharpness, n_beams, k):
    trie, codes, item_ids = catalogue(n_items, sizes, 1, skewed)
    table = Table(7, sizes, sharpness)
    expected, scores = ranking(table.scores(codes), item_ids, k)
    found = table.search(trie, n_beams, k)
    assert found.item_ids.tolist() == expected
    assert torch.equal(found.log_probs, scores)
    assert found.proven(k).all() and table.widest <= n_beams
    beams = table.beams(trie, max(n_beams, k))
    proven = beams.proven(k)
    assert all(
        beams.item_ids[row, :k].tolist() == expected[row]
        for row in proven.nonzero().flatten().tolist()
    )


@pytest.mark.parametrize("n_beams", [1, 3, 10, 40])
def test_equal_scores_are_ordered_by_item_id(n_beams):
    """Round scores to halves, so that prefixes tie with each other and with the threshold."""
    trie, codes, item_ids = catalogue(150, (10, 8, 6), 3)
    table = Table(30, (10, 8, 6), 1.0, rounded=True)
    expected, scores = ranking(table.scores(codes), item_ids, 10)
    found = table.search(trie, n_beams, 10)
    assert (scores[:, 1:] == scores[:, :-1]).float().mean() > 0.3
    assert found.item_ids.tolist() == expected and torch.equal(found.log_probs, scores)
    beams = table.beams(trie, max(n_beams, 10))
    for row in beams.proven(10).nonzero().flatten().tolist():
        assert beams.item_ids[row, :10].tolist() == expected[row]


def test_renormalized_scores_are_exact_too():
    trie, _, _ = catalogue(100, (12, 8, 6), 2)
    table = Table(9, (12, 8, 6), 1.5)
    everything = table.beams(trie, 100, renormalize=True)
    found = table.search(trie, 4, 6, renormalize=True)
    assert torch.equal(found.item_ids, everything.item_ids[:, :6])
    assert not torch.equal(found.item_ids, table.search(trie, 4, 6).item_ids)


def test_a_ranking_of_twenty_beams_that_is_wrong_is_not_proven():
    trie, codes, item_ids = catalogue(600, (50, 8, 6), 4)
    table = Table(200, (50, 8, 6), 3.0)
    expected, _ = ranking(table.scores(codes), item_ids, 10)
    beams = table.beams(trie, 20)
    is_right = torch.tensor(
        [row[:10] == its for row, its in zip(beams.item_ids.tolist(), expected)]
    )
    assert 0.02 < is_right.float().mean() < 0.98
    assert is_right[beams.proven(10)].all() and 0 < beams.proven(10).float().mean() < 1


def test_hardly_more_than_the_necessary_prefixes_are_decoded():
    """Expect each prefix with at least the score of the last item once, and few others."""
    trie, codes, _ = catalogue(300, (40, 6, 3), 1)
    table = Table(1, (40, 6, 3), 1.0)
    threshold = table.scores(codes).topk(5).values[0, -1]
    prefixes = [torch.unique(codes[:, :level], dim=0) for level in (1, 2)]
    needed = 1 + sum(int((_prefix_scores(table, these) >= threshold).sum()) for these in prefixes)
    table.search(trie, 1, 5)
    assert needed <= table.n_decoded <= needed + 3 < 60 < 1 + sum(map(len, prefixes))


def _prefix_scores(table: Table, prefixes: Tensor) -> Tensor:
    return sum(
        table.tables[level][(0, *prefixes[:, : level + 1].T)] for level in range(prefixes.shape[1])
    )


@pytest.mark.parametrize("growth", [0, 1])
def test_a_batch_that_grows_is_split_and_stays_exact(monkeypatch, growth):
    monkeypatch.setattr(module, "MAX_GROWTH", growth)
    trie, codes, item_ids = catalogue(200, (12, 8, 6), 1)
    table = Table(9, (12, 8, 6), 0.3)
    sizes, select = [], module.Search.select
    monkeypatch.setattr(
        module.Search,
        "select",
        lambda search, histories: sizes.append(len(histories)) or select(search, histories),
    )
    found = table.search(trie, 2, 6)
    assert found.item_ids.tolist() == ranking(table.scores(codes), item_ids, 6)[0]
    assert 1 in sizes


def test_a_catalogue_smaller_than_the_list_is_returned_whole():
    trie, codes, item_ids = catalogue(6, (4, 3), 5)
    table = Table(3, (4, 3), 1.0)
    found = table.search(trie, 2, 50)
    assert found.item_ids.tolist() == ranking(table.scores(codes), item_ids, 6)[0]


@pytest.mark.parametrize("n_beams", [0, -3])
def test_fewer_than_one_beam_is_an_error(n_beams):
    trie, _, _ = catalogue(6, (4, 3), 5)
    with pytest.raises(UserError, match=f"n_beams is {n_beams}, but"):
        Table(3, (4, 3), 1.0).search(trie, n_beams, 2)


SIZES = (6, 5, 4)


@pytest.fixture(params=["t5", "transformer"])
def model_and_ids(make_model, request):
    """Return a small random model around either decoder, and the ids of 80 items."""
    generator = torch.Generator().manual_seed(0)
    ids = SemanticIDs(81, SIZES, 8)
    ids.assign(
        torch.stack([torch.randint(size, (80,), generator=generator) for size in SIZES], dim=1)
    )
    model = make_model(n_tokens=ids.n_tokens)
    if request.param == "transformer":
        model.t5 = Transformer(TransformerSize(32, 48, 2, 2, 2, 16, 0.0, 0.0, 20, 4)).eval()
        torch.nn.init.normal_(model.table.weight, std=4.0)
    return model, ids


def make_histories(ids: SemanticIDs, n_rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    items = torch.randint(1, len(ids.codes), (n_rows, 5), generator=generator)
    return ids.tokens[
        items.masked_fill(torch.arange(5) > torch.randint(5, (n_rows, 1), generator=generator), 0)
    ].flatten(1)


def teacher_forced(model, ids: SemanticIDs, source: Tensor) -> Tensor:
    """Score every item without a cache, [B, n_items]."""
    scores = []
    for tokens in ids.tokens[1:]:
        target = tokens.expand(len(source), -1)
        scores.append(
            model(source, target).log_softmax(-1).gather(-1, target.unsqueeze(-1)).sum((1, 2))
        )
    return torch.stack(scores, dim=1)


@pytest.mark.parametrize("n_beams", [pytest.param(1, marks=pytest.mark.slow), 4, 20])
@torch.no_grad()
def test_a_network_gives_the_ranking_of_teacher_forcing(model_and_ids, n_beams):
    model, ids = model_and_ids
    source = make_histories(ids, 12)
    found = exact_search(*model.stepper(source, ids), ids.trie, n_beams, 8)
    values, best = teacher_forced(model, ids, source).topk(8)
    assert torch.equal(found.item_ids, best + 1)
    torch.testing.assert_close(found.log_probs, values, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_history_does_not_depend_on_its_batch(model_and_ids):
    model, ids = model_and_ids
    source = make_histories(ids, 10)
    together = exact_search(*model.stepper(source, ids), ids.trie, 4, 8)
    for row in range(10):
        history = source[[row]][:, source[row] != 0]
        alone = exact_search(*model.stepper(history, ids), ids.trie, 4, 8)
        assert torch.equal(alone.item_ids, together.item_ids[[row]])
        torch.testing.assert_close(alone.log_probs, together.log_probs[[row]], atol=1e-5, rtol=1e-5)
