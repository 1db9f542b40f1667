import json
import logging
from hashlib import sha256

import pytest
import torch

from recbole_genrec.teacher.cache import load_or_train

METRICS = {"valid": {"ndcg@10": 0.25}, "test": {"ndcg@10": 0.125}, "best_epoch": 2, "n_epochs": 5}
META = {"seed": 1, "dataset": "abc"}


def trained(value):
    return lambda: {"table": torch.full((2,), value), "metrics": METRICS}


def test_a_teacher_is_trained_once_for_its_meta(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="recbole_genrec")
    folder = str(tmp_path / "new" / "folder")
    saved, path = load_or_train(folder, "BPR", "toy", META, trained(1.0))
    digest = sha256(json.dumps({"dataset": "abc", "seed": 1}).encode()).hexdigest()[:16]
    assert path == f"{folder}/BPR-toy-{digest}.pth"
    again, _ = load_or_train(folder, "BPR", "toy", dict(reversed(META.items())), trained(2.0))
    assert saved["table"].tolist() == again["table"].tolist() == [1.0, 1.0]
    assert again["meta"] == META
    other, other_path = load_or_train(folder, "BPR", "toy", {**META, "seed": 2}, trained(3.0))
    assert other["table"].tolist() == [3.0, 3.0] and other_path != path
    figures = "(best of 5 epochs: 3): valid ndcg@10 0.2500, test ndcg@10 0.1250"
    assert caplog.messages == [
        f"Teacher BPR trained and saved to {path} {figures}",
        f"Teacher BPR loaded from {path} {figures}",
        f"Teacher BPR trained and saved to {other_path} {figures}",
    ]


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_file_that_is_no_such_teacher_is_replaced(tmp_path, caplog, content):
    _, path = load_or_train(str(tmp_path), "BPR", "toy", META, trained(1.0))
    if content is None:
        torch.save({"table": torch.zeros(2), "metrics": METRICS, "meta": {**META, "seed": 3}}, path)
    else:
        with open(path, "wb") as file:
            file.write(content)
    with caplog.at_level(logging.WARNING, logger="recbole_genrec"):
        saved, _ = load_or_train(str(tmp_path), "BPR", "toy", META, trained(2.0))
    assert (
        "it was made with other settings" in caplog.text
        if content is None
        else "it cannot be read" in caplog.text
    )
    assert (
        saved["table"].tolist()
        == torch.load(path, weights_only=True)["table"].tolist()
        == [2.0, 2.0]
    )


@pytest.mark.parametrize(
    "error",
    [OSError("disk full"), RuntimeError("PytorchStreamWriter failed writing file:\ndisk full")],
)
def test_a_failed_save_costs_no_trained_teacher_and_leaves_no_file(
    tmp_path, monkeypatch, caplog, error
):
    def fail(saved, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    saved, _ = load_or_train(str(tmp_path), "BPR", "toy", META, trained(1.0))
    assert saved["table"].tolist() == [1.0, 1.0]
    assert [record.levelname for record in caplog.records][:1] == [
        "WARNING"
    ] and "disk full): the next run" in caplog.messages[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_no_trained_teacher(tmp_path):
    (tmp_path / "file").touch()
    assert load_or_train(str(tmp_path / "file"), "BPR", "toy", META, trained(1.0))[0][
        "table"
    ].tolist() == [1.0, 1.0]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (1.0, 2.0):
        saved, path = load_or_train(None, "BPR", "toy", META, trained(value))
        assert saved["table"].tolist() == [value, value] and saved["meta"] == META and path == ""
    assert not list(tmp_path.iterdir())
