"""Distillation of the items' vectors into UNGER's generator (section 3.4.3)."""

# Shapes: B batch, N items with padding, D hidden size, Z width of an item's vector.

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.config.declare import Declarations, number, whole
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.model.unger.sampled_losses import contrast_with_drawn
from recbole_genrec.model.unger.transformer import INITIAL_DEVIATION


class Distillation(nn.Module):
    """The token after the last code, and the map from its state to the space of the vectors.

    Args:
        config: the settings distillation_* and hidden_size (D).
        vector_size: Z.
    """

    settings: ClassVar[Declarations] = {
        "distillation_weight": number(min=0),
        "distillation_negatives": whole(min=1),
        "distillation_temperature": number(above=0),
    }

    def __init__(self, config: GenRecConfig, vector_size: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(config["hidden_size"]))
        nn.init.normal_(self.token, std=INITIAL_DEVIATION)
        self.map = nn.Linear(config["hidden_size"], vector_size)
        self.weight = config["distillation_weight"]
        self.n_negatives = config["distillation_negatives"]
        self.temperature = config["distillation_temperature"]

    def loss(self, states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
        """Point the token's state to the target's vector and away from drawn items (equation 11).

        Args:
            states: states of the token [B, D]; only their direction counts.
            vectors: vectors of all items [N, Z], without gradient.
            targets: item ids [B].

        Returns:
            The weighted loss, a scalar.
        """
        drawn = 1 + torch.randperm(len(vectors) - 1)[: self.n_negatives]
        drawn = drawn.to(targets.device, non_blocking=True)
        return self.weight * contrast_with_drawn(
            self.map(F.normalize(states, dim=-1)),
            vectors[targets],
            vectors[drawn],
            drawn == targets.unsqueeze(1),
            self.temperature,
        )
