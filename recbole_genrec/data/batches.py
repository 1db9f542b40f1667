"""Training batches of histories with similar length, so that little of a batch is padding."""

# Shapes: N rows, B batch, T longest history of the batch.

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_genrec.data.prefixes import Prefixes
from recbole_genrec.errors import UserError

Batch = TypeVar("Batch", Interaction, torch.Tensor)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch there, without waiting until an accelerator is done with the batches before: it is copied from pinned memory."""
    if device.type == "cpu":
        return batch.to(device)
    if isinstance(batch, Interaction):
        return Interaction(
            {name: to_device(column, device) for name, column in batch.interaction.items()}
        )
    if batch.device.type == "cpu":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


def shuffle_generator(seed: int, epoch: int) -> torch.Generator:
    """Random generator (CPU) that depends on (seed, epoch) only; both >= 0."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def length_batches(
    lengths: torch.Tensor, batch_size: int, seed: int, epoch: int, n_pool: int
) -> list[torch.Tensor]:
    """Cut rows into batches of similar length, in random order.

    Rows are shuffled, taken in pools of n_pool * batch_size, sorted by length within a pool and
    cut; then the batches are shuffled.

    Args:
        lengths: LongTensor [N].
        batch_size, n_pool: >= 1. A larger pool pads less and mixes less.
        seed, epoch: >= 0; the result depends on nothing else.

    Returns:
        ceil(N / batch_size) LongTensors of row numbers; every row is in exactly one; all but one
        have batch_size rows.
    """
    if batch_size < 1 or n_pool < 1:
        raise UserError(
            f"batch_size is {batch_size} and n_pool is {n_pool}, but both must be at least 1: raise them"
        )
    if len(lengths) == 0:
        raise UserError(
            "there are 0 rows to make batches of, but training needs at least one: use more data or weaker filters"
        )
    generator = shuffle_generator(seed, epoch)
    shuffled = torch.randperm(len(lengths), generator=generator)
    pool = torch.arange(len(lengths)) // (n_pool * batch_size)
    length = lengths.cpu()[shuffled]
    batches = shuffled[torch.argsort(pool * (length.max() + 1) + length, stable=True)].split(
        batch_size
    )
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


class LengthBatches:
    """Batches of (history, next item) rows bucketed by history length.

    A batch is an Interaction with the columns user_id [B], item_id_list [B, T], item_length [B] and
    item_id [B], under the names
    given in fields; T is the longest history of the batch, the rest of item_id_list is 0 on the
    right.

    Args:
        inter_feat: rows as RecBole's augmentation makes them, item_id_list [N,
            MAX_ITEM_LIST_LENGTH]; of Prefixes only the histories of
            a batch are ever cut.
        batch_size: >= 1.
        seed: >= 0; shuffling depends on (seed, epoch) only.
        fields: names of the user, history, history length and target columns of inter_feat.
        n_pool: batches sorted by length together.
    """

    def __init__(
        self,
        inter_feat: Interaction,
        batch_size: int,
        seed: int,
        fields: tuple[str, str, str, str],
        n_pool: int = 50,
    ):
        self.rows = inter_feat[:]  # stays as it is when the caller sorts its own
        self.fields = fields
        _, self.history_field, length_field, _ = fields
        self.lengths = self.rows[length_field]
        self.batch_size, self.seed, self.n_pool = batch_size, seed, n_pool

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Interaction]:
        """Yield every row exactly once, in the order of this epoch (>= 0)."""
        for rows in length_batches(self.lengths, self.batch_size, self.seed, epoch, self.n_pool):
            rows = rows.to(self.lengths.device)
            yield self._batch(rows, int(self.lengths[rows].max()))

    def _batch(self, rows: torch.Tensor, longest: int) -> Interaction:
        if isinstance(self.rows, Prefixes):
            return self.rows[rows].cut(self.fields, longest)
        batch = {
            field: self.rows[field][rows] for field in self.fields if field != self.history_field
        }
        batch[self.history_field] = self.rows[self.history_field][:, :longest][rows]
        return Interaction(batch)


class ItemBatches:
    """Batches of all item ids, shuffled by (seed, epoch)."""

    def __init__(self, n_items: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.n_items, self.batch_size, self.seed, self.device = n_items, batch_size, seed, device

    def __len__(self) -> int:
        return -(-(self.n_items - 1) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[torch.Tensor]:
        """Item ids 1 .. n_items - 1, each once, int64 [batch_size] (the last batch may be shorter)."""
        order = torch.randperm(self.n_items - 1, generator=shuffle_generator(self.seed, epoch)) + 1
        yield from order.to(self.device).split(self.batch_size)
