"""Useful work of a T5 step: floating point operations of its matrix products, without padding.

A product of an [a, b] and a [b, c] matrix is 2abc operations. With hidden size D, inner size F,
heads of H * C = I columns, s source and t target tokens, a row of a batch takes in the forward pass

    encoder layer   s (8DI + 4DF) + 4I s^2
                    projections, feed-forward; scores and weighted sums
    decoder layer   t (12DI + 4DF) + 4I t^2 + 4DI s + 4I s t
                    the cross-attention's keys and values come from the source
    head            2D times the number of codes to choose from, summed over the t positions

and three times as much with the backward pass, which has two products for each: one per factor's
gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recbole_genrec.seq2seq.t5 import T5Size

PASSES = 3  # forward, and twice as much backward


def forward_flops(size: T5Size, source_tokens: Tensor, head_sizes: Sequence[int]) -> int:
    """Return the operations of the forward pass over a batch.

    Args:
        size: sizes of the T5.
        source_tokens: LongTensor [B], number of real tokens of every history.
        head_sizes: for every target token, the number of codes to choose from.
    """
    width, inner, feed = (
        size.hidden_size,
        size.n_heads * size.head_size,
        4 * size.hidden_size * size.inner_size,
    )
    n_rows, n_targets, n_sources = len(source_tokens), len(head_sizes), int(source_tokens.sum())
    encoder = n_sources * (8 * width * inner + feed) + 4 * inner * int(source_tokens.square().sum())
    decoder = n_rows * n_targets * (12 * width * inner + feed + 4 * inner * n_targets)
    decoder += n_sources * (4 * width * inner + 4 * inner * n_targets)
    return size.n_layers * (encoder + decoder) + n_rows * 2 * width * sum(head_sizes)


def training_flops(size: T5Size, source_tokens: Tensor, head_sizes: Sequence[int]) -> int:
    """Return the operations of a training step; arguments as in forward_flops."""
    return PASSES * forward_flops(size, source_tokens, head_sizes)
