"""How items with equal codes are told apart."""

from __future__ import annotations

import torch
from torch import Tensor


def counter_level(codes: Tensor) -> Tensor:
    """Number the items that share all their codes: 0, 1, 2, ... in the order of their rows.

    Args:
        codes: codes of the items, int64, shape [n_items, n_levels].

    Returns:
        The counter of every item, int64, shape [n_items]; 0 for an item alone with its codes.

    Source: TIGER §3.1, the extra code that makes a semantic id unique.
    """
    if len(codes) == 0:
        return codes.new_zeros(0)
    _, group, group_sizes = codes.unique(dim=0, return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    first_of_group = group_sizes.cumsum(0) - group_sizes
    rank = torch.arange(len(codes), device=codes.device) - first_of_group[group[order]]
    return torch.empty_like(rank).scatter_(0, order, rank)
