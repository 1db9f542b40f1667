"""T5's norm with a hand-written gradient.

Its gradient reads memory half as often as autograd's, which counts in a small model on a CPU.
"""

# Shapes: N vectors, D their width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NORM_EPSILON = 1e-6  # T5's constant


class _Normalize(torch.autograd.Function):
    """Compute x / rms(x) * weight.

    With u = x / rms(x), the gradient of x is (g w - u mean(g w u)) / rms(x).
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        inverse_rms = torch.rsqrt((states * states).mean(-1, keepdim=True) + NORM_EPSILON)
        unit = states * inverse_rms
        ctx.save_for_backward(unit, inverse_rms, weight)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        unit, inverse_rms, weight = ctx.saved_tensors
        product = gradient * unit
        projection = (product @ weight).div_(unit.shape[-1]).unsqueeze(-1)
        states = torch.addcmul(gradient * weight, unit, projection, value=-1).mul_(inverse_rms)
        return states, product.reshape(-1, len(weight)).sum(0)


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, then scale."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, states: Tensor) -> Tensor:
        """Normalize vectors [..., D]; the result is float32 or wider."""
        return _Normalize.apply(states, self.weight)
