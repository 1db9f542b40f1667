"""Losses that compare the right item with other items, drawn or from the same batch."""

# Shapes: B batch, U distinct items, M negatives, D width.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.runtime.precision import in_full_precision


@in_full_precision
def sampled_softmax(
    positive: Tensor, negatives: Tensor, is_positive: Tensor, n_items: int
) -> Tensor:
    """Estimate the cross-entropy over the catalogue from uniformly drawn negatives.

    A negative stands for (n_items - 1) / M items, and its score is corrected for that. With all
    other items as negatives the loss is exact.

    Args:
        positive: scores of the targets, float [B].
        negatives: scores of the drawn items, float [B, M].
        is_positive: whether a drawn item is the target itself and does not count, bool [B, M].
        n_items: size of the catalogue without padding.

    Returns:
        The mean over the batch, a scalar >= 0; log(n_items) where all scores are equal.

    Source: UNGER equation 4 (its softmax over the catalogue); sampling and correction as in public
        EAGER code.
    """
    n_negatives = (~is_positive).sum(1, keepdim=True).clamp(min=1)
    corrected = negatives - (n_negatives / (n_items - 1)).log()
    corrected = corrected.masked_fill(is_positive, float("-inf"))
    scores = torch.cat((positive.unsqueeze(1), corrected), dim=1)
    return (scores.logsumexp(1) - positive).mean()


@in_full_precision
def alignment(anchors: Tensor, keys: Tensor, similarity: str, temperature: float) -> Tensor:
    """Return InfoNCE in one direction: each anchor's own key against all keys.

    Args:
        anchors: float [U, D], one row per item; no item has two.
        keys: float [U, D], in the same order.
        similarity: `cosine` or `dot`.
        temperature: divisor of the similarities, > 0.

    Returns:
        A scalar; log U where all similarities are equal.

    Source: UNGER section 3.3.2, equation 3.
    """
    if similarity == "cosine":
        anchors, keys = F.normalize(anchors, dim=-1), F.normalize(keys, dim=-1)
    own = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(anchors @ keys.T / temperature, own)


@in_full_precision
def contrast_with_drawn(
    queries: Tensor, positives: Tensor, drawn: Tensor, is_positive: Tensor, temperature: float
) -> Tensor:
    """Return InfoNCE on cosines: the target's vector against vectors of items drawn for a batch.

    Args:
        queries: float [B, D].
        positives: the targets' vectors, float [B, D].
        drawn: the drawn items' vectors, float [M, D].
        is_positive: whether a drawn item is a row's target and does not count, bool [B, M].
        temperature: divisor of the cosines, > 0.

    Returns:
        The mean over the batch; log(1 + M) where all cosines are equal and no target is drawn.

    Source: UNGER section 3.4.3, equation 11.
    """
    queries, positives, drawn = (
        F.normalize(vectors, dim=-1) for vectors in (queries, positives, drawn)
    )
    own = (queries * positives).sum(1, keepdim=True)
    others = (queries @ drawn.T).masked_fill(is_positive, float("-inf"))
    logits = torch.cat((own, others), dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()
