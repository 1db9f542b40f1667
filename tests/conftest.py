from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)

# One line per user u1..u12: the items i1..i10 in time order. The second to last is the validation target, the last the test target.
TINY_SEQUENCES = (
    (1, 2, 3, 4, 5),
    (2, 3, 4, 5, 6),
    (3, 4, 5, 6, 7),
    (4, 5, 6, 7, 8, 9),
    (5, 6, 7, 8, 9),
    (6, 7, 8, 9, 10),
    (7, 8, 9, 10, 1),
    (8, 9, 10, 1, 2, 3),
    (9, 10, 1, 2, 3),
    (10, 1, 2, 3, 4),
    (1, 3, 5, 7, 9),
    (2, 4, 6, 8, 10, 1, 3),
)
TINY_TITLES = ("red drum", "red guitar", "blue drum", "blue guitar", "old red drum", "old piano", "new piano", "flute", "old flute", "horn")


@pytest.fixture
def tiny_data(tmp_path):
    """A folder that holds the data set `tiny`, for data_path.

    Times are one second apart at 1.4e9, where float32 has a spacing of 128 s, and every other user stands in the file backwards.
    """
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in enumerate(TINY_SEQUENCES, start=1):
        lines = [f"u{user}\ti{item}\t{1400000000 + step}" for step, item in enumerate(items)]
        rows.extend(lines if user % 2 else reversed(lines))
    (folder / "tiny.inter").write_text("\n".join(rows) + "\n")
    titles = [f"i{item}\t{title}" for item, title in enumerate(TINY_TITLES, start=1)]
    (folder / "tiny.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles]) + "\n")
    return folder.parent


@pytest.fixture
def tiny_settings(tiny_data, tmp_path, monkeypatch):
    """Settings of a run on `tiny` that writes only below tmp_path."""
    monkeypatch.chdir(tmp_path)
    return {
        "dataset": "tiny",
        "data_path": str(tiny_data),
        "checkpoint_dir": str(tmp_path / "saved"),
        "show_progress": False,
        "epochs": 2,
        "train_batch_size": 8,
        "topk": [3, 5],
        "valid_metric": "NDCG@5",
    }


@pytest.fixture
def tiny_sequences():
    """The literal sequences behind `tiny`, one tuple of item numbers per user."""
    return TINY_SEQUENCES
