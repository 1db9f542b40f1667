import itertools

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_genrec.data import prefixes
from recbole_genrec.data.batches import LengthBatches, length_batches
from recbole_genrec.data.prefixes import all_prefixes


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 21, (1003,), generator=generator)
    items = torch.randint(1, 99, (1003, 20), generator=generator).masked_fill(
        torch.arange(20) >= length[:, None], 0
    )
    number = torch.arange(1003)
    return Interaction(
        {
            "user_id": number,
            "item_id": number + 5,
            "item_length": length,
            "item_id_list": items,
            "rating": number,
        }
    )


@pytest.fixture
def lazy_rows():
    """The prefixes of 60 users with 1 to 30 items."""
    generator = torch.Generator().manual_seed(1)
    user = torch.arange(60).repeat_interleave(torch.randint(1, 31, (60,), generator=generator))
    flat = {
        "user_id": user,
        "item_id": torch.randint(1, 99, (len(user),), generator=generator),
        "rating": torch.rand(len(user)),
    }
    return all_prefixes(
        flat, "user_id", {"item_id": "item_id_list", "rating": "rating_list"}, "item_length", 20
    )


FIELDS = ("user_id", "item_id_list", "item_length", "item_id")


def order(batches, epoch):
    return torch.cat([batch["user_id"] for batch in batches.epoch(epoch)])


def test_every_row_comes_once_with_its_own_columns(rows):
    batches = LengthBatches(rows, 32, seed=3, fields=FIELDS, n_pool=5)
    seen = list(batches.epoch(0))
    assert len(seen) == len(batches) == 32
    assert sorted(len(batch) for batch in seen) == [11] + [32] * 31
    assert order(batches, 0).sort().values.tolist() == list(range(1003))
    for batch in seen:
        row = batch["user_id"]
        assert set(batch) == {"user_id", "item_id", "item_length", "item_id_list"}
        longest = int(batch["item_length"].max())
        assert batch["item_id_list"].shape == (len(row), longest)
        assert torch.equal(batch["item_id_list"], rows["item_id_list"][row][:, :longest])
        assert torch.equal(batch["item_length"], rows["item_length"][row])
        assert torch.equal(batch["item_id"], row + 5)


def test_the_order_depends_on_seed_and_epoch_only(rows):
    torch.manual_seed(1)
    first = order(LengthBatches(rows, 32, seed=3, fields=FIELDS), 4)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(order(LengthBatches(rows, 32, seed=3, fields=FIELDS), 4), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(order(LengthBatches(rows, 32, seed=3, fields=FIELDS), 5), first)
    assert not torch.equal(order(LengthBatches(rows, 32, seed=4, fields=FIELDS), 4), first)


def test_batches_of_one_pool_do_not_overlap_in_length_and_come_shuffled(rows):
    lengths = [
        batch["item_length"]
        for batch in LengthBatches(rows, 32, seed=0, fields=FIELDS, n_pool=100).epoch(0)
    ]
    spans = sorted((int(length.min()), int(length.max())) for length in lengths)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))
    longest = [int(length.max()) for length in lengths]
    assert longest != sorted(longest)


def test_a_pool_of_one_batch_is_a_plain_shuffle(rows):
    batches = length_batches(rows["item_length"], 100, seed=0, epoch=0, n_pool=1)
    means = torch.stack(
        [rows["item_length"][batch].double().mean() for batch in batches if len(batch) == 100]
    )
    assert means.std() < 1.5


def test_bad_sizes_are_named(rows):
    with pytest.raises(ValueError, match="batch_size is 0"):
        length_batches(rows["item_length"], 0, seed=0, epoch=0, n_pool=1)
    with pytest.raises(ValueError, match="0 rows"):
        length_batches(torch.zeros(0, dtype=torch.long), 2, seed=0, epoch=0, n_pool=1)


def test_batches_of_given_seeds_stay_what_they_are():
    """A run that was started with an earlier version goes on with the batches it would have had."""
    lengths = torch.arange(20) % 5 + 1
    batches = length_batches(lengths, 4, seed=3, epoch=1, n_pool=2)
    assert [batch.tolist() for batch in batches] == [
        [0, 11, 1, 2],
        [12, 17, 3, 19],
        [15, 18, 9, 14],
        [7, 13, 8, 4],
        [5, 10, 16, 6],
    ]


def test_lazy_rows_give_the_batches_of_ordinary_rows(lazy_rows):
    lazy = LengthBatches(lazy_rows, 32, seed=3, fields=FIELDS, n_pool=5)
    ordinary = LengthBatches(lazy_rows.cut(), 32, seed=3, fields=FIELDS, n_pool=5)
    assert len(lazy) == len(ordinary) > 20
    for epoch in (0, 1):
        for mine, other in zip(lazy.epoch(epoch), ordinary.epoch(epoch)):
            assert set(mine) == set(other) == set(FIELDS)
            assert all(torch.equal(mine[field], other[field]) for field in FIELDS)


def test_lazy_histories_are_cut_as_wide_as_the_batch(lazy_rows, monkeypatch):
    widths, cut = [], prefixes.cut_histories

    def record(values, target, length, width):
        widths.append((len(target), width))
        return cut(values, target, length, width)

    monkeypatch.setattr(prefixes, "cut_histories", record)
    batches = LengthBatches(lazy_rows, 32, seed=3, fields=FIELDS)
    assert widths == []
    expected = [(len(batch), int(batch["item_length"].max())) for batch in batches.epoch(0)]
    assert widths == expected
    assert len({width for _, width in widths}) > 3


def test_batches_do_not_follow_a_later_sorting(lazy_rows):
    batches = LengthBatches(lazy_rows, 32, seed=3, fields=FIELDS)
    before = [batch["item_id_list"] for batch in batches.epoch(0)]
    lazy_rows.sort(by="item_id")
    assert all(torch.equal(a, batch["item_id_list"]) for a, batch in zip(before, batches.epoch(0)))
