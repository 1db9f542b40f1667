"""Sinkhorn's algorithm as the LC-Rec family uses it: a batch uses all codes about equally often."""

# Shapes: B rows, K codebook size.

from __future__ import annotations

import torch
from torch import Tensor

N_ITERATIONS = 50  # released code of LC-Rec and LETTER


@torch.no_grad()
def sinkhorn_plan(distances: Tensor, temperature: float) -> Tensor:
    """Return the share of each code in each row, float [B, K].

    Columns sum to B / K, rows nearly to 1. Rows and columns are normalized in turn, in logarithms,
    because exp(1 / 0.003) is too large for a float32.

    Args:
        distances: squared distances [B, K] of residuals to codewords, finite.
        temperature: divisor of the distances after they are scaled to [-1, 1], > 0.

    Source: released code of LETTER, `sinkhorn_algorithm`.
    """
    middle = (distances.max() + distances.min()) / 2
    logits = (middle - distances) / (distances.max() - middle + 1e-5) / temperature
    for _ in range(N_ITERATIONS):
        logits = logits.log_softmax(dim=1)
        logits = logits.log_softmax(dim=0)
    return logits.exp() * len(distances) / distances.shape[1]


def sinkhorn_codes(distances: Tensor, temperature: float) -> Tensor:
    """Return each row's code with the largest share: float [B, K] -> LongTensor [B]."""
    return sinkhorn_plan(distances, temperature).argmax(dim=1)
