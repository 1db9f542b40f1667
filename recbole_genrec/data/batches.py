"""Batches of item ids, and of histories with similar length, so that little is padding."""

# Shapes: R rows (history, next item), B batch, T longest history of the batch.

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_genrec.data.sequences import Sequences, training_rows
from recbole_genrec.errors import UserError

Batch = TypeVar("Batch", Interaction, torch.Tensor)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device.

    It is copied from pinned memory, so the host does not wait for an accelerator's earlier work.
    """
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
    """Return a generator (CPU) that depends on (seed, epoch) only; both >= 0."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def length_batches(
    lengths: torch.Tensor, batch_size: int, seed: int, epoch: int, n_pool: int
) -> list[torch.Tensor]:
    """Cut rows into batches of similar length, in random order.

    Rows are shuffled, taken in pools of n_pool * batch_size, sorted by length within a pool and
    cut; then the batches are shuffled.

    Args:
        lengths: int64 [R].
        batch_size: rows of a batch, >= 1.
        seed: >= 0; the result depends on (seed, epoch) only.
        epoch: >= 0.
        n_pool: batches of a pool, >= 1. A larger pool pads less and mixes less.

    Returns:
        ceil(R / batch_size) int64 tensors of row numbers. Every row is in exactly one; all but one
        have batch_size rows.

    Raises:
        UserError: there are no rows.
    """
    check_any(len(lengths))
    generator = shuffle_generator(seed, epoch)
    shuffled = torch.randperm(len(lengths), generator=generator)
    pool = torch.arange(len(lengths)) // (n_pool * batch_size)
    length = lengths[shuffled]
    ordered = shuffled[torch.argsort(pool * (length.max() + 1) + length, stable=True)]
    batches = ordered.split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def check_any(n_rows: int) -> None:
    """Refuse to make batches of nothing."""
    if not n_rows:
        raise UserError(
            "there are 0 rows to make batches of, but training needs at least one: "
            "use more data or weaker filters"
        )


class LengthBatches:
    """Batches of (history, next item) rows bucketed by history length.

    A batch is an Interaction with the columns user_id [B], item_id_list [B, T], item_length [B] and
    item_id [B], under the names given in fields; item_id_list is oldest first, 0 on the right.

    Args:
        sequences: each of their training targets is a row.
        width: longest history, >= 1.
        batch_size: >= 1.
        seed: >= 0; shuffling depends on (seed, epoch) only.
        fields: names of the user, history, history length and next item columns.
        n_pool: batches sorted by length together.
    """

    def __init__(
        self,
        sequences: Sequences,
        width: int,
        batch_size: int,
        seed: int,
        fields: tuple[str, str, str, str],
        n_pool: int = 50,
    ) -> None:
        self.sequences, self.rows, self.fields = sequences, training_rows(sequences, width), fields
        self.batch_size, self.seed, self.n_pool = batch_size, seed, n_pool

    def __len__(self) -> int:
        return -(-len(self.rows.length) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Interaction]:
        """Yield every row exactly once, in the order of this epoch (>= 0)."""
        *_, target = self.fields
        lengths = self.rows.length
        for numbers in length_batches(lengths, self.batch_size, self.seed, epoch, self.n_pool):
            batch = self.rows.select(numbers).cut(self.sequences, self.fields)
            batch[target] = batch[target].squeeze(1)
            yield batch


class ItemBatches:
    """Batches of all item ids, shuffled by (seed, epoch)."""

    def __init__(self, n_items: int, batch_size: int, seed: int, device: torch.device) -> None:
        self.n_items, self.batch_size, self.seed, self.device = n_items, batch_size, seed, device

    def __len__(self) -> int:
        return -(-(self.n_items - 1) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[torch.Tensor]:
        """Yield item ids 1 .. n_items - 1, each once, int64 [batch_size] or fewer at the end."""
        order = torch.randperm(self.n_items - 1, generator=shuffle_generator(self.seed, epoch)) + 1
        yield from order.to(self.device).split(self.batch_size)
