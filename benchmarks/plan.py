"""Options, cases, results and table rows of the benchmarks."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Measure = Callable[[int], "dict[str, float]"]  # number of a round, from 0 -> measured figures
COMPARE = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Options:
    """Options of the command line; paths are absolute, None where an option is not given."""

    data_path: str | None
    threads: int
    rounds: int
    quick: bool
    checkpoint: str | None = None
    only: str | None = None

    def dataset(self, name: str) -> str:
        """Return this name, or with `quick` the data set inside RecBole's wheel."""
        return "ml-100k" if self.quick else name

    def datasets(self, *names: str) -> list[str]:
        """Return the data sets of these names, each once, or `only` one of them."""
        return list(
            dict.fromkeys(self.dataset(name) for name in names if self.only in (None, name))
        )


@dataclass(frozen=True)
class Case:
    """Work that contenders do in turns.

    Attributes:
        subject: name of the module of this package that prepares it.
        title: name in the table.
        contenders: names that the subject's `prepare` knows.
        details: plain values for `prepare`.
    """

    subject: str
    title: str
    contenders: tuple[str, ...]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Facts that every contender of a case reported, and figures that it measured per round."""

    case: Case
    facts: dict[str, dict[str, Any]]
    rounds: dict[str, list[dict[str, float]]]

    def median(self, contender: str, figure: str) -> float:
        """Return the median over the rounds."""
        return median(measured[figure] for measured in self.rounds[contender])


@dataclass(frozen=True)
class Row:
    """A row of the table; `goal` is for example ("ratio", ">=", 8.0) or ("ours", "<=", 60.0)."""

    what: str
    unit: str
    ours: float
    yardstick: float | None = None
    goal: tuple[str, str, float] | None = None

    @property
    def ratio(self) -> float | None:
        """Speed-up of ours: ours / yardstick for rates, yardstick / ours for times."""
        if self.yardstick is None:
            return None
        return (
            self.ours / self.yardstick if self.unit.endswith("/s") else self.yardstick / self.ours
        )

    @property
    def met(self) -> bool | None:
        """True if the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        figure, sign, bound = self.goal
        return bool(COMPARE[sign](getattr(self, figure), bound))
