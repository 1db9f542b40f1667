from __future__ import annotations

import json
import logging
import platform
from types import SimpleNamespace

import numpy
import pytest
import torch

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.quick_start import create_dataset, run
from recbole_genrec.results.outcomes import outcomes_path, read_outcomes
from recbole_genrec.results.record import (
    generative_figures,
    log_summary,
    run_digest,
    write_record,
)
from recbole_genrec.results.significance import user_values


def result_at(folder) -> dict:
    return {
        "best_valid_result": {"ndcg@5": 0.25},
        "test_result": {"ndcg@5": 0.125},
        "checkpoint": str(folder / "run.pth"),
    }


def test_record_holds_what_a_run_can_be_cited_by(tiny_settings, tmp_path):
    config = GenRecConfig("SASRec", "tiny", config_dict={**tiny_settings, "seed": 7})
    data = create_dataset(config)
    write_record(config, data, 63, result_at(tmp_path), 12.345)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["model"], record["dataset"], record["seed"], record["seconds"]) == (
        "SASRec",
        "tiny",
        7,
        12.3,
    )
    assert (record["n_users"], record["n_items"], record["n_interactions"]) == (12, 10, 63)
    assert record["dataset_fingerprint"] == data.fingerprint()
    assert record["given_settings"]["seed"] == 7 and "dataset" not in record["given_settings"]
    assert record["test_result"] == {"ndcg@5": 0.125}
    found = record["versions"]
    assert (found["numpy"], found["torch"], found["python"]) == (
        numpy.__version__,
        torch.__version__,
        platform.python_version(),
    )


def test_models_that_read_the_same_data_have_the_same_fingerprint(tiny_settings, tmp_path):
    """Models that read more than users, items and times have none."""
    found = []
    for model in ("SASRec", "Pop", "BPR", "FM"):
        config = GenRecConfig(model, "tiny", config_dict=tiny_settings)
        write_record(config, create_dataset(config), 63, result_at(tmp_path), 1.0)
        found.append(json.loads((tmp_path / "run.json").read_text())["dataset_fingerprint"])
    assert found[0] == found[1] == found[2] is not None and found[3] is None


def test_summary_names_data_metrics_and_files(tiny_settings, tmp_path, caplog):
    config = GenRecConfig("SASRec", "tiny", config_dict=tiny_settings)
    with caplog.at_level(logging.INFO):
        log_summary(
            config, create_dataset(config), 63, {**result_at(tmp_path), "stage_seconds": {}}, 2.0
        )
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == "recbole_genrec.results.record"
    ]
    assert lines[:2] == [
        "SASRec on tiny, seed 2020, 2.0 s",
        "data: 12 users, 10 items, 63 interactions",
    ]
    assert lines[2:4] == ["best_valid_result: ndcg@5 : 0.25", "test_result: ndcg@5 : 0.125"]
    assert str(tmp_path / "run.json") in lines[4]


def test_other_models_have_no_generative_figures():
    assert generative_figures(torch.nn.Linear(1, 1), SimpleNamespace()) == {}


@pytest.mark.parametrize("model", ["TIGER", "SASRec", "BPR"])
def test_outcomes_of_a_run_are_its_test_metrics_and_users(small_settings, tiny_settings, model):
    settings = small_settings(model) if model == "TIGER" else tiny_settings
    result = run(model, config_dict={**settings, "metrics": ["Recall", "NDCG"], "epochs": 1})
    outcomes = read_outcomes(outcomes_path(result["checkpoint"]))
    assert sorted(outcomes.users) == sorted(f"u{user}" for user in range(1, 13))
    names = list(result["test_result"])
    assert result["test_result"] == {
        name: round(mean, 6) for name, mean in zip(names, user_values(outcomes, names).mean(axis=1))
    }
    assert model == "BPR" or result["test_result"]["recall@5"] > 0


def test_no_outcomes_without_metrics_of_lists(tiny_settings):
    result = run(
        "SASRec",
        config_dict={
            **tiny_settings,
            "metrics": ["ItemCoverage"],
            "valid_metric": "ItemCoverage@5",
            "epochs": 1,
        },
    )
    assert not outcomes_path(result["checkpoint"]).exists()


def test_other_code_of_a_model_of_your_own_is_another_run(tmp_path, monkeypatch):
    (tmp_path / "digested.py").write_text(
        "from recbole_genrec.model.tiger import TIGER\nclass Mine(TIGER):\n    pass\n"
    )
    (tmp_path / "Mine.yaml").touch()
    monkeypatch.syspath_prepend(tmp_path)
    config = GenRecConfig("digested:Mine", config_dict={"data_path": str(tmp_path)})
    before = run_digest(config)
    assert run_digest(config) == before
    (tmp_path / "digested.py").write_text("# another class\n")
    assert run_digest(config) != before
