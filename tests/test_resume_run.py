"""The setting `resume` of a whole run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from recbole_genrec.cli import main
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.quick_start import run
from recbole_genrec.trainer.trainer import GenRecTrainer


class Killed(Exception):
    pass


@pytest.fixture
def kill(monkeypatch):
    """kill(settings, n_saves): run TIGER until it has saved n_saves times; returns the file."""

    def killed_run(settings: dict, n_saves: int) -> str:
        files, save = [], GenRecTrainer._save_progress

        def save_and_count(trainer, *given):
            save(trainer, *given)
            files.append(trainer.resume_file)
            if len(files) == n_saves:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(GenRecTrainer, "_save_progress", save_and_count)
            with pytest.raises(Killed):
                run("TIGER", config_dict=settings)
        return files[0]

    return killed_run


def resumed(caplog) -> list[str]:
    return [line for line in caplog.messages if line.startswith("resumed from")]


@pytest.mark.slow
def test_auto_goes_on_from_the_newest_run(small_settings, kill, caplog):
    """The tokenizer saves five times: 2 saves end in the first stage, 6 in the second."""
    settings = {**small_settings("TIGER"), "hidden_dropout_prob": 0.2}
    undisturbed = run("TIGER", config_dict={**settings, "checkpoint_dir": "elsewhere"})
    first, second = kill(settings, 2), kill(settings, 6)
    os.utime(first, (1000, 1000))
    with caplog.at_level("INFO"):
        result = run("TIGER", config_dict=settings, command_line=["--resume=auto"])
    assert resumed(caplog) == [f"resumed from {second}: stage 1, epoch 1"]
    for part in ("test_result", "best_valid_result", "best_valid_score", "semantic_ids"):
        assert result[part] == undisturbed[part]
    assert result["checkpoint"] == second.replace(".resume.pth", ".pth")
    caplog.clear()
    os.utime(second, (500, 500))
    with caplog.at_level("INFO"):
        again = run("TIGER", config_dict={**settings, "resume": "auto"})
    assert resumed(caplog) == [f"resumed from {first}: stage 0, epoch 2"]
    assert again["test_result"] == undisturbed["test_result"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_auto_starts_from_scratch_without_an_earlier_run(
    small_settings, tiny_settings, model, caplog
):
    settings = small_settings(model) if model == "TIGER" else tiny_settings
    run("Pop", config_dict=tiny_settings)
    with caplog.at_level("INFO"):
        result = run(model, config_dict=settings, command_line=["--resume", "auto"])
    assert f"holds no run of {model} with these settings: starting from scratch" in caplog.text
    assert result["test_result"] == run(model, config_dict=settings)["test_result"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TIGER", "UniGRec"])
def test_a_finished_run_gives_its_result_again(small_settings, model, monkeypatch):
    first = run(model, config_dict=small_settings(model))
    record = Path(first["checkpoint"]).with_suffix(".json")
    before = json.loads(record.read_text())
    monkeypatch.setattr(GenRecTrainer, "_train", lambda *given: pytest.fail("an epoch was run"))
    again = run(model, config_dict=small_settings(model), command_line=["--resume=auto"])
    assert {**again, "test_users_per_second": 0} == {**first, "test_users_per_second": 0}
    after = json.loads(record.read_text())
    for part in (
        "test_result",
        "best_valid_result",
        "stage_seconds",
        "semantic_ids",
        "n_interactions",
    ):
        assert after[part] == before[part]
    assert len(list(record.parent.glob("*.json"))) == 1


@pytest.mark.parametrize(
    "key, old, new", [("learning_rate", 0.01, 0.02), ("hidden_size", 16, 32), ("epochs", 2, 9)]
)
def test_other_settings_are_refused(small_settings, kill, key, old, new, capsys):
    resume_file = kill(small_settings("TIGER"), 2)
    arguments = [
        f"--{name}={value}" for name, value in small_settings("TIGER").items() if name != key
    ]
    assert (
        main(["run", "--model=TIGER", f"--{key}={new}", f"--resume={resume_file}", *arguments]) == 2
    )
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"{key} is {new}, but the run that {resume_file!r} belongs to has")
    assert f" {old}" in sentence and f"different are: {key})" in sentence


def test_all_other_settings_are_named(small_settings, kill):
    resume_file = kill(small_settings("TIGER"), 2)
    changed = {
        **small_settings("TIGER"),
        "seed": 5,
        "n_beams": 6,
        "code_dim": 2,
        "resume": resume_file,
    }
    with pytest.raises(
        ValueError, match=r"code_dim is 2, .*different are: code_dim, n_beams, seed"
    ):
        run("TIGER", config_dict=changed)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TIGER", "SASRec"])
def test_auto_leaves_runs_with_other_settings_alone(small_settings, tiny_settings, model, caplog):
    """As in a sweep over seeds; the run of each is found again."""
    settings = small_settings(model) if model == "TIGER" else {**tiny_settings, "epochs": 2}
    first = run(model, config_dict=settings)
    stem = Path(first["checkpoint"]).parent / f"{model}-tiny-Jan-01-2999_00-00-0"
    suffix = ".resume.pth" if model == "TIGER" else ".pth"
    Path(f"{stem}1{suffix}").write_bytes(b"damaged")
    torch.save({"of": "another package"}, f"{stem}2{suffix}")
    content = Path(first["checkpoint"]).read_bytes()
    with caplog.at_level("INFO"):
        second = run(model, config_dict={**settings, "seed": 7}, command_line=["--resume=auto"])
    assert (
        "has other seed" in caplog.text
        and caplog.text.count("has other contents than a file of this package") == 2
    )
    assert second["checkpoint"] != first["checkpoint"]
    assert Path(first["checkpoint"]).read_bytes() == content
    assert second["test_result"] == run(model, config_dict={**settings, "seed": 7})["test_result"]
    assert (
        run(model, config_dict=settings, command_line=["--resume=auto"])["checkpoint"]
        == first["checkpoint"]
    )
    if model == "SASRec":
        with pytest.raises(UserError, match="seed is 7, but the run"):
            run(model, config_dict={**settings, "seed": 7, "resume": first["checkpoint"]})


@pytest.mark.slow
def test_a_moved_run_goes_on_where_it_is(small_settings, kill):
    settings = small_settings("TIGER")
    undisturbed = run("TIGER", config_dict={**settings, "checkpoint_dir": "elsewhere"})
    resume_file = Path(kill(settings, 6))
    os.rename(resume_file.parent, "moved")
    moved = Path("moved") / resume_file.name
    weights = Path(str(moved).replace(".resume", ""))
    weights.rename("away.pth")
    with pytest.raises(
        FileNotFoundError, match="needs the best weights so far, but there is no 'moved/TIGER-"
    ):
        run("TIGER", config_dict={**settings, "resume": str(moved)})
    Path("away.pth").rename(weights)
    result = run("TIGER", config_dict={**settings, "resume": str(moved)})
    assert (
        result["test_result"] == undisturbed["test_result"]
        and Path(result["checkpoint"]) == weights
    )


@pytest.mark.slow
def test_a_setting_that_did_not_exist_then_had_its_default(small_settings, kill):
    """A run goes on with a later version of this package, unless the new setting is used."""
    settings = small_settings("TIGER")
    undisturbed = run("TIGER", config_dict={**settings, "checkpoint_dir": "elsewhere"})
    resume_file = kill(settings, 6)
    content = torch.load(resume_file, weights_only=True)
    assert (
        content["settings"].pop("compile_search") is False
        and content["settings"].pop("renormalize_trie") is None
    )
    torch.save(content, resume_file)
    with pytest.raises(
        UserError,
        match=r"renormalize_trie is True, but the run .* has None; .*are: renormalize_trie\)",
    ):
        run("TIGER", config_dict={**settings, "renormalize_trie": True, "resume": resume_file})
    result = run("TIGER", config_dict=settings, command_line=["--resume=auto"])
    assert result["test_result"] == undisturbed["test_result"] and result[
        "checkpoint"
    ] == resume_file.replace(".resume", "")


@pytest.mark.slow
def test_what_no_result_depends_on_may_change(small_settings, kill, tmp_path):
    """The progress bar and the folder of the data change no result."""
    settings = small_settings("TIGER")
    undisturbed = run("TIGER", config_dict={**settings, "checkpoint_dir": "elsewhere"})
    resume_file = kill(settings, 2)
    os.rename(settings["data_path"], tmp_path / "moved")
    changes = {
        "show_progress": True,
        "data_path": str(tmp_path / "moved"),
        "teacher_cache_dir": "t",
        "resume": resume_file,
    }
    assert (
        run("TIGER", config_dict={**settings, **changes})["test_result"]
        == undisturbed["test_result"]
    )


def test_a_file_that_is_not_there_is_refused(small_settings):
    with pytest.raises(MissingFileError, match=r"'lost\.resume\.pth' does not exist"):
        run("TIGER", config_dict=small_settings("TIGER"), command_line=["--resume=lost.resume.pth"])


def test_a_model_of_recbole_goes_on_from_its_checkpoint(tiny_settings, caplog):
    first = run("SASRec", config_dict={**tiny_settings, "epochs": 1})
    content = torch.load(first["checkpoint"], weights_only=True)
    content["config"].pop("repeatable")  # as if there had been no such setting
    torch.save(content, first["checkpoint"])
    caplog.clear()
    with caplog.at_level("INFO"):
        second = run(
            "SASRec",
            config_dict={**tiny_settings, "epochs": 3, "eval_step": 1},
            command_line=["--resume=auto"],
        )
    assert "Checkpoint loaded. Resume training from epoch 1" in caplog.text
    trained = [line for line in caplog.messages if "train loss" in line]
    assert [line.split(" training")[0].split()[-1] for line in trained] == ["1", "2"]
    assert second["checkpoint"] == first["checkpoint"]
    assert second["best_valid_score"] >= first["best_valid_score"]
