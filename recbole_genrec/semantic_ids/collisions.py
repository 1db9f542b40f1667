"""Tell items with equal codes apart: by a counter, or by other last codes."""

# Shapes: N items, L levels, K codebook size

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.errors import UserError


def check_distinct(features: Tensor, counter_size: int) -> None:
    """Refuse features that too many items share, because equal features get equal codes.

    Args:
        features: Float [N, D], without the padding row.
        counter_size: Number of items that may share all codes.

    Raises:
        UserError: More than `counter_size` items have exactly the same features.
    """
    largest = int(features.unique(dim=0, return_counts=True)[1].max())
    if largest > counter_size:
        raise UserError(
            f"{largest} items have the same features and so the same codes, but counter_size is "
            f"{counter_size}: raise it, or use item_features that tell more of the items apart"
        )


def counter_level(codes: Tensor) -> Tensor:
    """Number the items that share all their codes 0, 1, 2, ... in row order.

    Args:
        codes: Codes of the items, int64 [N, L].

    Returns:
        The counter of every item, int64 [N]; 0 for an item whose codes no other item has.

    Source: TIGER §3.1, the extra code that makes a semantic id unique.
    """
    if len(codes) == 0:
        return codes.new_zeros(0)
    _, group, group_sizes = codes.unique(dim=0, return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    first_of_group = group_sizes.cumsum(0) - group_sizes
    rank = torch.arange(len(codes), device=codes.device) - first_of_group[group[order]]
    return torch.empty_like(rank).scatter_(0, order, rank)


def match_last_codes(codes: Tensor, costs: Callable[[Tensor], Tensor]) -> Tensor:
    """Make codes unique by changing last codes at the lowest total cost.

    If items share all their codes, every item with the same codes before the last gets a new
    last code, and these are all different.

    Args:
        codes: int64 [N, L].
        costs: Function from rows, int64 [n], to the cost of every last code for each of them,
            float [n, K]; called once per group.

    Returns:
        int64 [N, L] without equal rows; the items of all other groups keep their codes.

    Raises:
        UserError: More than K items share the codes before the last.
    """
    codes = codes.clone()
    prefixes = F.pad(codes[:, :-1], (1, 0)).unique(dim=0, return_inverse=True)[1]
    for prefix in prefixes[counter_level(codes) > 0].unique():
        rows = (prefixes == prefix).nonzero().squeeze(1)
        cost = costs(rows)
        if len(rows) > cost.shape[1]:
            raise UserError(
                f"{len(rows)} items share all codes but the last, which has {cost.shape[1]} "
                "values: raise codebook_size"
            )
        matched = linear_sum_assignment(cost.cpu().numpy())[1]
        codes[rows, -1] = torch.from_numpy(matched).to(codes.device)
    return codes
