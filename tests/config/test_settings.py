from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import pytest
import recbole
import yaml
from recbole.utils import argument_list

from recbole_genrec.config.settings import _READ_UNSET, GenRecConfig
from recbole_genrec.errors import MissingFileError, UserError


def test_values_are_read_as_literals_and_never_evaluated():
    given = [
        "seed=7",
        "learning_rate=1e-3",
        "use_gpu=false",
        "topk=5,10",
        "recipe=none",
        "user_inter_num_interval=[5,inf)",
    ]
    config = GenRecConfig(
        "SASRec", command_line=[f"--{setting}" for setting in [*given, "data_path=os.getcwd()"]]
    )
    assert (config["seed"], config["learning_rate"], config["use_gpu"], config["topk"]) == (
        7,
        0.001,
        False,
        [5, 10],
    )
    assert config["recipe"] is None
    assert config["user_inter_num_interval"] == "[5,inf)"
    assert config.settings()["data_path"] == "os.getcwd()"


def test_layers_files_then_dict_then_command_line(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("seed: 1\nepochs: 1\nlearning_rate: 1e-4\nhidden_size: 32\n")
    second.write_text("epochs: 2\nlearning_rate: 0.5\n")
    config = GenRecConfig("SASRec", config_file_list=[first], config_dict={"epochs": 3, "seed": 3},
                          command_line=["--epochs=4", "--config_files", str(second)])  # fmt: skip
    assert (config["hidden_size"], config["learning_rate"], config["seed"], config["epochs"]) == (
        32,
        0.5,
        3,
        4,
    )
    assert config["n_layers"] == 2, "RecBole's property file of the model is the lowest layer"


def test_floats_in_files_may_be_written_without_a_point(tmp_path):
    (tmp_path / "settings.yaml").write_text("learning_rate: 1e-3\n")
    before = {key: list(rules) for key, rules in yaml.FullLoader.yaml_implicit_resolvers.items()}
    assert (
        GenRecConfig("SASRec", config_file_list=[tmp_path / "settings.yaml"])["learning_rate"]
        == 0.001
    )
    assert yaml.FullLoader.yaml_implicit_resolvers == before, "yaml itself is unchanged"


def test_default_data_set_and_protocol_hold_for_every_model():
    protocol = None
    for model in ("SASRec", "BPR", "Pop", "FM", "DIN"):
        config = GenRecConfig(model)
        found = [
            config[key]
            for key in (
                "dataset",
                "eval_args",
                "metrics",
                "topk",
                "valid_metric",
                "repeatable",
                "MAX_ITEM_LIST_LENGTH",
            )
        ]
        protocol = protocol or found
        assert found == protocol
        assert config["load_col"]["inter"] == ["user_id", "item_id", "timestamp"]
    assert protocol[0] == "ml-100k"
    assert protocol[1]["split"] == {"LS": "valid_and_test"}


def test_columns_that_a_model_asks_for_stay_loaded():
    assert GenRecConfig("SASRecF", "ml-100k")["load_col"]["item"] == [
        "item_id",
        "release_year",
        "class",
    ]


@pytest.mark.parametrize(
    ("model", "distribution"),
    [
        ("SASRec", "none"),
        ("BERT4Rec", "none"),
        ("FPMC", "uniform"),
        ("BPR", "uniform"),
        ("DIN", "uniform"),
    ],
)
def test_negatives_are_sampled_only_where_the_loss_takes_them(model, distribution):
    assert GenRecConfig(model)["train_neg_sample_args"]["distribution"] == distribution


def test_part_of_eval_args_keeps_the_rest_of_the_protocol():
    eval_args = GenRecConfig("SASRec", config_dict={"eval_args": {"mode": "uni100"}})["eval_args"]
    assert eval_args["split"] == {"LS": "valid_and_test"}
    assert eval_args["mode"] == {"valid": "uni100", "test": "uni100"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"hiden_size": 3}, "'hiden_size' is not known to SASRec .did you mean 'hidden_size'"),
        ({"recipe": "moon"}, "recipe 'moon' of SASRec does not exist"),
        ({"epochs": 0}, "epochs is 0"),
        ({"valid_metric": "MRR@7"}, "valid_metric is 'MRR@7'"),
    ],
)
def test_bad_settings_are_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        GenRecConfig("SASRec", config_dict=given)


def test_bad_config_files_are_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(MissingFileError, match=r"missing.yaml' does not exist"):
        GenRecConfig("SASRec", config_file_list=[tmp_path / "missing.yaml"])
    with pytest.raises(UserError, match="holds a list"):
        GenRecConfig("SASRec", config_file_list=[tmp_path / "list.yaml"])
    with pytest.raises(UserError, match="not valid YAML"):
        GenRecConfig("SASRec", config_file_list=[tmp_path / "broken.yaml"])
    assert GenRecConfig("SASRec", config_file_list=[tmp_path / "empty.yaml"])["model"] == "SASRec"


def test_settings_give_the_same_config_again():
    first = GenRecConfig("SASRec", config_dict={"seed": 5, "topk": [3], "valid_metric": "MRR@3"})
    second = GenRecConfig(config_dict=first.settings())
    assert second.final_config_dict == first.final_config_dict


def test_values_of_numpy_whole_floats_and_paths_are_plain_settings(tmp_path):
    given = {
        "epochs": np.int64(3),
        "n_beams": 20.0,
        "topk": np.array([5]),
        "checkpoint_dir": tmp_path,
    }
    config = GenRecConfig("TIGER", config_dict={**given, "valid_metric": "NDCG@5"})
    found = [config.settings()[key] for key in given]
    assert found == [3, 20, [5], str(tmp_path)]
    assert [type(value) for value in found] == [int, int, list, str]


@pytest.mark.parametrize("model", ["ETEGRec", "UNGER"])
def test_none_on_the_command_line_is_the_choice_none(model):
    assert GenRecConfig(model, command_line=["--ablation=none"])["ablation"] == "none"


def test_nothing_of_the_callers_or_of_recbole_is_changed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest", "--seed=99", "--maxfail=1"])
    before, environment = list(argument_list.dataset_arguments), dict(os.environ)
    given = {"seed": "3"}
    config = GenRecConfig("SASRec", "ml-100k", config_dict=given, command_line=["--use_gpu=False"])
    assert config["seed"] == 3
    assert given == {"seed": "3"}
    assert argument_list.dataset_arguments == before
    assert dict(os.environ) == environment
    assert config["device"].type == "cpu"


def test_reading_a_setting_that_nothing_defines_fails_loudly():
    config = GenRecConfig("SASRec")
    with pytest.raises(
        KeyError,
        match=r"'hiden_size' is read but no property file of SASRec defines it .did you mean 'hid",
    ):
        config["hiden_size"]
    assert config["dataset_save_path"] is None


def test_settings_that_recbole_reads_unset_are_known():
    """RecBole's shared code finds every setting that it reads, or is allowed to miss it.

    Model files and their trainers are left out.
    """
    root = Path(recbole.__file__).parent
    files = [
        file
        for folder in ("data", "evaluator", "sampler", "utils")
        for file in (root / folder).rglob("*.py")
    ]
    files += [root / "model" / "abstract_recommender.py", root / "model" / "layers.py"]
    read = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.ctx, ast.Load)
                and isinstance(node.slice, ast.Constant)
            ) and ast.unparse(node.value) in ("config", "self.config"):
                read.add(node.slice.value)
    # Written by RecBole's transformations before they or a model read them.
    written = {
        key
        for key in read
        if key.isupper()
        and key.split("_")[0] in ("CROP", "INVERSE", "MASK", "NEG", "POS", "REORDER")
    }
    config = GenRecConfig("SASRec")
    assert len(read) > 50
    for key in read - written - _READ_UNSET:
        config[key]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = GenRecConfig(
        "SASRec", "toy", command_line=["--data_path=~/data", "--checkpoint_dir=~/saved"]
    )
    assert config["data_path"] == str(tmp_path / "data" / "toy")
    assert config["checkpoint_dir"] == str(tmp_path / "saved")
