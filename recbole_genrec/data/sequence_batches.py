"""Training batches of whole sequences, in which every next item is a target, so that one pass encodes all its histories."""

# Shapes: R rows (history, next item), W windows, B batch, T longest window of the batch, P most
# next items of a window of the batch.

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_genrec.data.batches import shuffle_generator
from recbole_genrec.data.prefixes import Prefixes, cut_histories
from recbole_genrec.errors import UserError


def training_windows(target: Tensor, length: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cut sequences into windows in which every next item is a target exactly once.

    A window is the history of its last next item, at most `width` items, and the next items that it
    trains: the first window of a
    sequence has as many as it can, each later one the next max(1, width // 2). So next items of the
    first window have the history
    that they have as single rows; of the later ones, whose history would be `width` items, each has
    more than half of them.

    Args:
        target: LongTensor [R], interactions (numbered by user and time) that are next items, in any
            order; a sequence is a run of
            consecutive ones.
        length: LongTensor [R], items of the history of each, min(width, all before it).
        width: >= 1.

    Returns:
        rows, n_targets: LongTensor [W] both. The window w is the history of row rows[w] and trains
            its next item and the
        n_targets[w] - 1 before it.
    """
    order = torch.argsort(target)
    target, length = target[order], length[order]
    number = torch.arange(len(target))
    starts = torch.ones(len(target), dtype=torch.bool)
    starts[1:] = target[1:] != target[:-1] + 1
    first = torch.where(starts, number, 0).cummax(0).values
    later = (
        number - first - (width + 1 - length[first])
    )  # next items since the sequence's first window
    stride = max(1, width // 2)
    opens = torch.nonzero(starts | ((later >= 0) & (later % stride == 0))).squeeze(1)
    n_targets = torch.diff(opens, append=torch.tensor([len(target)]))
    return order[opens + n_targets - 1], n_targets


def window_batches(
    lengths: Tensor, n_targets: Tensor, batch_size: int, seed: int, epoch: int, n_pool: int
) -> list[Tensor]:
    """Cut windows into batches of similar length and about as many next items, in random order.

    Windows are shuffled, taken in pools of about n_pool * batch_size next items, sorted by length
    within a pool (upwards and downwards
    in turns, so that a batch across two pools is no mixture) and cut; then the batches are
    shuffled.

    Args:
        lengths, n_targets: LongTensors [W], items and next items of every window, >= 1.
        batch_size: next items of a batch, >= 1.
        n_pool: >= 1. A larger pool pads less and mixes less.
        seed, epoch: >= 0; the result depends on nothing else.

    Returns:
        ceil(next items / batch_size) LongTensors of window numbers (W of them if that is less),
        none empty, every window in exactly
        one. The next items of a batch differ from an equal share by at most those of one window,
        unless a window has more than a share.
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
    """After how many windows each batch but the last ends: where the middle of a window reaches an equal share of all next items."""
    n_windows, total = len(n_targets), int(n_targets.sum())
    n_batches = number_of_batches(total, n_windows, batch_size)
    number = torch.arange(1, n_batches)
    twice_middle = 2 * n_targets.cumsum(0) - n_targets
    cuts = torch.searchsorted(twice_middle * n_batches, 2 * number * total)
    cuts = (cuts - number).clamp(min=0).cummax(0).values + number
    return torch.minimum(cuts, n_windows - n_batches + number)


def number_of_batches(n_targets: int, n_windows: int, batch_size: int) -> int:
    """As many as there would be of single rows, but no more than windows."""
    return min(-(-n_targets // batch_size), n_windows)


class SequenceBatches:
    """Batches of sequences, bucketed by length, with all their next items.

    A batch is an Interaction with the columns user_id [B], item_id_list [B, T], item_length [B] and
    item_id [B, P], under the names
    given in fields: a history and its next items, oldest first, 0 on the right where there is none.
    The last next item of a row comes
    after the whole history, the one before it after all but the last item, and so on
    (training_windows).

    Args:
        rows: rows (history, next item); each is trained once per epoch. Only the histories of a
            batch are ever cut.
        batch_size: next items per batch (about; see window_batches), >= 1: as many as of
            LengthBatches of the same rows.
        seed: >= 0; shuffling depends on (seed, epoch) only.
        fields: names of the user, history, history length and target columns of the rows.
        n_pool: batches sorted by length together; more than of single rows, since a batch has fewer
            windows than next items.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(
        self,
        rows: Prefixes,
        batch_size: int,
        seed: int,
        fields: tuple[str, str, str, str],
        n_pool: int = 400,
    ) -> None:
        if len(rows) == 0:
            raise UserError(
                "there are 0 rows to make batches of, but training needs at least one: use more data or weaker filters"
            )
        columns = rows.interaction
        chosen, self.n_targets = training_windows(columns.target, columns.length, columns.width)
        self.windows, self.items = rows[chosen], columns.sources[fields[3]].values
        self.fields, self.batch_size, self.seed, self.n_pool = fields, batch_size, seed, n_pool

    def __len__(self) -> int:
        return number_of_batches(int(self.n_targets.sum()), len(self.n_targets), self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Interaction]:
        """Yield every window exactly once, in the order of this epoch (>= 0)."""
        lengths = self.windows.interaction.length
        for numbers in window_batches(
            lengths, self.n_targets, self.batch_size, self.seed, epoch, self.n_pool
        ):
            yield self._batch(numbers)

    def _batch(self, numbers: Tensor) -> Interaction:
        chosen, n_targets = self.windows[numbers], self.n_targets[numbers]
        columns = chosen.interaction
        batch = chosen.cut(self.fields, int(columns.length.max())).interaction
        batch[self.fields[3]] = cut_histories(
            self.items, columns.target + 1, n_targets, int(n_targets.max())
        )
        return Interaction(batch)
