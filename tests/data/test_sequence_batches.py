from __future__ import annotations

import itertools

import pytest
import torch

from recbole_genrec.data import prefixes, sequence_batches
from recbole_genrec.data.prefixes import all_prefixes
from recbole_genrec.data.sequence_batches import (
    SequenceBatches,
    number_of_batches,
    training_windows,
    window_batches,
)

FIELDS = ("user", "item_list", "n", "item")


def sequences_of(seed: int, n_users: int, longest: int) -> dict[int, list[int]]:
    """Users 3, 5, 7, ... with 1 to `longest` items each; items may come again."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n_users,), generator=generator).tolist()
    return {
        3 + 2 * user: torch.randint(1, 50, (length,), generator=generator).tolist()
        for user, length in enumerate(lengths)
    }


def training_rows(sequences: dict[int, list[int]], width: int, seed: int = 0):
    """Rows (history, next item) in disorder; the last two of every user are left out, but never the first one."""
    columns = {
        "user": torch.tensor([user for user, items in sequences.items() for _ in items]),
        "item": torch.tensor([item for items in sequences.values() for item in items]),
    }
    rows = all_prefixes(columns, "user", {"item": "item_list"}, "n", width)
    kept, first = [], 0
    for items in sequences.values():
        n_rows = len(items) - 1
        kept += range(first, first + max(n_rows - 2, min(n_rows, 1)))
        first += n_rows
    return rows[
        torch.tensor(kept)[torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))]
    ]


def expected_targets(
    sequences: dict[int, list[int]], width: int
) -> dict[tuple[int, int], tuple[list[int], int]]:
    """{(user, position): (the history of a single row, the next item)} of all training targets."""
    expected = {}
    for user, items in sequences.items():
        n_rows = len(items) - 1
        for position in range(1, 1 + max(n_rows - 2, min(n_rows, 1))):
            expected[user, position] = items[max(0, position - width) : position], items[position]
    return expected


def trained(batches: list, sequences) -> list[tuple[tuple[int, int], list[int], int]]:
    """((user, position), history, next item) of every target, read from batches as the model reads them."""
    found = []
    for batch in batches:
        for user, history, length, targets in zip(*(batch[field].tolist() for field in FIELDS)):
            targets = [item for item in targets if item]
            history = history[:length]
            assert 0 not in history
            # The last target tells where the window stands: the only place of the sequence with
            # this past.
            items = sequences[user]
            ends = [
                end
                for end in range(1, len(items))
                if items[end - length : end] == history and items[end] == targets[-1]
            ]
            end = next(end for end in ends if items[end - len(targets) + 1 : end + 1] == targets)
            for back, item in enumerate(reversed(targets)):
                found.append(((user, end - back), history[: length - back], item))
    return found


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 40])
def test_every_training_target_comes_once_with_its_history(width):
    """Against lists: cut short only where the sequence is longer than a window, and then to more than half of it."""
    generator = torch.Generator().manual_seed(5)
    lengths = [1, 2, 3, 4, 5, 9, 30, *torch.randint(1, 30, (20,), generator=generator).tolist()]
    # All items of a user are distinct, so that a window has one place.
    sequences = {
        user: (user * 100 + torch.arange(length)).tolist()
        for user, length in enumerate(lengths, start=1)
    }
    expected = expected_targets(sequences, width)
    batches = list(
        SequenceBatches(training_rows(sequences, width), 10, seed=1, fields=FIELDS).epoch(0)
    )
    found = trained(batches, sequences)
    assert sorted(place for place, _, _ in found) == sorted(expected)
    least = width + 1 - max(1, width // 2)
    for place, history, item in found:
        full, target = expected[place]
        assert item == target
        assert history == full[len(full) - len(history) :] and history
        if place[1] <= width:
            assert history == full
        else:
            assert least <= len(history) <= width


def test_windows_of_one_sequence():
    """Ten next items, windows of 4: the first has 4, the others 2 new ones each, all with 4 items of history."""
    rows, n_targets = training_windows(torch.arange(1, 11), torch.arange(1, 11).clamp(max=4), 4)
    assert (rows + 1).tolist() == [4, 6, 8, 10]
    assert n_targets.tolist() == [4, 2, 2, 2]
    rows, n_targets = training_windows(torch.arange(1, 8), torch.arange(1, 8).clamp(max=4), 4)
    assert (rows + 1).tolist() == [4, 6, 7]
    assert n_targets.tolist() == [4, 2, 1]


def test_rows_that_begin_in_the_middle_of_a_sequence():
    """The first next item left has three items before it, so the first window has room for two."""
    rows, n_targets = training_windows(
        torch.tensor([24, 23, 26, 25, 31]), torch.tensor([4, 3, 4, 4, 1]), 4
    )
    assert rows.tolist() == [0, 2, 4]
    assert n_targets.tolist() == [2, 2, 1]


@pytest.fixture
def windows():
    """Lengths and next items of 900 windows."""
    rows = training_rows(sequences_of(2, 700, 40), 12)
    chosen, n_targets = training_windows(rows.interaction.target, rows.interaction.length, 12)
    return rows.interaction.length[chosen], n_targets


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
    """Never an empty batch: each window is one where that makes fewer."""
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


def test_columns_are_as_wide_as_the_batch():
    sequences = sequences_of(4, 60, 25)
    batches = SequenceBatches(training_rows(sequences, 8), 30, seed=0, fields=FIELDS)
    seen = list(batches.epoch(0))
    assert len(seen) == len(batches) == -(-len(expected_targets(sequences, 8)) // 30)
    for batch in seen:
        assert set(batch) == set(FIELDS)
        n_targets = (batch["item"] > 0).sum(1)
        assert batch["item"].shape == (len(batch), int(n_targets.max()))
        assert batch["item_list"].shape == (len(batch), int(batch["n"].max()))
        assert torch.equal((batch["item_list"] > 0).sum(1), batch["n"])
        assert (n_targets <= batch["n"]).all()
        # A next item but the last one is the history's next entry.
        for history, length, targets, count in zip(
            batch["item_list"], batch["n"], batch["item"], n_targets
        ):
            assert history[length - count + 1 : length].tolist() == targets[: count - 1].tolist()


def test_only_the_histories_of_a_batch_are_cut(monkeypatch):
    sizes, cut = [], prefixes.cut_histories

    def record(values, target, length, width):
        sizes.append((len(target), width))
        return cut(values, target, length, width)

    monkeypatch.setattr(prefixes, "cut_histories", record)
    monkeypatch.setattr(sequence_batches, "cut_histories", record)
    batches = SequenceBatches(training_rows(sequences_of(4, 60, 25), 8), 30, seed=0, fields=FIELDS)
    assert sizes == []
    shapes = [batch[field].shape for batch in batches.epoch(0) for field in ("item_list", "item")]
    assert sizes == shapes


def test_batches_do_not_follow_a_later_sorting():
    rows = training_rows(sequences_of(4, 60, 25), 8)
    batches = SequenceBatches(rows, 30, seed=0, fields=FIELDS)
    before = [batch["item"] for batch in batches.epoch(0)]
    other = SequenceBatches(rows[torch.arange(len(rows)).flip(0)], 30, seed=0, fields=FIELDS)
    rows.sort(by="item")
    for again in (batches, other):
        assert all(torch.equal(a, batch["item"]) for a, batch in zip(before, again.epoch(0)))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="0 rows"):
        SequenceBatches(training_rows({1: [5, 6]}, 8)[:0], 30, seed=0, fields=FIELDS)
