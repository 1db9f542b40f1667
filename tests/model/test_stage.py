from __future__ import annotations

import dataclasses

import pytest

from recbole_genrec.model.stage import Group, Phase, Stage


def make_stage(**fields) -> Stage:
    given = dict(
        name="one",
        rows="items",
        groups=(),
        losses=dict,
        epochs=1,
        batch_size=1,
        scheduler="constant",
        warmup_epochs=0,
    )
    return Stage(**{**given, **fields})


def test_a_stage_does_nothing_that_it_does_not_say():
    stage = make_stage()
    assert stage.stopping_step is None, "no validation"
    assert [stage.start, stage.finish, stage.before_epoch, stage.after_epoch] == [None] * 4
    assert stage.report_every == 1
    assert (stage.phases, stage.keeps_best) == ((), True)


def make_phase(name: str, turns: int) -> Phase:
    return Phase(
        name=name,
        turns=turns,
        groups=(),
        losses=dict,
        epochs=1,
        scheduler="constant",
        warmup_epochs=0,
    )


def test_phases_take_turns():
    stage = make_stage(
        phases=(make_phase("first", 1), make_phase("second", 3), make_phase("third", 2))
    )
    assert stage.cycle_epochs() == 6
    turns = [stage.turn(epoch) for epoch in range(14)]
    assert [number for number, _ in turns] == [0, 1, 1, 1, 2, 2] * 2 + [0, 1]
    for phase in range(3):
        assert [earlier for number, earlier in turns if number == phase] == list(
            range([3, 7, 4][phase])
        )


def test_without_phases_every_epoch_is_a_cycle():
    assert make_stage().cycle_epochs() == 1
    assert [make_stage().turn(epoch) for epoch in range(3)] == [(0, 0), (0, 1), (0, 2)]


def test_stages_are_data():
    stage = make_stage(groups=(Group(("tokenizer",), 0.1, 0.0),))
    assert stage == dataclasses.replace(stage)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.epochs = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.groups[0].learning_rate = 2


@pytest.mark.parametrize(
    "field",
    ["name", "rows", "groups", "losses", "epochs", "batch_size", "scheduler", "warmup_epochs"],
)
def test_what_a_stage_is_about_has_no_default(field):
    given = {name: value for name, value in vars(make_stage()).items() if name != field}
    with pytest.raises(TypeError, match=field):
        Stage(**given)


@pytest.mark.parametrize("model", ["TIGER", "UniGRec", "ETEGRec"])
def test_every_model_declares_stages_with_their_own_names(make_experiment, model):
    stages = make_experiment(model).model.stages()
    assert len({stage.name for stage in stages}) == len(stages)
    assert {stage.rows for stage in stages} == {"items", "interactions"}
    assert all(stage.stopping_step is None for stage in stages if stage.rows == "items")


def test_plan_of_tiger_follows_the_settings(make_experiment):
    settings = {
        "tokenizer_epochs": 25,
        "tokenizer_learning_rate": 0.3,
        "tokenizer_weight_decay": 0.4,
        "tokenizer_scheduler": "cosine",
    }
    settings.update(
        learning_rate=0.5,
        weight_decay=0.6,
        scheduler="linear",
        warmup_epochs=0.7,
        epochs=8,
        stopping_step=9,
    )
    tokenizer, recommender = make_experiment("TIGER", **settings).model.stages()
    assert tokenizer.groups == (Group(("tokenizer",), 0.3, 0.4),)
    assert (tokenizer.name, tokenizer.epochs, tokenizer.batch_size, tokenizer.scheduler) == (
        "tokenizer",
        25,
        4,
        "cosine",
    )
    assert (tokenizer.warmup_epochs, tokenizer.report_every) == (1, 2)
    assert recommender.groups == (Group(("token_table", "seq2seq"), 0.5, 0.6),)
    assert (
        recommender.name,
        recommender.epochs,
        recommender.batch_size,
        recommender.scheduler,
    ) == ("recommender", 8, 8, "linear")
    assert (recommender.warmup_epochs, recommender.stopping_step, recommender.report_every) == (
        0.7,
        9,
        1,
    )


def test_plan_of_unigrec_follows_the_settings(make_experiment):
    settings = dict(
        learning_rate=0.5,
        weight_decay=0.6,
        scheduler="linear",
        warmup_epochs=0.7,
        epochs=8,
        stopping_step=9,
    )
    settings.update(
        joint_tokenizer_learning_rate=0.2, finetune_epochs=3, finetune_learning_rate=0.1
    )
    settings.update(finetune_scheduler="inverse_sqrt", finetune_stopping_step=4)
    tokenizer, joint, finetune = make_experiment("UniGRec", **settings).model.stages()
    assert [stage.name for stage in (tokenizer, joint, finetune)] == [
        "tokenizer",
        "joint",
        "finetune",
    ]
    assert joint.groups == (
        Group(("tokenizer",), 0.2, 0.6),
        Group(("token_table", "seq2seq"), 0.5, 0.6),
        Group(("history_adapter", "teacher_adapter", "decoder_adapter"), 0.5, 0.0),
    )
    assert (
        joint.epochs,
        joint.batch_size,
        joint.scheduler,
        joint.warmup_epochs,
        joint.stopping_step,
    ) == (8, 8, "linear", 0.7, 9)
    assert finetune.groups == (Group(("token_table", "seq2seq"), 0.1, 0.6),)
    assert (finetune.epochs, finetune.batch_size, finetune.scheduler, finetune.warmup_epochs) == (
        3,
        8,
        "inverse_sqrt",
        0,
    )
    assert finetune.stopping_step == 4
