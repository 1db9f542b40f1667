from __future__ import annotations

import pytest
import torch
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.loaders import make_loaders
from recbole_genrec.data.sequences import Sequences
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import create_dataset
from recbole_genrec.seq2seq.dropout import Dropout
from recbole_genrec.teacher.recbole_model import settings_of_run
from recbole_genrec.teacher.sasrec import (
    SASRecTeacher,
    WindowBatches,
    sasrec_settings,
    strided_windows,
)
from recbole_genrec.trainer.trainer import GenRecTrainer

N_ITEMS = 30
FIELDS = ("user_id", "item_id_list", "item_length", "item_id")


@pytest.fixture
def make_run(make_toy_run):
    """make_run(width): the teacher's settings and the loaders of the toy data set."""

    def make(width: int = 20):
        config, _ = make_toy_run(MAX_ITEM_LIST_LENGTH=width)
        given = {**settings_of_run(config), **sasrec_settings(config)}
        teacher_config = GenRecConfig("SASRec", "toy", config_dict=given)
        return teacher_config, make_loaders(teacher_config, create_dataset(teacher_config))

    return make


def sequences_of(lengths) -> Sequences:
    """Items 1, 2, ... through all users, after the padding user."""
    starts = torch.tensor([0, 0, *torch.tensor(lengths).cumsum(0).tolist()])
    return Sequences(items=torch.arange(1, int(starts[-1]) + 1), starts=starts)


def spread(model):
    """Make the weights so large that every term of the forward pass matters."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_windows_of_a_long_user():
    sequences = sequences_of([11])
    batch = strided_windows(sequences, width=4).cut(sequences, FIELDS)
    assert batch["item_id_list"].tolist() == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert batch["item_id"].tolist() == [[2, 3, 4, 5], [6, 7, 0, 0], [8, 9, 0, 0]]


def test_the_last_window_of_a_user_may_be_short():
    sequences = sequences_of([10])
    batch = strided_windows(sequences, width=4).cut(sequences, FIELDS)
    assert batch["item_id_list"].tolist() == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 0]]
    assert batch["item_id"].tolist() == [[2, 3, 4, 5], [6, 7, 0, 0], [8, 0, 0, 0]]


@pytest.mark.parametrize("width", [1, 2, 5, 20])
def test_every_training_target_is_in_one_window(width):
    lengths = [1, 2, 3, 4, 5, 9, 10, 23, 0]
    sequences = sequences_of(lengths)
    targets = strided_windows(sequences, width).cut(sequences, FIELDS)["item_id"]
    starts = sequences.starts[1:].tolist()
    expected = [
        item for start, n in zip(starts, lengths) for item in range(start + 2, start + n - 1)
    ]
    assert sorted(targets[targets > 0].tolist()) == expected


def test_batches_have_every_window_once_and_depend_on_seed_and_epoch():
    sequences = sequences_of(range(3, 40))
    first, second, other = (WindowBatches(sequences, 8, 5, seed, FIELDS) for seed in (1, 1, 2))
    found = [
        [batch["item_id"].tolist() for batch in batches.epoch(0)]
        for batches in (first, second, other)
    ]
    assert found[0] == found[1] != found[2]
    assert found[0] != [batch["item_id"].tolist() for batch in first.epoch(1)]
    n_windows = len(strided_windows(sequences, 8).length)
    assert len(first) == len(found[0]) == -(-n_windows // 5)
    assert sorted(map(len, found[0]))[1:] == [5] * (len(first) - 1)
    trained = [item for batch in found[0] for row in batch for item in row if item]
    assert len(trained) == len(set(trained)) == sum(range(0, 37))


def test_all_positions_end_where_sasrec_ends(make_run):
    config, loaders = make_run()
    model = spread(SASRecTeacher(config, loaders[0].dataset))
    length = torch.randint(1, 21, (64,))
    step = torch.arange(20)
    items = torch.randint(1, N_ITEMS + 1, (64, 20)).masked_fill(step >= length[:, None], 0)
    states = model.hidden_states(items, step == length[:, None] - 1)
    torch.testing.assert_close(states, model(items, length), rtol=0, atol=1e-6)
    # An inner position knows its prefix only.
    inner = model.hidden_states(items, (step == 3) & (length[:, None] >= 4))
    prefix = model(items.masked_fill(step >= 4, 0), torch.full((64,), 4))[length >= 4]
    torch.testing.assert_close(inner, prefix, rtol=0, atol=1e-5)


def test_faster_parts_are_recboles_in_evaluation_and_drop_in_training(make_run):
    config, loaders = make_run()
    ours = spread(SASRecTeacher(config, loaders[0].dataset))
    theirs = SASRec(config, loaders[0].dataset).eval()
    theirs.load_state_dict(ours.state_dict())
    items, length = torch.randint(1, N_ITEMS + 1, (8, 20)), torch.full((8,), 20)
    torch.testing.assert_close(ours(items, length), theirs(items, length), rtol=0, atol=1e-6)
    replaced = [module for module in ours.modules() if isinstance(module, Dropout)]
    dropped = [module for module in theirs.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(replaced) == len(dropped) > 0
    assert not any(isinstance(module, torch.nn.Dropout) for module in ours.modules())
    assert {module.rate for module in replaced} == {module.p for module in dropped} == {0.1}


def test_the_loss_of_all_positions_is_recboles_loss_of_all_rows(make_run):
    config, loaders = make_run()
    dataset = loaders[0].dataset
    model = spread(SASRecTeacher(config, dataset))
    rows = dataset[torch.arange(len(dataset))]
    # Users with 3 interactions have a training row in RecBole and no training target here.
    rows = rows[(dataset.sequences.lengths()[rows["user_id"]] > 3).nonzero().squeeze(1)]
    whole = strided_windows(dataset.sequences, 20).cut(dataset.sequences, FIELDS)
    torch.testing.assert_close(model.losses(whole)["next_item"], model.calculate_loss(rows))
    assert len(rows) == int((whole["item_id"] > 0).sum()) > 100


def test_the_trainer_gives_the_metrics_of_recboles_trainer(make_run):
    config, (train, *held_out) = make_run(5)
    model = spread(SASRecTeacher(config, train.dataset))
    theirs = Trainer(config, SASRec(config, train.dataset))
    theirs.model.load_state_dict(model.state_dict())
    for loader in held_out:
        result = GenRecTrainer(config, model).evaluate(loader, load_best_model=False)
        assert 0 < result["recall@10"] < 1
        expected = theirs.evaluate(loader, load_best_model=False)
        assert dict(result) == pytest.approx(dict(expected), abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"teacher_epochs": 0}, "teacher_epochs is 0"), ({"teacher_n_heads": 3}, "size is 16")],
)
def test_bad_settings_are_named(make_toy_run, settings, message):
    config, _ = make_toy_run(**settings)
    with pytest.raises(UserError, match=message):
        sasrec_settings(config)
