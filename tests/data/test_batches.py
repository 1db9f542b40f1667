import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_genrec.data.batches import LengthBatches, length_batches


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 21, (1003,), generator=generator)
    items = torch.randint(1, 99, (1003, 20), generator=generator).masked_fill(torch.arange(20) >= length[:, None], 0)
    number = torch.arange(1003)
    return Interaction({"user_id": number, "item_id": number + 5, "item_length": length, "item_id_list": items, "rating": number})

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
    lengths = [batch["item_length"] for batch in LengthBatches(rows, 32, seed=0, fields=FIELDS, n_pool=100).epoch(0)]
    spans = sorted((int(length.min()), int(length.max())) for length in lengths)
    assert all(high <= low for (_, high), (low, _) in zip(spans, spans[1:]))
    longest = [int(length.max()) for length in lengths]
    assert longest != sorted(longest)


def test_a_pool_of_one_batch_is_a_plain_shuffle(rows):
    batches = length_batches(rows["item_length"], 100, seed=0, epoch=0, n_pool=1)
    means = torch.stack([rows["item_length"][batch].double().mean() for batch in batches if len(batch) == 100])
    assert means.std() < 1.5


def test_bad_sizes_are_named(rows):
    with pytest.raises(ValueError, match="batch_size is 0"):
        length_batches(rows["item_length"], 0, seed=0, epoch=0, n_pool=1)
    with pytest.raises(ValueError, match="0 rows"):
        length_batches(torch.zeros(0, dtype=torch.long), 2, seed=0, epoch=0, n_pool=1)
