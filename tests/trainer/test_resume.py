"""Killed runs, equal runs and files of the trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_genrec.data.batches import ItemBatches
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.trainer.optimizer import StageOptimizer
from recbole_genrec.trainer.trainer import GenRecTrainer

SETTINGS = {
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "weight_decay": 0.1,
    "eval_batch_size": 64,
    "stopping_step": 1,
}
OWN = {"TIGER": {}, "UniGRec": {"temperature_unit": "variance"}}
# How often a run comes by: 4 tokenizer epochs, 2 of every other stage, and the end of every stage.
N_MOMENTS = {
    "_train": {"TIGER": 6, "UniGRec": 8},
    "_validate": {"TIGER": 2, "UniGRec": 4},
    "_save_progress": {"TIGER": 8, "UniGRec": 11},
    "_load_weights": {"TIGER": 1, "UniGRec": 2},
}


class Killed(Exception):
    pass


@pytest.fixture(params=["TIGER", "UniGRec"])
def name(request):
    return request.param


def outcome(experiment, trainer) -> dict:
    """All that a run leaves behind."""
    score, result = trainer.fit(experiment.train, experiment.valid)
    test = trainer.evaluate(experiment.test)
    content = torch.load(trainer.saved_model_file, weights_only=True)["state_dict"]
    return {
        "score": score,
        "result": result,
        "test": dict(test),
        "weights": trainer.model.state_dict(),
        "saved": content,
    }


def assert_same(first: dict, second: dict) -> None:
    for part in ("weights", "saved"):
        assert first[part].keys() == second[part].keys()
        assert [
            key for key in first[part] if not torch.equal(first[part][key], second[part][key])
        ] == []
    assert {**first, "weights": 0, "saved": 0} == {**second, "weights": 0, "saved": 0}


def new_trainer(experiment) -> GenRecTrainer:
    return GenRecTrainer(experiment.config, experiment.model)


def killed_after(trainer, method: str, number: int) -> None:
    """Kill the run when `method` of the trainer returns for the number-th time, from 0."""
    calls, original = [], getattr(trainer, method)

    def call(*given, **named):
        value = original(*given, **named)
        calls.append(1)
        if len(calls) > number:
            raise Killed
        return value

    setattr(trainer, method, call)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["_train", "_validate", "_save_progress", "_load_weights"])
def test_a_killed_run_goes_on_as_if_undisturbed(make_experiment, name, method):
    """Kill at every moment; dropout and optimizer make each epoch depend on all before it."""
    experiment = make_experiment(name, **SETTINGS, **OWN[name])
    undisturbed = outcome(experiment, new_trainer(experiment))
    number = 0
    while True:
        experiment = make_experiment(name, **SETTINGS, **OWN[name])
        trainer = new_trainer(experiment)
        killed_after(trainer, method, number)
        try:
            trainer.fit(experiment.train, experiment.valid)
            break
        except Killed:
            resume_file = Path(trainer.resume_file)
        if resume_file.exists():
            experiment = make_experiment(name, **SETTINGS, **OWN[name])
            for weight in experiment.model.parameters():
                weight.data.fill_(0.5)
            torch.manual_seed(12345)
            again = new_trainer(experiment)
            again.resume_checkpoint(str(resume_file))
            assert_same(outcome(experiment, again), undisturbed)
            resume_file.unlink()
        else:
            assert (number, method) == (0, "_train"), (
                "from the end of the first epoch on there is something to go on from"
            )
        number += 1
    assert number == N_MOMENTS[method][name]


@pytest.mark.slow
def test_a_run_killed_twice(make_experiment, name):
    experiment = make_experiment(name, **SETTINGS, **OWN[name])
    undisturbed = outcome(experiment, new_trainer(experiment))
    resume_file = None
    for _ in range(2):
        experiment = make_experiment(name, **SETTINGS, **OWN[name])
        trainer = new_trainer(experiment)
        if resume_file is not None:
            trainer.resume_checkpoint(resume_file)
        killed_after(trainer, "_train", 2)
        with pytest.raises(Killed):
            trainer.fit(experiment.train, experiment.valid)
        resume_file = trainer.resume_file
    experiment = make_experiment(name, **SETTINGS, **OWN[name])
    trainer = new_trainer(experiment)
    trainer.resume_checkpoint(resume_file)
    assert (trainer.progress.stage, trainer.progress.epoch) == (1, 0), (
        "killed after 3 epochs of 4, then after the first of the next stage"
    )
    assert_same(outcome(experiment, trainer), undisturbed)


def test_early_stopping_goes_on_after_a_kill(make_experiment):
    """The second bad validation of two in a row ends the stage, wherever the run was killed."""
    scores, settings = (0.5, 0.4, 0.3, 0.9), {**SETTINGS, "epochs": 6, "eval_batch_size": 5}
    for n_epochs in (1, 2, 3):
        experiment = make_experiment("TIGER", **settings)
        trainer, left = new_trainer(experiment), list(scores)
        killed_after(
            trainer, "_save_progress", 4 + n_epochs
        )  # after 4 tokenizer epochs and the end of their stage
        trainer._valid_epoch = lambda *given, left=left, **named: (left[0], {"ndcg@5": left.pop(0)})
        with pytest.raises(Killed):
            trainer.fit(experiment.train, experiment.valid)
        again = new_trainer(experiment)
        again.resume_checkpoint(trainer.resume_file)
        assert (again.progress.epoch, again.progress.stopped) == (n_epochs, n_epochs == 3)
        again._valid_epoch = trainer._valid_epoch
        assert again.fit(experiment.train, experiment.valid)[0] == 0.5
        assert left == [0.9]


def test_steps_are_counted_over_the_whole_stage(make_experiment, name, monkeypatch):
    experiment, steps, step = (
        make_experiment(name, train_batch_size=7, **SETTINGS),
        [],
        StageOptimizer.step,
    )
    monkeypatch.setattr(
        StageOptimizer,
        "step",
        lambda optimizer, loss, number: (steps.append(number), step(optimizer, loss, number)),
    )
    new_trainer(experiment).fit(experiment.train, experiment.valid)
    n_rows = len(experiment.train.dataset.inter_feat)
    of_items, of_rows = list(range(4 * 3)), list(range(2 * -(-n_rows // 7)))
    assert steps == of_items + of_rows * (2 if name == "UniGRec" else 1)


def test_every_stage_shuffles_in_its_own_way(make_experiment):
    experiment = make_experiment("UniGRec", seed=5)
    trainer, orders = new_trainer(experiment), []
    for number, stage in enumerate(experiment.model.stages()):
        trainer.progress.stage = number
        batches = trainer._batches(stage, experiment.train)
        orders.append([batch if number == 0 else batch["item_id"] for batch in batches.epoch(0)])
    assert torch.cat(orders[1]).tolist() != torch.cat(orders[2]).tolist()
    assert len(orders[0]) == 3


def test_a_finished_run_has_nothing_left_to_do(make_experiment, name, monkeypatch):
    experiment = make_experiment(name, **SETTINGS, **OWN[name])
    trainer = new_trainer(experiment)
    first = outcome(experiment, trainer)
    experiment = make_experiment(name, **SETTINGS, **OWN[name])
    again = new_trainer(experiment)
    again.resume_checkpoint(trainer.resume_file)
    monkeypatch.setattr(GenRecTrainer, "_train", lambda *given: pytest.fail("an epoch was run"))
    assert_same(outcome(experiment, again), first)


@pytest.mark.slow
def test_equal_seeds_give_equal_runs(make_experiment, name, caplog):
    """Losses, validation scores, codes and rankings; another seed gives others."""
    runs = []
    for seed in (3, 3, 4):
        caplog.clear()
        experiment = make_experiment(name, seed=seed, **SETTINGS)
        with caplog.at_level("INFO"):
            run = outcome(experiment, new_trainer(experiment))
        losses = [line.split("losses:")[1] for line in caplog.messages if "losses:" in line]
        assert len(losses) >= 6
        batch = next(iter(experiment.test))[0]
        runs.append((run, losses, experiment.model.search(batch, 5).item_ids[:, :5].tolist()))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]
    assert runs[0][1] != runs[2][1]
    assert runs[0][2] != runs[2][2]


def test_the_temperature_anneals_and_is_saved(make_experiment):
    """It falls from 0.5 by 0.1 an epoch; the last one stays, also in a later process."""
    experiment = make_experiment("UniGRec", **SETTINGS)
    trainer, seen = new_trainer(experiment), []
    train = trainer._train

    def record(stage, *given):
        losses = train(stage, *given)
        seen.append((stage.name, round(float(experiment.model.tokenizer.temperature), 6)))
        return losses

    trainer._train = record
    trainer.fit(experiment.train, experiment.valid)
    assert seen == [
        ("tokenizer", 0.5),
        ("tokenizer", 0.4),
        ("tokenizer", 0.3),
        ("tokenizer", 0.2),
    ] + [(stage, 0.2) for stage in ("joint", "joint", "finetune", "finetune")]
    fresh = make_experiment("UniGRec", **SETTINGS)
    assert float(fresh.model.tokenizer.temperature) == 0.5
    new_trainer(fresh).evaluate(fresh.test, model_file=trainer.saved_model_file)
    assert float(fresh.model.tokenizer.temperature) == pytest.approx(0.2)


def test_checkpoints_of_another_model_or_data_set_are_refused(make_experiment):
    experiment = make_experiment("TIGER")
    trainer = new_trainer(experiment)
    trainer.fit(experiment.train, experiment.valid)
    other = make_experiment("UniGRec")
    with pytest.raises(UserError, match="is a checkpoint of TIGER, not of UniGRec"):
        new_trainer(other).resume_checkpoint(trainer.resume_file)
    with pytest.raises(UserError, match="is a checkpoint of TIGER, not of UniGRec"):
        new_trainer(other).evaluate(other.test, model_file=trainer.saved_model_file)
    fewer = make_experiment("TIGER", user_inter_num_interval="[6,inf)", n_beams=5)
    before = {key: value.clone() for key, value in fewer.model.state_dict().items()}
    with pytest.raises(UserError, match="was trained on data with the fingerprint"):
        new_trainer(fewer).resume_checkpoint(trainer.resume_file)
    with pytest.raises(UserError, match="was trained on data with the fingerprint"):
        new_trainer(fewer).evaluate(fewer.test, model_file=trainer.saved_model_file)
    assert all(
        torch.equal(value, before[key]) for key, value in fewer.model.state_dict().items()
    ), "refused before anything changed"
    with pytest.raises(MissingFileError, match="does not exist"):
        new_trainer(fewer).resume_checkpoint("nowhere.resume.pth")


@pytest.mark.parametrize("where", ["ranking", "writing"])
def test_an_interrupted_validation_leaves_no_half_file(make_experiment, monkeypatch, where):
    experiment = make_experiment("TIGER", epochs=3, **SETTINGS)
    trainer, calls = new_trainer(experiment), []

    def interrupt(*given):
        calls.append(1)
        if where == "writing":
            given[1].write(b"half")
        raise KeyboardInterrupt

    validate = trainer._validate

    def second_validation(stage, epoch, *given):
        if epoch == 1:
            trainer._valid_epoch = lambda *given, **named: (2.0, {"ndcg@5": 2.0})
            if where == "ranking":
                trainer._valid_epoch = interrupt_named
            else:
                monkeypatch.setattr(torch, "save", interrupt)
        validate(stage, epoch, *given)

    def interrupt_named(*given, **named):
        interrupt()

    trainer._validate = second_validation
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(experiment.train, experiment.valid)
    monkeypatch.undo()
    folder = Path(trainer.saved_model_file).parent
    assert calls == [1]
    files = [file for file in folder.iterdir() if file.is_file()]
    assert {file.name for file in files} == {
        Path(trainer.saved_model_file).name,
        Path(trainer.resume_file).name,
    }
    for file in files:
        assert torch.load(file, weights_only=True)["model"] == "TIGER"
    again = new_trainer(experiment)
    again.resume_checkpoint(trainer.resume_file)
    assert (again.progress.stage, again.progress.epoch) == (1, 1)


@pytest.mark.parametrize("n_items, batch_size", [(11, 4), (11, 5), (11, 64), (2, 1)])
def test_item_batches_hold_every_item_once(n_items, batch_size):
    batches = ItemBatches(n_items, batch_size, 3, torch.device("cpu"))
    first = list(batches.epoch(0))
    assert len(first) == len(batches)
    assert max(map(len, first)) <= batch_size
    assert sorted(torch.cat(first).tolist()) == list(range(1, n_items))


def test_item_batches_are_shuffled_by_seed_and_epoch():
    def order(seed, epoch):
        torch.rand(1)  # other users of torch's generator do not matter
        return torch.cat(list(ItemBatches(101, 8, seed, torch.device("cpu")).epoch(epoch))).tolist()

    assert order(3, 1) == order(3, 1)
    assert (
        len(
            {tuple(order(seed, epoch)) for seed in (3, 4) for epoch in (0, 1)}
            | {tuple(range(1, 101))}
        )
        == 5
    )
