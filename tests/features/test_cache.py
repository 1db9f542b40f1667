import logging

import pytest
import torch

from recbole_genrec import storage
from recbole_genrec.features.cache import cache_path, cached

KEY = {"encoder": "one", "texts": "abc"}
VALUES = torch.tensor([[1.5, -2.0], [0.0, 4.0], [3.0, 0.25]])


def content(add: float = 0.0) -> dict:
    return {"vectors": VALUES + add, "metrics": {"valid": {"ndcg@10": 0.25}}}


def never() -> dict:
    raise AssertionError("the content was made again")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "saved" / "features"


def keep(folder, key=KEY, make=content) -> dict:
    return cached(str(folder), "shop-org/my model", key, make)


def test_the_second_time_the_file_is_read(folder, caplog):
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        assert torch.equal(keep(folder)["vectors"], VALUES)
        read = keep(folder, make=never)
    assert read["vectors"].dtype == torch.float32
    assert torch.equal(read["vectors"], VALUES)
    assert read.keys() == content().keys() and read["metrics"] == content()["metrics"]
    [file] = folder.iterdir()
    assert str(file) == cache_path(str(folder), "shop-org/my model", KEY)
    assert file.name.startswith("shop-org_my_model-") and file.suffix == ".pth"
    assert caplog.messages == [
        f"shop-org/my model is kept in {file}",
        f"shop-org/my model is read from {file}",
    ]


def test_another_key_has_another_file(folder):
    keep(folder)
    other = keep(folder, {**KEY, "texts": "abd"}, lambda: content(1.0))
    assert torch.equal(other["vectors"], VALUES + 1)
    again = keep(folder, {"texts": "abc", "encoder": "one"}, never)
    assert torch.equal(again["vectors"], VALUES)
    assert len(list(folder.iterdir())) == 2


def damage_bit(path):
    written = bytearray(path.read_bytes())
    written[written.index(VALUES.numpy().tobytes())] ^= 1
    path.write_bytes(written)


def change(**changes):
    def write(path):
        saved = torch.load(path, weights_only=True)
        torch.save({**saved, **changes}, path)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_text("<html>"),
        damage_bit,
        change(key="{}"),
        change(metrics={"valid": {"ndcg@10": 0.75}}),
        lambda path: torch.save({"vectors": VALUES}, path),
    ],
    ids=["empty", "cut", "html", "bit", "other key", "other figures", "keyless"],
)
def test_a_damaged_file_is_made_again_with_a_warning(folder, damage, caplog):
    keep(folder)
    [file] = folder.iterdir()
    damage(file)
    assert torch.equal(keep(folder)["vectors"], VALUES)
    [warning] = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert str(file) in warning and "is made again" in warning
    assert torch.equal(keep(folder, make=never)["vectors"], VALUES)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert torch.equal(cached(None, "shop", KEY, content)["vectors"], VALUES)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_costs_only_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert torch.equal(keep(tmp_path / "file" / "features")["vectors"], VALUES)
    assert "is not kept, and the next run makes it again" in caplog.text


def test_a_full_disk_leaves_no_half_file(folder, monkeypatch, caplog):
    def write_half(content, file):
        file.write(b"PK\x03\x04")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.torch, "save", write_half)
    assert torch.equal(keep(folder)["vectors"], VALUES)
    assert "No space left on device" in caplog.text
    assert not list(folder.iterdir())
