"""Batches of windows of sequences: one pass encodes the histories of all their next items."""

# Shapes: W windows, B batch, T longest history of the batch, P most next items of a window of the
# batch

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_genrec.data.batches import check_any, shuffle_generator
from recbole_genrec.data.sequences import Sequences, training_windows


def window_batches(
    lengths: Tensor, n_targets: Tensor, batch_size: int, seed: int, epoch: int, n_pool: int
) -> list[Tensor]:
    """Cut windows into batches of similar length and about equally many next items.

    Windows are shuffled, taken in pools of about n_pool * batch_size next items, sorted by length
    within a pool and cut; then the batches are shuffled. Every other pool is sorted downwards, so a
    batch across two pools is no mixture.

    Args:
        lengths: int64 [W], items of every window, >= 1.
        n_targets: int64 [W], next items of every window, >= 1.
        batch_size: next items of a batch, >= 1.
        seed: >= 0; the result depends on (seed, epoch) only.
        epoch: >= 0.
        n_pool: >= 1. A larger pool pads less and mixes less.

    Returns:
        number_of_batches int64 tensors of window numbers, none empty, every window in exactly one.
        The next items of a batch differ from an equal share by at most the next items of one
        window, unless a window has more than a share.
    """
    generator = shuffle_generator(seed, epoch)
    shuffled = torch.randperm(len(lengths), generator=generator)
    pool = (n_targets[shuffled].cumsum(0) - 1) // (n_pool * batch_size)
    size = (lengths * (n_targets.max() + 1) + n_targets)[shuffled]
    size = torch.where(pool % 2 == 0, size, size.max() - size)
    ordered = shuffled[torch.argsort(pool * (size.max() + 1) + size, stable=True)]
    batches = ordered.tensor_split(_cuts(n_targets[ordered], batch_size))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _cuts(n_targets: Tensor, batch_size: int) -> Tensor:
    """Return after how many windows each batch but the last ends.

    That is where the middle of a window reaches an equal share of all next items.
    """
    n_windows, total = len(n_targets), int(n_targets.sum())
    n_batches = number_of_batches(total, n_windows, batch_size)
    number = torch.arange(1, n_batches)
    twice_middle = 2 * n_targets.cumsum(0) - n_targets
    cuts = torch.searchsorted(twice_middle * n_batches, 2 * number * total)
    cuts = (cuts - number).clamp(min=0).cummax(0).values + number
    return torch.minimum(cuts, n_windows - n_batches + number)


def number_of_batches(n_targets: int, n_windows: int, batch_size: int) -> int:
    """Return the number of batches of as many single rows, but at most the number of windows."""
    return min(-(-n_targets // batch_size), n_windows)


class SequenceBatches:
    """Batches of windows, bucketed by length, with all their next items.

    A batch is an Interaction with the columns user_id [B], item_id_list [B, T], item_length [B] and
    item_id [B, P], under the names given in fields: a history and its next items, oldest first, 0
    on the right. The last next item of a row comes after the whole history, the one before it after
    all but its last item, and so on.

    Args:
        sequences: each of their training targets is trained once per epoch.
        width: longest history, >= 1.
        batch_size: next items per batch (about; see window_batches), >= 1.
        seed: >= 0; shuffling depends on (seed, epoch) only.
        fields: names of the user, history, history length and next item columns.
        n_pool: batches sorted by length together; more than for single rows, since a batch has
            fewer windows than next items.

    Raises:
        UserError: there is no training target.
    """

    def __init__(
        self,
        sequences: Sequences,
        width: int,
        batch_size: int,
        seed: int,
        fields: tuple[str, str, str, str],
        n_pool: int = 400,
    ) -> None:
        self.sequences, self.fields = sequences, fields
        self.windows = training_windows(sequences, width)
        self.batch_size, self.seed, self.n_pool = batch_size, seed, n_pool
        check_any(len(self.windows.length))

    def __len__(self) -> int:
        n_targets = self.windows.n_targets
        return number_of_batches(int(n_targets.sum()), len(n_targets), self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Interaction]:
        """Yield every window exactly once, in the order of this epoch (>= 0)."""
        sizes = (self.windows.length, self.windows.n_targets)
        for numbers in window_batches(*sizes, self.batch_size, self.seed, epoch, self.n_pool):
            yield self.windows.select(numbers).cut(self.sequences, self.fields)
