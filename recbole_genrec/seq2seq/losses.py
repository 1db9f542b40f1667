"""Losses that more than one model uses: one formula, one source each."""

# Shapes: B batch, L levels, K codebook size, D width

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p), averaged over all but the last dimension.

    Args:
        first, second: probabilities over the last dimension, shape [..., K].

    Returns:
        A scalar >= 0, in nats.

    Source: UniGRec, collaborative distillation on the tokenizer's side; ETEGRec, sequence-item alignment.
    """
    smallest = torch.finfo(first.dtype).tiny
    difference = first.clamp(min=smallest).log() - second.clamp(min=smallest).log()
    return ((first - second) * difference).sum(-1).mean()


def contrastive(students: Tensor, teachers: Tensor, item_ids: Tensor, temperature: float) -> Tensor:
    """In-batch InfoNCE on cosines, in both directions; rows with the same item are no negatives of each other.

    Args:
        students, teachers: float [B, D]; row b of both belongs to item `item_ids[b]`.
        item_ids: int64 [B].
        temperature: > 0; divides the cosines.

    Returns:
        The sum of both directions' mean cross-entropies, a scalar >= 0; 2 log B for distinct items that are all alike.

    Source: UniGRec, collaborative distillation on the recommender's side.
    """
    similarity = F.normalize(students.float(), dim=-1) @ F.normalize(teachers.float(), dim=-1).T / temperature
    same_item = item_ids.unsqueeze(0) == item_ids.unsqueeze(1)
    same_item.fill_diagonal_(False)
    similarity = similarity.masked_fill(same_item, float("-inf"))
    own = torch.arange(len(item_ids), device=item_ids.device)
    return F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)
