from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.seq2seq.rms_norm import NORM_EPSILON, RMSNorm


def make_norm(size: int) -> RMSNorm:
    norm = RMSNorm(size).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, size))
    return norm


def test_root_mean_square_norm():
    norm = RMSNorm(2)
    norm.weight.data = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(
        norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]])),
        torch.tensor([[3.0, 8.0], [0.0, 0.0]]) / 12.5**0.5,
    )
    tiny = norm(torch.tensor([[1e-3, 1e-3]]))
    torch.testing.assert_close(tiny, torch.tensor([[1.0, 2.0]]) / 2**0.5)


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (6,)])
def test_values_and_gradients_equal_torch(shape):
    torch.manual_seed(0)
    norm, states = make_norm(6), torch.randn(shape, dtype=torch.double, requires_grad=True)
    weights = torch.randn(shape, dtype=torch.double)
    ours = norm(states)
    (ours * weights).sum().backward()
    found = states.grad, norm.weight.grad
    states.grad = norm.weight.grad = None
    theirs = F.rms_norm(states, (6,), norm.weight, NORM_EPSILON)
    (theirs * weights).sum().backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, (states.grad, norm.weight.grad))


def test_gradient_equals_finite_differences():
    torch.manual_seed(1)
    norm = make_norm(4)
    assert torch.autograd.gradcheck(
        norm, (torch.randn(3, 4, dtype=torch.double, requires_grad=True),)
    )


def test_states_of_zeros_stay_zeros_with_finite_gradients():
    states = torch.zeros(2, 4, requires_grad=True)
    normed = RMSNorm(4)(states)
    normed.sum().backward()
    assert torch.equal(normed, torch.zeros(2, 4)) and torch.isfinite(states.grad).all()


def test_a_frozen_norm_passes_the_gradient_on():
    norm, states = make_norm(4), torch.randn(2, 4, dtype=torch.double, requires_grad=True)
    norm.weight.requires_grad_(False)
    norm(states).sum().backward()
    assert norm.weight.grad is None and states.grad is not None
