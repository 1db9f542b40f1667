"""UniGRec's distillation and reconstruction as the released code has them, switch by switch, and the anchored distillation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.model.unigrec.unigrec import padded_state
from recbole_genrec.trainer.optimizer import StageOptimizer

# Repeated items within and between rows, a repeated target, and padding.
HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7]]
TARGETS = [4, 5, 8, 5]


@pytest.fixture
def make_model(make_experiment):
    """UniGRec with named items, in training mode, as after the distillation's warm-up."""

    def make(**settings):
        model = make_experiment("UniGRec", MAX_ITEM_LIST_LENGTH=6, **settings).name_items().train()
        model.distills = True
        return model

    return make


def size_of_gradients(model, loss) -> dict[str, float]:
    model.zero_grad()
    loss.backward()
    return {
        name: 0.0 if weight.grad is None else weight.grad.abs().sum().item()
        for name, weight in model.named_parameters()
    }


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Both ways, averaged over rows and levels."""
    return (p * (p / q).log() + q * (q / p).log()).sum(-1).mean().item()


@pytest.mark.parametrize("lengths", [[3, 1, 4, 2], [4, 4, 4], [4, 2], [1, 1, 1, 1, 2]])
def test_padded_pooling_is_what_indexing_by_a_negated_integer_mask_does(lengths):
    states, mask = (
        torch.randn(len(lengths), 4, 5),
        torch.arange(4) < torch.tensor(lengths).unsqueeze(1),
    )
    released, integers = states.clone(), mask.long()
    released[~integers] = 0
    torch.testing.assert_close(
        padded_state(states, mask), released.sum(1) / integers.sum(1, keepdim=True)
    )


def test_padded_pooling_takes_rows_from_each_other():
    """The second to last row is lost, the last too if there is padding, and padding counts in the others."""
    states, mask = (
        torch.ones(3, 4, 2),
        torch.tensor([[True] * 2 + [False] * 2, [True] * 4, [True] * 4]),
    )
    assert padded_state(states, mask)[:, 0].tolist() == [2.0, 0.0, 0.0]
    assert padded_state(states, torch.ones_like(mask))[:, 0].tolist() == [1.0, 0.0, 1.0]


def test_reconstruction_of_slots(make_model, make_batch):
    """Half the error of all slots of the longest possible history, zero vectors too, and half that of the targets."""
    model = make_model(reconstruction_rows="slots", reconstruction_weight=0.4)
    found = [
        model.joint_losses(make_batch(HISTORIES, TARGETS, width=width))["reconstruction"].item()
        for width in (4, 6)
    ]
    slots = torch.tensor([[*row, *[0] * (6 - len(row))] for row in HISTORIES])
    history, target = model.item_features[slots.flatten()], model.item_features[TARGETS]
    errors = [
        F.mse_loss(model.tokenizer.reconstruct(features), features).item()
        for features in (history, target)
    ]
    assert found == pytest.approx([0.4 * 0.5 * sum(errors)] * 2, rel=1e-5)


def test_only_the_first_row_of_a_target_is_distilled(make_model, make_batch):
    model, kept = make_model(repeated_targets="dropped"), make_model()
    kept.load_state_dict(model.state_dict())
    dropped, batch = (
        model.joint_losses(make_batch(HISTORIES, TARGETS)),
        make_batch(HISTORIES[:3], TARGETS[:3]),
    )
    expected, everything = (
        kept.joint_losses(batch),
        kept.joint_losses(make_batch(HISTORIES, TARGETS)),
    )
    for term in ("tokenizer_distillation", "recommender_distillation"):
        assert dropped[term].item() == pytest.approx(expected[term].item(), rel=1e-5)
        assert dropped[term].item() != pytest.approx(everything[term].item(), rel=1e-3)
    assert dropped["generation"].item() == pytest.approx(everything["generation"].item(), rel=1e-5)


@pytest.mark.parametrize("width", [4, 5])
def test_all_quirks_together_equal_the_released_formula(
    make_model, make_batch, released_unigrec, width
):
    model = make_model(**released_unigrec, tokenizer_distillation_weight=2.0)
    found = model.joint_losses(make_batch(HISTORIES, TARGETS, width=width))[
        "tokenizer_distillation"
    ].item()
    rows, n_real = [], torch.tensor([3 * len(history) for history in HISTORIES])
    for history in HISTORIES:
        probabilities = model.tokenizer.soft_codes(model.item_features[history]).probabilities
        padding = model.token_table.weight[:1].expand(18 - 3 * len(history), -1)
        rows.append(torch.cat((model.soft_embeddings(probabilities).flatten(0, 1), padding)))
    mask = torch.arange(18) < n_real.unsqueeze(1)
    states = model.seq2seq.encode(torch.stack(rows), mask).detach()
    states[2:] = 0  # rows -2 and -1
    pooled = (states.sum(1) / n_real.unsqueeze(1))[:3]
    student, teacher = (
        model.history_adapter.layers(pooled),
        model.teacher_adapter.layers(model.teacher[TARGETS[:3]]),
    )
    levels = []
    for codebook in model.tokenizer.codebooks.detach():
        distances = [
            (vectors[:, None] - codebook).square().sum(-1) for vectors in (student, teacher)
        ]
        levels.append(divergence(*(distance.softmax(-1) for distance in distances)))
        student, teacher = (
            vectors - codebook[distance.argmin(-1)]
            for vectors, distance in zip((student, teacher), distances)
        )
    assert found == pytest.approx(2 * sum(levels) / 3, rel=1e-3, abs=1e-9)
    assert found > 0


def test_drawn_adapters_stay_and_take_states_as_they_are(make_model, make_batch):
    model = make_model(adapters="drawn")
    adapters = {
        name: values.clone() for name, values in model.state_dict().items() if "_adapter" in name
    }
    weights = torch.cat(
        [values.flatten() for name, values in adapters.items() if name.endswith("weight")]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.1)
    assert all((values == 0).all() for name, values in adapters.items() if name.endswith("bias"))
    states = torch.randn(3, 16)
    torch.testing.assert_close(model.decoder_adapter(3 * states), 3 * model.decoder_adapter(states))
    stage = model.stages()[1]
    StageOptimizer(model, stage, "adamw", 1.0, 1).step(
        sum(stage.losses(make_batch(HISTORIES, TARGETS)).values()), 0
    )
    assert all(
        torch.equal(values, adapters[name])
        for name, values in model.state_dict().items()
        if name in adapters
    )
    assert len(stage.groups) == 2


def test_reconstruction_and_the_targets_codes_do_not_see_autocast(make_model, make_batch):
    """Only the history's vector may be of lower precision."""
    model, batch, seen = (
        make_model(tokenizer_distillation_target="item"),
        make_batch(HISTORIES, TARGETS),
        [],
    )
    distributions = model.tokenizer.distributions
    model.tokenizer.distributions = lambda *given: seen.append(distributions(*given)) or seen[-1]
    plain = model.joint_losses(batch)["reconstruction"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = model.joint_losses(batch)["reconstruction"]
    assert torch.equal(plain, lower)
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[2])


# --- anchored: the target item's own soft codes
# -----------------------------------------------------------------------------------------


def test_anchored_distillation_equals_its_formula(make_model, make_batch):
    model = make_model(tokenizer_distillation_target="item", tokenizer_distillation_weight=0.6)
    batch = make_batch(HISTORIES, TARGETS)
    found = model.joint_losses(batch)["tokenizer_distillation"].item()
    terms = []
    for history, target in zip(HISTORIES, TARGETS):
        memory, _ = model.encode_history(make_batch([history], [target]))
        student = model.tokenizer.quantize(
            model.history_adapter(memory[0].mean(0, keepdim=True)), 0.1
        ).probabilities
        of_item = model.tokenizer.quantize(
            model.tokenizer.encoder(model.item_features[[target]]), 0.1
        ).probabilities
        terms.append(divergence(student, of_item))
    assert found == pytest.approx(0.6 * sum(terms) / 4, rel=1e-4)
    assert not hasattr(model, "teacher_adapter")


def test_only_the_anchored_form_is_not_met_by_one_distribution_for_all_items(
    make_model, make_batch
):
    """Adapters whose output is constant meet the other form without any knowledge about items."""
    batch, found = make_batch(HISTORIES, TARGETS), {}
    for target in ("teacher", "item"):
        model = make_model(tokenizer_distillation_target=target)
        for name, weight in model.named_parameters():
            if name.startswith(("history_adapter", "teacher_adapter")):
                weight.data.zero_()
        found[target] = model.joint_losses(batch)["tokenizer_distillation"].item()
    assert found["teacher"] == 0
    assert found["item"] > 1e-4


def test_anchored_distillation_trains_both_sides(make_model, make_batch):
    model = make_model(tokenizer_distillation_target="item")
    sizes = size_of_gradients(
        model, model.joint_losses(make_batch(HISTORIES, TARGETS))["tokenizer_distillation"]
    )
    reached = (
        "tokenizer.encoder",
        "tokenizer.codebooks",
        "token_table",
        "seq2seq.encoder",
        "history_adapter",
    )
    for part in (*reached, "tokenizer.decoder", "seq2seq.decoder", "decoder_adapter"):
        assert (sum(size for name, size in sizes.items() if name.startswith(part)) > 0) == (
            part in reached
        ), part
