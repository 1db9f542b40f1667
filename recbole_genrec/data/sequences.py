"""The users' sequences, and the histories and next items that training cuts from them."""

# Shapes: N interactions, U users, R rows, W windows, B batch, T longest history of the batch, P
# most next items of a window of the batch.

from __future__ import annotations

from typing import NamedTuple

import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class Sequences(NamedTuple):
    """All interactions of all users, in time order within a user.

    items: int64 [N], internal item ids (1 .. n_items - 1).
    starts: int64 [U + 1], non-decreasing; user u owns items[starts[u]:starts[u + 1]]. User 0 is
        padding and owns nothing. Leave-one-out takes a user's last item as test target and the one
        before it as validation target.
    order: int64, the users with at least two interactions, by the time of the second: RecBole's
        order of training rows. None: by their ids.
    """

    items: Tensor
    starts: Tensor
    order: Tensor | None = None

    def lengths(self) -> Tensor:
        """Return the number of interactions of every user, int64 [U]; entry 0 is 0."""
        return self.starts[1:] - self.starts[:-1]

    def is_training(self) -> Tensor:
        """Return which interactions are in the training part, bool [N]: no user's last two."""
        ends = self.starts[1:].repeat_interleave(self.lengths())
        return torch.arange(len(self.items)) < ends - 2

    def n_training_targets(self) -> Tensor:
        """Return how many next items of every user are training targets, int64 [U].

        The first item has no history. RecBole leaves the last two next items out of training, but
        never a user's first one.
        """
        lengths = self.lengths()
        return torch.maximum(lengths - 3, (lengths > 1).long())


class Windows(NamedTuple):
    """Histories with the next items that they train, all int64 [W].

    user: the user.
    end: position of the last next item in Sequences.items; the history ends before it.
    length: items of the history, >= 1.
    n_targets: next items, 1 .. length; the last one comes after the whole history, the one before
        it after all but its last item, and so on.
    """

    user: Tensor
    end: Tensor
    length: Tensor
    n_targets: Tensor

    def select(self, numbers: Tensor) -> Windows:
        """Return some of the windows."""
        return Windows(*(column[numbers] for column in self))

    def cut(self, sequences: Sequences, fields: tuple[str, str, str, str]) -> Interaction:
        """Return the batch of all windows.

        Args:
            sequences: the sequences that the windows are of.
            fields: names of the columns for the user [B], the history [B, T], its length [B] and
                the next items [B, P]; histories and next items are oldest first, 0 on the right.
        """
        user, history, length, target = fields
        longest, most = int(self.length.max()), int(self.n_targets.max())
        return Interaction(
            {
                user: self.user,
                history: cut_histories(sequences.items, self.end, self.length, longest),
                length: self.length,
                target: cut_histories(sequences.items, self.end + 1, self.n_targets, most),
            }
        )


def training_rows(sequences: Sequences, width: int) -> Windows:
    """Return one window per training target, in RecBole's order, with a history up to width >= 1.

    Their number is R; n_targets is 1 everywhere.
    """
    counts = sequences.n_training_targets()
    users = torch.arange(len(counts)) if sequences.order is None else sequences.order
    user, number = _numbered(users, counts[users])
    ends = sequences.starts[user] + 1 + number
    one_each = torch.ones((), dtype=torch.long).expand(len(user))
    return Windows(user, ends, (number + 1).clamp(max=width), one_each)


def training_windows(sequences: Sequences, width: int) -> Windows:
    """Return windows in which every training target is a next item exactly once.

    The first window of a user trains up to `width` next items, each with all items before it as
    history. Later windows overlap: each trains the next max(1, width // 2) next items, with more
    than width // 2 items of history.

    Args:
        sequences: the sequences.
        width: longest history, >= 1.
    """
    counts, stride = sequences.n_training_targets(), max(1, width // 2)
    n_later = ((counts - width).clamp(min=0) + stride - 1) // stride
    user, number = _numbered(torch.arange(len(counts)), n_later + (counts > 0))
    n_trained = torch.minimum(counts[user], width + number * stride)  # up to this window's end
    n_before = torch.where(number > 0, width + (number - 1) * stride, 0)
    ends = sequences.starts[user] + n_trained
    return Windows(user, ends, n_trained.clamp(max=width), n_trained - n_before)


def _numbered(users: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat every user counts times, and number each user's copies from 0."""
    user = users.repeat_interleave(counts)
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return user, torch.arange(len(user)) - firsts


def cut_histories(values: Tensor, target: Tensor, length: Tensor, width: int) -> Tensor:
    """Cut the `length` values before each target, oldest first, 0 on the right.

    Args:
        values: Tensor [N, ...].
        target: int64 [R], positions in values.
        length: int64 [R], 1 .. width and not above target.
        width: columns of the result.

    Returns:
        Tensor [R, width, ...].
    """
    step = torch.arange(width, device=values.device)
    is_padding = step >= length[:, None]
    source = ((target - length)[:, None] + step).masked_fill_(is_padding, 0)
    histories = values[source]
    histories[is_padding] = 0
    return histories
