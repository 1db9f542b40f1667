from __future__ import annotations

import sys

import pytest
from recbole.config import Config

from recbole_genrec.config import GenRecConfig
from recbole_genrec.quick_start import create_dataset

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
TEACHER_SIZES = {
    "BPR": {"embedding_size": 4},
    "LightGCN": {"embedding_size": 4, "n_layers": 2},
    "GRU4Rec": {"embedding_size": 4, "hidden_size": 4},
    "BERT4Rec": {"mask_ratio": 0.6, "hidden_size": 4, "inner_size": 8, "n_layers": 1, "n_heads": 1},
    "FPMC": {"embedding_size": 4},
}


@pytest.fixture
def make_config(tmp_path, monkeypatch):
    """make_config(rows, ...): RecBole's settings of a data set, which is written if rows are given."""
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def make(rows=None, name="toy", model="SASRec", header=HEADER, **settings):
        if rows is not None:
            (tmp_path / name).mkdir(exist_ok=True)
            lines = ["\t".join(map(str, row)) for row in rows]
            (tmp_path / name / f"{name}.inter").write_text("\n".join([header, *lines]) + "\n")
        columns = [column.split(":")[0] for column in header.split("\t")]
        base = {
            "data_path": str(tmp_path),
            "load_col": {"inter": columns},
            "MAX_ITEM_LIST_LENGTH": 3,
            "train_neg_sample_args": None,
            "seed": 1,
        }
        return Config(model=model, dataset=name, config_dict={**base, **settings})

    return make


@pytest.fixture
def make_teacher_run(small_settings, tmp_path):
    """make_teacher_run(model_name, **teacher_settings): settings of a run with this teacher, and its data set."""

    def make(model_name, seed=1, **teacher_settings):
        teacher = {**TEACHER_SIZES.get(model_name, {}), "epochs": 2, "train_batch_size": 8, "learning_rate": 0.05, **teacher_settings}
        own = {"teacher_cache_dir": str(tmp_path / "teacher"), "teacher_settings": teacher, "seed": seed}
        config = GenRecConfig("TIGER", config_dict={**small_settings("TIGER"), **own})
        return config, create_dataset(config)

    return make
