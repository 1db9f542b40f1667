"""Histories as soft identifiers, live and cached."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.trainer.optimizer import training_only

# Repeated items within and between rows, a repeated target, and padding.
HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7]]
TARGETS = [4, 5, 8, 5]


@pytest.fixture
def make_model(make_experiment):
    """UniGRec with named items, in training mode."""
    return lambda **settings: make_experiment("UniGRec", **settings).name_items().train()


def test_soft_embeddings_are_expected_tokens(make_model):
    model = make_model()
    probabilities = torch.rand(5, 3, 4).softmax(-1)
    scattered = torch.zeros(5, 3, 23)
    for level in range(3):
        scattered[:, level, 1 + 4 * level : 5 + 4 * level] = probabilities[:, level]
    torch.testing.assert_close(
        model.soft_embeddings(probabilities), scattered @ model.token_table.weight
    )
    codes = torch.randint(4, (5, 3))
    lookup = model.token_table(1 + 4 * torch.arange(3) + codes)
    assert torch.equal(model.soft_embeddings(torch.nn.functional.one_hot(codes, 4).float()), lookup)


def test_at_a_low_temperature_histories_enter_as_their_hard_tokens(make_model):
    model = make_model().eval()
    model.tokenizer.temperature.fill_(1e-7)
    model.refresh_semantic_ids()
    tokens = model.semantic_ids.tokens[torch.tensor([2, 9])][:, :3].flatten()
    torch.testing.assert_close(
        model.train().embed_history(torch.tensor([[2, 9]]))[0],
        model.token_table(tokens),
        atol=1e-4,
        rtol=0,
    )


def test_cached_item_embeddings_equal_the_training_path(make_model, make_batch):
    model, histories = make_model(), torch.tensor([[1, 2, 1], [4, 10, 9]])
    live = model.embed_history(histories)
    model.eval()
    assert model.item_embeddings is None
    with torch.no_grad():
        torch.testing.assert_close(model.embed_history(histories), live)
        assert model.item_embeddings is not None
        cached, batch = (
            model.predict(make_batch(HISTORIES, TARGETS)),
            make_batch(HISTORIES, TARGETS),
        )
        torch.testing.assert_close(model.train().predict(batch), cached)


@pytest.mark.parametrize("mode", [True, False])
def test_cached_item_embeddings_do_not_outlive_the_mode(make_model, mode):
    model, histories = make_model().eval(), torch.tensor([[1, 2]])
    with torch.no_grad():
        old = model.embed_history(histories)
        model.tokenizer.codebooks.mul_(1.5)
        model.token_table.weight.add_(0.5)
        assert model.train(mode).item_embeddings is None
        assert (model.eval().embed_history(histories) - old).abs().max() > 0.1


def test_a_frozen_tokenizer_encodes_once(make_model, make_batch):
    """Fine-tuning has the loss and gradients of a live tokenizer, from one pass over all items."""
    model, batch, rows = make_model(), make_batch(HISTORIES, TARGETS), []
    weight = model.token_table.weight

    def gradient() -> torch.Tensor:
        weight.grad = None
        sum(model.losses(batch).values()).backward()
        return weight.grad.clone()

    expected = gradient()
    model.tokenizer.encoder.register_forward_hook(
        lambda module, inputs, output: rows.append(len(output))
    )
    with training_only(model, model.stages()[2].groups):
        torch.testing.assert_close(gradient(), expected)
        torch.testing.assert_close(gradient(), expected)
        assert rows == [model.n_items]
        model.tokenizer.encoder[0].weight.mul_(-1)  # frozen, so that no gradient records it
        torch.testing.assert_close(gradient(), expected)
        model.load_state_dict(model.state_dict())
        assert (gradient() - expected).abs().max() > 1e-4
    rows.clear()
    with training_only(model, model.stages()[1].groups):
        gradient()
    assert len(rows) == 1 and rows[0] < model.n_items
