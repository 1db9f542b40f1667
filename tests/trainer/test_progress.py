from __future__ import annotations

from dataclasses import asdict

import pytest

from recbole_genrec.errors import UserError
from recbole_genrec.trainer.progress import SETTINGS_WITHOUT_EFFECT, Progress, check_same_settings


def test_a_new_run_has_done_nothing():
    progress = Progress()
    assert (progress.stage, progress.epoch, progress.bad_validations, progress.stopped) == (
        0,
        0,
        0,
        False,
    )
    assert progress.best_score is None and progress.best_result is None
    progress.seconds["one"] = 1.0
    assert Progress().seconds == {}


def test_progress_survives_its_plain_form():
    progress = Progress(1, 2, 3, 0.5, {"ndcg@10": 0.5}, True, {"tokenizer": 1.5})
    assert Progress(**asdict(progress)) == progress


def test_settings_that_a_result_depends_on_have_to_be_equal():
    saved = {"learning_rate": 0.1, "epochs": 3, "state": "INFO"}
    check_same_settings(saved, {**saved, "state": "DEBUG"}, "a.resume.pth")
    with pytest.raises(
        UserError,
        match=r"epochs is 4, but the run that 'a.resume.pth' belongs to has 3; .*: epochs, seed\)",
    ):
        check_same_settings(saved, {**saved, "epochs": 4, "seed": 1}, "a.resume.pth")


def test_no_setting_of_the_training_may_change():
    assert not {"seed", "epochs", "learning_rate", "train_batch_size"} & SETTINGS_WITHOUT_EFFECT
