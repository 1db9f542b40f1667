from __future__ import annotations

import dataclasses
from math import log2
from pathlib import Path

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.trainer.optimizer import named_parameters
from recbole_genrec.trainer.trainer import GenRecTrainer


class Scalars(list):
    """Stands for a TensorBoard writer."""

    def add_scalar(self, name, value, epoch) -> None:
        self.append((name, epoch, float(value)))


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def only_stage(experiment, number: int, **changes) -> GenRecTrainer:
    """A trainer of one stage of a model whose items are named, its last weights standing."""
    model = experiment.name_items()
    stage = dataclasses.replace(model.stages()[number], stopping_step=None, **changes)
    model.stages = lambda: (stage,)
    return GenRecTrainer(experiment.config, model)


def script(trainer, scores) -> list[dict[str, torch.Tensor]]:
    """Let validations give these scores; returns the list that gets the weights they saw."""
    seen, scores = [], iter(scores)

    def validate(valid_data, show_progress):
        seen.append(snapshot(trainer.model))
        score = next(scores)
        return score, {"ndcg@5": score}

    trainer._valid_epoch = validate
    return seen


def assert_same(first, second) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def scripted_stage(model, losses, **fields) -> Stage:
    given = dict(
        name="scripted",
        rows="items",
        groups=(Group(("token_table",), 0.0, 0.0),),
        epochs=1,
        batch_size=4,
    )
    return Stage(
        **{**given, "losses": losses, "scheduler": "constant", "warmup_epochs": 0, **fields}
    )


@pytest.mark.parametrize(
    "name, number", [("TIGER", 0), ("TIGER", 1), ("UniGRec", 0), ("UniGRec", 1), ("UniGRec", 2)]
)
def test_a_stage_trains_exactly_what_it_names(make_experiment, name, number):
    experiment = make_experiment(
        name,
        hidden_dropout_prob=0.1,
        **({"distillation_warmup_epochs": 0} if name == "UniGRec" else {}),
    )
    trainer = only_stage(experiment, number, start=None)
    model, before = trainer.model, snapshot(trainer.model)
    named = {
        id(weight)
        for group in model.stages()[0].groups
        for weight in named_parameters(model, group)
    }
    trainer.fit(experiment.train, experiment.valid)
    for weight_name, weight in model.named_parameters():
        assert torch.equal(weight, before[weight_name]) == (id(weight) not in named), weight_name
        assert weight.requires_grad, "other stages may train it"
    for buffer in ("item_features", "teacher"):
        assert buffer not in before or torch.equal(model.state_dict()[buffer], before[buffer])


def test_fine_tuning_keeps_tokenizer_codes_and_temperature(make_experiment):
    experiment = make_experiment("UniGRec", weight_decay=0.5, finetune_learning_rate=0.05)
    trainer = only_stage(experiment, 2)
    before = snapshot(trainer.model)
    trainer.fit(experiment.train)
    after = snapshot(trainer.model)
    kept = [
        name
        for name in before
        if name.startswith(("tokenizer.", "semantic_ids.", "teacher", "item_features"))
    ]
    assert "tokenizer.temperature" in kept
    assert "semantic_ids.codes" in kept
    assert_same({name: after[name] for name in kept}, {name: before[name] for name in kept})
    assert torch.equal(trainer.model.refresh_semantic_ids() * torch.ones(1), torch.zeros(1)), (
        "the tokenizer still gives these codes"
    )


def test_a_tokenizer_learning_rate_of_zero_leaves_the_tokenizer_alone(make_experiment):
    """Weight decay must not move it either."""
    experiment = make_experiment("UniGRec", joint_tokenizer_learning_rate=0.0, weight_decay=0.5)
    trainer = only_stage(experiment, 1)
    before = snapshot(trainer.model)
    trainer.fit(experiment.train)
    kept = [name for name in before if name.startswith(("tokenizer.", "semantic_ids."))]
    after = snapshot(trainer.model)
    assert_same({name: after[name] for name in kept}, {name: before[name] for name in kept})
    assert not torch.equal(after["token_table.weight"], before["token_table.weight"])


def test_joint_training_names_the_items_anew_after_every_epoch(make_experiment):
    experiment = make_experiment("UniGRec", joint_tokenizer_learning_rate=0.5)
    trainer = only_stage(experiment, 1)
    old = trainer.model.semantic_ids.codes.clone()
    trainer.fit(experiment.train)
    codes = trainer.model.semantic_ids.codes
    assert not torch.equal(codes, old)
    assert torch.equal(
        codes[1:, :3], trainer.model.tokenizer.encode(trainer.model.item_features[1:])
    )


@pytest.mark.parametrize(
    "scores, best",
    [
        ((0.1, 0.5, 0.3, 0.2, 0.4), 1),
        ((0.1, 0.5, 0.3, 0.6, 0.4), 3),
        ((0.5, 0.4, 0.3, 0.2, 0.1), 0),
    ],
)
def test_the_best_weights_of_all_stages_are_kept(make_experiment, scores, best):
    """Three joint epochs, then two of fine-tuning, which starts from the best joint weights."""
    experiment = make_experiment("UniGRec", epochs=3, stopping_step=5, finetune_stopping_step=5)
    trainer = GenRecTrainer(experiment.config, experiment.model)
    seen, starts, run = script(trainer, scores), [], trainer._run
    trainer._run = lambda *given: (starts.append(snapshot(trainer.model)), run(*given))
    assert trainer.fit(experiment.train, experiment.valid) == (
        scores[best],
        {"ndcg@5": scores[best]},
    )
    assert_same(snapshot(trainer.model), seen[best])
    assert_same(starts[2], seen[max(range(3), key=lambda epoch: scores[epoch])])
    assert_same(torch.load(trainer.saved_model_file, weights_only=True)["state_dict"], seen[best])


@pytest.mark.parametrize(
    "scores, stopping_step, n_validations",
    [
        (
            (0.5, 0.4, 0.3, 0.2, 0.1, 0.0),
            1,
            3,
        ),  # as RecBole: the stage ends when bad validations exceed the step
        ((0.5, 0.4, 0.6, 0.3, 0.2, 0.1), 1, 5),  # an improvement resets the count
        ((0.5, 0.4, 0.5, 0.4, 0.5, 0.4), 1, 6),  # a tie is an improvement
        ((0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 0, 2),
    ],
)
def test_early_stopping(make_experiment, scores, stopping_step, n_validations):
    experiment = make_experiment("TIGER", epochs=6, stopping_step=stopping_step)
    trainer = GenRecTrainer(experiment.config, experiment.model)
    seen = script(trainer, scores)
    trainer.fit(experiment.train, experiment.valid)
    assert len(seen) == n_validations


def test_every_stage_counts_bad_validations_anew(make_experiment):
    experiment = make_experiment(
        "UniGRec", epochs=9, stopping_step=0, finetune_epochs=9, finetune_stopping_step=1
    )
    trainer = GenRecTrainer(experiment.config, experiment.model)
    seen = script(trainer, (0.5, 0.4, 0.3, 0.2))
    trainer.fit(experiment.train, experiment.valid)
    assert len(seen) == 4, "2 joint, then 2 of fine-tuning, none better than the joint best"


def test_a_metric_may_be_better_when_smaller(make_experiment):
    experiment = make_experiment("TIGER", epochs=3)
    trainer = GenRecTrainer(experiment.config, experiment.model)
    trainer.valid_metric_bigger = False
    seen = script(trainer, (0.3, 0.1, 0.2))
    assert trainer.fit(experiment.train, experiment.valid)[0] == 0.1
    assert_same(snapshot(trainer.model), seen[1])


@pytest.mark.parametrize(
    "eval_step, epochs",
    [(2, [1, 3, 4]), (5, [4]), (9, [4]), (1, [0, 1, 2, 3, 4]), (0, [])],
)
def test_validation_every_few_epochs_and_after_the_last(make_experiment, eval_step, epochs):
    """Without any, as eval_step 0 has it in RecBole, the last weights are the run's."""
    experiment, calls = make_experiment("TIGER", epochs=5, eval_step=eval_step), []
    trainer = GenRecTrainer(experiment.config, experiment.model)
    script(trainer, (0.1, 0.2, 0.3, 0.4, 0.5))
    best_score, _ = trainer.fit(
        experiment.train, experiment.valid, callback_fn=lambda *given: calls.append(given)
    )
    assert calls == [(epoch, number / 10) for number, epoch in enumerate(epochs, start=1)]
    assert best_score == (len(epochs) / 10 if epochs else None)
    assert_same(
        torch.load(trainer.saved_model_file, weights_only=True)["state_dict"],
        snapshot(trainer.model),
    )


def test_without_validation_data_the_last_weights_stand(make_experiment):
    experiment = make_experiment("TIGER")
    trainer = GenRecTrainer(experiment.config, experiment.model)
    assert trainer.fit(experiment.train) == (None, None)
    last = snapshot(trainer.model)
    assert trainer.evaluate(experiment.test)["recall@5"] >= 0
    assert_same(snapshot(trainer.model), last)


def test_terms_reach_log_and_tensorboard(make_experiment, caplog):
    experiment = make_experiment(
        "UniGRec", epochs=2, distillation_warmup_epochs=1, uniformity_weight=0.1
    )
    trainer = GenRecTrainer(experiment.config, experiment.model)
    trainer.tensorboard = Scalars()
    with caplog.at_level("INFO"):
        trainer.fit(experiment.train, experiment.valid)
    names = {(name, epoch) for name, epoch, _ in trainer.tensorboard}
    joint, late = (
        ("generation", "reconstruction", "uniformity"),
        ("tokenizer_distillation", "recommender_distillation"),
    )
    expected = {
        (f"tokenizer/{term}", epoch)
        for term in ("reconstruction", "uniformity")
        for epoch in range(4)
    }
    expected |= {(f"joint/{term}", epoch) for term in joint for epoch in range(2)} | {
        (f"joint/{term}", 1) for term in late
    }
    expected |= {("finetune/generation", epoch) for epoch in range(2)}
    expected |= {
        (f"{stage}/NDCG@5", epoch) for stage in ("joint", "finetune") for epoch in range(2)
    }
    assert {(name.replace("ndcg", "NDCG"), epoch) for name, epoch in names} == expected
    for name, epoch, value in trainer.tensorboard:
        stage, term = name.split("/")
        lines = [
            line
            for line in caplog.messages
            if line.startswith(f"stage {stage} epoch {epoch}:") and "losses" in line
        ]
        assert len(lines) == 1
        assert "ndcg" in term.lower() or f"{term} {value:.5g}" in lines[0]


def test_reported_losses_are_means_over_batches(make_experiment):
    """Ten items in batches of 4, 4 and 2: the sums of their ids add up to 55."""
    experiment = make_experiment("TIGER")
    trainer, weight = (
        GenRecTrainer(experiment.config, experiment.model),
        experiment.model.token_table.weight,
    )
    trainer.tensorboard = Scalars()
    stage = scripted_stage(
        trainer.model,
        lambda ids: {"ids": ids.sum() + 0 * weight.sum(), "size": len(ids) + 0 * weight.sum()},
        epochs=7,
    )
    trainer.model.stages = lambda: (dataclasses.replace(stage, report_every=3),)
    trainer.fit(experiment.train)
    totals = {"scripted/ids": 55, "scripted/size": 10}
    expected = [
        (name, epoch, pytest.approx(total / 3))
        for epoch in (2, 5, 6)
        for name, total in totals.items()
    ]
    assert trainer.tensorboard == expected


def test_hooks_run_around_epochs(make_experiment):
    experiment, calls = make_experiment("TIGER"), []
    trainer, weight = (
        GenRecTrainer(experiment.config, experiment.model),
        experiment.model.token_table.weight,
    )
    hooks = dict(start=lambda: calls.append("start"), finish=lambda: calls.append("finish"))
    hooks.update(
        before_epoch=lambda epoch: calls.append(-epoch),
        after_epoch=lambda epoch: calls.append(epoch),
    )

    def losses(ids):
        calls.append(
            "step"
            if trainer.model.training and not torch.is_anomaly_enabled()
            else "not as in training"
        )
        return {"zero": 0 * weight.sum()}

    trainer.model.stages = lambda: (
        scripted_stage(trainer.model, losses, epochs=3, batch_size=10, **hooks),
    )
    trainer.model.eval()
    trainer.fit(experiment.train)
    assert calls == ["start", 0, "step", 0, -1, "step", 1, -2, "step", 2, "finish"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(make_experiment, value):
    """Before anything is made of the broken weights, and the last good checkpoint stays."""
    experiment = make_experiment("TIGER")
    trainer, weight = (
        GenRecTrainer(experiment.config, experiment.model),
        experiment.model.token_table.weight,
    )
    epochs, hooked = [], []

    def losses(ids):
        return {
            "fine": 0 * weight.sum(),
            "broken": weight.sum() * (value if epochs[-1] == 2 else 0),
        }

    hooks = dict(before_epoch=epochs.append, after_epoch=hooked.append)
    trainer.model.stages = lambda: (
        scripted_stage(trainer.model, losses, epochs=5, batch_size=10, **hooks),
    )
    with pytest.raises(
        UserError,
        match=r"stage scripted, epoch 2: a loss is not finite .*broken.*; lower its learning rate",
    ):
        trainer.fit(experiment.train)
    assert hooked == [0, 1]
    assert torch.load(trainer.resume_file, weights_only=True)["progress"]["epoch"] == 2


def test_metrics_equal_a_loop_over_users(make_experiment, tiny_sequences):
    """Histories and targets from the literal sequences, one user at a time."""
    experiment = make_experiment("TIGER", hidden_dropout_prob=0.1)
    trainer, data = GenRecTrainer(experiment.config, experiment.model), experiment.train.dataset
    trainer.fit(experiment.train, experiment.valid)
    sums = dict.fromkeys(
        (f"{metric}@{k}" for metric in ("recall", "ndcg", "mrr") for k in (3, 5)), 0.0
    )
    result = trainer.evaluate(experiment.test)
    for items in tiny_sequences:
        ids = [int(data.token2id("item_id", f"i{item}")) for item in items]
        beams = trainer.model.search({"item_id_list": torch.tensor([ids[:-1]])}, 5)
        ranked = beams.item_ids[0].tolist()
        rank = ranked.index(ids[-1]) + 1 if ids[-1] in ranked else 99
        for k in (3, 5):
            sums[f"recall@{k}"] += rank <= k
            sums[f"ndcg@{k}"] += (rank <= k) / log2(rank + 1)
            sums[f"mrr@{k}"] += (rank <= k) / rank
    assert dict(result) == pytest.approx(
        {name: value / 12 for name, value in sums.items()}, abs=1e-6
    )
    assert 0 < result["recall@5"] < 1, "neither everything nor nothing is a hit"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TIGER", "UniGRec"])
def test_evaluation_does_not_depend_on_the_batch_size(make_experiment, name):
    results, state = [], None
    for size in (1, 5, 64):
        experiment = make_experiment(name, eval_batch_size=size)
        trainer = GenRecTrainer(experiment.config, experiment.model)
        if state is None:
            trainer.fit(experiment.train, experiment.valid)
            state = snapshot(trainer.model)
        trainer.model.load_state_dict(state)
        results.append(dict(trainer.evaluate(experiment.test, load_best_model=False)))
    assert results[0] == results[1] == results[2]


def test_files_of_a_run(make_experiment):
    experiment = make_experiment("TIGER")
    trainer = GenRecTrainer(experiment.config, experiment.model)
    trainer.fit(experiment.train, experiment.valid)
    names = {
        file.name for file in Path(trainer.saved_model_file).parent.iterdir() if file.is_file()
    }
    stem = Path(trainer.saved_model_file).stem
    assert names == {f"{stem}.pth", f"{stem}.resume.pth"}
