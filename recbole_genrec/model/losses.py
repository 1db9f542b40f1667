"""Losses that more than one model uses: one formula, one source each."""

# Shapes: B batch, U distinct items, L levels, K codebook size, D width

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.runtime.precision import in_full_precision


@in_full_precision
def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p), averaged over all but the last dimension.

    Args:
        first, second: probabilities over the last dimension, shape [..., K].

    Returns:
        A scalar >= 0, in nats.

    Source: UniGRec, collaborative distillation on the tokenizer's side.
    """
    smallest = torch.finfo(first.dtype).tiny
    difference = first.clamp(min=smallest).log() - second.clamp(min=smallest).log()
    return ((first - second) * difference).sum(-1).mean()


@in_full_precision
def symmetric_kl_of_logits(first: Tensor, second: Tensor) -> Tensor:
    """symmetric_kl of the softmax of both; exact where probabilities are too small for a float.

    Args:
        first, second: float [..., K]; a constant added to a row changes nothing.

    Returns:
        A scalar >= 0, in nats.

    Source: ETEGRec, equation 15 without its minus sign, which would push the distributions apart.
    """
    first, second = first.log_softmax(-1), second.log_softmax(-1)
    return ((first.exp() - second.exp()) * (first - second)).sum(-1).mean()


@in_full_precision
def contrastive(students: Tensor, teachers: Tensor, item_ids: Tensor, temperature: float) -> Tensor:
    """In-batch InfoNCE on cosines, in both directions; rows with the same item are no negatives of each other.

    Args:
        students, teachers: float [B, D]; row b of both belongs to item `item_ids[b]`.
        item_ids: int64 [B].
        temperature: > 0; divides the cosines.

    Returns:
        The sum of both directions' mean cross-entropies, a scalar >= 0; 2 log B for distinct items
        that are all alike.

    Source: UniGRec, collaborative distillation on the recommender's side; ETEGRec, equation 16.
    """
    similarity = F.normalize(students, dim=-1) @ F.normalize(teachers, dim=-1).T / temperature
    same_item = item_ids.unsqueeze(0) == item_ids.unsqueeze(1)
    same_item.fill_diagonal_(False)
    similarity = similarity.masked_fill(same_item, float("-inf"))
    own = torch.arange(len(item_ids), device=item_ids.device)
    return F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)


def first_rows(item_ids: Tensor) -> Tensor:
    """The row of every distinct item's first occurrence, int64 [U], in the order of the rows.

    Args:
        item_ids: int64 [B].

    Source: ETEGRec's released code, which compares distinct target items only.
    """
    items, place = item_ids.unique(return_inverse=True)
    rows = torch.arange(len(item_ids), device=item_ids.device)
    return (
        torch.full_like(items, len(item_ids)).scatter_reduce_(0, place, rows, "amin").sort().values
    )
