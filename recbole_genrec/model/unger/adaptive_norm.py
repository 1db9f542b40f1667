"""A layer norm whose scale and shift depend on its input, and the layer that carries one modality into the space of another."""

# Shapes: N items, D input width, H hidden width

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class AdaptiveNorm(nn.Module):
    """(1 + scale(u)) * LN(u) + shift(u); scale and shift are linear in SiLU(u) and start at zero, as a plain layer norm.

    Source: AdaLN of Peebles and Xie, "Scalable Diffusion Models with Transformers" (ICCV 2023),
        conditioned on the input itself.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(size, 2 * size)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Shape in = shape out: [..., size]."""
        scale, shift = self.modulation(F.silu(states)).chunk(2, dim=-1)
        return (1 + scale) * F.layer_norm(states, states.shape[-1:]) + shift


class ModalityAdaption(nn.Module):
    """Linear, norm, ReLU, linear: features [N, D] -> the other modality's space [N, n_outputs].

    Args:
        n_features: D.
        n_hidden: H.
        n_outputs: width of the other modality.
        norm: "adaptive", "plain" (a layer norm without parameters) or "none".

    Source: UNGER §3.3.1, equation 2; the paper's formula is lost, so the layout around AdaLN is
        ours.
    """

    def __init__(self, n_features: int, n_hidden: int, n_outputs: int, norm: str) -> None:
        super().__init__()
        norms = {
            "adaptive": AdaptiveNorm,
            "plain": lambda size: nn.LayerNorm(size, elementwise_affine=False),
            "none": nn.Identity,
        }
        self.widen, self.norm, self.narrow = (
            nn.Linear(n_features, n_hidden),
            norms[norm](n_hidden),
            nn.Linear(n_hidden, n_outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, n_outputs]."""
        return self.narrow(F.relu(self.norm(self.widen(features))))
