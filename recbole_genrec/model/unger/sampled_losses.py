"""Losses that compare the right item with other items, drawn or of the same batch."""

# Shapes: B batch, U distinct items, M negatives, D width

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.runtime.precision import in_full_precision


@in_full_precision
def sampled_softmax(
    positive: Tensor, negatives: Tensor, is_positive: Tensor, n_items: int
) -> Tensor:
    """Cross-entropy over the catalogue, estimated from uniformly drawn negatives.

    A negative stands for (n_items - 1) / M items; so its score is corrected, and with all other
    items as negatives the loss is exact.

    Args:
        positive: scores of the next items, float [B].
        negatives: scores of the drawn items, float [B, M].
        is_positive: where a drawn item is the next item itself and does not count, bool [B, M].
        n_items: size of the catalogue, padding not counted.

    Returns:
        The mean over the batch, a scalar >= 0; log(n_items) where all scores are equal.

    Source: UNGER equation 4 (its softmax over the catalogue); sampling and correction as in public
        EAGER code.
    """
    n_negatives = (~is_positive).sum(1, keepdim=True).clamp(min=1)
    corrected = negatives - (n_negatives / (n_items - 1)).log()
    scores = torch.cat(
        (positive.unsqueeze(1), corrected.masked_fill(is_positive, float("-inf"))), dim=1
    )
    return (scores.logsumexp(1) - positive).mean()


@in_full_precision
def alignment(anchors: Tensor, keys: Tensor, similarity: str, temperature: float) -> Tensor:
    """InfoNCE in one direction: the key of a row against the keys of all rows.

    Args:
        anchors, keys: float [U, D]; row u of both belongs to the same item, and no two rows do.
        similarity: "cosine" or "dot".
        temperature: > 0; divides the similarities.

    Returns:
        A scalar; log U where all are alike.

    Source: UNGER §3.3.2, equation 3.
    """
    if similarity == "cosine":
        anchors, keys = F.normalize(anchors, dim=-1), F.normalize(keys, dim=-1)
    return F.cross_entropy(
        anchors @ keys.T / temperature, torch.arange(len(anchors), device=anchors.device)
    )


@in_full_precision
def contrast_with_drawn(
    queries: Tensor, positives: Tensor, drawn: Tensor, is_positive: Tensor, temperature: float
) -> Tensor:
    """InfoNCE on cosines: the right item's vector against those of items drawn for the whole batch.

    Args:
        queries, positives: float [B, D].
        drawn: float [M, D].
        is_positive: where a drawn item is a row's own and does not count, bool [B, M].
        temperature: > 0; divides the cosines.

    Returns:
        The mean over the batch; log(1 + M) where all are alike and none is a row's own.

    Source: UNGER §3.4.3, equation 11, whose negatives are drawn from the catalogue without the
        target.
    """
    queries, positives, drawn = (
        F.normalize(vectors, dim=-1) for vectors in (queries, positives, drawn)
    )
    own = (queries * positives).sum(1, keepdim=True)
    others = (queries @ drawn.T).masked_fill(is_positive, float("-inf"))
    logits = torch.cat((own, others), dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()
