from __future__ import annotations

import json
import re
import subprocess
import sys
from math import log2
from pathlib import Path

import pytest
import torch
from recbole.data import data_preparation

from recbole_genrec import quick_start
from recbole_genrec.cli import main
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import DiskError, UserError
from recbole_genrec.quick_start import create_dataset, run


def test_popularity_by_hand(tiny_settings, tiny_sequences):
    """Compute recall and NDCG from the literal sequences; ties give a lower and an upper bound."""
    result = run(
        "Pop",
        config_dict={
            **tiny_settings,
            "topk": [10],
            "valid_metric": "NDCG@10",
            "metrics": ["Recall", "NDCG"],
        },
    )
    counts = dict.fromkeys(range(1, 11), 0)
    for items in tiny_sequences:
        for item in items[:-2]:
            counts[item] += 1
    best = worst = 0.0
    for items in tiny_sequences:
        above = sum(count > counts[items[-1]] for count in counts.values())
        tied = sum(count == counts[items[-1]] for count in counts.values())
        best += 1 / log2(above + 2) / len(tiny_sequences)
        worst += 1 / log2(above + tied + 1) / len(tiny_sequences)
    assert result["test_result"]["recall@10"] == 1.0, "10 items, nothing is masked"
    assert worst - 1e-6 <= result["test_result"]["ndcg@10"] <= best + 1e-6
    assert best - worst < 0.5


@pytest.mark.parametrize("model", ["SASRec", "BERT4Rec", "GRU4Rec", "BPR", "FM"])
def test_recboles_models_run_to_the_test(tiny_settings, model):
    # A batch in which BERT4Rec masks nothing has no loss: take all rows at once.
    result = run(model, config_dict={**tiny_settings, "train_batch_size": 64})
    figures = {"n_parameters", "stage_seconds", "test_users_per_second"}
    assert (
        set(result)
        == {
            "best_valid_score",
            "valid_score_bigger",
            "best_valid_result",
            "test_result",
            "checkpoint",
        }
        | figures
    )
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@5"]
    assert set(result["test_result"]) == {
        f"{metric}@{k}" for metric in ("recall", "ndcg", "mrr") for k in (3, 5)
    }
    assert torch.load(result["checkpoint"], weights_only=True)["config"]["model"] == model


def test_record_beside_the_checkpoint(tiny_settings):
    result = run("SASRec", config_dict=tiny_settings, command_line=["--seed=7"])
    record = json.loads(Path(result["checkpoint"]).with_suffix(".json").read_text())
    assert record["test_result"] == result["test_result"]
    assert (
        record["model"],
        record["dataset"],
        record["seed"],
        record["n_users"],
        record["n_items"],
    ) == ("SASRec", "tiny", 7, 12, 10)
    assert record["given_settings"]["epochs"] == 2
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["dataset_fingerprint"]) == 64


def test_same_seed_same_result_in_one_process(tiny_settings):
    first, second = (run("SASRec", config_dict=tiny_settings) for _ in range(2))
    assert first["test_result"] == second["test_result"]
    assert first["checkpoint"] != second["checkpoint"]


@pytest.mark.parametrize("model", ["SASRec", "Pop", "BPR", "DIEN"])
def test_every_model_has_the_split_of_the_literal_sequences(tiny_settings, tiny_sequences, model):
    config = GenRecConfig(model, config_dict=tiny_settings)
    loaders = data_preparation(config, create_dataset(config))
    for loader, position in ((loaders[1], -2), (loaders[2], -1)):
        part = loader.dataset
        users, items = (
            part.id2token(field, part.inter_feat[field]) for field in ("user_id", "item_id")
        )
        assert dict(zip(users, items)) == {
            f"u{u}": f"i{items[position]}" for u, items in enumerate(tiny_sequences, start=1)
        }


def test_missing_data_set_is_one_sentence_and_nothing_is_written(tiny_settings, tmp_path, capsys):
    for model in ("SASRec", "Pop"):
        assert (
            main(
                [
                    "run",
                    f"--model={model}",
                    "--dataset=nowhere",
                    f"--data_path={tiny_settings['data_path']}",
                ]
            )
            == 2
        )
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert (
            "nowhere" in message
            and tiny_settings["data_path"] in message
            and "--data_path" in message
        )
    assert not (Path(tiny_settings["data_path"]) / "nowhere").exists()
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    "arguments",
    ["--model=SASRek", "--model=SASRec --epochs=0", "--model=SASRec --hiden_size=3", "--seed"],
)
def test_bad_arguments_are_one_sentence(arguments, capsys):
    assert main(["run", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_bugs_keep_their_traceback(tiny_settings, monkeypatch):
    """Inside a run too, where RecBole's refusals are translated."""
    monkeypatch.setattr(quick_start, "create_trainer", lambda *given: int("no number"))
    with pytest.raises(ValueError, match="no number") as caught:
        run("Pop", config_dict=tiny_settings)
    assert not isinstance(caught.value, UserError)


def test_a_missing_extra_is_one_sentence(tiny_settings, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    given = {
        **tiny_settings,
        "n_beams": 5,
        "codebook_size": 4,
        "item_features": "{text: sentence-transformers/nowhere/model}",
    }
    assert (
        main(
            [
                "run",
                "--model=TIGER",
                *(
                    f"--{key}={value}"
                    for key, value in given.items()
                    if not isinstance(value, dict)
                ),
            ]
        )
        == 2
    )
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "'nowhere/model' needs the package sentence-transformers" in sentence
        and 'pip install "recbole-genrec[text]"' in sentence
    )


def test_a_disk_that_refuses_is_one_sentence_and_a_broken_import_a_traceback(
    tiny_settings, monkeypatch
):
    errors = [
        PermissionError(13, "Permission denied", "saved"),
        OSError(28, "No space left on device"),
    ]
    for error, words in zip(
        errors,
        (
            "'saved' cannot be read or written (Permission denied)",
            "(No space left on device): make room",
        ),
    ):

        def fail(*given, error=error):
            raise error

        monkeypatch.setattr(quick_start, "create_trainer", fail)
        with pytest.raises(DiskError, match=re.escape(words)):
            run("Pop", config_dict=tiny_settings)

    def import_nothing(*given):
        import recbole.there_is_no_such_module  # noqa: F401

    monkeypatch.setattr(quick_start, "create_trainer", import_nothing)
    with pytest.raises(ImportError) as caught:
        run("Pop", config_dict=tiny_settings)
    assert not isinstance(caught.value, UserError)


@pytest.mark.slow
def test_script_runs(tiny_settings):
    script = Path(__file__).parent.parent / "run_recbole_genrec.py"
    given = {**tiny_settings, "model": "Pop"}
    done = subprocess.run(
        [sys.executable, script, *(f"--{key}={value}" for key, value in given.items())],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "test_result" in done.stderr
    done = subprocess.run([sys.executable, script, "--model=Popp"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "'Popp'" in done.stderr and "'Pop'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TIGER", "UniGRec"])
@pytest.mark.parametrize(
    "load_col", ["{inter: [uid, iid, t]}", "{inter: [uid, iid, t], item: [iid, title]}"]
)
def test_columns_may_have_other_names(small_settings, model, load_col):
    """Settings as in dataset/README.md; results are the same as with the usual names."""
    expected = run(model, config_dict=small_settings(model))
    folder = Path(small_settings(model)["data_path"]) / "tiny"
    names = {"user_id:": "uid:", "item_id:": "iid:", "timestamp:": "t:"}
    for file in (folder / "tiny.inter", folder / "tiny.item"):
        head, _, rows = file.read_text().partition("\n")
        for old, new in names.items():
            head = head.replace(old, new)
        file.write_text(f"{head}\n{rows}")
    arguments = [
        "--USER_ID_FIELD=uid",
        "--ITEM_ID_FIELD=iid",
        "--TIME_FIELD=t",
        f"--load_col={load_col}",
    ]
    result = run(model, config_dict=small_settings(model), command_line=arguments)
    for part in ("test_result", "best_valid_result", "semantic_ids"):
        assert result[part] == expected[part]


def test_the_record_counts_interactions_not_training_rows(small_settings, tiny_sequences):
    """Of 12 users with 5 to 7 items; each stage has its seconds, and the ids their figures."""
    result = run("TIGER", config_dict=small_settings("TIGER"))
    record = json.loads(Path(result["checkpoint"]).with_suffix(".json").read_text())
    assert (record["n_users"], record["n_items"], record["n_interactions"]) == (
        12,
        10,
        sum(map(len, tiny_sequences)),
    )
    assert list(record["stage_seconds"]) == ["tokenizer", "recommender"]
    assert 0 < sum(record["stage_seconds"].values()) <= record["seconds"] + 0.1
    assert record["semantic_ids"] == result["semantic_ids"]
    assert 1 / 4 <= record["semantic_ids"]["usage_0"] <= 1
    assert record["semantic_ids"]["collisions_after"] == 0


def test_the_record_of_a_model_without_semantic_ids_has_none(tiny_settings, tiny_sequences):
    record = json.loads(
        Path(run("Pop", config_dict=tiny_settings)["checkpoint"]).with_suffix(".json").read_text()
    )
    assert record["n_interactions"] == sum(map(len, tiny_sequences))
    assert "semantic_ids" not in record and list(record["stage_seconds"]) == ["training"]
    assert record["n_parameters"] == 1 and record["test_users_per_second"] > 0


@pytest.mark.parametrize("model", ["TIGER", "UniGRec"])
def test_a_run_without_validation_tests_its_last_weights(small_settings, model):
    result = run(model, config_dict={**small_settings(model), "eval_step": 0})
    assert (result["best_valid_score"], result["best_valid_result"]) == (None, None)
    assert 0 <= result["test_result"]["recall@5"] <= 1
    assert (
        json.loads(Path(result["checkpoint"]).with_suffix(".json").read_text())["best_valid_result"]
        is None
    )
