"""A compact T5 encoder-decoder on embeddings, with a cache for beam search.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(JMLR 2020): root-mean-square norm before every block, no biases, no 1/sqrt(d) in attention,
relative positions in buckets shared by all layers, ReLU feed-forward.
"""

# Shapes: B batch, S source tokens, T target tokens, P targets of a history, W beams, D hidden size,
# H heads, C head size

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.seq2seq.base import DecoderCache, KeyValue, Seq2Seq, mask_bias
from recbole_genrec.seq2seq.dropout import Dropout
from recbole_genrec.seq2seq.rms_norm import RMSNorm

N_BUCKETS = 32  # T5's constants: Raffel et al., §2.1
MAX_DISTANCE = 128


@dataclass(frozen=True)
class T5Size:
    """Sizes and dropout rates of a T5; `inner_size` is the width of the feed-forward layers."""

    hidden_size: int
    inner_size: int
    n_layers: int
    n_heads: int
    head_size: int
    hidden_dropout_prob: float
    attn_dropout_prob: float


def relative_buckets(
    n_queries: int, n_keys: int, bidirectional: bool, device: torch.device
) -> Tensor:
    """Return the bucket of every key's position relative to every query's.

    The last query has the position of the last key. Half of the buckets hold exact distances; the
    others grow logarithmically.

    Args:
        n_queries: Number of queries, at most n_keys.
        n_keys: Number of keys.
        bidirectional: True to give keys after the query buckets of their own; otherwise they share
            bucket 0.
        device: Device of the result.

    Returns:
        int64 [n_queries, n_keys], from 0 to 31.

    Source: Raffel et al., §2.1.
    """
    queries = torch.arange(n_keys - n_queries, n_keys, device=device).unsqueeze(1)
    distance = queries - torch.arange(n_keys, device=device)
    n_buckets = N_BUCKETS // 2 if bidirectional else N_BUCKETS
    side = torch.where(distance < 0, n_buckets, 0) if bidirectional else torch.zeros_like(distance)
    distance = distance.abs() if bidirectional else distance.clamp(min=0)
    n_exact = n_buckets // 2
    growth = (distance.clamp(min=1).float() / n_exact).log() / math.log(MAX_DISTANCE / n_exact)
    far = (n_exact + (growth * (n_buckets - n_exact)).long()).clamp(max=n_buckets - 1)
    return side + torch.where(distance < n_exact, distance, far)


class Attention(nn.Module):
    """Multi-head attention without biases; keys and values may be projected once and reused."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        inner = size.n_heads * size.head_size
        self.n_heads, self.head_size = size.n_heads, size.head_size
        self.dropout = Dropout(size.attn_dropout_prob)
        self.query = nn.Linear(size.hidden_size, inner, bias=False)
        self.key_value = nn.Linear(size.hidden_size, 2 * inner, bias=False)
        self.output = nn.Linear(inner, size.hidden_size, bias=False)
        nn.init.normal_(self.query.weight, std=(size.hidden_size * size.head_size) ** -0.5)
        nn.init.normal_(self.key_value.weight, std=size.hidden_size**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def project(self, states: Tensor) -> KeyValue:
        """Return keys and values of states [B, S, D], each [B, H, S, C]."""
        key_value = self.key_value(states).unflatten(-1, (2, self.n_heads, self.head_size))
        key, value = key_value.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Attend from states [B, T, D] to keys and values [B, H, S, C].

        Args:
            states: Queries before their projection.
            key: Projected keys.
            value: Projected values.
            bias: Added to the scores; broadcasts to [B, H, T, S].

        Returns:
            [B, T, D].
        """
        query = self.query(states).unflatten(-1, (self.n_heads, self.head_size)).transpose(1, 2)
        if torch.is_grad_enabled() or self.training:
            # The bias is trained: no fused kernel computes its gradient, and torch's fallback is
            # slower than these lines.
            weights = self.dropout((query @ key.transpose(-1, -2) + bias).softmax(-1))
            attended = weights @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return self.output(attended.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """One encoder layer, or with `crosses` one decoder layer that attends to encoder states."""

    def __init__(self, size: T5Size, crosses: bool) -> None:
        super().__init__()
        self.self_norm, self.self_attention = RMSNorm(size.hidden_size), Attention(size)
        if crosses:
            self.cross_norm, self.cross_attention = RMSNorm(size.hidden_size), Attention(size)
        self.feed_norm = RMSNorm(size.hidden_size)
        self.widen = nn.Linear(size.hidden_size, size.inner_size, bias=False)
        self.narrow = nn.Linear(size.inner_size, size.hidden_size, bias=False)
        self.dropout = Dropout(size.hidden_dropout_prob)
        nn.init.normal_(self.widen.weight, std=size.hidden_size**-0.5)
        nn.init.normal_(self.narrow.weight, std=size.inner_size**-0.5)

    def attend(self, states: Tensor, bias: Tensor) -> Tensor:
        """Apply the self-attention block to states [B, T, D]."""
        normed = self.self_norm(states)
        return states + self.dropout(
            self.self_attention(normed, *self.self_attention.project(normed), bias)
        )

    def cross(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Apply the cross-attention block to states [B, T, D] and projected encoder states."""
        return states + self.dropout(
            self.cross_attention(self.cross_norm(states), key, value, bias)
        )

    def feed(self, states: Tensor) -> Tensor:
        """Apply the feed-forward block to states [B, T, D]."""
        hidden = self.dropout(F.relu(self.widen(self.feed_norm(states))))
        return states + self.dropout(self.narrow(hidden))


class T5(Seq2Seq):
    """T5 without vocabulary and head; see Seq2Seq."""

    encoder: Sequence[Layer]
    decoder: Sequence[Layer]

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        encoder = nn.ModuleList(Layer(size, crosses=False) for _ in range(size.n_layers))
        decoder = nn.ModuleList(Layer(size, crosses=True) for _ in range(size.n_layers))
        self.encoder = cast("Sequence[Layer]", encoder)
        self.decoder = cast("Sequence[Layer]", decoder)
        self.encoder_positions = nn.Embedding(N_BUCKETS, size.n_heads)
        self.decoder_positions = nn.Embedding(N_BUCKETS, size.n_heads)
        for positions in (self.encoder_positions, self.decoder_positions):
            nn.init.normal_(positions.weight, std=size.hidden_size**-0.5)
        self.encoder_norm, self.decoder_norm = RMSNorm(size.hidden_size), RMSNorm(size.hidden_size)
        self.dropout = Dropout(size.hidden_dropout_prob)

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Encode histories; the mask may be [1, S, S], see Seq2Seq."""
        length = embeddings.shape[1]
        buckets = relative_buckets(length, length, True, embeddings.device)
        bias = self.encoder_positions(buckets).permute(2, 0, 1) + mask_bias(mask, embeddings.dtype)
        states = self.dropout(embeddings)
        for layer in self.encoder:
            states = layer.feed(layer.attend(states, bias))
        return self.dropout(self.encoder_norm(states))

    def decode(self, embeddings: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Decode whole targets; the mask may be [B, P * T, S], see Seq2Seq."""
        length = embeddings.shape[1]
        buckets = relative_buckets(length, length, False, embeddings.device)
        future = torch.full((length, length), float("-inf"), device=embeddings.device).triu(1)
        bias = (self.decoder_positions(buckets).permute(2, 0, 1) + future).unsqueeze(0)
        cross_bias = mask_bias(mask, embeddings.dtype)
        states = self.dropout(embeddings)
        for layer in self.decoder:
            states = layer.attend(states, bias)
            # All targets of a history share its query axis, so encoder states are not repeated.
            beside = states.reshape(len(memory), -1, states.shape[-1])
            crossed = layer.cross(beside, *layer.cross_attention.project(memory), cross_bias)
            states = layer.feed(crossed.view_as(states))
        return self.dropout(self.decoder_norm(states))

    def step(self, embeddings: Tensor, cache: DecoderCache) -> Tensor:
        """Decode one more token of every beam, see Seq2Seq.

        The beams share the query axis of cross-attention, so encoder states are not repeated.
        """
        states = self.dropout(embeddings)
        for index, layer in enumerate(self.decoder):
            states = self._attend_own(layer, states, cache, index)
            states = layer.feed(layer.cross(states, *cache.cross[index], cache.mask_bias))
        return self.dropout(self.decoder_norm(states))

    def _attend_own(self, layer: Layer, states: Tensor, cache: DecoderCache, index: int) -> Tensor:
        """Apply self-attention to every beam [B, W, D] over its own tokens."""
        attention, normed = layer.self_attention, layer.self_norm(states)
        key, value = cache.grow(index, *attention.project(normed))
        buckets = relative_buckets(1, key.shape[2], False, states.device)
        bias = self.decoder_positions(buckets).permute(2, 0, 1)
        attended = attention(normed.flatten(0, 1).unsqueeze(1), key, value, bias)
        return states + layer.dropout(attended.view_as(states))


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """Average the states [B, S, D] of real tokens, mask [B, S], to [B, D]; zeros without any."""
    weights = mask.unsqueeze(-1).float()
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
