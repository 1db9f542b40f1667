from __future__ import annotations

import pytest

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.loaders import make_evaluation_loaders
from recbole_genrec.quick_start import create_dataset


@pytest.fixture
def make_toy_run(tmp_path, monkeypatch):
    """make_toy_run(**settings): settings and loaders of a run whose sequences can be learned.

    Item i is followed by item i + 1. There are 30 items and 60 users with 3 to 11 interactions.
    """
    monkeypatch.chdir(tmp_path)
    lines = [
        f"u{user}\ti{(7 * user + step) % 30}\t{step}"
        for user in range(60)
        for step in range(3 + user % 9)
    ]
    (tmp_path / "toy").mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (tmp_path / "toy" / "toy.inter").write_text("\n".join([header, *lines]) + "\n")

    def make(**settings):
        given = {
            "data_path": str(tmp_path),
            "MAX_ITEM_LIST_LENGTH": 5,
            "eval_batch_size": 7,
            "seed": 1,
            "show_progress": False,
            "teacher_hidden_size": 16,
            "teacher_inner_size": 32,
            "teacher_n_layers": 2,
            "teacher_n_heads": 2,
            "teacher_dropout_prob": 0.1,
            "teacher_learning_rate": 0.01,
            "teacher_batch_size": 16,
            "teacher_epochs": 2,
            "teacher_stopping_step": 2,
            "teacher_cache_dir": str(tmp_path / "teacher"),
            **settings,
        }
        config = GenRecConfig("TIGER", "toy", config_dict=given)
        return config, make_evaluation_loaders(config, create_dataset(config))

    return make
