from __future__ import annotations

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.seq2seq.dropout import N_OUTCOMES, Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_scale(rate):
    torch.manual_seed(0)
    states = torch.full((400, 250), 3.0)
    dropped = Dropout(rate)(states)
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 100_000) ** 0.5)
    torch.testing.assert_close(
        dropped[dropped != 0].unique(), torch.tensor([3 / (1 - rate)]), rtol=1e-3, atol=0
    )
    assert dropped.mean().item() == pytest.approx(3.0, rel=0.03)
    assert torch.equal(states, torch.full((400, 250), 3.0)), "the input stays as it was"


def test_scale_fits_the_rounded_rate_exactly():
    """Round 0.1 to 6554 / 65536; the mean stays only with the scale of the rounded rate."""
    dropped = Dropout(0.1)(torch.ones(1000, dtype=torch.double))
    assert dropped.max().item() == 65536 / (65536 - 6554)


def test_neighbors_are_dropped_at_one_rate_and_independently():
    """Check the four neighbors that one random number decides on."""
    torch.manual_seed(1)
    kept = (Dropout(0.3)(torch.ones(100_000, 4)) != 0).double()
    torch.testing.assert_close(
        kept.mean(0), torch.full((4,), 0.7, dtype=torch.double), atol=0.006, rtol=0
    )
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.015


def test_gradient_has_the_mask_of_the_states():
    torch.manual_seed(2)
    states = torch.randn(7, 5, dtype=torch.double, requires_grad=True)
    dropped = Dropout(0.4)(states)
    weights = torch.randn(7, 5, dtype=torch.double)
    (dropped * weights).sum().backward()
    torch.testing.assert_close(
        states.grad, weights * (dropped / states).detach(), rtol=1e-12, atol=0
    )
    assert 0 < (states.grad == 0).sum() < 35


def test_gradient_accumulates_without_touching_its_source():
    """Share a gradient with another branch, which an operation in place would change."""
    states = torch.ones(9, requires_grad=True)
    torch.manual_seed(3)
    dropped = Dropout(0.5)(states)
    (dropped + states).sum().backward()
    torch.testing.assert_close(states.grad, 1 + dropped.detach())


def test_identity_without_training_or_rate():
    states = torch.randn(5)
    assert Dropout(0.5).eval()(states) is states
    assert Dropout(0.0)(states) is states
    layer = Dropout(0.5).eval()
    assert (layer.train()(torch.ones(1000)) == 0).any()


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_bad_rates_are_refused(rate):
    with pytest.raises(UserError, match=r"dropout rate is .* at least 0 and below 1"):
        Dropout(rate)


def test_rates_next_to_the_ends_are_finite():
    assert torch.isfinite(Dropout(1 - 1e-9)(torch.ones(1000))).all()
    assert torch.equal(Dropout(1e-9)(torch.ones(1000)), torch.ones(1000))
    assert Dropout(1 - 2 / N_OUTCOMES)(torch.ones(1000)).max() <= N_OUTCOMES


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1), (2, 3, 7), (0, 4)])
def test_any_size(shape):
    torch.manual_seed(0)
    dropped = torch.stack([Dropout(0.5)(torch.ones(shape)) for _ in range(200)])
    assert dropped.shape == (200, *shape)
    assert ((dropped == 0) | (dropped == 2)).all()
    if dropped.numel():
        assert (dropped.mean(0) - 1).abs().max() < 0.4, (
            "no element of the tail is always kept or always dropped"
        )


def test_strided_states():
    """Draw the same mask for any memory layout."""
    torch.manual_seed(4)
    straight = Dropout(0.5)(torch.ones(6, 4))
    torch.manual_seed(4)
    assert torch.equal(Dropout(0.5)(torch.ones(4, 6).T), straight)


def test_torchs_random_state_decides():
    layer, states = Dropout(0.5), torch.ones(1001)
    torch.manual_seed(5)
    first, second = layer(states), layer(states)
    torch.manual_seed(5)
    assert torch.equal(layer(states), first)
    state = torch.get_rng_state()
    assert torch.equal(layer(states), second)
    torch.set_rng_state(state)
    assert torch.equal(layer(states), second)
    assert not torch.equal(first, second)


def test_half_precision_keeps_its_type():
    dropped = Dropout(0.5)(torch.ones(100, dtype=torch.bfloat16))
    assert dropped.dtype == torch.bfloat16
    assert set(dropped.tolist()) == {0.0, 2.0}


def test_the_rarest_outcome_is_kept():
    """Expect 16 of 2^20 elements at a rate of 1 - 2^-16; the chance of none is 1e-7."""
    torch.manual_seed(6)
    assert 1 <= (Dropout(1 - 1 / N_OUTCOMES)(torch.ones(2**20)) != 0).sum() <= 40
