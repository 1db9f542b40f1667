"""The rows of UniGRec's ablation: their stages, losses and trained parts."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec import quick_start
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE
from recbole_genrec.model.unigrec.unigrec import ROWS
from recbole_genrec.quick_start import run
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.trainer.optimizer import StageOptimizer, named_parameters, training_only

HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7]]
TARGETS = [4, 5, 8, 5]
DISTILLED = ["tokenizer_distillation", "recommender_distillation"]
JOINT = ["generation", "reconstruction"]
# Name and terms of the second stage, and the parts that it trains besides the recommender.
SECOND_STAGE = {
    "M0": ("recommender", ["generation"], set()),
    "M1": ("recommender", ["generation"], set()),
    "M2": ("joint", JOINT, {"tokenizer"}),
    "M3": ("joint", [*JOINT, "uniformity"], {"tokenizer"}),
    "M4": (
        "joint",
        [*JOINT, "uniformity", DISTILLED[0]],
        {"tokenizer", "history_adapter", "teacher_adapter"},
    ),
    "M5": ("joint", [*JOINT, "uniformity", DISTILLED[1]], {"tokenizer", "decoder_adapter"}),
    "M6": (
        "joint",
        [*JOINT, "uniformity", *DISTILLED],
        {"tokenizer", "history_adapter", "teacher_adapter", "decoder_adapter"},
    ),
}


@pytest.fixture
def make_row(make_experiment):
    """make_row(row, **settings): UniGRec with named items, in training mode, when it distills."""

    def make(row: str, **settings):
        model = (
            make_experiment("UniGRec", **{"ablation": row, "uniformity_weight": 0.3, **settings})
            .name_items()
            .train()
        )
        model.distills = True
        return model

    return make


def test_the_whole_model_is_the_default(small_settings):
    assert GenRecConfig("UniGRec", config_dict=small_settings("UniGRec"))["ablation"] == "M6"
    assert list(ROWS) == list(SECOND_STAGE)


@pytest.mark.parametrize("row", SECOND_STAGE)
def test_a_row_trains_its_parts(make_row, make_batch, row):
    """One step of the second stage moves the row's parts and leaves the rest bit-identical."""
    model = make_row(row)
    name, terms, parts = SECOND_STAGE[row]
    stages = model.stages()
    assert [stage.name for stage in stages] == ["tokenizer", name, "finetune"]
    assert isinstance(model.tokenizer, RQVAE if row == "M0" else SoftRQVAE)
    assert (stages[0].before_epoch is None) == (row == "M0")
    trained = [weight for group in stages[1].groups for weight in named_parameters(model, group)]
    assert len(trained) == len({id(weight) for weight in trained})
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with training_only(model, stages[1].groups):
        losses = stages[1].losses(make_batch(HISTORIES, TARGETS))
        StageOptimizer(model, stages[1], "adamw", 1.0, 1).step(sum(losses.values()), 0)
    assert list(losses) == terms
    moved = {
        name.split(".")[0]
        for name, values in model.state_dict().items()
        if not torch.equal(values, before[name])
    }
    assert moved == {"token_table", "seq2seq", *parts}
    adapters = {name for name, _ in model.named_children() if name.endswith("adapter")}
    assert adapters == {part for part in parts if part.endswith("adapter")}, (
        "no adapter without a loss"
    )
    assert hasattr(model, "teacher") == bool(adapters)


@pytest.mark.parametrize("row", ["M2", "M3", "M4", "M5"])
def test_terms_equal_the_whole_models(make_row, make_batch, row):
    whole, model, batch = make_row("M6"), make_row(row), make_batch(HISTORIES, TARGETS)
    assert not model.load_state_dict(whole.state_dict(), strict=False).missing_keys
    expected = whole.joint_losses(batch)
    for term, loss in model.joint_losses(batch).items():
        torch.testing.assert_close(loss, expected[term], msg=lambda text: f"{term}: {text}")  # noqa: B023


def test_frozen_soft_identifiers_enter_as_in_the_whole_model(make_row, make_batch):
    whole, model, batch = make_row("M6"), make_row("M1"), make_batch(HISTORIES, TARGETS)
    model.load_state_dict(whole.state_dict(), strict=False)
    torch.testing.assert_close(
        model.losses(batch)["generation"], whole.joint_losses(batch)["generation"]
    )
    embeddings = model.embed_history(batch["item_id_list"])
    assert embeddings.shape[1] == 3 * 4, "three levels, no counter"


def test_the_first_row_is_tiger(make_row, make_experiment, make_batch):
    """The same weights give the same losses in both stages, and the same ranking."""
    model, batch = make_row("M0"), make_batch(HISTORIES, TARGETS)
    tiger = make_experiment("TIGER", feature_scaling="unit_norm").model
    tiger.load_state_dict(model.state_dict())
    assert tiger.losses(batch)["generation"].item() == pytest.approx(
        model.losses(batch)["generation"].item(), abs=1e-6
    )
    items = torch.arange(1, 11)
    ours, theirs = (each.stages()[0].losses(items) for each in (model, tiger))
    assert ours == theirs
    assert torch.equal(
        model.eval().search(batch, 5).item_ids, tiger.eval().search(batch, 5).item_ids
    )


def test_uniformity_of_the_tokenizer_comes_with_its_row(make_row):
    weights = [
        make_row(row, tokenizer_uniformity_weight=0.7).tokenizer.uniformity_weight
        for row in ("M1", "M2", "M3", "M6")
    ]
    assert weights == [0.0, 0.0, 0.7, 0.7]


def test_no_teacher_is_trained_where_no_loss_needs_it(make_row, monkeypatch):
    monkeypatch.setattr(
        quick_start, "teacher_table", lambda *given: pytest.fail("a teacher was made")
    )
    for settings in (
        {"ablation": "M0"},
        {"ablation": "M3"},
        {"ablation": "M4", "tokenizer_distillation_target": "item"},
    ):
        make_row(settings.pop("ablation"), **settings)


def test_a_teacher_whose_losses_weigh_nothing_changes_nothing(make_row, make_batch):
    batch, weights = make_batch(HISTORIES, TARGETS), {f"{term}_weight": 0.0 for term in DISTILLED}
    whole, model = make_row("M6", **weights), make_row("M3")
    model.load_state_dict(whole.state_dict(), strict=False)
    totals = [sum(each.joint_losses(batch).values()).item() for each in (whole, model)]
    assert totals[0] == totals[1]


@pytest.mark.parametrize(
    "settings, warns",
    [({"epochs": 1}, True), ({"epochs": 2}, False), ({"epochs": 1, "ablation": "M3"}, False)],
)
def test_a_run_too_short_to_distill_says_so(make_experiment, caplog, settings, warns):
    make_experiment("UniGRec", distillation_warmup_epochs=1, **settings)
    assert ("this run distills nothing, like M3" in caplog.text) == warns


@pytest.mark.slow
@pytest.mark.parametrize("row", ["M0", "M1", "M4"])
def test_rows_run_to_the_test(small_settings, caplog, row):
    """The log of the second stage has the row's terms."""
    settings = {
        **small_settings("UniGRec"),
        "ablation": row,
        "distillation_warmup_epochs": 0,
        "uniformity_weight": 0.1,
    }
    with caplog.at_level("INFO"):
        result = run("UniGRec", config_dict=settings)
    name, terms, _ = SECOND_STAGE[row]
    assert list(result["stage_seconds"]) == ["tokenizer", name, "finetune"]
    lines = [
        line
        for line in caplog.messages
        if line.startswith(f"stage {name} epoch") and "losses: " in line
    ]
    assert lines and all(
        [part.split()[0] for part in line.split("losses: ")[1].split(", ")] == terms
        for line in lines
    )
    assert result["semantic_ids"]["collisions_after"] == 0


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            {"temperature_min": 0.6},
            "temperature_max is 0.5 and temperature_min 0.6, but the temperature falls from one",
        ),
        (
            {"ablation": "M7"},
            "ablation is 'M7', but has to be one of M0, M1, M2, M3, M4, M5, M6: choose one",
        ),
        (
            {"ablation": "M2", "joint_tokenizer_learning_rate": 0},
            "ablation is M2, but what it adds is switched off by joint_tok",
        ),
        (
            {"ablation": "M3", "tokenizer_uniformity_weight": 0},
            "switched off by tokenizer_uniformity_weight, which is 0: raise",
        ),
        (
            {"ablation": "M4", "tokenizer_distillation_weight": 0},
            "switched off by tokenizer_distillation_weight",
        ),
        (
            {"ablation": "M5", "recommender_distillation_weight": 0.0},
            "switched off by recommender_distillation_weight",
        ),
        (
            {"ablation": "M5", "epochs": 1},
            "distillation_warmup_epochs is 1 of 1 epochs, so nothing would be distilled: lower",
        ),
        ({"ablation": "M4", "epochs": 1}, "nothing would be distilled"),
        (
            {"recommender_distillation_weight": -1},
            "recommender_distillation_weight is -1, but has to be a number of at least 0",
        ),
        (
            {"tokenizer_distillation_target": "cf"},
            "tokenizer_distillation_target is 'cf', but has to be one of teacher, item",
        ),
    ],
)
def test_contradictions_are_refused(small_settings, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        GenRecConfig("UniGRec", config_dict={**small_settings("UniGRec"), **settings})


def test_short_runs_of_the_whole_model_and_of_other_rows_pass(small_settings):
    for settings in (
        {"epochs": 1},
        {"ablation": "M3", "epochs": 1},
        {"ablation": "M4", "recommender_distillation_weight": 0},
    ):
        GenRecConfig("UniGRec", config_dict={**small_settings("UniGRec"), **settings})
