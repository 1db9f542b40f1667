"""Losses that several models share.

Shapes: B batch, K codebook size, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.runtime.precision import in_full_precision


@in_full_precision
def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """Return KL(p || q) + KL(q || p), averaged over all but the last dimension.

    Args:
        first: probabilities over the last dimension, float [..., K].
        second: probabilities of the same shape.

    Returns:
        A scalar >= 0, in nats.

    Source: UniGRec, collaborative distillation into the tokenizer.
    """
    smallest = torch.finfo(first.dtype).tiny
    difference = first.clamp(min=smallest).log() - second.clamp(min=smallest).log()
    return ((first - second) * difference).sum(-1).mean()


@in_full_precision
def symmetric_kl_of_logits(first: Tensor, second: Tensor) -> Tensor:
    """Return symmetric_kl of the softmax of both, exact for probabilities below a float's range.

    Args:
        first: logits, float [..., K]; a constant added to a row changes nothing.
        second: logits of the same shape.

    Returns:
        A scalar >= 0, in nats.

    Source: ETEGRec, equation 15 without its minus sign, which would push the distributions apart.
    """
    first, second = first.log_softmax(-1), second.log_softmax(-1)
    return ((first.exp() - second.exp()) * (first - second)).sum(-1).mean()


@in_full_precision
def contrastive(students: Tensor, teachers: Tensor, item_ids: Tensor, temperature: float) -> Tensor:
    """Return the in-batch InfoNCE of cosines in both directions.

    Rows with the same item are no negatives of each other.

    Args:
        students: float [B, D]; row b belongs to item `item_ids[b]`.
        teachers: float [B, D], of the same items.
        item_ids: int64 [B].
        temperature: divisor of the cosines, above 0.

    Returns:
        The sum of the mean cross-entropies of both directions, a scalar >= 0. It is 2 log B for
        distinct items whose vectors are all equal.

    Source: UniGRec, collaborative distillation into the recommender; ETEGRec, equation 16.
    """
    similarity = F.normalize(students, dim=-1) @ F.normalize(teachers, dim=-1).T / temperature
    same_item = item_ids.unsqueeze(0) == item_ids.unsqueeze(1)
    same_item.fill_diagonal_(False)
    similarity = similarity.masked_fill(same_item, float("-inf"))
    own = torch.arange(len(item_ids), device=item_ids.device)
    return F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)
