from __future__ import annotations

import itertools

import pytest
import torch

from recbole_genrec.data import sequences as module
from recbole_genrec.data.batches import LengthBatches, length_batches
from recbole_genrec.data.sequences import training_rows
from recbole_genrec.errors import UserError

FIELDS = ("user_id", "item_id_list", "item_length", "item_id")


@pytest.fixture
def sequences(make_sequences):
    """1,000 to 1,200 training targets."""
    return make_sequences(90, 30)


@pytest.fixture
def lengths():
    """Lengths of 1,003 rows."""
    return torch.randint(1, 21, (1003,), generator=torch.Generator().manual_seed(0))


def order(sequences, seed, epoch) -> list[int]:
    """Return the users of all rows of an epoch."""
    batches = LengthBatches(sequences, 20, 32, seed=seed, fields=FIELDS).epoch(epoch)
    return torch.cat([batch["user_id"] for batch in batches]).tolist()


def rows_of(batch) -> list[tuple]:
    columns = (batch[field].tolist() for field in FIELDS)
    return [
        (user, tuple(history[:length]), length, item)
        for user, history, length, item in zip(*columns)
    ]


def test_every_training_row_comes_once(sequences):
    batches = LengthBatches(sequences, 20, 32, seed=3, fields=FIELDS, n_pool=5)
    seen = list(batches.epoch(0))
    whole = training_rows(sequences, 20).cut(sequences, FIELDS)
    whole["item_id"] = whole["item_id"].squeeze(1)
    assert len(seen) == len(batches) == -(-len(whole) // 32) > 30
    assert sorted(len(batch) for batch in seen)[1:] == [32] * (len(seen) - 1)
    assert sorted(row for batch in seen for row in rows_of(batch)) == sorted(rows_of(whole))
    for batch in seen:
        assert tuple(batch.interaction) == FIELDS
        assert batch["item_id_list"].shape == (len(batch), int(batch["item_length"].max()))
        assert batch["item_id"].shape == (len(batch),)
        assert torch.equal((batch["item_id_list"] > 0).sum(1), batch["item_length"])


def test_the_order_depends_on_seed_and_epoch_only(sequences):
    torch.manual_seed(1)
    first = order(sequences, 3, 4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert order(sequences, 3, 4) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert order(sequences, 3, 5) != first
    assert order(sequences, 4, 4) != first


def test_batches_of_one_pool_do_not_overlap_in_length_and_come_shuffled(sequences):
    batches = LengthBatches(sequences, 20, 32, seed=0, fields=FIELDS, n_pool=100)
    lengths = [batch["item_length"] for batch in batches.epoch(0)]
    spans = sorted((int(length.min()), int(length.max())) for length in lengths)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))
    longest = [int(length.max()) for length in lengths]
    assert longest != sorted(longest)


def test_a_pool_of_one_batch_is_a_plain_shuffle(lengths):
    batches = length_batches(lengths, 100, seed=0, epoch=0, n_pool=1)
    means = torch.stack([lengths[batch].double().mean() for batch in batches if len(batch) == 100])
    assert means.std() < 1.5


def test_no_rows_are_refused():
    with pytest.raises(UserError, match="0 rows"):
        length_batches(torch.zeros(0, dtype=torch.long), 2, seed=0, epoch=0, n_pool=1)


def test_batches_of_given_seeds_stay_what_they_are():
    """A run that an earlier version started continues with the batches it would have had."""
    lengths = torch.arange(20) % 5 + 1
    batches = length_batches(lengths, 4, seed=3, epoch=1, n_pool=2)
    assert [batch.tolist() for batch in batches] == [
        [0, 11, 1, 2],
        [12, 17, 3, 19],
        [15, 18, 9, 14],
        [7, 13, 8, 4],
        [5, 10, 16, 6],
    ]


def test_histories_are_cut_as_wide_as_the_batch(sequences, monkeypatch):
    """Only when the batch is wanted: no column of all histories is ever made."""
    shapes, cut = [], module.cut_histories

    def record(*given):
        shapes.append(cut(*given).shape)
        return cut(*given)

    monkeypatch.setattr(module, "cut_histories", record)
    batches = LengthBatches(sequences, 20, 32, seed=3, fields=FIELDS)
    assert shapes == []
    expected = [(len(batch), int(batch["item_length"].max())) for batch in batches.epoch(0)]
    assert [tuple(shape) for shape in shapes[::2]] == expected
    assert len({width for _, width in expected}) > 3
