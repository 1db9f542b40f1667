"""All next items of a sequence in one pass, against one prefix at a time."""

from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_genrec.errors import UserError
from recbole_genrec.seq2seq.item_masks import item_causal

# Windows as the model reads them: a history, and how many of its next items count.
SEQUENCES = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 1, 1, 2], [3, 4, 3]]
N_TARGETS = [4, 1, 2, 2]
USERS = [1, 2, 3, 4]
VARIANTS = [
    ("TIGER", {}),
    ("TIGER", {"softmax_scope": "full", "n_layers": 2}),
    ("TIGER", {"n_user_tokens": 7, "separator_token": True}),
    ("LETTER", {"generation_temperature": 0.7, "tokenizer": "random"}),
]


@pytest.fixture
def make(make_experiment):
    """make(model, settings): a model in this mode with named items and weights far from a start."""

    def make(name: str, settings: dict):
        model = make_experiment(name, train_mode="all_positions", **settings).name_items()
        generator = torch.Generator().manual_seed(0)
        for parameter in model.seq2seq.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


def sequence_batch(sequences=SEQUENCES, n_targets=N_TARGETS, more: int = 0) -> Interaction:
    """Make a batch as SequenceBatches does; `more` pads histories and next items."""
    histories = [items[:-1] for items in sequences]
    targets = [items[len(items) - count :] for items, count in zip(sequences, n_targets)]

    def padded(rows):
        width = max(map(len, rows)) + more
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])

    lengths = torch.tensor([len(history) for history in histories])
    users = torch.tensor(USERS[: len(sequences)])
    return Interaction(
        {
            "user_id": users,
            "item_id_list": padded(histories),
            "item_length": lengths,
            "item_id": padded(targets),
        }
    )


def prefixes() -> list[tuple[int, list[int], int]]:
    """(user, history, next item) of every target, in order."""
    rows = []
    for user, items, count in zip(USERS, SEQUENCES, N_TARGETS):
        rows += [(user, items[:end], items[end]) for end in range(len(items) - count, len(items))]
    return rows


def one_at_a_time(model, make_batch) -> torch.Tensor:
    """Return log-probabilities [N, L] of every target after its own unpadded history."""
    rows = []
    for user, history, item in prefixes():
        batch = make_batch([history], [item], user_ids=[user])
        memory, mask = model.encode_history(batch)
        assert mask.all()
        hidden = model.decode_targets(batch["item_id"], memory, mask)
        rows.append(model.target_log_probs(hidden, batch["item_id"]))
    return torch.cat(rows)


def side_by_side(model, batch, monkeypatch) -> torch.Tensor:
    """The same from one pass, as the loss sees them."""
    seen, original = [], model.target_log_probs
    with monkeypatch.context() as patch:
        patch.setattr(
            model, "target_log_probs", lambda *given: (seen.append(original(*given)), seen[-1])[1]
        )
        model.all_positions_loss(batch)
    return seen[0][(batch["item_id"] > 0).flatten()]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_losses_and_gradients_equal_those_of_one_prefix_at_a_time(
    make, make_batch, monkeypatch, name, settings
):
    model = make(name, settings).train()
    expected = one_at_a_time(model, make_batch)
    assert expected.shape == (9, model.semantic_ids.n_levels)
    assert expected.std() > 0.3
    torch.testing.assert_close(
        side_by_side(model, sequence_batch(), monkeypatch), expected, atol=1e-5, rtol=1e-5
    )
    gradients = []
    losses = model.losses(sequence_batch())
    assert list(losses) == ["generation"]
    torch.testing.assert_close(losses["generation"], -expected.mean(), atol=1e-5, rtol=0)
    for loss in (losses["generation"], -expected.mean()):
        model.zero_grad()
        loss.backward()
        gradients.append(
            {
                key: weight.grad
                for key, weight in model.named_parameters()
                if weight.grad is not None
            }
        )
    assert (
        gradients[0].keys()
        == gradients[1].keys()
        == {key for key, _ in model.named_parameters() if not key.startswith("tokenizer")}
    )
    for key, gradient in gradients[1].items():
        assert gradient.abs().max() > 1e-5, key
        torch.testing.assert_close(
            gradients[0][key],
            gradient,
            atol=1e-5,
            rtol=1e-4,
            msg=lambda text, key=key: f"{key}: {text}",
        )


@pytest.mark.parametrize(("name", "settings"), VARIANTS[1:3])
def test_a_later_item_changes_nothing_before_it(make, monkeypatch, name, settings):
    model = make(name, settings)
    before = side_by_side(model, sequence_batch(n_targets=[4, 1, 5, 2]), monkeypatch)
    changed = [list(items) for items in SEQUENCES]
    changed[2][3] = 6
    after = side_by_side(model, sequence_batch(changed, [4, 1, 5, 2]), monkeypatch)
    same = (before - after).abs().amax(1) < 1e-6
    # The third sequence's targets are rows 5 .. 9; the changed item is the third of them.
    assert same.tolist() == [True] * 7 + [False] * 3 + [True] * 2


def test_padding_is_invisible(make, monkeypatch):
    model = make("TIGER", {"n_user_tokens": 7, "separator_token": True})
    narrow = side_by_side(model, sequence_batch(), monkeypatch)
    torch.testing.assert_close(
        side_by_side(model, sequence_batch(more=3), monkeypatch), narrow, atol=1e-5, rtol=1e-5
    )
    alone = []
    for row in range(4):
        batch = sequence_batch([SEQUENCES[row]], [N_TARGETS[row]])
        batch.interaction["user_id"] = torch.tensor([USERS[row]])
        alone.append(side_by_side(model, batch, monkeypatch))
    torch.testing.assert_close(torch.cat(alone), narrow, atol=1e-5, rtol=1e-5)
    for more in (0, 3):
        assert model.calculate_loss(sequence_batch(more=more)).item() == pytest.approx(
            -narrow.mean().item(), abs=1e-5
        )


def test_the_ranking_has_the_memory_of_the_training(make, make_experiment, make_batch):
    """A prefix has its states of the longer history; an encoder that sees all has others."""
    settings = {"n_user_tokens": 7, "n_beams": 10}
    model = make("TIGER", settings)
    long, short = (
        make_batch([[1, 2, 3, 4], [5, 6, 7, 8]], [9, 9]),
        make_batch([[1, 2], [5, 6]], [9, 9]),
    )
    whole = make_experiment("TIGER", **settings).name_items()
    for each, is_same in ((model, True), (whole, False)):
        memory, mask = each.encode_history(short)
        assert mask.shape == (2, 9) and mask.all()
        later = each.encode_history(long)[0][:, :9]
        assert torch.allclose(memory, later, atol=1e-5) == is_same
    embeddings, mask, positions = model.encoder_input(long)
    assert positions.tolist() == [0, *[1] * 4, *[2] * 4, *[3] * 4, *[4] * 4]
    expected = model.seq2seq.encode(embeddings, item_causal(positions))
    torch.testing.assert_close(model.encode_history(long)[0], expected, atol=1e-6, rtol=1e-6)
    beams = model.search(long)
    exact = torch.stack(
        [
            model.predict(make_batch([[1, 2, 3, 4], [5, 6, 7, 8]], [item] * 2))
            for item in range(1, 11)
        ],
        dim=1,
    )
    torch.testing.assert_close(
        beams.log_probs, exact.sort(dim=1, descending=True).values, atol=1e-5, rtol=1e-5
    )


def test_histories_enter_as_they_do_with_prefixes(make_experiment, make_batch):
    """The mode changes who sees whom, not what is looked at."""
    inputs = [
        make_experiment("TIGER", train_mode=mode, separator_token=True)
        .name_items()
        .encoder_input(make_batch([[1, 2], [3]], [4, 4]))
        for mode in ("prefixes", "all_positions")
    ]
    assert torch.equal(inputs[0].mask, inputs[1].mask) and torch.equal(
        inputs[0].embeddings, inputs[1].embeddings
    )
    assert inputs[0].positions.tolist() == [1] * 5 + [2] * 5


@pytest.mark.parametrize("name", ["UniGRec", "ETEGRec", "UNGER"])
def test_models_that_need_a_row_per_next_item_refuse(make_experiment, name):
    with pytest.raises(
        UserError,
        match=f"train_mode is 'all_positions', but the losses of {name} need a row per next item",
    ):
        make_experiment(name, train_mode="all_positions")
    assert make_experiment(name).config["train_mode"] == "prefixes"


def test_an_unknown_mode_is_refused(make_experiment):
    with pytest.raises(
        UserError,
        match="train_mode is 'all', but has to be one of prefixes, all_positions: choose one",
    ):
        make_experiment("TIGER", train_mode="all")
