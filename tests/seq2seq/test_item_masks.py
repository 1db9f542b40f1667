from __future__ import annotations

import pytest
import torch

from recbole_genrec.seq2seq.item_masks import before_targets, item_causal, item_positions
from recbole_genrec.seq2seq.t5 import N_BUCKETS, T5, relative_buckets

CPU = torch.device("cpu")
N_CONTEXT, N_ITEMS, PER_ITEM = 2, 5, 3
N_TOKENS = N_CONTEXT + N_ITEMS * PER_ITEM


@pytest.fixture
def positions():
    return item_positions(N_TOKENS, N_ITEMS, PER_ITEM, CPU)


@pytest.fixture
def t5(make_model):
    return make_model(n_layers=2, hidden_size=16, inner_size=24, n_heads=2, head_size=8).t5


def source(n_rows: int = 3, n_tokens: int = N_TOKENS) -> torch.Tensor:
    return torch.randn(n_rows, n_tokens, 16, generator=torch.Generator().manual_seed(0))


def test_positions():
    assert item_positions(7, 3, 2, CPU).tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert item_positions(6, 3, 2, CPU).tolist() == [1, 1, 2, 2, 3, 3]
    assert item_positions(6, 1, 4, CPU).tolist() == [0, 0, 1, 1, 1, 1]


def test_an_item_sees_itself_earlier_items_and_the_context():
    seen = item_causal(item_positions(5, 2, 2, CPU)).int().tolist()
    assert seen == [
        [[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    ]


def test_a_target_sees_the_items_before_it_and_the_context():
    """Decode after two and three items in the first row, and after two of two in the second."""
    seen = before_targets(
        item_positions(4, 3, 1, CPU),
        torch.tensor([3, 2]),
        torch.tensor([[8, 9], [7, 0]]),
        n_levels=2,
    )
    assert seen.shape == (2, 4, 4)
    assert seen[0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert seen[1, :2].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]


def token_by_token(t5: T5, embeddings: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """Encode one history [S, D] query by query, each with a list of the tokens it sees."""
    table, states, n_tokens = t5.encoder_positions.weight, embeddings, len(positions)
    buckets = relative_buckets(n_tokens, n_tokens, True, CPU)
    assert table.shape[0] == N_BUCKETS
    for layer in t5.encoder:
        attention, normed, rows = layer.self_attention, layer.self_norm(states), []
        key, value = (part[0] for part in attention.project(normed.unsqueeze(0)))
        for token, position in enumerate(positions):
            keys = [other for other in range(n_tokens) if positions[other] <= position]
            heads = []
            for head in range(attention.n_heads):
                query = attention.query(normed[token]).view(attention.n_heads, -1)[head]
                scores = torch.stack(
                    [
                        query @ key[head, other] + table[buckets[token, other], head]
                        for other in keys
                    ]
                )
                heads.append(scores.softmax(0) @ value[head, keys])
            rows.append(attention.output(torch.cat(heads)))
        states = layer.feed(states + torch.stack(rows))
    return t5.encoder_norm(states)


@torch.no_grad()
def test_the_encoder_attends_to_what_the_mask_shows(t5, positions):
    embeddings = source()
    memory = t5.encode(embeddings, item_causal(positions))
    expected = torch.stack([token_by_token(t5, row, positions.tolist()) for row in embeddings])
    torch.testing.assert_close(memory, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_states_of_a_history_equal_the_states_of_the_sequence(t5, positions):
    """Change later tokens and compare with shorter histories and a bidirectional encoder."""
    embeddings = source()
    memory = t5.encode(embeddings, item_causal(positions))
    for n_items in range(1, N_ITEMS):
        n_tokens = N_CONTEXT + n_items * PER_ITEM
        alone = t5.encode(embeddings[:, :n_tokens], item_causal(positions[:n_tokens]))
        torch.testing.assert_close(memory[:, :n_tokens], alone, atol=1e-5, rtol=1e-5)
        changed = embeddings.clone()
        changed[:, n_tokens:] = 7.0
        later = t5.encode(changed, item_causal(positions))
        torch.testing.assert_close(memory[:, :n_tokens], later[:, :n_tokens], atol=1e-6, rtol=1e-6)
        assert (memory[:, n_tokens:] - later[:, n_tokens:]).abs().amin(0).max() > 1e-2
    whole = t5.encode(embeddings, torch.ones(embeddings.shape[:2], dtype=torch.bool))
    assert (whole - memory)[:, 0].abs().max() > 1e-2


def test_targets_side_by_side_equal_one_at_a_time(t5, positions):
    """Compare hidden states and gradients of 5 next items, 2 after 4 items, and 1 after 1."""
    n_levels, lengths, item_ids = (
        4,
        torch.tensor([5, 4, 1]),
        torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]),
    )
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(3, 5, n_levels, 16, generator=generator)
    weights = (
        torch.randn(3, 5, n_levels, 16, generator=generator) * (item_ids > 0)[:, :, None, None]
    )

    def gradients(hidden: torch.Tensor) -> list[torch.Tensor]:
        t5.zero_grad()
        (hidden * weights).sum().backward()
        return [parameter.grad.clone() for parameter in t5.parameters()]

    memory = t5.encode(source(), item_causal(positions))
    together = t5.decode(
        inputs.flatten(0, 1), memory, before_targets(positions, lengths, item_ids, n_levels)
    ).view_as(inputs)
    alone = torch.zeros_like(inputs)
    for row, (length, targets) in enumerate(zip(lengths.tolist(), item_ids.tolist())):
        for number in range(sum(targets)):
            n_tokens = N_CONTEXT + PER_ITEM * (length - sum(targets) + 1 + number)
            states = t5.encode(
                source()[row : row + 1, :n_tokens], item_causal(positions[:n_tokens])
            )
            alone[row, number] = t5.decode(
                inputs[row, number : number + 1], states, torch.ones(1, n_tokens, dtype=torch.bool)
            )[0]
    torch.testing.assert_close(together[item_ids > 0], alone[item_ids > 0], atol=1e-5, rtol=1e-5)
    for mine, expected in zip(gradients(together), gradients(alone)):
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
