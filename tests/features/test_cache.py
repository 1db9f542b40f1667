import logging

import numpy as np
import pytest

from recbole_genrec.features import cache
from recbole_genrec.features.cache import cached_features

KEY = {"encoder": "one", "texts": "abc"}
VALUES = np.array([[1.5, -2.0], [0.0, 4.0], [3.0, 0.25]], dtype=np.float32)


def never() -> np.ndarray:
    raise AssertionError("features were made again")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "saved" / "features"


def keep(folder, key=KEY, make=lambda: VALUES, n_rows=3):
    return cached_features(str(folder), "shop-org/my model", key, n_rows, make)


def test_the_second_time_the_file_is_read(folder, caplog):
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        assert keep(folder) is VALUES
        loaded = keep(folder, make=never)
    assert loaded.dtype == np.float32
    assert (loaded == VALUES).all()
    [file] = folder.iterdir()
    assert file.name.startswith("shop-org_my_model-") and file.suffix == ".npz"
    assert caplog.messages == [
        f"Item features saved to {file}",
        f"Item features loaded from {file}",
    ]


def test_another_key_has_another_file(folder):
    keep(folder)
    other = keep(folder, {**KEY, "texts": "abd"}, lambda: VALUES + 1)
    assert (other == VALUES + 1).all()
    assert (keep(folder, {"texts": "abc", "encoder": "one"}, never) == VALUES).all()
    assert len(list(folder.iterdir())) == 2


def damage_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(VALUES.tobytes())] ^= 1
    path.write_bytes(content)


def hold(**arrays):
    def write(path):
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_text("<html>"),
        damage_bit,
        hold(features=VALUES),
        hold(features=VALUES, key=np.array("other")),
        hold(features=np.array([{}], dtype=object), key=np.array("other")),
    ],
    ids=["empty", "cut", "html", "bit", "keyless", "other", "pickled"],
)
def test_a_damaged_file_is_made_again_with_a_warning(folder, damage, caplog):
    keep(folder)
    [file] = folder.iterdir()
    damage(file)
    assert (keep(folder, make=lambda: VALUES.copy()) == VALUES).all()
    [warning] = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert str(file) in warning and "are made again" in warning
    assert (keep(folder, make=never) == VALUES).all()


@pytest.mark.parametrize(
    "saved", [VALUES[:2], VALUES.astype(np.float64), VALUES[:, 0]], ids=["rows", "type", "vector"]
)
def test_features_of_another_shape_or_type_are_not_used(folder, saved, caplog):
    keep(folder, make=lambda: saved)
    assert keep(folder) is VALUES
    assert "it holds other features" in caplog.text


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cached_features(None, "shop", KEY, 3, lambda: VALUES) is VALUES
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_costs_only_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert keep(tmp_path / "file" / "features") is VALUES
    assert "cannot be kept" in caplog.text and "the next run makes them again" in caplog.text


def test_a_full_disk_leaves_no_half_file(folder, monkeypatch, caplog):
    def write_half(file, **arrays):
        file.write(b"PK\x03\x04")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", write_half)
    assert keep(folder) is VALUES
    assert "No space left on device" in caplog.text
    assert not list(folder.iterdir())
