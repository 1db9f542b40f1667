"""The interface of all encoder-decoders, and the cache of their decoding steps."""

# Shapes: B batch, S source tokens, T target tokens, P targets of a history, W beams, D hidden size,
# H heads, C head size, t tokens of a beam so far

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KeyValue = tuple[Tensor, Tensor]


@dataclass
class DecoderCache:
    """Keys and values of a decoder that later steps read again.

    Attributes:
        cross: Of the encoder states, per layer, each [B, H, S, C].
        own: Of the beams' own tokens, per layer, each [B, W, H, t, C]; None before the first step.
        mask_bias: Additive bias that hides padding of the encoder states, [B, 1, 1, S].
    """

    cross: list[KeyValue]
    own: list[KeyValue | None]
    mask_bias: Tensor

    def grow(self, layer: int, key: Tensor, value: Tensor) -> KeyValue:
        """Append every beam's new token to a layer.

        Args:
            layer: Index of the layer.
            key: Keys of the new tokens, [B, H, W, C].
            value: Values of the new tokens, [B, H, W, C].

        Returns:
            Keys and values of all tokens of every beam, each [B * W, H, t, C].
        """
        key, value = (part.permute(0, 2, 1, 3).unsqueeze(3) for part in (key, value))
        before = self.own[layer]
        if before is not None:
            key = torch.cat((before[0], key), dim=3)
            value = torch.cat((before[1], value), dim=3)
        self.own[layer] = key, value
        return key.flatten(0, 1), value.flatten(0, 1)

    def follow(self, parents: Tensor) -> None:
        """Let beam w continue the earlier beam `parents[:, w]`, int64 [B, W]."""
        batch = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        self.own = [
            None if pair is None else (pair[0][batch, parents], pair[1][batch, parents])
            for pair in self.own
        ]


class Seq2Seq(nn.Module, ABC):
    """Encoder-decoder from embeddings to hidden states; the model owns vocabulary and output head.

    Every layer of `decoder` has a `cross_attention` whose `project` gives the keys and values of
    encoder states.
    """

    decoder: Sequence[Any]

    @abstractmethod
    def encode(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Encode histories.

        Args:
            embeddings: Token embeddings, oldest first, float [B, S, D].
            mask: bool [B, S], true where there is a token; or bool [1, S, S], true where a token
                (row) sees another, for an encoder that allows it.

        Returns:
            Encoder states, float [B, S, D]; rows of padding are meaningless.
        """

    @abstractmethod
    def decode(self, embeddings: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Decode whole targets with teacher forcing.

        Args:
            embeddings: Embeddings of the targets' tokens, float [B * P, T, D]; the P targets of a
                history follow each other.
            memory: Encoder states of the histories, float [B, S, D].
            mask: Encoder states that are seen, bool [B, S]; or those that each token of the targets
                sees, bool [B, P * T, S], for a decoder that allows it.

        Returns:
            Hidden states, float [B * P, T, D].
        """

    @abstractmethod
    def step(self, embeddings: Tensor, cache: DecoderCache) -> Tensor:
        """Decode one more token of every beam and append it to the cache.

        Args:
            embeddings: Embeddings of the beams' last tokens, float [B, W, D].
            cache: Cache of the earlier tokens.

        Returns:
            Hidden states, float [B, W, D].
        """

    def start_cache(self, memory: Tensor, mask: Tensor) -> DecoderCache:
        """Project encoder states [B, S, D] with mask [B, S] once for all steps and beams."""
        cross = [layer.cross_attention.project(memory) for layer in self.decoder]
        return DecoderCache(cross, [None] * len(cross), mask_bias(mask, memory.dtype))


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask into an additive bias.

    Hidden tokens get the smallest finite number, because a row of -inf would become NaN.

    Args:
        mask: True where a token is seen, bool [B, S] or [B, T, S].
        dtype: Type of the bias.

    Returns:
        [B, 1, 1, S] or [B, 1, T, S].
    """
    bias = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return bias.unsqueeze(1) if mask.dim() == 3 else bias[:, None, None]
