"""The layer norm and the adaption layer that carry one modality into the space of another."""

# Shapes: N items, D input width, H hidden width.

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "adaptive": lambda size: AdaptiveNorm(size),
    "plain": lambda size: nn.LayerNorm(size, elementwise_affine=False),
    "none": lambda size: nn.Identity(),
}


class AdaptiveNorm(nn.Module):
    """A layer norm whose scale and shift depend on its input.

    (1 + scale(u)) * LN(u) + shift(u), where scale and shift are linear in SiLU(u). Both start at
    zero, which is a plain layer norm.

    Source: AdaLN of Peebles and Xie, "Scalable Diffusion Models with Transformers" (ICCV 2023),
        conditioned on the input itself.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(size, 2 * size)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Normalize states [..., size], shape in = shape out."""
        scale, shift = self.modulation(F.silu(states)).chunk(2, dim=-1)
        return (1 + scale) * F.layer_norm(states, states.shape[-1:]) + shift


class ModalityAdaption(nn.Module):
    """Linear, norm, ReLU, linear: features [N, D] -> the other modality's space [N, n_outputs].

    Args:
        n_features: D.
        n_hidden: H.
        n_outputs: width of the other modality.
        norm: `adaptive`, `plain` (a layer norm without parameters) or `none`.

    Source: UNGER section 3.3.1, equation 2; the paper's formula is lost, so the layout around AdaLN
        is ours.
    """

    def __init__(self, n_features: int, n_hidden: int, n_outputs: int, norm: str) -> None:
        super().__init__()
        self.widen = nn.Linear(n_features, n_hidden)
        self.norm = NORMS[norm](n_hidden)
        self.narrow = nn.Linear(n_hidden, n_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N, D] -> [N, n_outputs]."""
        return self.narrow(F.relu(self.norm(self.widen(features))))
