"""Faults of a user, through the command line: exit code 2, one sentence on stderr, no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recbole_genrec.cli import main


@pytest.fixture
def refuse(tiny_settings, capsys):
    """refuse(*arguments): run on `tiny` with these arguments, and return the one sentence."""

    def start(*arguments: str) -> str:
        names = {argument.split("=")[0] for argument in arguments}
        given = [f"--{key}={value}" for key, value in tiny_settings.items()]
        base = [argument for argument in given if argument.split("=")[0] not in names]
        assert main(["run", *base, *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (sentence,) = captured.err.splitlines()
        return sentence

    return start


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("epochs=3", ["'epochs=3' is not a setting", "--key=value"]),
        ("--epochs", ["'--epochs' has no value"]),
        ("--seed=1 --seed=2", ["--seed is given twice"]),
        ("--model=TIGERR", ["'TIGERR' is not known", "'TIGER'"]),
        ("--model=TIGER --codebok_size=3", ["'codebok_size'", "'codebook_size'"]),
        ("--model=TIGER --epochs=0", ["epochs is 0", "at least 1"]),
        ("--model=TIGER --scoring=best", ["scoring is 'best'", "beam, exact"]),
        ("--model=TIGER --n_beams=2", ["n_beams is 2", "raise n_beams"]),
        ("--model=TIGER --recipe=own", ["the recipe 'own' of TIGER does not exist"]),
        ("--model=TIGER --n_beams=11", ["n_beams is 11", "only 10 items"]),
        (
            "--model=TIGER --n_beams=5 --codebook_size=4 --semantic_ids_file=lost.json",
            ["'lost.json'"],
        ),
        (
            "--model=TIGER --n_beams=5 --codebook_size=4 --item_features={'mine':'lost.npy'}",
            ["'lost.npy'"],
        ),
        ("--model=Pop --config_files=lost.yaml", ["'lost.yaml' does not exist"]),
        ("--model=Pop --dataset=lost", ["lost", "--data_path"]),
        ("--model=Pop --valid_metric=NDCG@7", ["valid_metric is 'NDCG@7'"]),
        ("--model=SASRec --loss_type=XE", ["loss_type is 'XE'", "CE or BPR"]),
        ("--model=SASRec --val_interval={'price':'[1,2]'}", ["price"]),
        ("--model=SASRec --resume=lost.pth", ["'lost.pth' does not exist"]),
    ],
)
def test_settings(refuse, arguments, words):
    sentence = refuse(*arguments.split())
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("user_id:token\titem_id:token", "u1\ti1", ["timestamp", "tiny.inter"]),
        ("user_id\titem_id\ttimestamp", "u1\ti1\t1", ["name:type", "tiny.inter"]),
        ("user_id:token\titem_id:token\ttimestamp:float", "", ["0 interactions"]),
        ("user_id:token\titem_id:token\ttimestamp:float", "u1\ti1\t", ["no 'timestamp'"]),
        ("user_id:token\titem_id:token\ttimestamp:float", "u1\ti1\tnoon", ["tiny.inter", "noon"]),
        ("user_id:token\titem_id:token\ttimestamp:float", "u1\ti1\t1", ["tiny"]),
    ],
)
def test_interactions(refuse, tiny_data, header, row, words):
    (tiny_data / "tiny" / "tiny.inter").write_text(f"{header}\n{row}\n" if row else f"{header}\n")
    sentence = refuse("--model=SASRec")
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epochs: [1", ["is not valid YAML"]),
        ("- epochs", ["holds a list, not settings"]),
        ("learning_rat: 0.1", ["'learning_rat'", "'learning_rate'"]),
    ],
)
def test_config_files(refuse, content, words):
    Path("own.yaml").write_text(content)
    sentence = refuse("--model=SASRec", "--config_files=own.yaml")
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("model", ["SASRec", "TIGER"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_resume_files(refuse, model, content):
    Path("broken.pth").write_bytes(content)
    own = () if model == "SASRec" else ("--n_beams=5", "--codebook_size=4")
    sentence = refuse(f"--model={model}", "--resume=broken.pth", *own)
    assert "'broken.pth' is not a checkpoint" in sentence


@pytest.mark.parametrize("folder", ["taken", "taken/below"])
def test_a_file_in_place_of_the_folder_of_checkpoints(refuse, folder):
    Path("taken").touch()
    sentence = refuse("--model=SASRec", f"--checkpoint_dir={folder}")
    assert f"checkpoint_dir is '{folder}', where no file can be written" in sentence


def test_a_model_of_recbole_without_its_package(refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert "needs the package lightgbm" in refuse("--model=lightgbm")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("go", ["'go'", "prepare, run, ids, compare"]),
        ("ids lost.pth --out=ids.json", ["'lost.pth' does not exist"]),
        ("compare one.json lost.json", ["'one.json' is not a record"]),
        ("compare lost.json one.json", ["there is no 'lost.json'"]),
        ("compare one.json", ["second", "--help"]),
        ("prepare lost.csv --name=shop", ["'lost.csv'"]),
        ("prepare nothing", ["'nothing'"]),
    ],
)
def test_other_commands(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("one.json").write_text("{}")
    assert main(arguments.split()) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert all(word in sentence for word in words), sentence
