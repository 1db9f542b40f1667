"""UniGRec with the released code's distillation and reconstruction."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.model.unigrec.released import (
    ReleasedAdapter,
    ReleasedSoftRQVAE,
    ReleasedUniGRec,
    padded_state,
)
from recbole_genrec.quick_start import create_trainer, load, run
from recbole_genrec.trainer.optimizer import StageOptimizer

# Repeated items within and between rows, a repeated target, and padding.
HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7]]
TARGETS = [4, 5, 8, 5]


@pytest.fixture
def make_model(make_experiment, released_unigrec):
    """The released UniGRec with named items, in training mode, when it distills."""

    def make(**settings):
        settings = {"MAX_ITEM_LIST_LENGTH": 6, **released_unigrec, **settings}
        model = make_experiment("UniGRec", **settings).name_items().train()
        assert type(model) is ReleasedUniGRec
        model.distills = True
        return model

    return make


@pytest.fixture
def tokenizer() -> ReleasedSoftRQVAE:
    torch.manual_seed(0)
    return ReleasedSoftRQVAE(
        n_features=6,
        hidden_sizes=[8],
        code_dim=4,
        n_levels=3,
        codebook_size=5,
        uniformity_weight=0.0,
        temperature_max=0.4,
        temperature_min=0.1,
        temperature_unit="absolute",
        annealing_epochs=10,
        kmeans_iterations=20,
    )


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Sum KL in both directions, averaged over rows and levels."""
    return (p * (p / q).log() + q * (q / p).log()).sum(-1).mean().item()


# --- distributions


def test_distributions_are_a_softmax_of_plus_the_distances_along_nearest_codewords(tokenizer):
    residual = torch.randn(7, 4, dtype=torch.float64)
    found = tokenizer.double().distributions(residual, 0.3)
    for level, codebook in enumerate(tokenizer.codebooks):
        distances = (residual[:, None] - codebook).square().sum(-1)
        torch.testing.assert_close(found[:, level], (distances / 0.3).softmax(-1))
        residual = residual - codebook[distances.argmin(-1)]


def test_distributions_favor_the_farthest_codeword(tokenizer):
    tokenizer.codebooks.data = torch.zeros(3, 5, 4)
    tokenizer.codebooks.data[0, 3, 0] = 2.0  # squared distance 4 from the origin, the others 0
    found = tokenizer.distributions(torch.zeros(1, 4), 1.0)
    expected = [1.0, 1.0, 1.0, math.e**4, 1.0]
    assert found[0, 0].tolist() == pytest.approx([value / (4 + math.e**4) for value in expected])


def test_distributions_train_the_vector_and_every_codebook(tokenizer):
    latent = torch.randn(7, 4, requires_grad=True)
    (tokenizer.distributions(latent, 0.3) * torch.randn(5)).sum().backward()
    assert latent.grad.abs().sum() > 0
    assert (tokenizer.codebooks.grad.abs().sum(dim=(1, 2)) > 0).all()


# --- pooling


@pytest.mark.parametrize("lengths", [[3, 1, 4, 2], [4, 4, 4], [4, 2], [1, 1, 1, 1, 2]])
def test_padded_pooling_indexes_by_a_negated_integer_mask(lengths):
    states = torch.randn(len(lengths), 4, 5)
    mask = torch.arange(4) < torch.tensor(lengths).unsqueeze(1)
    released, integers = states.clone(), mask.long()
    released[~integers] = 0
    torch.testing.assert_close(
        padded_state(states, mask), released.sum(1) / integers.sum(1, keepdim=True)
    )


def test_padded_pooling_loses_rows_of_the_batch():
    """The second to last row is lost, the last too with padding; padding counts in the others."""
    states = torch.ones(3, 4, 2)
    mask = torch.tensor([[True] * 2 + [False] * 2, [True] * 4, [True] * 4])
    assert padded_state(states, mask)[:, 0].tolist() == [2.0, 0.0, 0.0]
    assert padded_state(states, torch.ones_like(mask))[:, 0].tolist() == [1.0, 0.0, 1.0]


# --- losses


def test_reconstruction_counts_every_slot(make_model, make_batch):
    """Half the error of all slots of the longest history, zeros too, plus half of the targets'."""
    model = make_model(reconstruction_weight=0.4)
    found = [
        model.joint_losses(make_batch(HISTORIES, TARGETS, width=width))["reconstruction"].item()
        for width in (4, 6)
    ]
    slots = torch.tensor([[*row, *[0] * (6 - len(row))] for row in HISTORIES])
    errors = []
    for items in (slots.flatten(), TARGETS):
        features = model.item_features[items]
        decoded = model.tokenizer.decoder(model.tokenizer.soft_codes(features).quantized)
        errors.append(F.mse_loss(decoded, features).item())
    assert found == pytest.approx([0.4 * 0.5 * sum(errors)] * 2, rel=1e-5)


def test_distillation_takes_the_first_row_of_a_target(make_model, make_batch):
    model = make_model()
    losses = model.joint_losses(make_batch(HISTORIES, TARGETS))
    distinct = model.joint_losses(make_batch(HISTORIES[:3], TARGETS[:3]))
    term = "recommender_distillation"
    assert losses[term].item() == pytest.approx(distinct[term].item(), rel=1e-5)
    assert losses["generation"].item() != pytest.approx(distinct["generation"].item(), rel=1e-3)


@pytest.mark.parametrize("width", [4, 5])
def test_tokenizer_distillation_equals_the_released_formula(make_model, make_batch, width):
    model = make_model(tokenizer_distillation_weight=2.0)
    losses = model.joint_losses(make_batch(HISTORIES, TARGETS, width=width))
    found = losses["tokenizer_distillation"].item()
    rows, n_real = [], torch.tensor([3 * len(history) for history in HISTORIES])
    for history in HISTORIES:
        probabilities = model.tokenizer.soft_codes(model.item_features[history]).probabilities
        padding = model.token_table.weight[:1].expand(18 - 3 * len(history), -1)
        rows.append(torch.cat((model.soft_embeddings(probabilities).flatten(0, 1), padding)))
    mask = torch.arange(18) < n_real.unsqueeze(1)
    states = model.seq2seq.encode(torch.stack(rows), mask).detach()
    states[2:] = 0  # rows -2 and -1
    pooled = (states.sum(1) / n_real.unsqueeze(1))[:3]
    student = model.history_adapter.layers(pooled)
    teacher = model.teacher_adapter.layers(model.teacher[TARGETS[:3]])
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


def test_adapters_stay_as_drawn_and_take_states_as_they_are(make_model, make_batch):
    model = make_model()
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
    losses = stage.losses(make_batch(HISTORIES, TARGETS))
    StageOptimizer(model, stage, "adamw", 1.0, 1).step(sum(losses.values()), 0)
    after = model.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in adapters.items())
    assert [group.names for group in stage.groups] == [("tokenizer",), ("token_table", "seq2seq")]


# --- whole run


@pytest.mark.slow
def test_a_run_and_its_checkpoint(small_settings, released_unigrec):
    settings = {
        **small_settings("UniGRec"),
        **released_unigrec,
        "softmax_scope": "full",
        "constrained": False,
        "hidden_dropout_prob": 0.1,
    }
    result = run("UniGRec", config_dict=settings)
    assert list(result["stage_seconds"]) == ["tokenizer", "joint", "finetune"]
    config, model, *_, test_data = load(result["checkpoint"])
    metrics = create_trainer(config, model).evaluate(test_data, load_best_model=False)
    assert dict(metrics) == dict(result["test_result"])
    assert isinstance(model.decoder_adapter, ReleasedAdapter)
