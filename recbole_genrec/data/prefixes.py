"""Rows (history, next item) for RecBole, cut from the users' sequences on demand."""

# Shapes: N interactions, R rows, T longest history.

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_genrec.data.sequences import cut_histories

_ROWS_AT_ONCE = 65536  # of a column of histories, whose index takes more room than the column


class Target(NamedTuple):
    """A column about the next item; values: Tensor [N, ...] of all interactions."""

    values: Tensor


class History(NamedTuple):
    """A column about the items before it; values: Tensor [N, ...] of all interactions."""

    values: Tensor


class Length(NamedTuple):
    """The column of history lengths."""


Column: TypeAlias = Tensor | Target | History | Length


class _Columns(MutableMapping):
    """A dict of columns for RecBole: a column is made in full when it is read.

    Args:
        sources: how each column is made; a Tensor [R, ...] is the column itself.
        target: LongTensor [R], the interaction that is the next item of each row.
        length: LongTensor [R], how many interactions before it are its history, 1 .. width.
        width: width of a whole column of histories.
    """

    def __init__(
        self, sources: dict[str, Column], target: Tensor, length: Tensor, width: int
    ) -> None:
        self.sources, self.target, self.length, self.width = sources, target, length, width

    def __getitem__(self, name: str) -> Tensor:
        source = self.sources[name]
        if isinstance(source, Tensor):
            return source
        if isinstance(source, Length):
            return self.length
        if isinstance(source, Target):
            return source.values[self.target]
        column = source.values.new_zeros((len(self.target), self.width, *source.values.shape[1:]))
        for start in range(0, len(column), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            column[part] = cut_histories(
                source.values, self.target[part], self.length[part], self.width
            )
        return column

    def __setitem__(self, name: str, column: Tensor) -> None:
        self.sources[name] = column

    def __delitem__(self, name: str) -> None:
        del self.sources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def __contains__(self, name: Any) -> bool:
        return name in self.sources

    def select(self, rows: slice | Tensor, names: Iterable[str] | None = None) -> _Columns:
        """Return the columns of some rows; histories are still to be cut."""
        chosen = {name: self.sources[name] for name in (self.sources if names is None else names)}
        sources = {
            name: source[rows] if isinstance(source, Tensor) else source
            for name, source in chosen.items()
        }
        return _Columns(sources, self.target[rows], self.length[rows], self.width)


class Prefixes(Interaction):
    """RecBole's interactions of a sequential data set, without a materialised history.

    There is one row per (history, next item). Selecting, shuffling and sorting rows move two
    numbers a row. `cut` gives ordinary interactions of the wanted rows. A column asked for by name
    is made in full ([R, width] for histories) and kept, since a model that asks (RecBole's FEARec)
    asks in every batch.

    Args:
        sources: see _Columns.
        target: likewise.
        length: likewise.
        width: likewise.
    """

    def __init__(
        self, sources: dict[str, Column], target: Tensor, length: Tensor, width: int
    ) -> None:
        self._take(_Columns(sources, target, length, width))

    def _take(self, columns: _Columns) -> None:
        self.interaction, self.length = columns, len(columns.target)
        self.kept: dict[str, Tensor] = {}

    def _of(self, columns: _Columns) -> Prefixes:
        return Prefixes(columns.sources, columns.target, columns.length, columns.width)

    def __getitem__(self, index):
        """Return a column by its name, one row by its number, or several rows as Prefixes.

        Several are a slice, mask, tensor, array, list or range.
        """
        if isinstance(index, str):
            if not isinstance(self.interaction.sources[index], History):
                return self.interaction[index]
            if index not in self.kept:
                self.kept[index] = self.interaction[index]
            return self.kept[index]
        if isinstance(index, (int, np.integer)):
            row = slice(index, index + 1) if index != -1 else slice(index, None)
            return Interaction(
                {name: column[0] for name, column in self[row].cut().interaction.items()}
            )
        return self._of(self.interaction.select(_as_rows(index)))

    def cut(self, names: Iterable[str] | None = None, width: int | None = None) -> Interaction:
        """Return ordinary columns of all rows.

        Args:
            names: the columns wanted, None for all.
            width: columns of a history, >= the longest one; None for the width of a whole column.
        """
        columns = self.interaction.select(slice(None), names)
        width = columns.width if width is None else width
        cut = {}
        for name, source in columns.sources.items():
            if isinstance(source, History):
                cut[name] = cut_histories(source.values, columns.target, columns.length, width)
            else:
                cut[name] = columns[name]
        return Interaction(cut)

    def repeat(self, sizes: int) -> Prefixes:
        """Return all rows, `sizes` times over."""
        return self[torch.arange(len(self)).repeat(sizes)]

    def repeat_interleave(self, repeats: int | Tensor, dim: int = 0) -> Prefixes:
        """Return every row `repeats` times in succession; dim is the dimension of rows."""
        return self[torch.arange(len(self)).repeat_interleave(repeats, dim=dim)]

    def _reindex(self, index) -> None:
        self._take(self.interaction.select(_as_rows(index)))

    def __str__(self) -> str:
        return f"{len(self)} rows (history, next item) with the columns {self.columns}"


def all_prefixes(
    columns: dict[str, Tensor], user_field: str, names: dict[str, str], length_name: str, width: int
) -> Prefixes:
    """Return every (history, next item) of interactions: n of a user give n - 1 rows.

    The history is the last `width` interactions before the next item, oldest first, 0 on the right.

    Args:
        columns: Tensors [N, ...], sorted by user and time.
        user_field: name of the column of users.
        names: name of the history column of every other column.
        length_name: name of the column of history lengths.
        width: >= 1.
    """
    user = columns[user_field]
    is_first = torch.ones(len(user), dtype=torch.bool)
    is_first[1:] = user[1:] != user[:-1]
    starts = torch.nonzero(is_first).squeeze(1)
    counts = torch.diff(starts, append=torch.tensor([len(user)]))
    position = torch.arange(len(user)) - starts.repeat_interleave(counts)
    target = torch.nonzero(position).squeeze(1)
    sources: dict[str, Column] = {field: Target(values) for field, values in columns.items()}
    sources[length_name] = Length()
    sources.update(
        {names[field]: History(values) for field, values in columns.items() if field in names}
    )
    return Prefixes(sources, target, position[target].clamp(max=width), width)


def _as_rows(index) -> slice | Tensor:
    if isinstance(index, slice):
        return index
    if isinstance(index, range):
        return slice(index.start, index.stop, index.step)
    index = torch.as_tensor(index)
    return index if index.dtype == torch.bool else index.long()
