from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_genrec.model.unger.transformer import Transformer, TransformerSize

SIZES = dict(
    hidden_size=12, inner_size=20, n_encoder_layers=1, n_decoder_layers=2, n_heads=3, head_size=4
)
SIZES.update(
    hidden_dropout_prob=0.0, attn_dropout_prob=0.0, n_source_positions=6, n_target_positions=5
)


@pytest.fixture
def transformer() -> Transformer:
    """With weights of a size at which every part matters."""
    torch.manual_seed(0)
    module = Transformer(TransformerSize(**SIZES)).eval()
    for name, weight in module.named_parameters():
        nn.init.normal_(weight, 1.0 if "norm.weight" in name else 0.0, 0.4)
    return module


def copied_attention(ours, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key_value.weight)))
    theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key_value.bias)))
    theirs.out_proj.load_state_dict(ours.output.state_dict())


@torch.no_grad()
def twin(ours, crosses: bool) -> nn.Module:
    """torch's layer with our weights; both have their norms after the blocks."""
    kind = nn.TransformerDecoderLayer if crosses else nn.TransformerEncoderLayer
    layer = kind(
        12,
        3,
        dim_feedforward=20,
        dropout=0.0,
        activation="relu",
        batch_first=True,
        norm_first=False,
    )
    copied_attention(ours.self_attention, layer.self_attn)
    layer.linear1.load_state_dict(ours.widen.state_dict())
    layer.linear2.load_state_dict(ours.narrow.state_dict())
    norms = (
        [ours.self_norm, ours.cross_norm, ours.feed_norm]
        if crosses
        else [ours.self_norm, ours.feed_norm]
    )
    for number, norm in enumerate(norms, start=1):
        getattr(layer, f"norm{number}").load_state_dict(norm.state_dict())
    if crosses:
        copied_attention(ours.cross_attention, layer.multihead_attn)
    return layer


def test_equals_torchs_post_norm_layers(transformer):
    source, target, mask = (
        torch.randn(2, 5, 12),
        torch.randn(2, 4, 12),
        torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool(),
    )
    recency = torch.tensor([[4, 3, 2, 1, 0], [2, 1, 0, 0, 0]])
    states = transformer.encoder_norm(source + transformer.encoder_positions(recency))
    memory = twin(transformer.encoder[0], False)(states, src_key_padding_mask=~mask)
    ours = transformer.encode(source, mask)
    torch.testing.assert_close(ours[mask], memory[mask], atol=1e-5, rtol=1e-4)
    states, future = (
        transformer.decoder_norm(target + transformer.decoder_positions(torch.arange(4))),
        torch.ones(4, 4).triu(1).bool(),
    )
    for layer in transformer.decoder:
        states = twin(layer, True)(states, ours, tgt_mask=future, memory_key_padding_mask=~mask)
    torch.testing.assert_close(transformer.decode(target, ours, mask), states, atol=1e-5, rtol=1e-4)


def test_positions_count_from_the_newest_token(transformer):
    """Neither a longer history nor more padding moves the newest token."""
    with torch.no_grad():
        for layer in transformer.encoder:
            layer.self_attention.output.weight.zero_()  # each token sees only itself
    token = torch.randn(1, 1, 12)
    short = transformer.encode(token.expand(1, 4, 12), torch.tensor([[1, 1, 0, 0]]).bool())
    long = transformer.encode(token.expand(1, 6, 12), torch.ones(1, 6).bool())
    torch.testing.assert_close(short[0, :2], long[0, 4:])
    assert (long[0, 0] - long[0, 5]).abs().max() > 0.01


def test_padding_is_invisible(transformer):
    source, target = torch.randn(1, 3, 12), torch.randn(1, 4, 12)
    wide, mask = (
        torch.cat((source, 9 * torch.randn(1, 3, 12)), dim=1),
        torch.tensor([[1, 1, 1, 0, 0, 0]]).bool(),
    )
    memory, wide_memory = transformer.encode(source, mask[:, :3]), transformer.encode(wide, mask)
    torch.testing.assert_close(wide_memory[:, :3], memory)
    torch.testing.assert_close(
        transformer.decode(target, wide_memory, mask),
        transformer.decode(target, memory, mask[:, :3]),
    )


def test_states_do_not_see_later_targets(transformer):
    memory, mask, target = torch.randn(1, 3, 12), torch.ones(1, 3).bool(), torch.randn(1, 5, 12)
    before = transformer.decode(target, memory, mask)
    for position in range(5):
        other = target.clone()
        other[:, position] = torch.randn(12)
        after = transformer.decode(other, memory, mask)
        torch.testing.assert_close(after[:, :position], before[:, :position])
        assert ((after - before)[0, position:].abs().amax(1) > 1e-3).all(), (
            "all states from here on do"
        )


def test_steps_of_beams_equal_teacher_forcing(transformer):
    """Three beams of a history continue the first, the third and the first of its beams."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    memory = transformer.encode(torch.randn(2, 4, 12), mask)
    first, second, third = torch.randn(2, 1, 12), torch.randn(2, 3, 12), torch.randn(2, 3, 12)
    cache = transformer.start_cache(memory, mask)
    states = [transformer.step(first, cache)]
    cache.follow(torch.zeros(2, 3, dtype=torch.long))
    states.append(transformer.step(second, cache))
    parents = [0, 2, 0]
    cache.follow(torch.tensor([parents, parents]))
    states.append(transformer.step(third, cache))
    for beam, parent in enumerate(parents):
        path = torch.stack((first[:, 0], second[:, parent], third[:, beam]), dim=1)
        expected = transformer.decode(path, memory, mask)
        torch.testing.assert_close(states[0][:, 0], expected[:, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[1][:, parent], expected[:, 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[2][:, beam], expected[:, 2], atol=1e-5, rtol=1e-4)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module = Transformer(
        TransformerSize(**{**SIZES, "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5})
    )
    source, mask = torch.randn(1, 4, 12), torch.ones(1, 4).bool()
    assert not torch.equal(module.encode(source, mask), module.encode(source, mask))
    module.eval()
    assert torch.equal(module.encode(source, mask), module.encode(source, mask))


def test_numbers_of_parameters():
    """Of one layer at the paper's width with 1024 in the middle."""
    sizes = {**SIZES, "hidden_size": 96, "inner_size": 1024, "n_heads": 6, "head_size": 16}
    module = Transformer(TransformerSize(**sizes))
    count = lambda part: sum(weight.numel() for weight in part.parameters())  # noqa: E731
    assert (count(module.encoder[0]), count(module.decoder[0])) == (235_360, 272_800)
