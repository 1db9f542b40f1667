"""What is measured, what came out of it, and a line of the table."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Measure = Callable[[int], "dict[str, float]"]  # the number of a round, from 0 -> what it measured
COMPARE = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Options:
    """What the command line says; `data_path` and `checkpoint` are absolute. None is what was not given."""

    data_path: str | None
    threads: int
    rounds: int
    quick: bool
    checkpoint: str | None = None
    only: str | None = None

    def dataset(self, name: str) -> str:
        """The data set of this name; quick looks take the one inside RecBole's wheel."""
        return "ml-100k" if self.quick else name

    def datasets(self, *names: str) -> list[str]:
        """The data sets of these names, each once, or `only` one of them."""
        return list(
            dict.fromkeys(self.dataset(name) for name in names if self.only in (None, name))
        )


@dataclass(frozen=True)
class Case:
    """Work that one or several contenders do in turns.

    Attributes:
        subject: name of the module of this package that knows how.
        title: what the table calls it.
        contenders: names that the subject's `prepare` knows.
        details: plain values for `prepare`.
    """

    subject: str
    title: str
    contenders: tuple[str, ...]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What every contender of a case reported of itself (`facts`) and measured in every round."""

    case: Case
    facts: dict[str, dict[str, Any]]
    rounds: dict[str, list[dict[str, float]]]

    def median(self, contender: str, figure: str) -> float:
        """The median over the rounds."""
        return median(measured[figure] for measured in self.rounds[contender])


@dataclass(frozen=True)
class Row:
    """A line of the table; `goal` is for example ("ratio", ">=", 8.0) or ("ours", "<=", 60.0)."""

    what: str
    unit: str
    ours: float
    yardstick: float | None = None
    goal: tuple[str, str, float] | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as fast ours is: of rates ours / yardstick, of times yardstick / ours."""
        if self.yardstick is None:
            return None
        return (
            self.ours / self.yardstick if self.unit.endswith("/s") else self.yardstick / self.ours
        )

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        figure, sign, bound = self.goal
        return bool(COMPARE[sign](getattr(self, figure), bound))
