from __future__ import annotations

import itertools

import pytest
import torch

from recbole_genrec.data import sequences as module
from recbole_genrec.data.sequence_batches import (
    SequenceBatches,
    number_of_batches,
    window_batches,
)
from recbole_genrec.data.sequences import Sequences, training_windows
from recbole_genrec.errors import UserError

FIELDS = ("user", "item_list", "n", "item")


@pytest.fixture
def windows(make_sequences):
    """Lengths and next items of about 2,000 windows."""
    windows = training_windows(make_sequences(700, 40, seed=2), 12)
    return windows.length, windows.n_targets


@pytest.mark.parametrize("batch_size", [16, 50, 128, 5000, 10**6])
@pytest.mark.parametrize("n_pool", [1, 5, 400])
def test_batches_have_about_as_many_targets_each(windows, batch_size, n_pool):
    lengths, n_targets = windows
    batches = window_batches(lengths, n_targets, batch_size, seed=3, epoch=1, n_pool=n_pool)
    total = int(n_targets.sum())
    assert (
        len(batches)
        == number_of_batches(total, len(lengths), batch_size)
        == -(-total // batch_size)
    )
    assert torch.cat(batches).sort().values.tolist() == list(range(len(lengths)))
    share = total / len(batches)
    assert max(abs(int(n_targets[batch].sum()) - share) for batch in batches) <= int(
        n_targets.max()
    )


def test_windows_with_more_targets_than_a_batch(windows):
    """No batch is empty: there are at most as many batches as windows."""
    lengths, n_targets = windows
    assert int(n_targets.max()) == 12
    batches = window_batches(lengths, n_targets, 1, seed=3, epoch=1, n_pool=3)
    assert sorted(map(torch.Tensor.tolist, batches)) == [[window] for window in range(len(lengths))]
    mixed = window_batches(lengths, n_targets, 8, seed=3, epoch=1, n_pool=3)
    assert len(mixed) == -(-int(n_targets.sum()) // 8) < len(lengths)
    assert min(map(len, mixed)) == 1
    assert torch.cat(mixed).sort().values.tolist() == list(range(len(lengths)))
    one_long = window_batches(
        torch.tensor([40, 1, 1]), torch.tensor([40, 1, 1]), 20, seed=0, epoch=0, n_pool=1
    )
    assert sorted(len(batch) for batch in one_long) == [1, 1, 1]


def test_the_order_depends_on_seed_and_epoch_only(windows):
    def order(seed, epoch):
        torch.rand(1)
        return [batch.tolist() for batch in window_batches(*windows, 64, seed, epoch, 3)]

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 1)


def test_batches_hold_windows_of_similar_length(windows):
    """In one pool the spans of lengths meet only at their ends, and little is padding."""
    lengths, n_targets = windows
    batches = window_batches(lengths, n_targets, 64, seed=0, epoch=0, n_pool=1000)
    spans = sorted((int(lengths[batch].min()), int(lengths[batch].max())) for batch in batches)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)

    def padded(sizes):
        return sum(len(batch) * int(sizes[batch].max()) for batch in batches)

    assert padded(lengths) < 1.02 * int(lengths.sum())
    assert padded(n_targets) < 1.04 * int(n_targets.sum())


def test_a_batch_across_two_pools_is_no_mixture():
    """Short and long windows do not meet where one pool ends and the next begins."""
    lengths = torch.randint(1, 13, (2000,), generator=torch.Generator().manual_seed(1))
    batches = window_batches(lengths, lengths, 64, seed=0, epoch=0, n_pool=10)
    assert max(int(lengths[batch].max() - lengths[batch].min()) for batch in batches) <= 6


def test_windows_are_sorted_within_a_pool_only():
    """A pool of one batch mixes nearly all lengths."""
    lengths = torch.randint(1, 13, (2000,), generator=torch.Generator().manual_seed(1))
    spans = []
    for n_pool in (1, 3, 1000):
        batches = window_batches(lengths, lengths, 200, seed=0, epoch=0, n_pool=n_pool)
        spans.append(
            sum(int(lengths[batch].max() - lengths[batch].min()) for batch in batches)
            / len(batches)
        )
    assert spans[0] > 7 > spans[1] > 2 > 0.5 > spans[2]


def test_every_window_comes_once(make_sequences):
    sequences = make_sequences(60, 25)
    batches = SequenceBatches(sequences, 8, 30, seed=0, fields=FIELDS)
    seen, n_targets = list(batches.epoch(0)), int(sequences.n_training_targets().sum())
    assert len(seen) == len(batches) == -(-n_targets // 30)
    found, whole = [], training_windows(sequences, 8).cut(sequences, FIELDS)
    for batch in (*seen, whole):
        assert tuple(batch.interaction) == FIELDS
        counts = (batch["item"] > 0).sum(1)
        assert batch["item"].shape == (len(batch), int(counts.max()))
        assert batch["item_list"].shape == (len(batch), int(batch["n"].max()))
        columns = [batch[field].tolist() for field in FIELDS]
        found.append(
            [
                (user, history[:length], [item for item in items if item])
                for user, history, length, items in zip(*columns)
            ]
        )
    *parts, expected = found
    assert sorted(window for part in parts for window in part) == sorted(expected)


def test_only_the_histories_of_a_batch_are_cut(make_sequences, monkeypatch):
    shapes, cut = [], module.cut_histories

    def record(*given):
        shapes.append(cut(*given).shape)
        return cut(*given)

    monkeypatch.setattr(module, "cut_histories", record)
    batches = SequenceBatches(make_sequences(60, 25), 8, 30, seed=0, fields=FIELDS)
    assert shapes == []
    seen = [batch[field].shape for batch in batches.epoch(0) for field in ("item_list", "item")]
    assert seen == shapes


def test_no_targets_are_refused():
    one_item = Sequences(torch.tensor([5]), torch.tensor([0, 0, 1]))
    with pytest.raises(UserError, match="0 rows"):
        SequenceBatches(one_item, 8, 30, seed=0, fields=FIELDS)
