"""Whole runs that train all next items of a sequence in one pass."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.data.sequence_batches import SequenceBatches
from recbole_genrec.quick_start import create_trainer, load, run
from recbole_genrec.trainer.optimizer import StageOptimizer
from recbole_genrec.trainer.trainer import GenRecTrainer

SETTINGS = {
    "train_mode": "all_positions",
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "stopping_step": 1,
    "epochs": 3,
}
FIELDS = ("user_id", "item_id_list", "item_length", "item_id")


class Killed(Exception):
    pass


def outcome(experiment, trainer) -> dict:
    """All that a run leaves behind."""
    score, result = trainer.fit(experiment.train, experiment.valid)
    return {"score": score, "result": result, "test": dict(trainer.evaluate(experiment.test))}


def test_a_stage_trains_as_many_steps_on_the_targets_of_prefixes(make_experiment, monkeypatch):
    """Histories that fit into one window give equal pairs, in as many steps of 7 next items."""
    experiment = make_experiment("TIGER", train_batch_size=7, **SETTINGS)
    steps, step = [], StageOptimizer.step
    prefixes = make_experiment("TIGER", train_batch_size=7)
    stage = experiment.model.stages()[1]
    assert (stage.rows, prefixes.model.stages()[1].rows) == ("sequences", "interactions")
    trainer, trained = GenRecTrainer(experiment.config, experiment.model), []
    batches = trainer._batches(stage, experiment.train)
    assert isinstance(batches, SequenceBatches)
    single = GenRecTrainer(prefixes.config, prefixes.model)._batches(
        prefixes.model.stages()[1], prefixes.train
    )
    assert len(batches) == len(single)
    for batch in batches.epoch(0):
        for user, history, length, items in zip(*(batch[field].tolist() for field in FIELDS)):
            items = [item for item in items if item]
            trained += [
                (user, history[: length - back], item) for back, item in enumerate(reversed(items))
            ]
    expected = [
        (user, history[:length], item)
        for batch in single.epoch(0)
        for user, history, length, item in zip(*(batch[field].tolist() for field in FIELDS))
    ]
    assert sorted(trained) == sorted(expected)
    monkeypatch.setattr(
        StageOptimizer,
        "step",
        lambda optimizer, loss, number: (steps.append(number), step(optimizer, loss, number)),
    )
    experiment.name_items()
    trainer._train(stage, 1, batches, trainer._optimizers(stage, len(batches)), False)
    assert steps == list(range(len(single), 2 * len(single)))


@pytest.mark.slow
@pytest.mark.parametrize("number", [4, 6])
def test_a_killed_run_goes_on_as_if_undisturbed(make_experiment, number):
    """Saves: 4 of tokenizer epochs, one at the end of that stage, then the recommender's."""
    experiment = make_experiment("TIGER", **SETTINGS)
    undisturbed = outcome(experiment, create_trainer(experiment.config, experiment.model))
    killed, saves = make_experiment("TIGER", **SETTINGS), []
    second = create_trainer(killed.config, killed.model)
    save = second._save_progress

    def save_and_die(*given):
        save(*given)
        saves.append(1)
        if len(saves) == number:
            raise Killed

    second._save_progress = save_and_die
    with pytest.raises(Killed):
        second.fit(killed.train, killed.valid)
    again = make_experiment("TIGER", **SETTINGS)
    torch.manual_seed(12345)
    third = create_trainer(again.config, again.model)
    third.resume_checkpoint(second.resume_file)
    assert outcome(again, third) == undisturbed
    weights = experiment.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in again.model.state_dict().items())


@pytest.mark.parametrize("model", ["TIGER", "LETTER"])
def test_a_loaded_model_ranks_as_the_model_of_the_run(small_settings, model):
    result = run(
        model, config_dict={**small_settings(model), **SETTINGS, "epochs": 1, "n_user_tokens": 5}
    )
    config, network, *_, test_data = load(result["checkpoint"])
    assert config["train_mode"] == "all_positions"
    trainer = create_trainer(config, network)
    assert dict(trainer.evaluate(test_data, load_best_model=False)) == dict(result["test_result"])


@pytest.mark.slow
def test_learns_a_few_sequences_by_heart(make_experiment, make_batch):
    """All next items are learned at once, and ranked first."""
    settings = {
        "train_mode": "all_positions",
        "feature_scaling": "standardize",
        "weight_decay": 0.0,
    }  # scaled so, no two items share codes
    experiment = make_experiment("TIGER", **settings, scheduler="constant", warmup_epochs=0)
    model, sequences = (
        experiment.name_items().train(),
        [[1, 2, 5, 9, 3], [2, 1, 3, 8, 4], [4, 5, 6, 8, 1]],
    )
    rows = [
        (user, items[:end], items[end])
        for user, items in enumerate(sequences, start=1)
        for end in range(1, 5)
    ]
    batch = make_batch([items[:-1] for items in sequences], [0] * 3)
    batch.interaction["item_id"] = torch.tensor([items[1:] for items in sequences])
    optimizer = StageOptimizer(model, model.recommender_stage(), "adamw", 1.0, 1)
    for step in range(150):
        optimizer.step(model.calculate_loss(batch), step)
    model.eval()
    assert model.calculate_loss(batch).item() < 0.1
    single = make_batch(
        [history for _, history, _ in rows],
        [item for *_, item in rows],
        user_ids=[user for user, *_ in rows],
    )
    assert model.search(single, 1).item_ids[:, :1].flatten().tolist() == [item for *_, item in rows]
