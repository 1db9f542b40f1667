"""ETEGRec as a whole: golden losses, runs, kills in mid-cycle, refused settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_genrec.cli import main
from recbole_genrec.quick_start import run
from recbole_genrec.trainer.optimizer import StageOptimizer, training_only
from recbole_genrec.trainer.trainer import GenRecTrainer

HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7], [3, 2], [10, 9, 8]]
TARGETS = [4, 5, 8, 5, 9, 1]
TERMS = {
    "tokenizer": ("reconstruction", "codebook", "commitment", "sia", "psa"),
    "recommender": ("generation", "sia", "psa"),
}
# The terms of the first and last of five steps, in two turns of each phase; then the ids.
GOLDEN = {
    "paper": {
        "tokenizer": [
            [1.4910932, 0.6189257, 0.1547314, 0.0055309, 0.3220376],
            [0.9132246, 0.1366522, 0.034163, 0.0068258, 0.3231114],
            [0.8246933, 0.0921084, 0.0230271, 0.0057079, 0.3218429],
            [0.6865833, 0.0539514, 0.0134878, 0.0060126, 0.3219133],
        ],
        "recommender": [
            [2.306029, 0.0029478, 0.323736],
            [1.152486, 0.0046789, 0.3219202],
            [1.3294169, 0.0070615, 0.3219274],
            [1.106369, 0.0034197, 0.3220004],
        ],
    },
    "code": {
        "tokenizer": [
            [1.4910932, 0.6189257, 0.1547314, 0.0054534, 0.3220376],
            [0.8903235, 0.2326908, 0.0581727, 0.0061861, 0.3238129],
            [0.801827, 0.2023996, 0.0505999, 0.0027222, 0.3225048],
            [0.6650596, 0.1812154, 0.0453038, 0.0037929, 0.3223673],
        ],
        "recommender": [
            [2.1196925, 0.0038073, 0.3251632],
            [1.1225266, 0.0026235, 0.3219329],
            [1.0316656, 0.0052682, 0.3231743],
            [0.7475237, 0.0047941, 0.3245645],
        ],
    },
}
GOLDEN_CODES = {
    "paper": ["3330", "3300", "3130", "3331", "3200", "3030", "3310", "3332", "3131", "3301"],
    "code": ["3030", "3000", "3031", "3032", "3001", "3033", "3330", "3034", "3002", "3003"],
}


def twenty_steps(model, batch) -> dict[str, list[float]]:
    """Train two cycles of five steps per phase; return the terms of the first and last steps."""
    found, stage, n_steps = {name: [] for name in TERMS}, model.stages()[1], 5
    optimizers = [StageOptimizer(model, phase, "adamw", 1.0, n_steps) for phase in stage.phases]
    for epoch in range(4):
        number, n_earlier = stage.turn(epoch)
        phase = stage.phases[number]
        stage.before_epoch(epoch)
        with training_only(model, phase.groups):
            for step in range(n_steps):
                losses = phase.losses(batch)
                optimizers[number].step(sum(losses.values()), n_earlier * n_steps + step)
                if step in (0, n_steps - 1):
                    found[phase.name].append([losses[term].item() for term in TERMS[phase.name]])
        stage.after_epoch(epoch)
    return found


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_golden_losses(fixed_model, make_batch, preset):
    """Twenty steps on fixed data, for the equations and for the released code."""
    released = "recbole_genrec.model.etegrec.released:ReleasedETEGRec"
    quirks = {"model_class": released} if preset == "code" else {}
    model = fixed_model(
        "ETEGRec", {"cf": (0.3, 6)}, alignment_warmup_epochs=0, warmup_epochs=0.5, **quirks
    )
    model.refresh_semantic_ids()
    found = twenty_steps(model, make_batch(HISTORIES, TARGETS))
    for name, rows in GOLDEN[preset].items():
        np.testing.assert_allclose(found[name], rows, rtol=0, atol=1e-5, err_msg=name)
    assert [
        "".join(map(str, codes)) for codes in model.semantic_ids.codes[1:].tolist()
    ] == GOLDEN_CODES[preset]


@pytest.mark.slow
def test_overfits_a_few_sequences(make_experiment, make_batch):
    """Train in turns with both alignments; then every history generates its target's ids."""
    settings = dict(
        feature_scaling="standardize",
        scheduler="constant",
        warmup_epochs=0,
        weight_decay=0.0,
        cycle_epochs=4,
    )
    settings.update(
        n_levels=2, codebook_size=8, alignment_warmup_epochs=0, joint_tokenizer_learning_rate=1e-4
    )
    model = make_experiment("ETEGRec", **settings).name_items()
    stage, batch = model.stages()[1], make_batch(HISTORIES, TARGETS)
    optimizers = [StageOptimizer(model, phase, "adamw", 1.0, 1) for phase in stage.phases]
    for epoch in range(32):
        number, step = stage.turn(epoch)
        stage.before_epoch(epoch)
        with training_only(model, stage.phases[number].groups):
            for _ in range(4):
                optimizers[number].step(sum(stage.phases[number].losses(batch).values()), step)
        stage.after_epoch(epoch)
    model.eval()
    assert model.search(batch, 1).item_ids[:, :1].flatten().tolist() == TARGETS
    codes = model.semantic_ids.codes.clone()
    assert model.refresh_semantic_ids() == 0, "renaming without training renames nothing"
    assert torch.equal(model.semantic_ids.codes, codes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ablation", ["none", "sia", "psa", "alignment", "alternation", "end_to_end"]
)
def test_a_whole_run(small_settings, ablation):
    result = run(
        "ETEGRec", config_dict=small_settings("ETEGRec"), command_line=[f"--ablation={ablation}"]
    )
    assert 0 <= result["test_result"]["ndcg@5"] <= result["test_result"]["recall@5"] <= 1
    stages = {
        "alternation": ["tokenizer", "joint", "finetune"],
        "end_to_end": ["tokenizer", "alternate", "restart", "finetune"],
    }
    assert list(result["stage_seconds"]) == stages.get(
        ablation, ["tokenizer", "alternate", "finetune"]
    )
    assert result["semantic_ids"]["collisions_after"] == 0
    assert Path(result["checkpoint"]).with_suffix(".json").is_file()


def outcome(experiment, resume_file=None) -> tuple:
    trainer = GenRecTrainer(experiment.config, experiment.model)
    if resume_file is not None:
        trainer.resume_checkpoint(resume_file)
    best = trainer.fit(experiment.train, experiment.valid)
    return best, dict(trainer.evaluate(experiment.test)), experiment.model.state_dict()


@pytest.mark.slow
def test_a_run_killed_in_a_cycle_resumes_as_if_undisturbed(make_experiment):
    """After each epoch of a cycle dropout, optimizers, schedules and ids resume where they were."""
    settings = dict(
        hidden_dropout_prob=0.2,
        epochs=6,
        cycle_epochs=3,
        feature_scaling="standardize",
        tokenizer_epochs=1,
        finetune_epochs=2,
    )
    undisturbed = outcome(make_experiment("ETEGRec", **settings))
    for n_epochs in (1, 2, 4, 7):
        experiment = make_experiment("ETEGRec", **settings)
        trainer, saves = GenRecTrainer(experiment.config, experiment.model), []

        def save_and_stop(*given, trainer=trainer, saves=saves, n_epochs=n_epochs):
            GenRecTrainer._save_progress(trainer, *given)
            saves.append(1)
            if (
                len(saves) == 2 + n_epochs
            ):  # the tokenizer's epoch and the end of its stage come first
                raise KeyboardInterrupt

        trainer._save_progress = save_and_stop
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(experiment.train, experiment.valid)
        again = make_experiment("ETEGRec", **settings)
        for weight in again.model.parameters():
            weight.data.fill_(0.5)
        torch.manual_seed(12345)
        best, test, weights = outcome(again, trainer.resume_file)
        assert (best, test) == undisturbed[:2]
        assert [key for key in weights if not torch.equal(weights[key], undisturbed[2][key])] == []


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"cycle_epochs": 1},
            "cycle_epochs is 1, but has to be a whole number of at least 2: give one",
        ),
        (
            {"epochs": 5},
            "epochs is 5, but has to be a multiple of cycle_epochs, which is 2: ",
        ),
        (
            {"initial_weights": "uniform"},
            "initial_weights is 'uniform', but has to be one of t5, normal: choose one",
        ),
        (
            {"ablation": "AT"},
            "ablation is 'AT', but has to be one of none, sia, psa, alignment, alternation, ",
        ),
        (
            {"quantization_reduction": "max"},
            "quantization_reduction is 'max', but has to be one of sum, mean: choose one",
        ),
        (
            {"retokenize_every": 3},
            "retokenize_every is 3, but has to be one of step, epoch: choose one",
        ),
        (
            {"contrastive_batch_size": 0},
            "contrastive_batch_size is 0, but has to be a whole number of at least 1",
        ),
        (
            {"codebook_size": 11},
            "codebook_size is 11, but the catalogue has only 10 items",
        ),
        ({"sia_weight": -0.1}, "sia_weight is -0.1, but has to be a number of at least 0"),
        ({"psa_weight": -0.1}, "psa_weight is -0.1, but has to be a number of at least 0"),
        (
            {"counter_size": 1, "codebook_size": 2, "n_levels": 1},
            "items share the same codes, but counter_size is 1",
        ),
    ],
)
def test_what_allows_no_run_is_one_sentence(small_settings, capsys, change, sentence):
    arguments = [
        f"--{key}={value}" for key, value in {**small_settings("ETEGRec"), **change}.items()
    ]
    assert main(["run", "--model=ETEGRec", *arguments]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_without_a_counter_nothing_is_trained(small_settings, capsys, monkeypatch):
    """Two items will have the same codes sooner or later, so not even the teacher is trained."""
    monkeypatch.setattr(
        "recbole_genrec.quick_start.teacher_table",
        lambda *given: pytest.fail("a teacher was trained"),
    )
    arguments = [
        f"--{key}={value}"
        for key, value in {**small_settings("ETEGRec"), "counter_size": 0}.items()
    ]
    assert main(["run", "--model=ETEGRec", *arguments]) == 2
    sentence = "counter_size is 0, but the tokenizer may leave items with equal codes"
    assert sentence in capsys.readouterr().err.splitlines()[-1]
