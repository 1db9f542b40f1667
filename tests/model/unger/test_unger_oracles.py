"""UNGER against known numbers: counts, closed forms, reductions and golden losses."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_genrec.compat import without_anomaly_detection
from recbole_genrec.model.unger.transformer import Transformer, TransformerSize
from recbole_genrec.model.unger.unger import UNGER
from recbole_genrec.trainer.optimizer import StageOptimizer, learning_rate_factor

HISTORIES = [[1, 2], [2, 1], [3], [4, 5, 6], [6, 5, 4], [7, 8], [9], [10, 1, 1]]
TARGETS = [5, 3, 8, 8, 1, 2, 10, 4]
N_BEAUTY = 12101

# Sums of the losses of 20 steps, on a CPU.
GOLDEN_INTEGRATION = [
    4.639404,
    4.600914,
    4.374057,
    4.525141,
    4.063345,
    4.264500,
    4.054269,
    3.897300,
    3.874043,
    3.637782,
    3.674616,
    3.770478,
    3.893970,
    3.522287,
    3.266080,
    3.216665,
    3.146831,
    3.241837,
    3.014488,
    3.028150,
]
GOLDEN_GENERATOR = [
    3.196161,
    3.218089,
    3.157183,
    3.168643,
    3.243188,
    3.006520,
    2.923854,
    3.046012,
    2.918571,
    2.821270,
    2.645140,
    2.657839,
    2.437919,
    2.234985,
    2.284259,
    2.216017,
    2.181273,
    2.154360,
    1.925844,
    1.944165,
]


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("inner_size, n_decoder_layers, expected", [
    (256, 4, 1_857_920), (256, 2, 1_608_768), (1024, 4, 2_599_040), (1024, 2, 2_053_440),
])  # fmt: skip
def test_numbers_of_parameters_at_the_papers_sizes(
    make_experiment, monkeypatch, inner_size, n_decoder_layers, expected
):
    """Count the generator on Beauty; ten items stand for the 12,101 of its item table."""
    monkeypatch.setattr(UNGER, "_check_catalogue", lambda model: None)
    sizes = dict(
        embedding_size=96,
        hidden_size=96,
        n_heads=6,
        head_size=16,
        inner_size=inner_size,
        n_levels=4,
        codebook_size=256,
    )
    model = make_experiment("UNGER", n_layers=1, n_decoder_layers=n_decoder_layers, **sizes).model
    generator = (
        count(model.seq2seq)
        + count(model.token_table)
        + count(model.item_table)
        + count(model.distillation)
    )
    assert generator + (N_BEAUTY - 10) * 96 == expected


def test_the_papers_own_number_of_parameters():
    """Count one stream of EAGER's code at the paper's sizes, with its unused leftovers.

    Its codes have two levels of 256; the sum is the paper's 10,249,988.
    """
    sizes = dict(
        hidden_size=96,
        inner_size=1024,
        n_encoder_layers=1,
        n_decoder_layers=4,
        n_heads=6,
        head_size=16,
    )
    rates = dict(hidden_dropout_prob=0.0, attn_dropout_prob=0.0)
    module = Transformer(
        TransformerSize(**sizes, **rates, n_source_positions=20, n_target_positions=5)
    )
    size, n_nodes = 96, 256 + 256**2 + 3
    square = size * size + size  # parameters of a linear map from 96 to 96
    encoder = (
        (2 * N_BEAUTY + 3) * size
        + count(module.encoder_positions)
        + 2 * size
        + count(module.encoder_norm)
        + count(module.encoder)
    )
    decoder = (
        n_nodes * size
        + count(module.decoder_positions)
        + 2 * size
        + count(module.decoder_norm)
        + count(module.decoder)
    )
    assert encoder + square == 2_570_656
    assert decoder + square + 2 * size + n_nodes == 7_483_683
    leftovers = (
        (768 * size + size)
        + (8 * square + 6 * size + 4 * size * size + 3 * size)
        + (size + 1)
        + 2 * size
    )
    assert leftovers == 186_337
    assert 2_570_656 + 7_483_683 + square + leftovers == 10_249_988


@pytest.mark.parametrize(
    "step, rate", [(1000, 5.0005e-4), (2000, 1e-3), (8000, 5e-4), (20000, 3.16228e-4)]
)
def test_learning_rate_of_the_paper_recipe(step, rate):
    """A linear warm-up of 2000 steps, then the inverse square root.

    The warm-up starts at 5e-7; in the paper at 1e-7.
    """
    assert 1e-3 * learning_rate_factor("inverse_sqrt", step, 2000, 20000) == pytest.approx(
        rate, rel=2e-3
    )


@pytest.mark.parametrize("reduction, factor", [("mean", 1), ("sum", 3)])
def test_a_generator_that_knows_nothing(make_experiment, make_batch, reduction, factor):
    model = make_experiment("UNGER", generation_reduction=reduction).name_items()
    torch.nn.init.zeros_(model.token_table.weight)
    assert model.losses(make_batch(HISTORIES, TARGETS))["generation"].item() == pytest.approx(
        factor * math.log(4), abs=1e-6
    )


def test_equal_vectors_leave_the_distillation_at_its_ceiling(make_experiment, make_batch):
    """Six drawn items: log 7 for a target that is not among them, log 6 for one that is."""
    model = make_experiment("UNGER").name_items()
    model.integrated[:] = 1
    with torch.no_grad():
        losses = [model.losses(make_batch([[1]], [5]))["distillation"].item() for _ in range(20)]
    assert {round(loss, 5) for loss in losses} == {round(math.log(7), 5), round(math.log(6), 5)}


def steps(model, stage, batch, n_steps: int) -> list[float]:
    torch.manual_seed(7)
    optimizer, sums = StageOptimizer(model.train(), stage, "adamw", 1.0, n_steps), []
    with without_anomaly_detection():
        for step in range(n_steps):
            loss = sum(stage.losses(batch).values())
            optimizer.step(loss, step)
            sums.append(round(loss.item(), 6))
    return sums


def test_losses_of_the_first_twenty_steps(make_experiment, make_batch):
    experiment, batch = (
        make_experiment("UNGER", hidden_dropout_prob=0.1, din_scorer="mlp"),
        make_batch(HISTORIES, TARGETS),
    )
    integration, _, generator = experiment.model.stages()
    assert steps(experiment.model, integration, batch, 20) == pytest.approx(
        GOLDEN_INTEGRATION, abs=1e-5
    )
    assert steps(experiment.name_items(), generator, batch, 20) == pytest.approx(
        GOLDEN_GENERATOR, abs=1e-5
    )


@pytest.mark.slow
def test_the_generator_memorizes_a_few_sequences(make_experiment, make_batch):
    model = make_experiment(
        "UNGER", weight_decay=0.0, scheduler="constant", warmup_epochs=0
    ).name_items()
    batch = make_batch(HISTORIES, TARGETS)
    steps(model, model.stages()[-1], batch, 150)
    model.eval()
    assert model.losses(batch)["generation"].item() < 0.1
    assert model.search(batch, 1).item_ids[:, :1].flatten().tolist() == TARGETS


@pytest.mark.slow
def test_the_din_memorizes_them_too(make_experiment, make_batch):
    model = make_experiment(
        "UNGER", integration_warmup_epochs=0, ablation="collaborative", din_negatives=30
    ).model
    batch = make_batch(HISTORIES, TARGETS)
    steps(model, model.stages()[0], batch, 150)
    ranked = model.eval().integration.din.rank(batch["item_id_list"], 3)
    assert (ranked == batch["item_id"][:, None]).any(1).float().mean() > 0.7, (
        "a sum over one window does not see the order"
    )


def test_a_distillation_without_weight_changes_nothing(make_experiment, make_batch):
    """The weights after some steps equal the weights of a model without distillation."""
    weights, batch = [], make_batch(HISTORIES, TARGETS)
    for settings in ({"distillation_weight": 0.0}, {"ablation": "no_distillation"}):
        model = make_experiment("UNGER", hidden_dropout_prob=0.1, **settings).name_items()
        steps(model, model.stages()[-1], batch, 5)
        weights.append(model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_distillation_reaches_the_codes_and_never_the_vectors(make_experiment, make_batch):
    model = make_experiment("UNGER").name_items().train()
    model.losses(make_batch(HISTORIES, TARGETS))["distillation"].backward()
    for part in (
        model.distillation.token,
        model.distillation.map.weight,
        model.token_table.weight,
        model.item_table.weight,
    ):
        assert part.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.integration.parameters())
    assert not model.integrated.requires_grad


def test_scores_of_all_items(make_experiment, make_batch):
    """Only the beams' items have finite scores, never padding, whatever the history's width."""
    model = make_experiment("UNGER").name_items()
    scores, beams = (
        give(make_batch(HISTORIES, TARGETS)) for give in (model.full_sort_predict, model.search)
    )
    assert scores.isfinite().sum(1).tolist() == [5] * 8
    assert scores[:, 0].max() == float("-inf")
    assert torch.equal(scores.argmax(1), beams.item_ids[:, 0])
    torch.testing.assert_close(
        model.full_sort_predict(make_batch(HISTORIES, TARGETS, width=20)), scores
    )
