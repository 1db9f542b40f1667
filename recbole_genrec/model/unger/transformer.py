"""An encoder-decoder with post-norm layers and learned positions, as in BERT, and T5's interface.

Vaswani et al., "Attention Is All You Need" (2017), with ReLU. Positions of a history count from its
newest token, so the newest item has the same position whatever the length and padding.
"""

# Shapes: B batch, S source tokens, T target tokens, W beams, D hidden size, H heads, C head size.

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
    """Sizes and dropout rates.

    Attributes:
        hidden_size: D.
        inner_size: width of the feed-forward layers.
        n_encoder_layers: layers of the encoder.
        n_decoder_layers: layers of the decoder.
        n_heads: H.
        head_size: C.
        hidden_dropout_prob: rate after every block.
        attn_dropout_prob: rate of the attention weights.
        n_source_positions: maximum number of source tokens.
        n_target_positions: maximum number of target tokens.
    """

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
    """Multi-head attention with biases, scaled by 1 / sqrt(C).

    Keys and values can be projected once and reused.
    """

    def __init__(self, size: TransformerSize) -> None:
        super().__init__()
        inner = size.n_heads * size.head_size
        self.n_heads, self.head_size = size.n_heads, size.head_size
        self.dropout = size.attn_dropout_prob
        self.query = nn.Linear(size.hidden_size, inner)
        self.key_value = nn.Linear(size.hidden_size, 2 * inner)
        self.output = nn.Linear(inner, size.hidden_size)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of states [B, S, D], each [B, H, S, C]."""
        key_value = self.key_value(states).unflatten(-1, (2, self.n_heads, self.head_size))
        key, value = key_value.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Attend from states [B, T, D] to keys and values [B, H, S, C].

        `bias` is added to the logits and broadcasts to [B, H, T, S]. Returns [B, T, D].
        """
        query = self.query(states).unflatten(-1, (self.n_heads, self.head_size)).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout
        )
        return self.output(attended.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """An encoder layer, or a decoder layer if it `crosses` to the encoder's states."""

    def __init__(self, size: TransformerSize, crosses: bool) -> None:
        super().__init__()
        self.self_attention = ScaledAttention(size)
        self.self_norm = nn.LayerNorm(size.hidden_size)
        if crosses:
            self.cross_attention = ScaledAttention(size)
            self.cross_norm = nn.LayerNorm(size.hidden_size)
        self.widen = nn.Linear(size.hidden_size, size.inner_size)
        self.narrow = nn.Linear(size.inner_size, size.hidden_size)
        self.feed_norm = nn.LayerNorm(size.hidden_size)
        self.dropout = Dropout(size.hidden_dropout_prob)

    def attend(self, states: Tensor, bias: Tensor) -> Tensor:
        """Run the self-attention block on [B, T, D]."""
        attended = self.self_attention(states, *self.self_attention.project(states), bias)
        return self.self_norm(states + self.dropout(attended))

    def attend_cached(self, states: Tensor, cache: DecoderCache, index: int) -> Tensor:
        """Run the self-attention block of every beam [B, W, D] over the beam's own tokens."""
        key, value = cache.grow(index, *self.self_attention.project(states))
        one_token_each = states.flatten(0, 1).unsqueeze(1)
        attended = self.self_attention(one_token_each, key, value, None)
        return self.self_norm(states + self.dropout(attended.view_as(states)))

    def cross(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Run the cross-attention block from [B, T, D] to projected states [B, H, S, C]."""
        attended = self.cross_attention(states, key, value, bias)
        return self.cross_norm(states + self.dropout(attended))

    def feed(self, states: Tensor) -> Tensor:
        """Run the feed-forward block on [B, T, D]."""
        return self.feed_norm(states + self.dropout(self.narrow(F.relu(self.widen(states)))))


class Transformer(Seq2Seq):
    """An encoder-decoder from embeddings to hidden states.

    Vocabulary and head belong to the model that uses it.
    """

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
        self.encoder_norm = nn.LayerNorm(size.hidden_size)
        self.decoder_norm = nn.LayerNorm(size.hidden_size)
        self.dropout = Dropout(size.hidden_dropout_prob)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Encode histories.

        Args:
            embeddings: token embeddings, oldest first, float [B, S, D].
            mask: true where there is a token, bool [B, S]; at most `n_source_positions` are true
                in a row.

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
        """Decode whole targets (teacher forcing).

        Args:
            embeddings: embeddings of the targets' tokens, float [B, T, D].
            memory: encoder states, float [B, S, D].
            mask: which of them are seen, bool [B, S].

        Returns:
            Hidden states, float [B, T, D].
        """
        length = embeddings.shape[1]
        future = torch.full((length, length), float("-inf"), device=embeddings.device).triu(1)
        future = future.to(embeddings.dtype)
        cross_bias = mask_bias(mask, embeddings.dtype)
        states = self._embed_targets(embeddings, self.decoder_positions.weight[:length])
        for layer in self.decoder:
            states = layer.attend(states, future)
            states = layer.cross(states, *layer.cross_attention.project(memory), cross_bias)
            states = layer.feed(states)
        return states

    def step(self, embeddings: Tensor, cache: DecoderCache) -> Tensor:
        """Decode one more token of every beam, [B, W, D] -> [B, W, D]; the cache grows."""
        position = 0 if cache.own[0] is None else cache.own[0][0].shape[3]
        states = self._embed_targets(embeddings, self.decoder_positions.weight[position])
        for index, layer in enumerate(self.decoder):
            states = layer.attend_cached(states, cache, index)
            states = layer.cross(states, *cache.cross[index], cache.mask_bias)
            states = layer.feed(states)
        return states

    def _embed_targets(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.decoder_norm(embeddings + positions))
