"""Distillation into the tokenizer from the target item's own soft codes."""

from __future__ import annotations

import pytest
import torch

# Repeated items within and between rows, a repeated target, and padding.
HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7]]
TARGETS = [4, 5, 8, 5]


@pytest.fixture
def make_model(make_experiment):
    """UniGRec with named items, in training mode, when it distills."""

    def make(**settings):
        settings = {"tokenizer_distillation_target": "item", **settings}
        model = make_experiment("UniGRec", **settings).name_items().train()
        model.distills = True
        return model

    return make


def test_equals_its_formula(make_model, make_batch):
    model = make_model(tokenizer_distillation_weight=0.6)
    losses, terms = model.joint_losses(make_batch(HISTORIES, TARGETS)), []
    for history, target in zip(HISTORIES, TARGETS):
        memory, _ = model.encode_history(make_batch([history], [target]))
        state = model.history_adapter(memory[0].mean(0, keepdim=True))
        latent = model.tokenizer.encoder(model.item_features[[target]])
        p, q = (model.tokenizer.quantize(each, 0.1).probabilities for each in (state, latent))
        terms.append((p * (p / q).log() + q * (q / p).log()).sum(-1).mean().item())
    found = losses["tokenizer_distillation"].item()
    assert found == pytest.approx(0.6 * sum(terms) / 4, rel=1e-4)
    assert not hasattr(model, "teacher_adapter")


def test_one_distribution_for_all_items_does_not_meet_it(make_model, make_batch):
    """Adapters with a constant output meet the teacher's form without any knowledge of items."""
    batch, found = make_batch(HISTORIES, TARGETS), {}
    for target in ("teacher", "item"):
        model = make_model(tokenizer_distillation_target=target)
        for name, weight in model.named_parameters():
            if name.startswith(("history_adapter", "teacher_adapter")):
                weight.data.zero_()
        found[target] = model.joint_losses(batch)["tokenizer_distillation"].item()
    assert found["teacher"] == 0
    assert found["item"] > 1e-4


def test_trains_both_sides(make_model, make_batch):
    model = make_model()
    model.joint_losses(make_batch(HISTORIES, TARGETS))["tokenizer_distillation"].backward()
    moved = {
        name
        for name, weight in model.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    reached = {"tokenizer.encoder", "tokenizer.codebooks", "token_table", "seq2seq.encoder"}
    for part in (*reached, "history_adapter"):
        assert any(name.startswith(part) for name in moved), part
    for part in ("tokenizer.decoder", "seq2seq.decoder", "decoder_adapter"):
        assert not any(name.startswith(part) for name in moved), part


def test_reconstruction_and_the_targets_codes_do_not_see_autocast(make_model, make_batch):
    """Only the history's vector may have a lower precision."""
    model, batch, seen = make_model(), make_batch(HISTORIES, TARGETS), []
    distributions = model.tokenizer.distributions
    model.tokenizer.distributions = lambda *given: seen.append(distributions(*given)) or seen[-1]
    plain = model.joint_losses(batch)["reconstruction"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = model.joint_losses(batch)["reconstruction"]
    assert torch.equal(plain, lower)
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[2])
