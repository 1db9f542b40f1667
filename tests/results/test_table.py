from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path

import pytest

from recbole_genrec import quick_start
from recbole_genrec.cli import main
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import compare
from recbole_genrec.results.record import find_record, run_digest
from recbole_genrec.results.table import as_csv, as_markdown, table

RECORDS = [
    {
        "model": "TIGER",
        "test_result": {"recall@5": 0.12345, "ndcg@5": 0.1},
        "n_parameters": 1234,
        "stage_seconds": {"tokenizer": 1.4, "recommender": 20.6},
        "test_users_per_second": 99.6,
    },
    {"model": "UNGER", "refusal": "no text, no | codes"},
]


def test_table_of_figures_and_of_what_could_not_run():
    header, rows = table(RECORDS)
    assert header == [
        "model",
        "recall@5",
        "ndcg@5",
        "parameters",
        "seconds by stage",
        "test users/s",
    ]
    assert rows[0] == ["TIGER", "0.1235", "0.1000", "1234", "tokenizer 1; recommender 21", "100"]
    assert rows[1] == ["UNGER", "", "", "", "not run: no text, no | codes", ""]


def test_markdown_and_csv():
    header, rows = ["model", "note"], [["A", 'x|y, "z"']]
    assert as_markdown(header, rows) == '| model | note |\n| --- | --- |\n| A | x\\|y, "z" |\n'
    assert list(csv.reader(as_csv(header, rows).splitlines())) == [header, *rows]


def test_models_run_side_by_side_once(tiny_settings, caplog):
    settings = {**tiny_settings, "embedding_size": 8}  # of BPR; SASRec has no such setting
    records, report = compare(["SASRec", "BPR"], config_dict=settings)
    assert [record["model"] for record in records] == ["SASRec", "BPR"]
    folder = Path(tiny_settings["checkpoint_dir"])
    assert list(folder.glob("comparison-tiny-*.md")) == [report]
    lines = report.read_text().splitlines()
    assert lines[2].startswith(f"| SASRec | {records[0]['test_result']['recall@3']:.4f} |")
    with open(report.with_suffix(".csv")) as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["SASRec", "BPR"]
    assert rows[1]["parameters"] == str((13 + 11) * 8)

    n_files = len(list(folder.glob("*.pth")))
    with caplog.at_level(logging.INFO):
        again, _ = compare(["BPR", "SASRec"], config_dict=settings)
    assert again == records[::-1]
    assert len(list(folder.glob("*.pth"))) == n_files
    assert sum("is done already" in message for message in caplog.messages) == 2


@pytest.mark.parametrize("change", ["setting", "data", "nothing", "no effect"])
def test_a_record_is_found_for_the_same_settings_and_data(tiny_settings, tiny_data, change):
    (record,), _ = compare(["Pop"], config_dict=tiny_settings)
    settings = {**tiny_settings}
    if change == "setting":
        settings["seed"] = 1
    elif change == "no effect":
        settings["show_progress"] = True
    elif change == "data":
        with open(tiny_data / "tiny" / "tiny.item", "a") as file:
            file.write("i99\tnew\n")
    found = find_record(GenRecConfig("Pop", config_dict=settings))
    assert found == (record if change in ("nothing", "no effect") else None)


def test_a_record_is_of_the_files_that_settings_name(small_settings, tmp_path):
    """Other semantic ids or item vectors under the same path make another run."""
    ids, vectors = tmp_path / "ids.json", tmp_path / "vectors.npy"
    settings = {
        **small_settings("TIGER"),
        "semantic_ids_file": str(ids),
        "item_features": {"mine": str(vectors)},
    }
    digests = set()
    for file in (ids, vectors, vectors.with_suffix(".tokens")):
        for content in ("one", "other"):
            file.write_text(content)
            digests.add(run_digest(GenRecConfig("TIGER", config_dict=settings)))
    assert len(digests) == 6
    assert run_digest(GenRecConfig("TIGER", config_dict=settings)) in digests


def test_records_that_cannot_be_read_are_passed_over(tiny_settings):
    (record,), _ = compare(["Pop"], config_dict=tiny_settings)
    folder = Path(tiny_settings["checkpoint_dir"])
    for number, content in enumerate(("", "[]", "{}", json.dumps({"run_digest": "other"}))):
        path = folder / f"Pop-tiny-Jan-01-2999_00-00-0{number}.json"
        path.write_text(content)
        os.utime(path, (4e9, 4e9))
    assert find_record(GenRecConfig("Pop", config_dict=tiny_settings)) == record


def test_a_model_that_cannot_run_does_not_stop_the_others(tiny_settings, monkeypatch, capsys):
    def create(config, model):
        if config["model"] == "BPR":
            raise OSError(28, "No space left on device")
        return create_trainer(config, model)

    create_trainer = quick_start.create_trainer
    monkeypatch.setattr(quick_start, "create_trainer", create)
    arguments = [f"--{key}={value}" for key, value in tiny_settings.items()]
    assert main(["run", *arguments, "--model=BPR,Pop"]) == 2
    output = capsys.readouterr().out
    assert "| BPR |" in output and "not run: a file cannot be read or written (No space" in output
    assert "| Pop | " in output
    (report,) = Path(tiny_settings["checkpoint_dir"]).glob("comparison-tiny-*.md")
    assert str(report) in output and report.read_text() in output


def test_a_bug_is_not_hidden(tiny_settings, monkeypatch):
    monkeypatch.setattr(quick_start, "_run", lambda config: {}["checkpoint"])
    with pytest.raises(KeyError):
        compare(["Pop", "BPR"], config_dict=tiny_settings)


def test_settings_are_checked_before_anything_runs(tiny_settings, capsys):
    arguments = [f"--{key}={value}" for key, value in tiny_settings.items()]
    assert main(["run", *arguments, "--model=Pop,BPR", "--lerning_rate=1"]) == 2
    assert (
        "the setting 'lerning_rate' is not known to Pop (did you mean 'learning_rate'?)"
        in capsys.readouterr().err
    )
    assert main(["run", *arguments, "--model=Pop,BPRR"]) == 2
    assert "the model 'BPRR' is not known" in capsys.readouterr().err
    assert not Path(tiny_settings["checkpoint_dir"]).exists()


def test_a_recipe_goes_to_the_models_that_have_it(tiny_settings):
    shared = {
        "config_dict": {**tiny_settings, "recipe": "cpu", "n_beams": 50, "topk": [5]},
        "is_shared": True,
    }
    own, foreign = GenRecConfig("TIGER", **shared), GenRecConfig("GRU4Rec", **shared)
    assert (own["recipe"], own["n_beams"], own.left_out) == ("cpu", 50, set())
    assert foreign["recipe"] is None
    assert foreign.left_out == {"recipe", "n_beams"}
    with pytest.raises(UserError, match="the recipe 'cpu' of GRU4Rec does not exist"):
        GenRecConfig("GRU4Rec", config_dict=shared["config_dict"])
