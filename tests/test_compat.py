from __future__ import annotations

import copy
import logging
import sys

import numpy as np
import pytest
import torch
from recbole.data import data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_trainer

from recbole_genrec import compat
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import create_dataset


@pytest.fixture
def make_trainer(tiny_settings):
    """make_trainer(model) -> (a trainer with plain checkpoints, the three data loaders)."""

    def make(model, **changes):
        # A batch in which BERT4Rec masks nothing has no loss: take all rows at once.
        config = GenRecConfig(
            model, config_dict={**tiny_settings, "train_batch_size": 64, **changes}
        )
        loaders = data_preparation(config, create_dataset(config))
        torch.manual_seed(1)
        network = config.model_class(config, loaders[0].dataset)
        base = get_trainer(config["MODEL_TYPE"], model)
        return type("Plain", (compat.PlainCheckpoints, base), {})(config, network), loaders

    return make


@pytest.mark.parametrize(
    "model", ["SASRec", "BERT4Rec", "GRU4Rec", "BPR", "EASE", "ItemKNN", "Pop"]
)
def test_best_model_is_loaded_for_the_test(make_trainer, model):
    trainer, (train, valid, test) = make_trainer(model)
    trainer.fit(train, valid, verbose=False)
    expected = trainer.evaluate(test)
    fresh, _ = make_trainer(model)
    assert fresh.evaluate(test, model_file=trainer.saved_model_file) == expected
    checkpoint = torch.load(trainer.saved_model_file, weights_only=True)
    assert checkpoint["config"]["model"] == model
    assert checkpoint["config"]["topk"] == [3, 5]
    assert checkpoint["best_valid_result"] == trainer.best_valid_result


def test_weights_changed_after_saving_do_not_count(make_trainer):
    trainer, (train, valid, test) = make_trainer("SASRec")
    trainer.fit(train, valid, verbose=False)
    expected = trainer.evaluate(test)
    saved = copy.deepcopy(trainer.model.state_dict())
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.normal_()
    assert trainer.evaluate(test) == expected
    assert all(
        torch.equal(weight, saved[name]) for name, weight in trainer.model.state_dict().items()
    )


def test_resume_goes_on_after_the_saved_epoch(make_trainer):
    first, (train, valid, _) = make_trainer("SASRec")
    first.fit(train, valid, verbose=False)
    checkpoint = torch.load(first.saved_model_file, weights_only=True)
    second, _ = make_trainer("SASRec")
    second.resume_checkpoint(first.saved_model_file)
    assert second.start_epoch == checkpoint["epoch"] + 1
    assert (second.best_valid_score, second.best_valid_result) == (
        first.best_valid_score,
        first.best_valid_result,
    )
    assert all(
        torch.equal(weight, checkpoint["state_dict"][name])
        for name, weight in second.model.state_dict().items()
    )
    state, saved = second.optimizer.state_dict(), checkpoint["optimizer"]
    assert state["state"].keys() == saved["state"].keys()
    assert all(
        torch.equal(state["state"][key]["exp_avg"], saved["state"][key]["exp_avg"])
        for key in saved["state"]
    )


def test_resuming_a_finished_run_keeps_its_checkpoint(make_trainer):
    first, (train, valid, _) = make_trainer("SASRec", epochs=1)
    first.fit(train, valid, verbose=False)
    second, _ = make_trainer("SASRec", epochs=1)
    second.resume_checkpoint(first.saved_model_file)
    assert second.fit(train, valid, verbose=False) == (
        first.best_valid_score,
        first.best_valid_result,
    )
    assert torch.load(first.saved_model_file, weights_only=True)["epoch"] == 0


def test_checkpoint_of_another_model_is_refused(make_trainer):
    first, (train, valid, _) = make_trainer("GRU4Rec")
    first.fit(train, valid, verbose=False)
    second, _ = make_trainer("SASRec")
    with pytest.raises(
        ValueError, match="is a checkpoint of GRU4Rec, not of SASRec: resume with --model=GRU4Rec"
    ):
        second.resume_checkpoint(first.saved_model_file)


def test_numpy_aliases_are_added_only_where_missing(monkeypatch):
    monkeypatch.delattr(np, "float", raising=False)
    monkeypatch.setattr(np, "unicode", "taken", raising=False)
    compat.add_numpy_aliases()
    assert np.float is np.float64
    assert np.unicode == "taken"


def test_each_run_has_its_own_log_file(tiny_settings, tmp_path):
    root = logging.getLogger()
    before, level, stdout = root.handlers[:], root.level, sys.stdout
    for model in ("SASRec", "GRU4Rec"):
        with compat.own_log_file(GenRecConfig(model, config_dict=tiny_settings)):
            logging.getLogger("recbole_genrec.some").info("this is %s", model)
        assert (root.handlers, root.level, sys.stdout) == (before, level, stdout)
    texts = {file.parent.name: file.read_text() for file in (tmp_path / "log").rglob("*.log")}
    assert "this is SASRec" in texts["SASRec"] and "GRU4Rec" not in texts["SASRec"]
    assert "this is GRU4Rec" in texts["GRU4Rec"] and "SASRec" not in texts["GRU4Rec"]


def test_log_file_is_closed_after_an_error(tiny_settings):
    before = logging.getLogger().handlers[:]
    with (
        pytest.raises(RuntimeError),
        compat.own_log_file(GenRecConfig("SASRec", config_dict=tiny_settings)),
    ):
        raise RuntimeError
    assert logging.getLogger().handlers == before


def test_pop_counts_every_training_interaction(make_trainer, tiny_sequences):
    trainer, (train, valid, _) = make_trainer("Pop", train_batch_size=4)
    trainer.fit(train, valid, verbose=False)
    counts = {f"i{item}": 0 for item in range(1, 11)}
    for items in tiny_sequences:
        for item in items[:-2]:
            counts[f"i{item}"] += 1
    tokens = train.dataset.field2id_token["item_id"]
    assert {token: int(trainer.model.item_cnt[i]) for i, token in enumerate(tokens) if i} == counts


def test_refusals_of_recbole_are_user_errors():
    """An error that a function of RecBole raises; one of this package passes unchanged."""
    sentence = r"^RecBole refuses this run \(.*is not supported.*: correct the setting or file$"
    with pytest.raises(UserError, match=sentence), compat.recbole_errors():
        Interaction([1])
    with pytest.raises(UserError, match=r"^ours$"), compat.recbole_errors():
        raise UserError("ours")
    for error in (ValueError("a bug"), ImportError("a bug"), KeyError("a bug")):
        with pytest.raises(type(error)) as caught, compat.recbole_errors():
            raise error
        assert caught.value is error
