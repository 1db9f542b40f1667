"""The bound by which a beam search proves its own result."""

from __future__ import annotations

import itertools

import pytest
import torch

from recbole_genrec.semantic_ids.trie import CompleteTree, Trie
from recbole_genrec.seq2seq.beam_search import beam_search

WHOLE = Trie(torch.cartesian_prod(torch.arange(3), torch.arange(3)), torch.arange(1, 10), (3, 3))
SOME = Trie(torch.tensor([[0, 0], [0, 1], [1, 0]]), torch.tensor([1, 2, 3]), (3, 3))
SIZES = (5, 4, 6)


def literal_step(level, codes, parents):
    """Return .5 .3 .2 first, then .1 .2 .7 after code 0, .6 .3 .1 after 1, .2 .2 .6 after 2."""
    if level == 0:
        return torch.tensor([[[0.5, 0.3, 0.2]]]).log()
    return torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]).log()[codes]


def random_step(n_rows: int, sizes: tuple[int, ...], seed: int):
    """Return a step function with log-probabilities that depend on row, level and last code."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n_rows, 1, sizes[0])] + [(n_rows, *pair) for pair in itertools.pairwise(sizes)]
    tables, rows = (
        [torch.randn(shape, generator=generator).mul(2).log_softmax(-1) for shape in shapes],
        torch.arange(n_rows).unsqueeze(1),
    )
    return lambda level, codes, parents: tables[level][rows, codes] if level else tables[0]


def random_trie(n_items: int, sizes: tuple[int, ...]) -> Trie:
    every = torch.cartesian_prod(*map(torch.arange, sizes))
    chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(1))[:n_items]
    return Trie(every[chosen], torch.arange(1, n_items + 1), sizes)


def test_the_bound_is_the_best_prefix_that_was_dropped():
    """Compare with probabilities multiplied by hand.

    One beam drops .3 of the first codes, two drop .2. More keep all first codes and drop items of
    .35 .18 .12 .10 .09 .05 .04 .04 .03.
    """
    bounds = {
        n_beams: beam_search(literal_step, WHOLE, n_beams).bound.exp().item()
        for n_beams in (1, 2, 3, 8)
    }
    assert bounds == pytest.approx({1: 0.3, 2: 0.2, 3: 0.1, 8: 0.03})
    assert beam_search(literal_step, WHOLE, 9).bound.item() == float("-inf")


def test_a_ranking_is_proven_where_it_is_above_the_bound():
    """Cover the counterexample: code 0 has .5, but its items .05 and .1; an item of code 1 .18."""
    found = beam_search(literal_step, SOME, 1)
    assert (found.item_ids.tolist(), found.proven(1).tolist()) == ([[2]], [False])
    assert [beam_search(literal_step, WHOLE, 2).proven(k).item() for k in (1, 2)] == [
        True,
        False,
    ], "0.35 is above 0.2, and 0.18 is not"
    found = beam_search(literal_step, WHOLE, 7)
    assert found.log_probs.exp()[0, 5:].tolist() == pytest.approx([0.05, 0.04])
    assert [found.proven(k).item() for k in (5, 6, 7, 20)] == [True, True, False, False], (
        "a dropped item ties with the last position"
    )


def test_all_beams_prove_everything():
    trie = random_trie(40, SIZES)
    step = random_step(60, SIZES, seed=0)
    assert all(
        beam_search(step, trie, n_beams).proven(k).all()
        for n_beams in (40, 64)
        for k in (1, 10, 40, 50)
    )
    assert 0 < beam_search(step, trie, 10).proven(10).float().mean() < 1


def test_the_ranking_of_code_sequences_is_proven_without_a_trie():
    trie = random_trie(7, (3, 4, 2))
    step = random_step(50, (3, 4, 2), seed=3)
    everything, found = (beam_search(step, CompleteTree(trie), n_beams) for n_beams in (24, 4))
    proven = found.proven(4)
    assert 0 < proven.float().mean() < 1
    assert torch.equal(found.item_ids[proven, :3], everything.item_ids[proven, :3])
