"""The example of a model outside the package, run on the data set `tiny`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import compare, load

MODEL = "forgetful:ForgetfulTIGER"  # of examples/own_model/forgetful.py


@pytest.fixture
def settings(small_settings, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "own_model")
    return small_settings("TIGER")


@pytest.mark.slow
def test_the_class_trains_beside_tiger_and_is_loaded_only_if_it_is_named_again(settings):
    records, _ = compare(["TIGER", MODEL], config_dict={**settings, "item_dropout_prob": 0.2})
    assert [record["model"] for record in records] == ["TIGER", "ForgetfulTIGER"]
    checkpoint = records[1]["checkpoint"]
    assert Path(checkpoint).name.startswith("ForgetfulTIGER-tiny-")
    assert torch.load(checkpoint, weights_only=True)["settings"]["model"] == MODEL
    with pytest.raises(UserError, match=f"only if you name it: give model={MODEL}"):
        load(checkpoint)
    for named in ({"model": MODEL}, {"config_dict": {"model": MODEL}}):
        config, model, *_ = load(checkpoint, **named)
        assert type(model).__name__ == config["model"] == "ForgetfulTIGER"
        assert (config["item_dropout_prob"], config["n_user_tokens"]) == (0.2, 0)
    with pytest.raises(UserError, match="is a checkpoint of ForgetfulTIGER, not of TIGER"):
        load(checkpoint, model="TIGER")


def test_training_drops_whole_items_and_evaluation_none(make_experiment, settings):
    model = make_experiment(MODEL, item_dropout_prob=0.5).name_items()
    plain = make_experiment("TIGER").name_items()
    plain.load_state_dict(model.state_dict())
    histories = torch.arange(1, 11).repeat(50, 1)
    expected = plain.embed_history(histories)
    assert torch.equal(model.embed_history(histories), expected)
    torch.manual_seed(1)
    kept = model.train().embed_history(histories).view(500, -1)
    is_dropped = (kept == 0).all(dim=1)
    assert torch.equal(kept[~is_dropped], expected.view(500, -1)[~is_dropped])
    assert 0.4 < is_dropped.float().mean() < 0.6


def test_its_setting_is_checked(make_experiment, settings):
    with pytest.raises(UserError, match="item_dropout_prob is 1, but has to be a number of at lea"):
        make_experiment(MODEL, item_dropout_prob=1)
