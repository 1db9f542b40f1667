from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_genrec import storage
from recbole_genrec.config.settings import GenRecConfig


def test_stock_checkpoints_are_refused_and_not_executed(tmp_path, tiny_settings):
    path = tmp_path / "stock.pth"
    torch.save(
        {"config": GenRecConfig("SASRec", config_dict=tiny_settings)}, path, pickle_protocol=4
    )
    with pytest.raises(ValueError, match="is not a checkpoint of tensors and plain values"):
        storage.load_plain(path, "cpu")


def test_plain_values_round_trip(tmp_path):
    matrix = scipy.sparse.random(5, 7, density=0.4, format="csc", random_state=0)
    value = {
        "a": [np.float64(0.5), (1, None)],
        2: np.arange(6).reshape(2, 3),
        "m": matrix,
        "t": torch.ones(2),
        "b": np.bool_(True),
    }
    torch.save(storage.to_plain(value), tmp_path / "value.pth")
    found = storage.from_plain(torch.load(tmp_path / "value.pth", weights_only=True))
    assert found["a"] == [0.5, (1, None)]
    assert found["b"] is True
    np.testing.assert_array_equal(found[2], value[2])
    assert found["m"].format == "csc"
    np.testing.assert_array_equal(found["m"].toarray(), matrix.toarray())
    with pytest.raises(TypeError, match="got ndarray"):
        storage.to_plain(np.array([object()]))
