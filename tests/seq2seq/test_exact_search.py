from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recbole_genrec.model.unger.transformer import Transformer, TransformerSize
from recbole_genrec.semantic_ids.semantic_ids import SemanticIDs
from recbole_genrec.semantic_ids.trie import Trie
from recbole_genrec.seq2seq import exact_search as module
from recbole_genrec.seq2seq.beam_search import beam_search
from recbole_genrec.seq2seq.exact_search import exact_search
from recbole_genrec.seq2seq.t5 import DecoderCache


class Table:
    """A decoder that looks log-probabilities up by the whole prefix, which it finds in its cache; `sharpness` 0 makes all equal."""

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

    def start(self) -> tuple[Callable, DecoderCache]:
        """A step function and the cache it reads: rows in place of encoder states, prefixes in place of keys and values."""
        cache = DecoderCache([(self.rows, self.rows)], [None], self.rows)
        self.n_decoded = self.widest = 0

        def step(level: int, codes: Tensor | None, parents: Tensor | None) -> Tensor:
            rows = cache.mask_bias.unsqueeze(1)
            assert torch.equal(cache.cross[0][0], cache.mask_bias)
            prefixes = torch.zeros(len(rows), 1, 0, dtype=torch.long)
            if level:
                cache.follow(parents)
                prefixes = torch.cat((cache.own[0][0], codes.unsqueeze(-1)), dim=-1)
            cache.own[0] = (prefixes, prefixes)
            assert prefixes.shape[2] == level
            self.n_decoded, self.widest = (
                self.n_decoded + prefixes[..., 0:1].shape[:2].numel(),
                max(self.widest, prefixes.shape[1]),
            )
            return self.tables[level][(rows, *prefixes.unbind(-1))]

        return step, cache

    def scores(self, codes: Tensor) -> Tensor:
        """Of every item, added up in the order of decoding: [n_rows, n_items]."""
        total = torch.zeros(len(self.rows), len(codes))
        for level, table in enumerate(self.tables):
            total = total + table[(self.rows.unsqueeze(1), *codes[:, : level + 1].T.unsqueeze(1))]
        return total


def catalogue(
    n_items: int, sizes: tuple[int, ...], seed: int, skewed: bool = False
) -> tuple[Trie, Tensor, Tensor]:
    """A trie, the codes and the item ids; a skewed one has most items below few first codes."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))
    weights = torch.exp(-1.0 * every[:, 0]) if skewed else torch.ones(len(every))
    codes = every[torch.multinomial(weights, n_items, generator=generator)]
    item_ids = torch.randperm(n_items, generator=generator) + 1
    return Trie(codes, item_ids, sizes), codes, item_ids


def ranking(scores: Tensor, item_ids: Tensor, k: int) -> tuple[list[list[int]], Tensor]:
    """Brute force: all items by score, equal ones by id."""
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
    found = exact_search(*table.start(), trie, n_beams, k)
    assert found.item_ids.tolist() == expected
    assert torch.equal(found.log_probs, scores)
    assert found.proven(k).all() and table.widest <= n_beams
    beams = beam_search(table.start()[0], trie, max(n_beams, k))
    proven = beams.proven(k)
    assert all(
        beams.item_ids[row, :k].tolist() == expected[row]
        for row in proven.nonzero().flatten().tolist()
    )


@pytest.mark.parametrize("n_beams", [1, 3, 10, 40])
def test_equal_scores_are_ordered_by_item_id(n_beams):
    """Scores in steps of a half, so that prefixes equal the last place and each other."""
    trie, codes, item_ids = catalogue(150, (10, 8, 6), 3)
    table = Table(30, (10, 8, 6), 1.0, rounded=True)
    expected, scores = ranking(table.scores(codes), item_ids, 10)
    found = exact_search(*table.start(), trie, n_beams, 10)
    assert (scores[:, 1:] == scores[:, :-1]).float().mean() > 0.3
    assert found.item_ids.tolist() == expected and torch.equal(found.log_probs, scores)
    beams = beam_search(table.start()[0], trie, max(n_beams, 10))
    for row in beams.proven(10).nonzero().flatten().tolist():
        assert beams.item_ids[row, :10].tolist() == expected[row]


def test_renormalized_scores_are_exact_too():
    trie, _codes, _item_ids = catalogue(100, (12, 8, 6), 2)
    table = Table(9, (12, 8, 6), 1.5)
    everything = beam_search(table.start()[0], trie, 100, renormalize=True)
    found = exact_search(*table.start(), trie, 4, 6, renormalize=True)
    assert torch.equal(found.item_ids, everything.item_ids[:, :6])
    assert not torch.equal(found.item_ids, exact_search(*table.start(), trie, 4, 6).item_ids)


def test_twenty_beams_can_be_wrong_and_then_are_not_proven():
    trie, codes, item_ids = catalogue(600, (50, 8, 6), 4)
    table = Table(200, (50, 8, 6), 3.0)
    expected, _ = ranking(table.scores(codes), item_ids, 10)
    beams = beam_search(table.start()[0], trie, 20)
    is_right = torch.tensor(
        [row[:10] == its for row, its in zip(beams.item_ids.tolist(), expected)]
    )
    assert 0.02 < is_right.float().mean() < 0.98
    assert is_right[beams.proven(10)].all() and 0 < beams.proven(10).float().mean() < 1


def test_what_is_decoded_is_what_certainty_needs():
    """Of one history by one beam every prefix as good as the last place, each once, and hardly more."""
    trie, codes, _ = catalogue(300, (40, 6, 3), 1)
    table = Table(1, (40, 6, 3), 1.0)
    least = table.scores(codes).topk(5).values[0, -1]
    prefixes = [torch.unique(codes[:, :level], dim=0) for level in (1, 2)]
    needed = 1 + sum(int((_prefix_scores(table, these) >= least).sum()) for these in prefixes)
    exact_search(*table.start(), trie, 1, 5)
    assert needed <= table.n_decoded <= needed + 3 < 60 < 1 + sum(map(len, prefixes))


def _prefix_scores(table: Table, prefixes: Tensor) -> Tensor:
    return sum(
        table.tables[level][(0, *prefixes[:, : level + 1].T)] for level in range(prefixes.shape[1])
    )


@pytest.mark.parametrize("growth", [0, 1])
def test_a_batch_that_grows_is_split_and_stays_exact(monkeypatch, growth):
    monkeypatch.setattr(module, "MOST_GROWTH", growth)
    trie, codes, item_ids = catalogue(200, (12, 8, 6), 1)
    table = Table(9, (12, 8, 6), 0.3)
    sizes, of = [], module.Search.of
    monkeypatch.setattr(
        module.Search,
        "of",
        lambda search, histories: sizes.append(len(histories)) or of(search, histories),
    )
    found = exact_search(*table.start(), trie, 2, 6)
    assert found.item_ids.tolist() == ranking(table.scores(codes), item_ids, 6)[0]
    assert 1 in sizes


def test_a_catalogue_smaller_than_the_list_is_returned_whole():
    trie, codes, item_ids = catalogue(6, (4, 3), 5)
    table = Table(3, (4, 3), 1.0)
    found = exact_search(*table.start(), trie, 2, 50)
    assert found.item_ids.tolist() == ranking(table.scores(codes), item_ids, 6)[0]


@pytest.mark.parametrize("n_beams", [0, -3])
def test_fewer_than_one_beam_is_an_error(n_beams):
    trie, _, _ = catalogue(6, (4, 3), 5)
    with pytest.raises(ValueError, match=f"n_beams is {n_beams}, but"):
        exact_search(*Table(3, (4, 3), 1.0).start(), trie, n_beams, 2)


SIZES = (6, 5, 4)


@pytest.fixture(params=["t5", "transformer"])
def model_and_ids(make_model, request):
    """A small model of random weights around either decoder, and the ids of 80 items."""
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


def start(model, ids: SemanticIDs, source: Tensor) -> tuple[Callable, DecoderCache]:
    step = model.stepper(source, ids)
    return step, step.__closure__[step.__code__.co_freevars.index("cache")].cell_contents


def make_histories(ids: SemanticIDs, n_rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    items = torch.randint(1, len(ids.codes), (n_rows, 5), generator=generator)
    return ids.tokens[
        items.masked_fill(torch.arange(5) > torch.randint(5, (n_rows, 1), generator=generator), 0)
    ].flatten(1)


def teacher_forced(model, ids: SemanticIDs, source: Tensor) -> Tensor:
    """Log-probability of every item, [B, n_items], without a cache."""
    scores = []
    for tokens in ids.tokens[1:]:
        target = tokens.expand(len(source), -1)
        scores.append(
            model(source, target).log_softmax(-1).gather(-1, target.unsqueeze(-1)).sum((1, 2))
        )
    return torch.stack(scores, dim=1)


@pytest.mark.parametrize("n_beams", [1, 4, 20])
@torch.no_grad()
def test_a_network_gives_the_ranking_of_teacher_forcing(model_and_ids, n_beams):
    model, ids = model_and_ids
    source = make_histories(ids, 12)
    found = exact_search(*start(model, ids, source), ids.trie, n_beams, 8)
    values, best = teacher_forced(model, ids, source).topk(8)
    assert torch.equal(found.item_ids, best + 1)
    torch.testing.assert_close(found.log_probs, values, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_history_does_not_depend_on_its_batch(model_and_ids):
    model, ids = model_and_ids
    source = make_histories(ids, 10)
    together = exact_search(*start(model, ids, source), ids.trie, 4, 8)
    for row in range(10):
        alone = exact_search(*start(model, ids, source[[row]][:, source[row] != 0]), ids.trie, 4, 8)
        assert torch.equal(alone.item_ids, together.item_ids[[row]])
        torch.testing.assert_close(alone.log_probs, together.log_probs[[row]], atol=1e-5, rtol=1e-5)
