"""Attention masks for training all next items of a sequence in one pass.

If no item of the encoder sees a later one, one pass over a sequence gives the states of all its
histories: the states of a history are the sequence's, up to the history's last item. Every next
item is then decoded with the states of the items before it.
"""

# Shapes: B batch, T history length in items, S encoder tokens, P next items of a sequence, L levels

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def item_positions(
    n_tokens: int, n_items: int, tokens_per_item: int, device: torch.device
) -> Tensor:
    """Return the position of each encoder token's item in the history.

    Args:
        n_tokens: S, at least n_items * tokens_per_item; the tokens before the items are context.
        n_items: T.
        tokens_per_item: Tokens of one item.
        device: Device of the result.

    Returns:
        int64 [S], from 1 for the oldest item to T; 0 for tokens of the context.
    """
    positions = torch.arange(1, n_items + 1, device=device).repeat_interleave(tokens_per_item)
    return F.pad(positions, (n_tokens - len(positions), 0))


def item_causal(positions: Tensor) -> Tensor:
    """Return the encoder's mask: a token sees its own item, earlier items and the context.

    Padding at the end of a history is later than all its items, so the mask hides padding as well.

    Args:
        positions: Result of item_positions, int64 [S].

    Returns:
        bool [1, S, S], true where a token (row) sees another.
    """
    return (positions.unsqueeze(1) >= positions).unsqueeze(0)


def before_targets(positions: Tensor, lengths: Tensor, item_ids: Tensor, n_levels: int) -> Tensor:
    """Return the mask of cross-attention: a next item sees the items before it and the context.

    Args:
        positions: Result of item_positions, int64 [S].
        lengths: Number of items of every history, int64 [B].
        item_ids: Next items in order, int64 [B, P], filled up with 0 at the end. The last one
            follows the whole history, the one before it follows all items but the last, and so on.
        n_levels: Number of tokens of a next item.

    Returns:
        bool [B, P * L, S]; rows of padding are meaningless.
    """
    n_targets = (item_ids > 0).sum(1)
    number = torch.arange(1, item_ids.shape[1] + 1, device=item_ids.device)
    n_before = (lengths - n_targets).unsqueeze(1) + number
    return (positions <= n_before.unsqueeze(-1)).repeat_interleave(n_levels, dim=1)
