"""A small complete model around the T5, and its twin in transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from recbole_genrec.seq2seq.base import DecoderCache
from recbole_genrec.seq2seq.beam_search import Beams, beam_search
from recbole_genrec.seq2seq.t5 import T5, T5Size


class TinyModel(nn.Module):
    """T5 with one table for input and output; logits scaled by hidden_size ** -0.5."""

    def __init__(self, size: T5Size, n_tokens: int) -> None:
        super().__init__()
        self.t5 = T5(size)
        self.table = nn.Embedding(n_tokens, size.hidden_size)
        self.scale = size.hidden_size**-0.5

    def head(self, states: Tensor) -> Tensor:
        return states * self.scale @ self.table.weight.T

    def encode(self, source: Tensor) -> Tensor:
        return self.t5.encode(self.table(source), source != 0)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Compute logits [B, T, n_tokens] of targets [B, T] after source tokens [B, S]."""
        shifted = torch.cat((torch.zeros_like(target[:, :1]), target[:, :-1]), dim=1)
        return self.head(self.t5.decode(self.table(shifted), self.encode(source), source != 0))

    def stepper(self, source: Tensor, ids) -> tuple[Callable, DecoderCache]:
        """Return the step function of a search over semantic ids, and its cache."""
        cache = self.t5.start_cache(self.encode(source), source != 0)

        def step(cache, level, codes, parents):
            if level:
                cache.follow(parents)
                tokens = codes + ids.offsets[level - 1]
            else:
                tokens = source.new_zeros(len(source), 1)
            logits = self.head(self.t5.step(self.table(tokens), cache))
            return logits.log_softmax(-1)[..., ids.level_tokens(level)]

        return step, cache

    def beams(self, source: Tensor, ids, n_beams: int, tree=None) -> Beams:
        """Search with beams, in the trie of the ids unless another tree is given."""
        return beam_search(partial(*self.stepper(source, ids)), tree or ids.trie, n_beams)


@pytest.fixture
def make_model():
    """Return a function that makes a TinyModel in evaluation mode, with logits far from uniform."""

    def make(n_tokens=40, seed=0, **sizes):
        torch.manual_seed(seed)
        given = dict(
            hidden_size=32,
            inner_size=48,
            n_layers=2,
            n_heads=2,
            head_size=16,
            hidden_dropout_prob=0.0,
            attn_dropout_prob=0.0,
        )
        model = TinyModel(T5Size(**{**given, **sizes}), n_tokens).eval()
        for name, weight in model.named_parameters():
            if "norm" in name:
                nn.init.normal_(weight, 1.0, 0.3)
            elif "positions" in name:
                nn.init.normal_(weight)
        return model

    return make


@pytest.fixture
def transformers_twin():
    """Return a function from a model to transformers' T5 with its weights.

    The function also returns the twin's parameters under our names.
    """
    transformers = pytest.importorskip("transformers")

    def build(model, size: T5Size, dropout: float = 0.0):
        config = transformers.T5Config(
            vocab_size=model.table.num_embeddings,
            d_model=size.hidden_size,
            d_ff=size.inner_size,
            d_kv=size.head_size,
            num_layers=size.n_layers,
            num_decoder_layers=size.n_layers,
            num_heads=size.n_heads,
            dropout_rate=dropout,
            pad_token_id=0,
            decoder_start_token_id=0,
            eos_token_id=None,
            tie_word_embeddings=True,
        )
        twin = transformers.T5ForConditionalGeneration(config).eval()
        pairs = dict(_pairs(twin))
        own = dict(model.named_parameters())
        assert own.keys() == pairs.keys()
        with torch.no_grad():
            for name, its in pairs.items():
                for part, weight in zip(own[name].chunk(len(its)), its):
                    weight.copy_(part)
        return twin, pairs

    return build


def _pairs(twin):
    yield "table.weight", [twin.shared.weight]
    for side in ("encoder", "decoder"):
        stack = getattr(twin, side)
        yield f"t5.{side}_norm.weight", [stack.final_layer_norm.weight]
        yield (
            f"t5.{side}_positions.weight",
            [stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight],
        )
        for index, block in enumerate(stack.block):
            name = f"t5.{side}.{index}"
            blocks = {"self": (block.layer[0], block.layer[0].SelfAttention)}
            if side == "decoder":
                blocks["cross"] = (block.layer[1], block.layer[1].EncDecAttention)
            for kind, (layer, attention) in blocks.items():
                yield f"{name}.{kind}_norm.weight", [layer.layer_norm.weight]
                yield f"{name}.{kind}_attention.query.weight", [attention.q.weight]
                yield (
                    f"{name}.{kind}_attention.key_value.weight",
                    [attention.k.weight, attention.v.weight],
                )
                yield f"{name}.{kind}_attention.output.weight", [attention.o.weight]
            yield f"{name}.feed_norm.weight", [block.layer[-1].layer_norm.weight]
            yield f"{name}.widen.weight", [block.layer[-1].DenseReluDense.wi.weight]
            yield f"{name}.narrow.weight", [block.layer[-1].DenseReluDense.wo.weight]
