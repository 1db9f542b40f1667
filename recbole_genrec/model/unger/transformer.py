"""An encoder-decoder with layer norms after every block and learned positions, as BERT has them, with a T5's interface.

Vaswani et al., "Attention Is All You Need" (2017), with ReLU. Positions of a history count from its
newest token, so that the newest item
stands at the same place whatever the history's length and padding.
"""

# Shapes: B batch, S source tokens, T target tokens, W beams, D hidden size, H heads, C head size

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.seq2seq.base import DecoderCache, Seq2Seq, mask_bias
from recbole_genrec.seq2seq.dropout import Dropout

INITIAL_DEVIATION = 0.02  # BERT's


@dataclass(frozen=True)
class TransformerSize:
    """Sizes and dropout rates; `inner_size` is the width of the feed-forward layers, positions are the longest inputs."""

    hidden_size: int
    inner_size: int
    n_encoder_layers: int
    n_decoder_layers: int
    n_heads: int
    head_size: int
    hidden_dropout_prob: float
    attn_dropout_prob: float
    n_source_positions: int
    n_target_positions: int


class ScaledAttention(nn.Module):
    """Multi-head attention with biases, scaled by 1 / sqrt(head size); keys and values may be projected once and reused."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        inner = size.n_heads * size.head_size
        self.n_heads, self.head_size, self.dropout = (
            size.n_heads,
            size.head_size,
            size.attn_dropout_prob,
        )
        self.query, self.key_value = (
            nn.Linear(size.hidden_size, inner),
            nn.Linear(size.hidden_size, 2 * inner),
        )
        self.output = nn.Linear(inner, size.hidden_size)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states [B, S, D], each [B, H, S, C]."""
        key, value = (
            self.key_value(states)
            .unflatten(-1, (2, self.n_heads, self.head_size))
            .permute(2, 0, 3, 1, 4)
        )
        return key, value

    def forward(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Attend from states [B, T, D] with an additive bias that broadcasts to [B, H, T, S]; returns [B, T, D]."""
        query = self.query(states).unflatten(-1, (self.n_heads, self.head_size)).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout
        )
        return self.output(attended.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """One encoder layer, or a decoder layer if it `crosses` to the encoder's states."""

    def __init__(self, size: TransformerSize, crosses: bool) -> None:
        super().__init__()
        self.self_attention, self.self_norm = ScaledAttention(size), nn.LayerNorm(size.hidden_size)
        if crosses:
            self.cross_attention, self.cross_norm = (
                ScaledAttention(size),
                nn.LayerNorm(size.hidden_size),
            )
        self.widen, self.narrow = (
            nn.Linear(size.hidden_size, size.inner_size),
            nn.Linear(size.inner_size, size.hidden_size),
        )
        self.feed_norm, self.dropout = (
            nn.LayerNorm(size.hidden_size),
            Dropout(size.hidden_dropout_prob),
        )

    def attend(self, states: Tensor, bias: Tensor) -> Tensor:
        """Self-attention block on [B, T, D]."""
        attended = self.self_attention(states, *self.self_attention.project(states), bias)
        return self.self_norm(states + self.dropout(attended))

    def cross(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Cross-attention block from [B, T, D] to projected encoder states [B, H, S, C]."""
        return self.cross_norm(
            states + self.dropout(self.cross_attention(states, key, value, bias))
        )

    def feed(self, states: Tensor) -> Tensor:
        """Feed-forward block on [B, T, D]."""
        return self.feed_norm(states + self.dropout(self.narrow(F.relu(self.widen(states)))))


class Transformer(Seq2Seq):
    """Encoder-decoder from embeddings to hidden states; vocabulary and head belong to the model that uses it."""

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        encoder = nn.ModuleList(
            TransformerLayer(size, crosses=False) for _ in range(size.n_encoder_layers)
        )
        decoder = nn.ModuleList(
            TransformerLayer(size, crosses=True) for _ in range(size.n_decoder_layers)
        )
        self.encoder = cast("Sequence[TransformerLayer]", encoder)
        self.decoder = cast("Sequence[TransformerLayer]", decoder)
        self.encoder_positions = nn.Embedding(size.n_source_positions, size.hidden_size)
        self.decoder_positions = nn.Embedding(size.n_target_positions, size.hidden_size)
        self.encoder_norm, self.decoder_norm = (
            nn.LayerNorm(size.hidden_size),
            nn.LayerNorm(size.hidden_size),
        )
        self.dropout = Dropout(size.hidden_dropout_prob)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """States of a history.

        Args:
            embeddings: token embeddings, oldest first, float [B, S, D].
            mask: true where there is a token, bool [B, S]; the real tokens are at most
                `n_source_positions`.

        Returns:
            Encoder states, float [B, S, D]; rows of padding are meaningless.
        """
        recency = (mask.sum(1, keepdim=True) - mask.cumsum(1)).clamp(min=0)
        states = self.dropout(self.encoder_norm(embeddings + self.encoder_positions(recency)))
        bias = mask_bias(mask, embeddings.dtype)
        for layer in self.encoder:
            states = layer.feed(layer.attend(states, bias))
        return states

    def decode(self, embeddings: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Teacher forcing: hidden states [B, T, D] of target embeddings [B, T, D], given memory [B, S, D] and its mask [B, S]."""
        length = embeddings.shape[1]
        future = torch.full((length, length), float("-inf"), device=embeddings.device).triu(1)
        cross_bias = mask_bias(mask, embeddings.dtype)
        states = self.dropout(
            self.decoder_norm(embeddings + self.decoder_positions.weight[:length])
        )
        for layer in self.decoder:
            states = layer.attend(states, future.to(embeddings.dtype))
            states = layer.feed(
                layer.cross(states, *layer.cross_attention.project(memory), cross_bias)
            )
        return states

    def step(self, embeddings: Tensor, cache: DecoderCache) -> Tensor:
        """Decode one more token of every beam: embeddings [B, W, D] -> hidden states [B, W, D]; the cache grows."""
        position = 0 if cache.own[0] is None else cache.own[0][0].shape[3]
        states = self.dropout(
            self.decoder_norm(embeddings + self.decoder_positions.weight[position])
        )
        for index, layer in enumerate(self.decoder):
            states = _attend_own(layer, states, cache, index)
            states = layer.feed(layer.cross(states, *cache.cross[index], cache.mask_bias))
        return states


def _attend_own(layer: TransformerLayer, states: Tensor, cache: DecoderCache, index: int) -> Tensor:
    """Self-attention block of every beam [B, W, D] over its own tokens."""
    attention = layer.self_attention
    key, value = cache.grow(index, *attention.project(states))
    attended = attention(states.flatten(0, 1).unsqueeze(1), key, value, None)
    return layer.self_norm(states + layer.dropout(attended.view_as(states)))
