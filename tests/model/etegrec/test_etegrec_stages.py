"""ETEGRec's training plan: phases, cycles, their trained parts and the ablations."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.model.stage import Group, Phase
from recbole_genrec.trainer.optimizer import StageOptimizer
from recbole_genrec.trainer.trainer import GenRecTrainer

RECOMMENDER = ("token_table", "seq2seq", "sequence_adapter", "preference_adapter")
SCALED = {
    "feature_scaling": "standardize",
    "hidden_dropout_prob": 0.2,
    "alignment_warmup_epochs": 0,
}


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def scripted(trainer, scores) -> list[dict]:
    """Make validations give these scores; return a list that collects the states at them."""
    states = []

    def validate(*given, **named):
        states.append(snapshot(trainer.model))
        return scores[len(states) - 1], {"ndcg@5": 0.0}

    trainer._valid_epoch = validate
    return states


def moved(before: dict, after: dict) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def watch(make_experiment):
    """watch(**settings): run all stages.

    Returns a line (stage, phase, moved parts, whether ids changed) per epoch and the experiment.
    """

    def run(**settings):
        experiment = make_experiment("ETEGRec", **{**SCALED, **settings})
        trainer, lines = GenRecTrainer(experiment.config, experiment.model), []
        train = trainer._train

        def record(stage, epoch, *given):
            before = snapshot(experiment.model)
            result = train(stage, epoch, *given)
            parts = moved(before, snapshot(experiment.model))
            phase = stage.phases[stage.turn(epoch)[0]].name if stage.phases else None
            lines.append((stage.name, phase, parts - {"semantic_ids"}, "semantic_ids" in parts))
            return result

        trainer._train = record
        trainer.fit(experiment.train, experiment.valid)
        return lines, experiment

    return run


@pytest.mark.parametrize("cycle_epochs", [2, 4])
def test_each_epoch_trains_exactly_what_its_phase_names(watch, cycle_epochs):
    """The other side stays bit-identical under weight decay and dropout."""
    lines = watch(
        cycle_epochs=cycle_epochs,
        epochs=8,
        finetune_epochs=1,
        weight_decay=0.1,
        joint_tokenizer_learning_rate=0.05,
    )[0]
    lines = [line for line in lines if line[0] != "tokenizer"]
    for epoch, (stage, phase, parts, renamed) in enumerate(lines[:8]):
        is_tokenizer = epoch % cycle_epochs == 0
        assert (stage, phase) == ("alternate", "tokenizer" if is_tokenizer else "recommender")
        assert parts == ({"tokenizer"} if is_tokenizer else set(RECOMMENDER))
        assert is_tokenizer or not renamed, "ids change after a tokenizer epoch only"
    assert any(renamed for *_, renamed in lines)
    assert lines[8:] == [("finetune", None, {"token_table", "seq2seq"}, False)]


def test_dropout_is_off_in_what_is_frozen(make_experiment):
    experiment = make_experiment("ETEGRec", **SCALED)
    model, seen = experiment.model, set()

    def watched(losses):
        def call(batch):
            seen.add((losses.__name__, model.tokenizer.training, model.seq2seq.training))
            return losses(batch)

        return call

    for method in ("tokenizer_losses", "recommender_losses"):
        setattr(model, method, watched(getattr(model, method)))
    GenRecTrainer(experiment.config, model).fit(experiment.train)
    assert seen == {("tokenizer_losses", True, False), ("recommender_losses", False, True)}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_plan_follows_the_settings(make_experiment):
    model = make_experiment(
        "ETEGRec",
        learning_rate=0.5,
        joint_tokenizer_learning_rate=0.2,
        weight_decay=0.6,
        scheduler="linear",
        warmup_epochs=6,
        epochs=12,
        cycle_epochs=4,
        stopping_step=9,
        finetune_epochs=3,
        finetune_learning_rate=0.1,
        finetune_stopping_step=5,
    ).model
    tokenizer, alternate, finetune = model.stages()
    assert [tokenizer.name, alternate.name, finetune.name] == ["tokenizer", "alternate", "finetune"]
    groups = (Group(("tokenizer",), 0.2, 0.6), Group(RECOMMENDER, 0.5, 0.6))
    assert alternate.groups == groups
    assert (alternate.epochs, alternate.stopping_step, alternate.cycle_epochs()) == (12, 9, 4)
    assert alternate.phases == (
        Phase("tokenizer", 1, groups[:1], model.tokenizer_losses, 3, "linear", 1.5),
        Phase("recommender", 3, groups[1:], model.recommender_losses, 9, "linear", 6),
    )
    assert finetune.groups == (Group(("token_table", "seq2seq"), 0.1, 0.6),)
    assert (finetune.epochs, finetune.scheduler, finetune.warmup_epochs) == (3, "cosine", 0)
    assert (finetune.stopping_step, finetune.keeps_best) == (5, True)


def test_steps_of_a_phase_go_on_in_the_next_cycle(make_experiment, monkeypatch):
    experiment, steps, step = (
        make_experiment("ETEGRec", finetune_epochs=0, tokenizer_epochs=0),
        [],
        StageOptimizer.step,
    )
    monkeypatch.setattr(
        StageOptimizer,
        "step",
        lambda optimizer, loss, number: (steps.append(number), step(optimizer, loss, number)),
    )
    GenRecTrainer(experiment.config, experiment.model).fit(experiment.train)
    n = -(-len(experiment.train.dataset.inter_feat) // 8)
    assert steps == [*range(n), *range(n), *range(n, 2 * n), *range(n, 2 * n)]


def test_validations_come_at_the_ends_of_cycles(make_experiment):
    """Right after a tokenizer epoch the recommender does not know the new ids."""
    experiment, epochs = make_experiment("ETEGRec", epochs=8, eval_step=2), []
    trainer = GenRecTrainer(experiment.config, experiment.model)
    trainer.fit(
        experiment.train, experiment.valid, callback_fn=lambda epoch, score: epochs.append(epoch)
    )
    assert epochs == [3, 7, 1]


def test_early_stopping_counts_cycles_and_goes_back_to_the_best_one(make_experiment):
    """Weights and ids of the best cycle; then the tokenizer stays as it is."""
    experiment = make_experiment(
        "ETEGRec", epochs=12, stopping_step=1, joint_tokenizer_learning_rate=0.05, **SCALED
    )
    trainer = GenRecTrainer(experiment.config, experiment.model)
    states = scripted(trainer, [0.1, 0.9, 0.3, 0.2, 0.1, 0.1])
    trainer.fit(experiment.train, experiment.valid)
    assert len(states) == 4 + 2, (
        "the second bad validation in a row ends the cycles; then two of the fine-tune stage"
    )
    assert moved(states[1], states[3]) >= {"tokenizer", "semantic_ids", "token_table"}
    assert moved(states[1], states[4]) == moved(states[1], states[5]) == {"token_table", "seq2seq"}
    assert moved(states[1], snapshot(experiment.model)) == set(), "no fine-tuned epoch was better"


def test_every_cycle_is_reported(watch, caplog):
    with caplog.at_level("INFO"):
        experiment = watch(alignment_warmup_epochs=2, joint_tokenizer_learning_rate=0.05)[1]
    lines = [line for line in caplog.messages if line.startswith("cycle")]
    assert [line.split(":")[0] for line in lines] == [
        "cycle 0 epoch 0",
        "cycle 0 epoch 1",
        "cycle 1 epoch 2",
        "cycle 1 epoch 3",
    ]
    assert lines[0].startswith("cycle 0 epoch 0: no alignment, code churn ")
    assert lines[1] == "cycle 0 epoch 1: no alignment"
    for word in ("entropy", "sia", "psa"):
        assert f"{word} " in lines[2] and f"{word} " in lines[3]
    assert "code churn" in lines[2] and "code churn" not in lines[3]
    n_unique = len(experiment.model.semantic_ids.codes[1:, :3].unique(dim=0))
    assert lines[2].endswith(f"unique ids {n_unique} of 10 before the counter")


def test_code_churn_is_the_share_of_items_with_other_codes(make_experiment, caplog):
    model = make_experiment("ETEGRec", **SCALED).name_items()
    before_epoch, after_epoch = model.stages()[1].before_epoch, model.stages()[1].after_epoch
    before_epoch(2)
    model.semantic_ids.codes[3:5, 0] += 1  # as if two items had had other codes
    model.codes_before = model.semantic_ids.codes.clone()
    with caplog.at_level("INFO"):
        after_epoch(2)
    assert "code churn 20.00%" in caplog.text


def test_without_alternation_everything_moves_in_every_epoch(watch):
    lines = [
        line
        for line in watch(ablation="alternation", joint_tokenizer_learning_rate=0.05)[0]
        if line[0] == "joint"
    ]
    assert [parts for _, _, parts, _ in lines] == [{"tokenizer", *RECOMMENDER}] * 4
    assert any(renamed for *_, renamed in lines)


@pytest.mark.parametrize("retokenize_every", ["step", "epoch"])
def test_without_alternation_items_are_renamed_in_every_step_or_epoch(
    make_experiment, monkeypatch, retokenize_every
):
    experiment = make_experiment(
        "ETEGRec",
        ablation="alternation",
        retokenize_every=retokenize_every,
        epochs=2,
        finetune_epochs=0,
    )
    trainer, calls, assign = (
        GenRecTrainer(experiment.config, experiment.model),
        [],
        experiment.model.semantic_ids.assign,
    )
    stage = experiment.model.stages()[1]
    stage.before_epoch(0)
    experiment.name_items()
    monkeypatch.setattr(
        experiment.model.semantic_ids, "assign", lambda codes: (calls.append(1), assign(codes))[1]
    )
    batches = trainer._batches(stage, experiment.train)
    for batch in batches.epoch(0):
        stage.losses(batch)
    stage.after_epoch(0)
    assert len(calls) == (len(batches) + 1 if retokenize_every == "step" else 1)


def test_without_end_to_end_a_new_recommender_learns_the_final_ids(watch):
    """The codes of the finished run, as many recommender epochs, no alignment."""
    settings = dict(
        joint_tokenizer_learning_rate=0.05,
        epochs=8,
        cycle_epochs=4,
        finetune_epochs=1,
        stopping_step=9,
    )
    full = watch(**settings)[1]
    lines, experiment = watch(ablation="end_to_end", **settings)
    assert [stage.name for stage in experiment.model.stages()] == [
        "tokenizer",
        "alternate",
        "restart",
        "finetune",
    ]
    assert torch.equal(experiment.model.semantic_ids.codes, full.model.semantic_ids.codes)
    restart = [line for line in lines if line[0] == "restart"]
    assert [parts for _, _, parts, _ in restart] == [{"token_table", "seq2seq"}] * 6
    assert not any(renamed for *_, renamed in restart)
    assert moved(snapshot(full.model), snapshot(experiment.model)) == set(RECOMMENDER)
    stage = experiment.model.stages()[2]
    assert stage.losses == experiment.model.losses and not stage.keeps_best
    before = snapshot(experiment.model)
    stage.start()
    assert moved(before, snapshot(experiment.model)) == set(RECOMMENDER)
