"""The model of a finished run, taken back from its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from recbole_genrec import quick_start
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.model import abstract
from recbole_genrec.quick_start import create_trainer, load, run

TEACHERS = Path("teachers")


def ranked(network, test_data) -> list:
    batch = next(iter(test_data))[0]
    return network.eval().search(batch, 5).item_ids[:, :5].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TIGER", "UniGRec"])
def test_a_loaded_model_is_the_model_of_the_run(small_settings, model, monkeypatch):
    """The checkpoint holds all that was learned: no features are made and no teacher is trained."""
    networks, trainer_of = [], quick_start.create_trainer
    given = {
        **small_settings(model),
        "item_features": {"cf": "SASRec"},
        "teacher_cache_dir": str(TEACHERS),
    }
    with monkeypatch.context() as patch:
        patch.setattr(
            quick_start,
            "create_trainer",
            lambda config, network: (networks.append(network), trainer_of(config, network))[1],
        )
        result = run(model, config_dict=given)
    assert list(TEACHERS.iterdir())
    shutil.rmtree(TEACHERS)
    monkeypatch.setattr(abstract, "item_matrix", lambda *given: pytest.fail("features were made"))
    monkeypatch.setattr(
        quick_start, "teacher_table", lambda *given: pytest.fail("a teacher was trained")
    )
    torch.manual_seed(77)
    config, network, data, train_data, valid_data, test_data = load(result["checkpoint"])
    assert not network.training
    assert config["model"] == model
    assert (data.user_num, data.item_num) == (13, 11)
    assert (
        train_data.dataset.fingerprint()
        == network.dataset_fingerprint
        == networks[0].dataset_fingerprint
    )
    for name, values in networks[0].state_dict().items():
        assert torch.equal(network.state_dict()[name], values), name
    assert ranked(network, test_data) == ranked(networks[0], test_data)
    trainer = create_trainer(config, network)
    assert dict(trainer.evaluate(test_data, load_best_model=False)) == dict(result["test_result"])
    assert dict(trainer.evaluate(valid_data, load_best_model=False)) == pytest.approx(
        result["best_valid_result"]
    )
    assert not TEACHERS.exists()


def test_a_loaded_model_has_the_settings_of_the_run(small_settings, tmp_path):
    """Settings given to `load` win: the data may have moved."""
    changes = {"hidden_size": 24, "seed": 9, "n_user_tokens": 6, "separator_token": True}
    result = run("TIGER", config_dict={**small_settings("TIGER"), **changes})
    shutil.move(small_settings("TIGER")["data_path"], tmp_path / "elsewhere")
    with pytest.raises(MissingFileError, match="tiny"):
        load(result["checkpoint"])
    config, network, *_, test_data = load(
        result["checkpoint"], {"data_path": str(tmp_path / "elsewhere"), "n_beams": 7}
    )
    assert {key: config[key] for key in changes} == changes
    assert (config["n_beams"], len(network.search(next(iter(test_data))[0]).item_ids[0])) == (7, 7)
    config, network, *_, test_data = load(
        result["checkpoint"], {"data_path": str(tmp_path / "elsewhere")}
    )
    assert dict(create_trainer(config, network).evaluate(test_data, load_best_model=False)) == dict(
        result["test_result"]
    )


def test_another_data_set_is_refused(small_settings, tmp_path):
    """Names of users and items may be the same: the order of one user's items is enough."""
    result = run("TIGER", config_dict=small_settings("TIGER"))
    folder = tmp_path / "other" / "tiny"
    shutil.copytree(Path(small_settings("TIGER")["data_path"]) / "tiny", folder)
    rows = (folder / "tiny.inter").read_text()
    (folder / "tiny.inter").write_text(rows.replace("u1\ti1\t1400000000", "u1\ti1\t1400000009"))
    assert (folder / "tiny.inter").read_text() != rows
    with pytest.raises(UserError, match="was trained on data with the fingerprint"):
        load(result["checkpoint"], {"data_path": str(folder.parent)})


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pth", ".resume.pth"])
def test_files_of_0_1_are_refused(small_settings, suffix):
    settings = {**small_settings("TIGER"), "epochs": 1, "tokenizer_epochs": 1}
    path = Path(run("TIGER", config_dict=settings)["checkpoint"]).with_suffix(suffix)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "format": "recbole_genrec checkpoint 1"}, path)
    with pytest.raises(UserError, match=r"was written by recbole_genrec 0\.1, .* train the model"):
        load(str(path))
    if suffix == ".resume.pth":
        with pytest.raises(UserError, match=r"was written by recbole_genrec 0\.1"):
            run("TIGER", config_dict={**settings, "resume": str(path)})
        again = run("TIGER", config_dict={**settings, "resume": "auto"})
        assert again["checkpoint"] != str(path).replace(".resume", "")


def test_files_that_hold_no_model_are_refused(tiny_settings):
    with pytest.raises(MissingFileError, match=r"'nowhere\.pth' does not exist"):
        load("nowhere.pth")
    result = run("SASRec", config_dict=tiny_settings)
    with pytest.raises(
        UserError, match=r"has the format None.*that a generative model has written"
    ):
        load(result["checkpoint"])


@pytest.mark.parametrize("model", ["TIGER", "UniGRec"])
def test_checkpoints_hold_the_settings_as_plain_values(small_settings, model):
    result = run(model, config_dict={**small_settings(model), "learning_rate": 0.005})
    path = Path(result["checkpoint"])
    for file in (path, path.with_suffix(".resume.pth")):
        content = torch.load(file, weights_only=True)
        assert content["settings"]["learning_rate"] == 0.005
        assert content["settings"]["eval_args"]["split"] == {"LS": "valid_and_test"}
        assert (content["settings"]["model"], content["settings"]["dataset"]) == (model, "tiny")
        again = GenRecConfig(config_dict=content["settings"]).settings()
        assert {**again, "gpu_id": str(again["gpu_id"])} == content["settings"]


def test_the_run_does_not_choose_the_gpu_of_a_later_machine(small_settings):
    result = run("TIGER", config_dict={**small_settings("TIGER"), "gpu_id": 3})
    assert "gpu_id" not in load(result["checkpoint"])[0].external_config_dict
    assert load(result["checkpoint"], {"gpu_id": 1})[0].external_config_dict["gpu_id"] == 1
