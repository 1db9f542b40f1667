from __future__ import annotations

import importlib.util
import json

import pytest

from benchmarks.__main__ import SUBJECTS, main, read_arguments


def test_all_subjects_without_a_name():
    arguments = read_arguments(["--quick"])
    assert arguments.subjects == [name for name in SUBJECTS if name != "exact"]
    assert read_arguments(["--quick", "--checkpoint=model.pth"]).subjects == list(SUBJECTS)
    assert all(importlib.util.find_spec(f"benchmarks.{subject}") for subject in SUBJECTS)


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["trainin"], "there is no subject 'trainin'"),
        (["matmul", "--rounds=0"], "--rounds is 0"),
        (["matmul", "--threads=0"], "--threads is 0"),
        (["start"], "give --data_path"),
        (["exact"], "give --checkpoint"),
    ],
)
def test_refusals(argv, sentence, capsys):
    with pytest.raises(SystemExit):
        read_arguments(argv)
    assert sentence in capsys.readouterr().err


def test_says_how_to_get_transformers(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert read_arguments(["catalogue"]).subjects == ["catalogue"]
    with pytest.raises(SystemExit):
        read_arguments(["decoding", "--quick"])
    assert "pip install 'transformers>=4.41,<5'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_run_from_the_command_line(tmp_path, capsys):
    """Use real processes."""
    path = tmp_path / "figures.json"
    main(["matmul", "--quick", "--rounds=2", "--threads=1", f"--output={path}"])
    table = capsys.readouterr().out
    assert "| matmul peak, float32 |" in table and "mean nothing" in table
    rounds = json.loads(path.read_text())["results"][0]["rounds"]["matmul"]
    assert len(rounds) == 2 and all(measured["flops_per_second"] > 0 for measured in rounds)
