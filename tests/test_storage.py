from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_genrec import storage
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import DiskError, UserError


def test_stock_checkpoints_are_refused_and_not_executed(tmp_path, tiny_settings):
    path = tmp_path / "stock.pth"
    torch.save(
        {"config": GenRecConfig("SASRec", config_dict=tiny_settings)}, path, pickle_protocol=4
    )
    with pytest.raises(UserError, match="is not a checkpoint of tensors and plain values"):
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
    storage.save_plain(tmp_path / "value.pth", value)
    found = storage.from_plain(torch.load(tmp_path / "value.pth", weights_only=True))
    assert found["a"] == [0.5, (1, None)]
    assert found["b"] is True
    np.testing.assert_array_equal(found[2], value[2])
    assert found["m"].format == "csc"
    np.testing.assert_array_equal(found["m"].toarray(), matrix.toarray())
    with pytest.raises(TypeError, match="got ndarray"):
        storage.to_plain(np.array([object()]))


@pytest.mark.parametrize("size", [1, 10**6])
def test_a_full_disk_is_a_user_error_and_leaves_the_old_file(tmp_path, monkeypatch, size):
    path = tmp_path / "value.pth"
    storage.save_plain(path, {"a": 1})
    before = path.read_bytes()
    opened = open
    full = Path("/dev/full")  # every write to it finds no room
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(storage, "open", lambda *given: opened(full, "wb"), raising=False)
    with pytest.raises(DiskError, match=r"'.*value.pth' cannot be .*\(No space left on device\)"):
        storage.save_plain(path, {"a": torch.zeros(size)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_file_in_place_of_a_folder_is_a_user_error(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(DiskError, match="taken"), storage.replacing(tmp_path / "taken" / "a.txt"):
        pytest.fail("nothing is written")


def test_the_hash_is_that_of_all_parts_in_a_row(tmp_path):
    (tmp_path / "file").write_bytes(b"file" * 10)
    values = np.array([[1, 2], [3, 4]], dtype=np.int64)
    found = storage.sha256("\u00e4", b"b", tmp_path / "file", torch.from_numpy(values), values.T)
    whole = "\u00e4".encode() + b"b" + b"file" * 10 + values.tobytes() + values.T.tobytes()
    assert found == hashlib.sha256(whole).hexdigest()
