from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.model.unger.adaptive_norm import AdaptiveNorm, ModalityAdaption


def test_starts_as_a_layer_norm_that_does_not_see_the_scale():
    torch.manual_seed(0)
    norm, states = AdaptiveNorm(32), 3 * torch.randn(5, 32) + 1
    out = norm(states)
    torch.testing.assert_close(out.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(norm(10 * states), out, atol=1e-4, rtol=0)
    (out * torch.randn(5, 32)).sum().backward()
    assert norm.modulation.weight.grad.abs().max() > 0.01


def test_scale_and_shift_depend_on_the_input():
    norm = AdaptiveNorm(2)
    with torch.no_grad():
        norm.modulation.weight.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 2.0]]))
        norm.modulation.bias.copy_(torch.tensor([0.0, 0.5, 0.25, 0.0]))
    first, second = 3.0, 1.0  # normed: 1, -1
    scale, shift = (
        [first / (1 + 2.718281828**-first), 0.5],
        [0.25, 2 * second / (1 + 2.718281828**-second)],
    )
    expected = [(1 + scale[0]) * 1 + shift[0], (1 + scale[1]) * -1 + shift[1]]
    assert norm(torch.tensor([[first, second]]))[0].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("norm, normed", [("adaptive", True), ("plain", True), ("none", False)])
def test_adaption_is_linear_norm_relu_linear(norm, normed):
    torch.manual_seed(0)
    layer, features = ModalityAdaption(6, 8, 3, norm), torch.randn(4, 6)
    hidden = features @ layer.widen.weight.T + layer.widen.bias
    hidden = F.layer_norm(hidden, (8,)) if normed else hidden
    torch.testing.assert_close(
        layer(features), hidden.clamp(min=0) @ layer.narrow.weight.T + layer.narrow.bias
    )
    n_outer, n_modulation = 6 * 8 + 8 + 8 * 3 + 3, 8 * 16 + 16
    assert sum(weight.numel() for weight in layer.parameters()) == n_outer + (
        n_modulation if norm == "adaptive" else 0
    )
