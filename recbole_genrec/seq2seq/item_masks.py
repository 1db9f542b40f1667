"""Who sees what when one pass trains all next items of a sequence.

An encoder in which no item sees a later one has the states of all histories of a sequence at once:
those of a history are those of the
sequence up to its last item. Every next item is then decoded with the states of the items before
it.
"""

# Shapes: B batch, T history length in items, S encoder tokens, P next items of a sequence, L levels

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def item_places(n_tokens: int, n_items: int, tokens_per_item: int, device: torch.device) -> Tensor:
    """Which item of a history each encoder token belongs to, int64 [S], S = n_tokens.

    1 is the oldest item, then 2, ..., n_items; tokens before the items (context) have 0.
    """
    places = torch.arange(1, n_items + 1, device=device).repeat_interleave(tokens_per_item)
    return F.pad(places, (n_tokens - len(places), 0))


def item_causal(places: Tensor) -> Tensor:
    """Mask of an encoder, bool [1, S, S]: a token (row) sees tokens of its own item, of those before it and of the context.

    Padding at the end of a history is later than all its items, so this hides it, too.
    """
    return (places.unsqueeze(1) >= places).unsqueeze(0)


def before_targets(places: Tensor, lengths: Tensor, item_ids: Tensor, n_levels: int) -> Tensor:
    """Mask of the decoder's look at the encoder: the tokens of a next item see context and all items before it.

    Args:
        places: int64 [S], those of item_places.
        lengths: int64 [B], items of every history.
        item_ids: int64 [B, P], next items in order, 0 = none at the end of a row; the last one
            comes after the whole history, the one
            before it after all but the history's last item, and so on.
        n_levels: tokens of a next item.

    Returns:
        bool [B, P * L, S]; the rows of no next item are meaningless.
    """
    n_targets = (item_ids > 0).sum(1)
    number = torch.arange(1, item_ids.shape[1] + 1, device=item_ids.device)
    n_before = (lengths - n_targets).unsqueeze(1) + number
    return (places <= n_before.unsqueeze(-1)).repeat_interleave(n_levels, dim=1)
