from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recbole_genrec.quick_start import run
from recbole_genrec.trainer.trainer import GenRecTrainer


@pytest.fixture
def run_and_copy(monkeypatch):
    """run_and_copy(model, settings): the result of a run, and a resume file of every save.

    Each resume file lies beside the weights that it needs, as if the run had been killed there.
    """

    def make(model: str, settings: dict) -> tuple[dict, list[str]]:
        copies, save = [], GenRecTrainer._save_progress

        def save_and_copy(trainer, *given):
            save(trainer, *given)
            if trainer.config["model"] != model:
                return  # a teacher's save
            folder = Path(f"killed_{len(copies)}")
            folder.mkdir()
            if Path(trainer.saved_model_file).exists():
                shutil.copy(trainer.saved_model_file, folder)
            copies.append(str(shutil.copy(trainer.resume_file, folder)))

        with monkeypatch.context() as patch:
            patch.setattr(GenRecTrainer, "_save_progress", save_and_copy)
            return run(model, config_dict=settings), copies

    return make
