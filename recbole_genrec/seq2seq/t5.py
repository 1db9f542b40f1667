"""A compact T5 encoder-decoder on embeddings, with a cache for beam search.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(JMLR 2020):
root-mean-square norm before every block, no biases, no 1/sqrt(d) in attention, relative positions
in buckets that
the first layer owns and all layers share, ReLU feed-forward.
"""

# Shapes: B batch, S source tokens, T target tokens, W beams, D hidden size, H heads, C head size

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Bucket of every key's position relative to every query's, int64 [n_queries, n_keys]; the last query meets the last key.

    Source: Raffel et al., §2.1; half of the buckets hold exact distances, the rest grow
        logarithmically.
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

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states [B, S, D], each [B, H, S, C]."""
        key_value = self.key_value(states).unflatten(-1, (2, self.n_heads, self.head_size))
        key, value = key_value.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Attend from states [B, T, D] with an additive bias that broadcasts to [B, H, T, S]; returns [B, T, D]."""
        query = self.query(states).unflatten(-1, (self.n_heads, self.head_size)).transpose(1, 2)
        if torch.is_grad_enabled() or self.training:
            # The bias is trained: no fused kernel gives its gradient, and torch's fallback is
            # slower than these lines.
            weights = self.dropout((query @ key.transpose(-1, -2) + bias).softmax(-1))
            attended = weights @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return self.output(attended.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """One encoder layer, or a decoder layer if it `crosses` to the encoder's states."""

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
        """Self-attention block on [B, T, D]."""
        normed = self.self_norm(states)
        return states + self.dropout(
            self.self_attention(normed, *self.self_attention.project(normed), bias)
        )

    def cross(self, states: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Cross-attention block from [B, T, D] to projected encoder states [B, H, S, C]."""
        return states + self.dropout(
            self.cross_attention(self.cross_norm(states), key, value, bias)
        )

    def feed(self, states: Tensor) -> Tensor:
        """Feed-forward block on [B, T, D]."""
        hidden = self.dropout(F.relu(self.widen(self.feed_norm(states))))
        return states + self.dropout(self.narrow(hidden))


@dataclass
class DecoderCache:
    """What decoding remembers: per layer, cross keys and values [B, H, S, C] and those of the beams so far."""

    cross: list[tuple[Tensor, Tensor]]
    own: list[tuple[Tensor, Tensor] | None]
    mask_bias: Tensor

    @classmethod
    def start(cls, decoder: nn.ModuleList, memory: Tensor, mask: Tensor) -> DecoderCache:
        """Project the encoder states [B, S, D], of which mask [B, S] are seen, once for all decoding steps and beams."""
        cross = [layer.cross_attention.project(memory) for layer in decoder]
        return cls(cross, [None] * len(decoder), mask_bias(mask, memory.dtype))

    def grow(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a layer's keys and values [B, H, W, C] of every beam's new token; returns those of all its tokens, [B * W, H, t, C]."""
        fresh = [part.permute(0, 2, 1, 3).unsqueeze(3) for part in (key, value)]  # [B, W, H, 1, C]
        if self.own[index] is not None:
            fresh = [torch.cat((old, new), dim=3) for old, new in zip(self.own[index], fresh)]
        self.own[index] = tuple(fresh)
        return fresh[0].flatten(0, 1), fresh[1].flatten(0, 1)

    def follow(self, parents: Tensor) -> None:
        """Let every beam continue the beam at `parents`, int64 [B, W]."""
        batch = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        self.own = [tuple(tensor[batch, parents] for tensor in pair) for pair in self.own]


class T5(nn.Module):
    """Encoder-decoder from embeddings to hidden states; vocabulary and head belong to the model that uses it."""

    def __init__(self, size: T5Size) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(Layer(size, crosses=False) for _ in range(size.n_layers))
        self.decoder = nn.ModuleList(Layer(size, crosses=True) for _ in range(size.n_layers))
        self.encoder_positions = nn.Embedding(N_BUCKETS, size.n_heads)
        self.decoder_positions = nn.Embedding(N_BUCKETS, size.n_heads)
        for positions in (self.encoder_positions, self.decoder_positions):
            nn.init.normal_(positions.weight, std=size.hidden_size**-0.5)
        self.encoder_norm, self.decoder_norm = RMSNorm(size.hidden_size), RMSNorm(size.hidden_size)
        self.dropout = Dropout(size.hidden_dropout_prob)

    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """States of a history.

        Args:
            embeddings: token embeddings, float [B, S, D].
            mask: true where there is a token, bool [B, S]; or where a token (row) sees another,
                bool [1, S, S].

        Returns:
            Encoder states, float [B, S, D]; rows of padding are meaningless.
        """
        length = embeddings.shape[1]
        buckets = relative_buckets(length, length, True, embeddings.device)
        bias = self.encoder_positions(buckets).permute(2, 0, 1) + mask_bias(mask, embeddings.dtype)
        states = self.dropout(embeddings)
        for layer in self.encoder:
            states = layer.feed(layer.attend(states, bias))
        return self.dropout(self.encoder_norm(states))

    def decode(self, embeddings: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Teacher forcing: hidden states of targets.

        Args:
            embeddings: of the targets' tokens, float [B * P, T, D], the P targets of every history
                in succession.
            memory: encoder states of the histories, float [B, S, D].
            mask: which of them are seen: bool [B, S], or by each of the targets' tokens, bool [B, P
                * T, S].

        Returns:
            Hidden states, float [B * P, T, D].
        """
        length = embeddings.shape[1]
        buckets = relative_buckets(length, length, False, embeddings.device)
        future = torch.full((length, length), float("-inf"), device=embeddings.device).triu(1)
        bias = (self.decoder_positions(buckets).permute(2, 0, 1) + future).unsqueeze(0)
        cross_bias = mask_bias(mask, embeddings.dtype)
        states = self.dropout(embeddings)
        for layer in self.decoder:
            states = layer.attend(states, bias)
            beside = states.reshape(
                len(memory), -1, states.shape[-1]
            )  # all targets of a history in the query axis
            crossed = layer.cross(beside, *layer.cross_attention.project(memory), cross_bias)
            states = layer.feed(crossed.view_as(states))
        return self.dropout(self.decoder_norm(states))

    def start_cache(self, memory: Tensor, mask: Tensor) -> DecoderCache:
        """Project the encoder states [B, S, D] once for all decoding steps and beams."""
        return DecoderCache.start(self.decoder, memory, mask)

    def step(self, embeddings: Tensor, cache: DecoderCache) -> Tensor:
        """Decode one more token of every beam: embeddings [B, W, D] -> hidden states [B, W, D]; the cache grows.

        The beams stand in the query axis of cross-attention, so encoder states are never repeated.
        """
        states = self.dropout(embeddings)
        for index, layer in enumerate(self.decoder):
            states = self._attend_own(layer, states, cache, index)
            states = layer.feed(layer.cross(states, *cache.cross[index], cache.mask_bias))
        return self.dropout(self.decoder_norm(states))

    def _attend_own(self, layer: Layer, states: Tensor, cache: DecoderCache, index: int) -> Tensor:
        """Self-attention of every beam [B, W, D] over its own tokens."""
        attention, normed = layer.self_attention, layer.self_norm(states)
        key, value = cache.grow(index, *attention.project(normed))
        buckets = relative_buckets(1, key.shape[2], False, states.device)
        bias = self.decoder_positions(buckets).permute(2, 0, 1)
        attended = attention(normed.flatten(0, 1).unsqueeze(1), key, value, bias)
        return states + layer.dropout(attended.view_as(states))


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive bias [B, 1, 1, S] of a mask [B, S] that hides padding, or [B, 1, T, S] of a mask [B, T, S].

    A finite minimum keeps rows of nothing but padding free of NaN.
    """
    bias = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return bias.unsqueeze(1) if mask.dim() == 3 else bias[:, None, None]


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """Mean [B, D] of the states [B, S, D] of real tokens, whose mask [B, S] is true; zeros where there is none."""
    weights = mask.unsqueeze(-1).float()
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
