"""The yardstick of training and decoding: transformers' T5 with the weights of our model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from recbole_genrec.model.tiger import TIGER
from recbole_genrec.seq2seq.t5 import T5Size


def t5_size(model: TIGER) -> T5Size:
    """Return the sizes of the model's T5."""
    return T5Size(**{name: model.config[name] for name in T5Size.__dataclass_fields__})


def make_twin(model: TIGER) -> nn.Module:
    """Return transformers' T5 of the same sizes, dropout and weights, without an end token.

    Raises:
        ValueError: our T5 has weights that the other lacks.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    size = t5_size(model)
    config = T5Config(
        vocab_size=model.token_table.num_embeddings,
        d_model=size.hidden_size,
        d_ff=size.inner_size,
        d_kv=size.head_size,
        num_layers=size.n_layers,
        num_decoder_layers=size.n_layers,
        num_heads=size.n_heads,
        dropout_rate=size.hidden_dropout_prob,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=None,
        tie_word_embeddings=True,
    )
    twin = T5ForConditionalGeneration(config)
    copy_weights(model, twin)
    return twin.to(model.token_table.weight.device)


@torch.no_grad()
def copy_weights(model: TIGER, twin: nn.Module) -> None:
    """Copy the model's weights into the twin; raises as make_twin."""
    own = {
        name: weight
        for name, weight in model.named_parameters()
        if name.split(".")[0] in ("token_table", "seq2seq")
    }
    pairs = dict(matching_weights(twin))
    if own.keys() != pairs.keys():
        raise ValueError(
            f"the T5s do not have the same weights ({sorted(own.keys() ^ pairs.keys())}): "
            "update matching_weights"
        )
    for name, weights in pairs.items():
        for weight, part in zip(weights, own[name].chunk(len(weights))):
            weight.copy_(part)


def matching_weights(twin: nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the name of each of our weights and the twin's weights that it stacks."""
    yield "token_table.weight", [twin.shared.weight]
    for side in ("encoder", "decoder"):
        stack = getattr(twin, side)
        yield f"seq2seq.{side}_norm.weight", [stack.final_layer_norm.weight]
        yield (
            f"seq2seq.{side}_positions.weight",
            [stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight],
        )
        for index, block in enumerate(stack.block):
            name = f"seq2seq.{side}.{index}"
            yield from _matching_attention(
                f"{name}.self", block.layer[0].layer_norm, block.layer[0].SelfAttention
            )
            if side == "decoder":
                yield from _matching_attention(
                    f"{name}.cross", block.layer[1].layer_norm, block.layer[1].EncDecAttention
                )
            yield f"{name}.feed_norm.weight", [block.layer[-1].layer_norm.weight]
            yield f"{name}.widen.weight", [block.layer[-1].DenseReluDense.wi.weight]
            yield f"{name}.narrow.weight", [block.layer[-1].DenseReluDense.wo.weight]


def _matching_attention(
    name: str, norm: nn.Module, attention: nn.Module
) -> Iterator[tuple[str, list[Tensor]]]:
    yield f"{name}_norm.weight", [norm.weight]
    yield f"{name}_attention.query.weight", [attention.q.weight]
    yield f"{name}_attention.key_value.weight", [attention.k.weight, attention.v.weight]
    yield f"{name}_attention.output.weight", [attention.o.weight]


class PrefixTree:
    """The catalogue's trie for generate's prefix_allowed_tokens_fn: prefix -> next tokens.

    Args:
        item_tokens: LongTensor [n_items, n_levels]; row 0 is padding.
    """

    def __init__(self, item_tokens: Tensor) -> None:
        following: dict[tuple[int, ...], set[int]] = {}
        self.item_of: dict[tuple[int, ...], int] = {}
        for item, tokens in enumerate(map(tuple, item_tokens.tolist())):
            if item:
                self.item_of[tokens] = item
                for level, token in enumerate(tokens):
                    following.setdefault(tokens[:level], set()).add(token)
        self.following = {prefix: sorted(tokens) for prefix, tokens in following.items()}

    def allowed(self, row: int, tokens: Tensor) -> list[int]:
        """Return the next tokens of a beam; its first token starts the decoder."""
        return self.following[tuple(tokens.tolist()[1:])]


def generate(
    twin: nn.Module, tree: PrefixTree, source: Tensor, mask: Tensor, n_beams: int, n_levels: int
) -> tuple[Tensor, Tensor]:
    """Return the best items of histories by transformers' beam search on the trie.

    Args:
        twin: transformers' T5.
        tree: the catalogue.
        source: LongTensor [B, S], tokens.
        mask: LongTensor [B, S], 1 for a real token.
        n_beams: number of beams.
        n_levels: number of tokens of an item.

    Returns:
        item ids [B, n_beams] and log-probabilities [B, n_beams], best first.
    """
    found = twin.generate(
        input_ids=source,
        attention_mask=mask,
        num_beams=n_beams,
        num_return_sequences=n_beams,
        max_new_tokens=n_levels,
        do_sample=False,
        length_penalty=0.0,
        prefix_allowed_tokens_fn=tree.allowed,
        return_dict_in_generate=True,
        output_scores=True,
    )
    items = [tree.item_of[tuple(tokens)] for tokens in found.sequences[:, 1:].tolist()]
    return torch.tensor(items).view(-1, n_beams), found.sequences_scores.cpu().view(-1, n_beams)


def pad_histories(item_tokens: Tensor) -> Callable[[list[Tensor]], tuple[Tensor, Tensor]]:
    """Return a function from histories (item ids) to padded tokens [B, S] and mask [B, S]."""

    def pad(histories: list[Tensor]) -> tuple[Tensor, Tensor]:
        tokens = [item_tokens[history].flatten() for history in histories]
        source = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return source, (source != 0).long()

    return pad
