from __future__ import annotations

import sys

import pytest
from recbole.config import Config

HEADER = "user_id:token\titem_id:token\ttimestamp:float"


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
