"""Cache and masks that all encoder-decoders share."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.seq2seq.base import DecoderCache, mask_bias

N_ROWS, N_HEADS, WIDTH = 2, 3, 4


def new_tokens(n_beams: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, N_ROWS, N_HEADS, n_beams, WIDTH)
    return torch.randn(shape, generator=generator).unbind()


@pytest.fixture
def cache():
    """Return a cache of two layers without own tokens."""
    return DecoderCache([], [None, None], torch.zeros(N_ROWS, 1, 1, 1))


def test_a_layer_grows_by_one_token_of_every_beam(cache):
    first, second = new_tokens(5, seed=0), new_tokens(5, seed=1)
    cache.grow(1, *first)
    grown = cache.grow(1, *second)
    for part, (before, new) in zip(grown, zip(first, second)):
        assert part.shape == (N_ROWS * 5, N_HEADS, 2, WIDTH)
        for row in range(N_ROWS):
            for beam in range(5):
                tokens = torch.stack((before[row, :, beam], new[row, :, beam]), dim=1)
                assert torch.equal(part[row * 5 + beam], tokens)
    assert cache.own[0] is None, "the other layer stays as it was"


def test_beams_continue_their_parents(cache):
    for layer in (0, 1):
        cache.grow(layer, *new_tokens(2, seed=layer))
    before = list(cache.own)
    parents = torch.tensor([[1, 1, 0], [0, 1, 0]])
    cache.follow(parents)
    for pair, earlier in zip(cache.own, before):
        for part, old in zip(pair, earlier):
            assert part.shape == (N_ROWS, 3, N_HEADS, 1, WIDTH)
            for row in range(N_ROWS):
                assert torch.equal(part[row], old[row, parents[row]])


def test_following_before_the_first_token_changes_nothing(cache):
    cache.follow(torch.zeros(N_ROWS, 1, dtype=torch.long))
    assert cache.own == [None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_hides_what_the_mask_does_not_show(dtype):
    mask = torch.tensor([[True, False, True], [False, False, False]])
    bias = mask_bias(mask, dtype)
    assert bias.dtype == dtype and bias.shape == (2, 1, 1, 3)
    assert torch.equal(bias[:, 0, 0] == 0, mask)
    assert bias.isfinite().all()
    assert bias.softmax(-1)[0, 0, 0].tolist() == [0.5, 0.0, 0.5]
    assert torch.equal(mask_bias(mask.unsqueeze(1), dtype), bias)
