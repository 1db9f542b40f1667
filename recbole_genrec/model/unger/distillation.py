"""Distillation of the items' vectors into UNGER's generator (section 3.4.3)."""

# Shapes: B batch, N items with padding, D hidden size, Z width of an item's vector.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.model.unger.sampled_losses import contrast_with_drawn


class Distillation(nn.Module):
    """The token after the last code, and the map from its state to the space of the vectors.

    Args:
        hidden_size: D.
        vector_size: Z.
        deviation: standard deviation of the token's first values.
        n_negatives: items drawn for every step; the whole catalogue if it has fewer.
        temperature: divisor of the cosines, > 0.
    """

    def __init__(
        self,
        hidden_size: int,
        vector_size: int,
        *,
        deviation: float,
        n_negatives: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(hidden_size))
        nn.init.normal_(self.token, std=deviation)
        self.map = nn.Linear(hidden_size, vector_size)
        self.n_negatives = n_negatives
        self.temperature = temperature

    def loss(self, states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
        """Point the token's state to the target's vector and away from drawn items (equation 11).

        Args:
            states: states of the token [B, D]; only their direction counts.
            vectors: vectors of all items [N, Z], without gradient.
            targets: item ids [B].
        """
        drawn = 1 + torch.randperm(len(vectors) - 1)[: self.n_negatives]
        drawn = drawn.to(targets.device, non_blocking=True)
        return contrast_with_drawn(
            self.map(F.normalize(states, dim=-1)),
            vectors[targets],
            vectors[drawn],
            drawn == targets.unsqueeze(1),
            self.temperature,
        )
