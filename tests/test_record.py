from __future__ import annotations

import json
import logging
import platform
from types import SimpleNamespace

import numpy
import torch

from recbole_genrec.config import GenRecConfig
from recbole_genrec.quick_start import create_dataset
from recbole_genrec.record import generative_figures, log_summary, write_record


def result_at(folder) -> dict:
    return {"best_valid_result": {"ndcg@5": 0.25}, "test_result": {"ndcg@5": 0.125}, "checkpoint": str(folder / "run.pth")}


def test_record_holds_what_a_run_can_be_cited_by(tiny_settings, tmp_path):
    config = GenRecConfig("SASRec", "tiny", config_dict={**tiny_settings, "seed": 7})
    data = create_dataset(config)
    write_record(config, data, 63, result_at(tmp_path), 12.345)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["model"], record["dataset"], record["seed"], record["seconds"]) == ("SASRec", "tiny", 7, 12.3)
    assert (record["n_users"], record["n_items"], record["n_interactions"]) == (12, 10, 63)
    assert record["dataset_fingerprint"] == data.fingerprint()
    assert record["given_settings"]["seed"] == 7 and "dataset" not in record["given_settings"]
    assert record["test_result"] == {"ndcg@5": 0.125}
    found = record["versions"]
    assert (found["numpy"], found["torch"], found["python"]) == (numpy.__version__, torch.__version__, platform.python_version())


def test_record_of_data_without_a_fingerprint(tiny_settings, tmp_path):
    config = GenRecConfig("Pop", "tiny", config_dict=tiny_settings)
    write_record(config, create_dataset(config), 63, result_at(tmp_path), 1.0)
    assert json.loads((tmp_path / "run.json").read_text())["dataset_fingerprint"] is None


def test_summary_names_data_metrics_and_files(tiny_settings, tmp_path, caplog):
    config = GenRecConfig("SASRec", "tiny", config_dict=tiny_settings)
    with caplog.at_level(logging.INFO):
        log_summary(config, create_dataset(config), 63, {**result_at(tmp_path), "stage_seconds": {}}, 2.0)
    lines = [record.getMessage() for record in caplog.records if record.name == "recbole_genrec.record"]
    assert lines[:2] == ["SASRec on tiny, seed 2020, 2.0 s", "data: 12 users, 10 items, 63 interactions"]
    assert lines[2:4] == ["best_valid_result: ndcg@5 : 0.25", "test_result: ndcg@5 : 0.125"]
    assert str(tmp_path / "run.json") in lines[4]


def test_other_models_have_no_generative_figures():
    assert generative_figures(torch.nn.Linear(1, 1), SimpleNamespace()) == {}
