from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.seq2seq.dropout import Dropout
from recbole_genrec.seq2seq.t5 import T5, T5Size, mean_state, relative_buckets

SMALL = T5Size(32, 48, 2, 2, 16, 0.0, 0.0)
UNEVEN = T5Size(24, 40, 3, 3, 20, 0.0, 0.0)  # n_heads * head_size differs from hidden_size


def padded_batch(n_rows=5, longest=19, n_tokens=40, target_length=4, seed=0):
    """Return right-padded source tokens of lengths longest, ..., 1 and full targets."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(1, n_tokens, (n_rows, longest), generator=generator)
    lengths = torch.linspace(longest, 1, n_rows).long().unsqueeze(1)
    target = torch.randint(1, n_tokens, (n_rows, target_length), generator=generator)
    return source.masked_fill(torch.arange(longest) >= lengths, 0), target


def sizes_of(size: T5Size) -> dict:
    return dataclasses.asdict(size)


@pytest.mark.parametrize("size", [SMALL, UNEVEN])
@pytest.mark.parametrize("longest", [3, 19, 200])
def test_logits_and_loss_equal_transformers(make_model, transformers_twin, size, longest):
    model = make_model(**sizes_of(size))
    twin, _ = transformers_twin(model, size)
    source, target = padded_batch(longest=longest)
    with torch.no_grad():
        expected = twin(input_ids=source, attention_mask=(source != 0).long(), labels=target)
        logits = model(source, target)
        states = model.encode(source)
    assert expected.logits.std() > 0.1
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        F.cross_entropy(logits.flatten(0, 1), target.flatten()), expected.loss, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        states[source != 0], expected.encoder_last_hidden_state[source != 0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("size", [SMALL, UNEVEN])
def test_gradients_equal_transformers(make_model, transformers_twin, size):
    model = make_model(**sizes_of(size))
    twin, pairs = transformers_twin(model, size)
    source, target = padded_batch()
    F.cross_entropy(model(source, target).flatten(0, 1), target.flatten()).backward()
    twin(input_ids=source, attention_mask=(source != 0).long(), labels=target).loss.backward()
    for name, weight in model.named_parameters():
        expected = torch.cat([its.grad for its in pairs[name]])
        assert expected.abs().max() > 1e-5, name
        torch.testing.assert_close(
            weight.grad,
            expected,
            atol=1e-5,
            rtol=1e-4,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_dropout_falls_where_transformers_has_it(make_model, transformers_twin, monkeypatch):
    """Draw our masks as torch does; then both models draw them in the same order."""
    monkeypatch.setattr(
        Dropout, "forward", lambda layer, states: F.dropout(states, layer.rate, layer.training)
    )
    size = dataclasses.replace(SMALL, hidden_dropout_prob=0.3, attn_dropout_prob=0.3)
    model = make_model(**sizes_of(size)).train()
    twin, _ = transformers_twin(model, size, dropout=0.3)
    source, target = padded_batch()
    torch.manual_seed(1)
    expected = twin.train()(
        input_ids=source, attention_mask=(source != 0).long(), labels=target
    ).logits
    torch.manual_seed(1)
    torch.testing.assert_close(model(source, target), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [T5Size(128, 1024, 4, 6, 64, 0.1, 0.1)])
def test_number_of_parameters_per_stack(size):
    t5 = T5(size)
    counts = {"encoder": 0, "decoder": 0}
    for name, weight in t5.named_parameters():
        counts[name.split(".")[0].split("_")[0]] += weight.numel()
    assert counts == {"encoder": 1_836_352, "decoder": 2_623_296}
    assert sum(weight.numel() for weight in t5.parameters()) == 4_459_648


def test_number_of_parameters_with_a_table_of_870_tokens():
    t5 = T5(T5Size(128, 512, 6, 4, 64, 0.1, 0.1))
    assert sum(weight.numel() for weight in t5.parameters()) + 870 * 128 == 4_047_872


def test_number_of_parameters_with_hidden_size_384():
    assert (
        sum(weight.numel() for weight in T5(T5Size(384, 1024, 4, 6, 64, 0.1, 0.1)).parameters())
        == 13_378_176
    )


def test_initial_standard_deviations():
    torch.manual_seed(0)
    size = T5Size(64, 400, 2, 4, 25, 0.1, 0.1)
    expected = {
        "query": (64 * 25) ** -0.5,
        "key_value": 64**-0.5,
        "output": 100**-0.5,
        "widen": 64**-0.5,
        "narrow": 400**-0.5,
        "encoder_positions": 64**-0.5,
        "decoder_positions": 64**-0.5,
    }
    for name, weight in T5(size).named_parameters():
        kind = name.split(".")[-2]
        if "norm" in kind:
            assert (weight == 1).all(), name
        else:
            tolerance = 0.25 if "positions" in kind else 0.05
            assert weight.std().item() == pytest.approx(expected[kind], rel=tolerance), name


def test_buckets_of_the_past():
    buckets = relative_buckets(201, 201, True, torch.device("cpu"))
    known = {
        0: 0,
        7: 7,
        8: 8,
        12: 9,
        16: 10,
        20: 10,
        32: 12,
        48: 13,
        64: 14,
        80: 14,
        100: 15,
        127: 15,
        200: 15,
    }
    assert {distance: buckets[200, 200 - distance].item() for distance in known} == known
    future = {distance: buckets[0, distance].item() for distance in known if distance}
    assert future == {distance: 16 + bucket for distance, bucket in known.items() if distance}


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("n_queries", "n_keys"), [(1, 1), (1, 5), (4, 4), (3, 50), (300, 300), (1, 400)]
)
def test_buckets_equal_transformers(bidirectional, n_queries, n_keys):
    attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    memory = torch.arange(n_keys)[None, :]
    context = torch.arange(n_keys - n_queries, n_keys)[:, None]
    expected = attention._relative_position_bucket(
        memory - context, bidirectional=bidirectional, num_buckets=32, max_distance=128
    )
    buckets = relative_buckets(n_queries, n_keys, bidirectional, torch.device("cpu"))
    assert buckets.dtype == torch.int64
    assert torch.equal(buckets, expected)


def pad(rows: list[list[int]], width: int, left: bool) -> torch.Tensor:
    padded = [
        [0] * (width - len(row)) + row if left else row + [0] * (width - len(row)) for row in rows
    ]
    return torch.tensor(padded)


def test_padding_is_invisible(make_model):
    model = make_model()
    rows = [[5, 6, 7, 8, 9, 10, 11, 12], [3, 2, 1, 30], [17]]
    target = torch.tensor([[4, 5, 6], [7, 8, 9], [1, 2, 3]])
    with torch.no_grad():
        expected = torch.cat(
            [model(torch.tensor([row]), target[[index]]) for index, row in enumerate(rows)]
        )
        for width in (8, 18, 150):
            for left in (False, True):
                torch.testing.assert_close(
                    model(pad(rows, width, left), target), expected, atol=1e-5, rtol=1e-5
                )


def test_the_content_of_padding_is_invisible(make_model):
    model = make_model()
    source, target = padded_batch()
    mask = source != 0
    noise = torch.randn(*source.shape, 32) * 100 * ~mask.unsqueeze(-1)
    shifted = model.table(target)
    with torch.no_grad():
        clean, noisy = model.table(source), model.table(source) + noise
        memory, noisy_memory = model.t5.encode(clean, mask), model.t5.encode(noisy, mask)
        torch.testing.assert_close(noisy_memory[mask], memory[mask], atol=1e-6, rtol=0)
        expected = model.t5.decode(shifted, memory, mask)
        torch.testing.assert_close(
            model.t5.decode(shifted, memory + noise, mask), expected, atol=1e-6, rtol=0
        )
        step = model.t5.step(shifted[:, :1], model.t5.start_cache(memory + noise, mask))
        torch.testing.assert_close(step, expected[:, :1], atol=1e-5, rtol=0)


def test_a_history_of_nothing_but_padding_is_finite(make_model):
    model = make_model()
    source = torch.tensor([[1, 2, 3], [0, 0, 0]])
    logits = model(source, torch.ones(2, 4, dtype=torch.long))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_a_position_does_not_see_later_targets(make_model):
    model = make_model()
    source, target = padded_batch()
    changed = target.clone()
    changed[:, 2:] = changed[:, 2:] % 39 + 1
    with torch.no_grad():
        assert torch.equal(model(source, target)[:, :3], model(source, changed)[:, :3])
        assert not torch.allclose(model(source, target)[:, 3], model(source, changed)[:, 3])


@pytest.mark.parametrize("size", [SMALL, UNEVEN])
@pytest.mark.parametrize("n_beams", [1, 7])
def test_steps_with_a_cache_equal_teacher_forcing(make_model, size, n_beams):
    model, length = make_model(**sizes_of(size)), 20  # beyond the exact buckets
    source, _ = padded_batch(n_rows=3, longest=12)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        memory = model.encode(source)
        cache = model.t5.start_cache(memory, source != 0)
        tokens = torch.zeros(3, 1, 1, dtype=torch.long)  # [B, W, T]
        for position in range(length):
            states = model.t5.step(model.table(tokens[..., -1]), cache)
            width = tokens.shape[1]
            expected = model.t5.decode(
                model.table(tokens.flatten(0, 1)),
                memory.repeat_interleave(width, 0),
                (source != 0).repeat_interleave(width, 0),
            )[:, -1]
            assert states.shape == (3, width, size.hidden_size)
            torch.testing.assert_close(states.flatten(0, 1), expected, atol=1e-5, rtol=1e-5)
            parents = torch.randint(width, (3, n_beams), generator=generator)
            cache.follow(parents)
            parents_tokens = tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, position + 1))
            fresh = torch.randint(1, 40, (3, n_beams, 1), generator=generator)
            tokens = torch.cat((parents_tokens, fresh), dim=2)


def test_no_dropout_in_evaluation_mode(make_model):
    source, target = padded_batch()
    with torch.no_grad():
        without = make_model()(source, target)
        model = make_model(hidden_dropout_prob=0.5, attn_dropout_prob=0.5)
        assert torch.equal(model(source, target), without)
        assert torch.equal(model(source, target), without)
        torch.testing.assert_close(make_model().train()(source, target), without, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["hidden_dropout_prob", "attn_dropout_prob"])
def test_dropout_in_training_mode(make_model, kind):
    source, target = padded_batch()
    model = make_model(**{kind: 0.5}).train()
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = model(source, target), model(source, target)
        torch.manual_seed(0)
        assert torch.equal(model(source, target), first)
    assert not torch.allclose(first, second)


def test_equal_seeds_give_equal_models(make_model):
    source, target = padded_batch()
    with torch.no_grad():
        assert torch.equal(make_model(seed=3)(source, target), make_model(seed=3)(source, target))
        assert not torch.allclose(
            make_model(seed=3)(source, target), make_model(seed=4)(source, target)
        )


def test_rows_do_not_depend_on_their_batch(make_model):
    model = make_model()
    source, target = padded_batch()
    with torch.no_grad():
        together = model(source, target)
        order = torch.tensor([3, 0, 4, 2, 1])
        torch.testing.assert_close(
            model(source[order], target[order]), together[order], atol=1e-5, rtol=0
        )


def test_mean_state_is_over_real_tokens():
    states = torch.tensor(
        [
            [[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]],
            [[5.0, 6.0], [7.0, 8.0], [9.0, 1.0]],
            [[9.0, 9.0]] * 3,
        ]
    )
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    assert mean_state(states, mask).tolist() == [[2.0, 3.0], [7.0, 5.0], [0.0, 0.0]]
