from __future__ import annotations

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.given_codes import GivenCodes, random_codes


def test_random_codes_are_different_for_every_item_and_in_range():
    codes = random_codes(60, 3, 4, seed=0)
    assert codes.shape == (60, 3) and codes.dtype == torch.long
    assert len({tuple(row) for row in codes.tolist()}) == 60
    assert codes.min() == 0 and codes.max() == 3


def test_random_codes_can_use_up_every_tuple():
    codes = random_codes(9, 2, 3, seed=1)
    assert sorted(map(tuple, codes.tolist())) == [(a, b) for a in range(3) for b in range(3)]
    assert codes.tolist() != sorted(codes.tolist())


def test_random_codes_depend_on_the_seed_only():
    state = torch.get_rng_state()
    first = random_codes(50, 3, 8, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, random_codes(50, 3, 8, seed=3))
    assert not torch.equal(first, random_codes(50, 3, 8, seed=4))


def test_random_codes_are_uniform_at_every_level():
    counts = torch.stack(
        [torch.bincount(level, minlength=4) for level in random_codes(20000, 8, 4, seed=5).T]
    )
    assert ((counts - 5000).abs() < 300).all()


def test_too_many_items_are_refused():
    with pytest.raises(
        UserError,
        match="2 levels of 3 codes name 9 items at most, but there are 10: raise n_levels",
    ):
        random_codes(10, 2, 3, seed=0)


def test_encode_returns_the_given_codes():
    codes = torch.tensor([[0, 1], [2, 0], [1, 1]])
    tokenizer = GivenCodes(codes, n_features=1, codebook_size=3)
    features = torch.zeros(3, 1)
    tokenizer.start(features, seed=0)
    encoded = tokenizer.encode(features)
    encoded[0] = 2
    assert torch.equal(tokenizer.encode(features), codes)
    assert tokenizer.losses(features) == {} and tokenizer.report(features) == {}
    assert tokenizer.n_levels == 2 and not list(tokenizer.parameters())


def test_codes_of_other_items_are_refused():
    tokenizer = GivenCodes(torch.zeros(3, 2, dtype=torch.long), n_features=1, codebook_size=3)
    with pytest.raises(UserError, match="there are 4 items, but codes of 3"):
        tokenizer.encode(torch.zeros(4, 1))
    with pytest.raises(UserError, match=r"takes \[items, 1\]"):
        tokenizer.encode(torch.zeros(3, 2))
