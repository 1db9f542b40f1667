"""How items with equal codes are told apart: by a counter, or by other last codes."""

# Shapes: N items, L levels, K codebook size

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.errors import UserError


def check_distinct(features: Tensor, counter_size: int) -> None:
    """Refuse features that no tokenizer can make enough names of: items with equal features get equal codes.

    Args:
        features: float [n_items, D], without the row of padding.
        counter_size: most items that may share all codes.

    Raises:
        ValueError: more items than that have the very same features.
    """
    counts = features.unique(dim=0, return_counts=True)[1]
    if int(counts.max()) > counter_size:
        raise UserError(
            f"{int(counts.max())} items have the same features and so the same codes, but counter_size is {counter_size}: raise it, or use "
            "item_features that tell more of the items apart"
        )


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


def match_last_codes(codes: Tensor, costs: Callable[[Tensor], Tensor]) -> Tensor:
    """Make codes unique by other last codes, at the least total cost.

    Where items share all their codes, all items with the codes before the last in common get their
    last codes anew, all different.

    Args:
        codes: LongTensor [N, L].
        costs: rows, LongTensor [n] -> what each last code costs each of these rows, [n, K]; asked
            once for every such group.

    Returns:
        LongTensor [N, L], no two rows equal; the codes of all other items are what they were.

    Raises:
        ValueError: more than K items have the codes before the last in common.
    """
    codes = codes.clone()
    prefixes = F.pad(codes[:, :-1], (1, 0)).unique(dim=0, return_inverse=True)[1]
    for prefix in prefixes[counter_level(codes) > 0].unique():
        rows = (prefixes == prefix).nonzero().squeeze(1)
        cost = costs(rows)
        if len(rows) > cost.shape[1]:
            raise UserError(
                f"{len(rows)} items share all codes but the last, which has {cost.shape[1]} values: raise codebook_size"
            )
        codes[rows, -1] = torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(
            codes.device
        )
    return codes
