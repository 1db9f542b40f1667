from __future__ import annotations

import logging
import os

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.teacher import teacher
from recbole_genrec.teacher.teacher import teacher_table, train_teacher
from recbole_genrec.trainer.trainer import GenRecTrainer


class Killed(Exception):
    """A run ends here."""


@pytest.mark.slow
def test_it_learns(make_toy_run):
    config, loaders = make_toy_run(teacher_epochs=15, teacher_stopping_step=15)
    trained = train_teacher(config, loaders, "SASRec")
    assert trained.metrics["test"]["ndcg@10"] > 0.9
    assert trained.item_embeddings.shape == (31, 16)
    assert not trained.item_embeddings[0].any()


def test_it_is_trained_once_for_its_data_and_settings(make_toy_run, monkeypatch, caplog, tmp_path):
    first = train_teacher(*make_toy_run(), "SASRec")
    [file] = os.listdir(tmp_path / "teacher")
    assert file.startswith("SASRec-toy-") and file.endswith(".pth")
    monkeypatch.setattr(teacher, "_train_sasrec", None)
    with caplog.at_level(logging.INFO, logger="recbole_genrec.teacher"):
        again = train_teacher(*make_toy_run(epochs=3, n_beams=21), "SASRec")
    assert torch.equal(again.item_embeddings, first.item_embeddings)
    assert again.metrics == first.metrics
    assert f"valid ndcg@10 {first.metrics['valid']['ndcg@10']:.4f}" in caplog.text
    for change in (
        {"teacher_dropout_prob": 0.2},
        {"seed": 2},
        {"MAX_ITEM_LIST_LENGTH": 4},
        {"user_inter_num_interval": "[5,inf)"},
        {"enable_amp": True},
    ):
        with pytest.raises(TypeError, match="not callable"):
            train_teacher(*make_toy_run(**change), "SASRec")


def test_it_depends_on_the_seed_alone_and_leaves_the_random_state(make_toy_run, tmp_path):
    tables = []
    for number in range(2):
        config, loaders = make_toy_run(teacher_cache_dir=str(tmp_path / f"cache{number}"))
        torch.manual_seed(number)
        before = torch.get_rng_state()
        tables.append(teacher_table(config, loaders, "SASRec"))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*tables)


def test_it_stops_early_and_keeps_the_best_epoch(make_toy_run, monkeypatch):
    """The third epoch in a row that is no better ends the training."""
    scores, tables = [0.1, 0.3, 0.2, 0.25, 0.28, 0.9], []

    def scripted(self, valid_data, show_progress=False):
        tables.append(self.model.item_embedding.weight.detach().clone())
        return scores[len(tables) - 1], {"ndcg@10": scores[len(tables) - 1]}

    monkeypatch.setattr(GenRecTrainer, "_valid_epoch", scripted)
    trained = train_teacher(*make_toy_run(teacher_epochs=9), "SASRec")
    assert len(tables) == 5
    assert trained.metrics["valid"] == {"ndcg@10": 0.3}
    assert torch.equal(trained.item_embeddings[1:], tables[1][1:])
    assert not torch.equal(tables[4], tables[1])


def kill_after(monkeypatch, n_saves: int) -> None:
    """End the training after it has written its n-th resume file."""
    save, saved = GenRecTrainer._save_progress, []

    def save_and_die(self, states):
        save(self, states)
        saved.append(self.resume_file)
        if len(saved) == n_saves:
            raise Killed

    monkeypatch.setattr(GenRecTrainer, "_save_progress", save_and_die)


def test_a_killed_training_goes_on(make_toy_run, monkeypatch, tmp_path, caplog):
    settings = {"teacher_epochs": 4, "teacher_stopping_step": 4}
    undisturbed = train_teacher(*make_toy_run(**settings, teacher_cache_dir=None), "SASRec")
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(Killed):
            train_teacher(*make_toy_run(**settings), "SASRec")
    assert len(os.listdir(tmp_path / "teacher")) == 2
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        resumed = train_teacher(*make_toy_run(**settings), "SASRec")
    assert "stage 0, epoch 2" in caplog.text
    assert torch.equal(resumed.item_embeddings, undisturbed.item_embeddings)
    assert resumed.metrics == undisturbed.metrics
    [file] = os.listdir(tmp_path / "teacher")
    assert "training" not in file


def test_a_damaged_resume_file_costs_only_the_training(make_toy_run, monkeypatch, tmp_path, caplog):
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        with pytest.raises(Killed):
            train_teacher(*make_toy_run(), "SASRec")
    [resume] = (tmp_path / "teacher").glob("*.resume.pth")
    resume.write_bytes(b"half a file")
    trained = train_teacher(*make_toy_run(), "SASRec")
    assert "the teacher SASRec starts from scratch" in caplog.text
    undisturbed = train_teacher(*make_toy_run(teacher_cache_dir=None), "SASRec")
    assert torch.equal(trained.item_embeddings, undisturbed.item_embeddings)


def test_two_runs_may_train_one_teacher_at_a_time(make_toy_run, monkeypatch, tmp_path):
    """The second trains in a temporary folder, so the first finds its files at its end."""
    run, inner = make_toy_run(), []
    finish = GenRecTrainer._finish

    def train_the_other_and_finish(trainer, stage):
        if not inner:
            inner.append(None)
            inner[0] = train_teacher(*run, "SASRec")
        finish(trainer, stage)

    monkeypatch.setattr(GenRecTrainer, "_finish", train_the_other_and_finish)
    outer = train_teacher(*run, "SASRec")
    assert torch.equal(outer.item_embeddings, inner[0].item_embeddings)
    assert not [file for file in os.listdir(tmp_path / "teacher") if "training" in file]


def test_without_a_folder_nothing_is_left(make_toy_run, tmp_path):
    run = make_toy_run(teacher_cache_dir=None)
    train_teacher(*run, "SASRec")
    assert not list(tmp_path.rglob("*.pth"))


def test_a_folder_that_cannot_be_written_costs_only_a_warning(make_toy_run, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    trained = train_teacher(
        *make_toy_run(teacher_cache_dir=str(tmp_path / "file" / "in")), "SASRec"
    )
    assert "is not kept, and the next run makes it again" in caplog.text
    kept = train_teacher(*make_toy_run(), "SASRec")
    assert torch.equal(trained.item_embeddings, kept.item_embeddings)


def test_bad_settings_are_refused_before_anything_is_written(make_toy_run, tmp_path):
    with pytest.raises(UserError, match="teacher_epochs is 0"):
        train_teacher(*make_toy_run(teacher_epochs=0), "SASRec")
    assert not (tmp_path / "teacher").exists()


def test_mixed_precision_changes_the_rounding_alone(make_toy_run):
    settings = {"teacher_epochs": 1, "teacher_cache_dir": None}
    full, mixed = (
        teacher_table(*make_toy_run(**settings, enable_amp=enable_amp), "SASRec")
        for enable_amp in (False, True)
    )
    assert not torch.equal(full, mixed)
    assert (full - mixed).abs().mean() < 0.1 * full.abs().mean()
