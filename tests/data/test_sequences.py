"""Training rows and windows cut from sequences, against lists and against RecBole's own rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.sequences import (
    Sequences,
    cut_histories,
    training_rows,
    training_windows,
)

FIELDS = ("user_id", "item_id_list", "item_length", "item_id")
LENGTHS = [1, 2, 3, 4, 5, 9, 30, 0, 14]


def sequences_of(lengths: list[int], order: torch.Tensor | None = None) -> Sequences:
    """User u (from 1) has the items 100 u + 1, 100 u + 2, ..."""
    items = [100 * user + 1 + torch.arange(length) for user, length in enumerate(lengths, start=1)]
    starts = torch.tensor([0, 0, *lengths]).cumsum(0)
    return Sequences(torch.cat(items), starts, order)


def expected_targets(lengths: list[int], width: int) -> dict[int, tuple[int, list[int]]]:
    """Return the user and the history, at most width items, of every training target."""
    expected = {}
    for user, length in enumerate(lengths, start=1):
        items = [100 * user + 1 + step for step in range(length)]
        n_rows = length - 1
        for position in range(1, 1 + max(n_rows - 2, min(n_rows, 1))):
            expected[items[position]] = user, items[max(0, position - width) : position]
    return expected


def test_the_last_two_items_of_a_user_are_held_out():
    sequences = sequences_of(LENGTHS)
    training = [
        100 * user + 1 + step
        for user, length in enumerate(LENGTHS, 1)
        for step in range(length - 2)
    ]
    assert sequences.items[sequences.is_training()].tolist() == training


@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_every_row_against_lists(width):
    sequences = sequences_of(LENGTHS)
    batch = training_rows(sequences, width).cut(sequences, FIELDS)
    found = {
        target: (user, history[:length])
        for user, history, length, (target,) in zip(*(batch[field].tolist() for field in FIELDS))
    }
    assert found == expected_targets(LENGTHS, width)
    assert len(batch) == len(found)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 40])
def test_every_training_target_is_in_one_window(width):
    """Its history is whole unless it is longer than a window; then more than half a window."""
    lengths = [*LENGTHS, *torch.randint(1, 30, (20,)).tolist()]
    sequences, expected = sequences_of(lengths), expected_targets(lengths, width)
    batch, found = training_windows(sequences, width).cut(sequences, FIELDS), []
    for user, history, length, targets in zip(*(batch[field].tolist() for field in FIELDS)):
        assert 0 not in history[:length]
        targets = [item for item in targets if item]
        for back, target in enumerate(reversed(targets)):
            own = history[: length - back]
            expected_user, whole = expected[target]
            assert (user, own) == (expected_user, whole[len(whole) - len(own) :])
            is_first_window = target % 100 - 1 <= width
            assert len(own) == len(whole) if is_first_window else len(own) > width // 2
            found.append(target)
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    "n_targets, ends, sizes", [(10, [4, 6, 8, 10], [4, 2, 2, 2]), (7, [4, 6, 7], [4, 2, 1])]
)
def test_windows_of_one_sequence(n_targets, ends, sizes):
    """The first window of 4 items trains 4 next items, each later one 2 new ones."""
    windows = training_windows(sequences_of([n_targets + 3]), 4)
    assert windows.end.tolist() == ends
    assert windows.n_targets.tolist() == sizes
    assert windows.length.tolist() == [4] * len(ends)
    assert windows.user.tolist() == [1] * len(ends)


def test_columns_are_as_wide_as_the_chosen_windows():
    sequences = sequences_of([9, 5])
    windows = training_windows(sequences, 4).select(torch.tensor([1, 2]))
    batch = windows.cut(sequences, FIELDS)
    assert list(batch.interaction) == list(FIELDS)
    assert batch["item_id_list"].tolist() == [[103, 104, 105, 106], [201, 202, 0, 0]]
    assert batch["item_id"].tolist() == [[106, 107], [202, 203]]


@pytest.mark.parametrize("seconds", [1, 1000])
def test_rows_are_recboles_in_its_order(make_config, seconds):
    """Times one second apart are often equal in float32; rows then keep the order of the users."""
    generator = np.random.default_rng(3)
    users = generator.permutation(np.repeat(np.arange(60), generator.integers(1, 12, 60)))
    users = np.concatenate((users, [0, 0, 0, 0]))
    rows = [
        (f"u{user}", f"i{generator.integers(15)}", 1.4e9 + seconds * step)
        for step, user in enumerate(users)
    ]
    ours = GenRecDataset(make_config(rows))
    sequences = ours.sequences
    theirs = (SequentialDataset if seconds == 1000 else GenRecDataset)(make_config(rows))
    expected = theirs.build()[0].inter_feat
    batch = training_rows(sequences, 3).cut(sequences, FIELDS)
    assert len(batch) == len(expected) > 150
    for field in FIELDS[:3]:
        assert torch.equal(batch[field], expected[field]), field
    assert torch.equal(batch["item_id"].squeeze(1), expected["item_id"])


def test_without_an_order_rows_come_by_user():
    sequences = sequences_of([4, 5, 4])
    assert training_rows(sequences, 3).user.tolist() == [1, 2, 2, 3]
    ordered = sequences._replace(order=torch.tensor([2, 3, 1]))
    assert training_rows(ordered, 3).user.tolist() == [2, 2, 3, 1]


def test_histories_of_vectors_are_cut_too():
    values = torch.arange(12.0).reshape(6, 2)
    cut = cut_histories(values, torch.tensor([4, 1]), torch.tensor([2, 1]), 3)
    nothing = [0.0, 0.0]
    assert cut.tolist() == [[[4, 5], [6, 7], nothing], [[0, 1], nothing, nothing]]
