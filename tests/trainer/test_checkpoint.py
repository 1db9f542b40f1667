from __future__ import annotations

import os

import pytest
import torch

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.trainer.checkpoint import (
    load_checkpoint,
    new_checkpoint_path,
    resume_files,
    save_checkpoint,
)

CONTENT = {
    "model": "UniGRec",
    "dataset_fingerprint": "a" * 64,
    "state_dict": {"weight": torch.arange(6.0).view(2, 3), "codes": torch.tensor([3, 1])},
    "epoch": 4,
    "history": [{"ndcg@10": 0.25}, None, ("x", True)],
}


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "model.pth"
    save_checkpoint(path, CONTENT)
    found = load_checkpoint(path, "cpu", model="UniGRec", dataset_fingerprint="a" * 64)
    assert torch.equal(found["state_dict"].pop("weight"), CONTENT["state_dict"]["weight"])
    assert torch.equal(found["state_dict"].pop("codes"), CONTENT["state_dict"]["codes"])
    assert found == {**CONTENT, "state_dict": {}}
    assert [file.name for file in path.parent.iterdir()] == ["model.pth"]
    assert path.stat().st_mode & 0o077 == (tmp_path / "new").stat().st_mode & 0o066, (
        "as readable for others as any file of the user"
    )


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    save_checkpoint(path, CONTENT)
    old = path.read_bytes()

    def stop_half_way(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, CONTENT)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_content_that_could_not_be_loaded_is_refused_before_writing(tmp_path):
    with pytest.raises(TypeError, match="but got object"):
        save_checkpoint(tmp_path / "model.pth", {**CONTENT, "extra": [object()]})
    with pytest.raises(KeyError, match=r"lacks \['dataset_fingerprint'\]"):
        save_checkpoint(tmp_path / "model.pth", {"model": "UniGRec"})
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "model.pth"
    with pytest.raises(MissingFileError, match="does not exist"):
        load_checkpoint(path, "cpu")
    path.write_text("no checkpoint")
    with pytest.raises(UserError, match="is not a checkpoint of tensors"):
        load_checkpoint(path, "cpu")
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="has the format None"):
        load_checkpoint(path, "cpu")
    torch.save(torch.zeros(2), path)
    with pytest.raises(UserError, match="has the format None"):
        load_checkpoint(path, "cpu")


def test_other_model_or_data_set_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint(path, CONTENT)
    with pytest.raises(UserError, match="is a checkpoint of UniGRec, not of TIGER"):
        load_checkpoint(path, "cpu", model="TIGER")
    with pytest.raises(
        UserError, match="fingerprint aaaaaaaaaaaa, but the data set has bbbbbbbbbbbb"
    ):
        load_checkpoint(path, "cpu", dataset_fingerprint="b" * 64)


def test_new_paths_are_not_taken(tmp_path):
    config = {"model": "TIGER", "dataset": "tiny", "checkpoint_dir": str(tmp_path)}
    paths = []
    for suffix in (".pth", ".resume.pth", ".pth"):  # a run killed early has only the second
        paths.append(new_checkpoint_path(config))
        paths[-1].with_suffix(suffix).touch()
    assert len(set(paths)) == 3
    assert all(path.name.startswith("TIGER-tiny-") and path.suffix == ".pth" for path in paths)


def test_the_newest_file_of_this_model_and_data_set(tmp_path):
    """The newest by time of writing, of this data set and none whose name only begins alike."""
    config = {"model": "TIGER", "dataset": "shop[1]", "checkpoint_dir": str(tmp_path / "saved")}
    assert resume_files(config, ".resume.pth") == [], "there is not even a folder"
    others = (
        {"model": "UniGRec"},
        {"dataset": "shop"},
        {"dataset": "shop[1]-large"},
        {"dataset": "shop1"},
    )
    stems = [new_checkpoint_path({**config, **other}).with_suffix("") for other in ({}, *others)]
    stems[0].parent.mkdir()
    for age, stem in enumerate(reversed(stems)):
        for suffix in (".resume.pth", ".pth", ".json"):
            stem.with_suffix(suffix).touch()
            os.utime(stem.with_suffix(suffix), (1000 - age, 1000 - age))
    assert resume_files(config, ".resume.pth") == [str(stems[0].with_suffix(".resume.pth"))]
    assert resume_files(config, ".pth") == [str(stems[0].with_suffix(".pth"))]
    second = new_checkpoint_path(config).with_suffix(".resume.pth")
    assert second.name != stems[0].with_suffix(".resume.pth").name
    for age in (1, 5000):
        second.touch()
        os.utime(second, (age, age))
        both = [str(stems[0].with_suffix(".resume.pth")), str(second)]
        assert resume_files(config, ".resume.pth") == (both[::-1] if age == 5000 else both)
