"""Declare a setting: its type, its range or choices, and whether it may be none.

A declaration has no default; defaults live in properties/ only. Shared settings are declared in
config/shared.py. A model declares its own in the class attribute `settings`, which subclasses
inherit, and checks how they go together in its class method `check_settings`:

    class MyTIGER(TIGER):
        settings = {"n_recent_items": whole(min=1), "recency": optional(number(above=0))}

Numbers of numpy, whole floats and paths are accepted as the plain values that they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from recbole_genrec.errors import UserError


class _Mismatch(Exception):
    """A value breaks a rule."""


@dataclass(frozen=True)
class Rule:
    """Rule of one setting.

    Attributes:
        wanted: the rule as it follows "has to be", such as "a whole number of at least 1".
        way_out: a value to give instead, as a clause in which {key} is the setting's name.
        read: turns an accepted value into its plain form; raises TypeError or ValueError for any
            other.
        plural: `wanted` for several values.
    """

    wanted: str
    way_out: str
    read: Callable[[Any], Any]
    plural: str = ""

    def check(self, key: str, value: Any) -> Any:
        """Return the plain form of a value.

        Raises:
            UserError: the value breaks the rule.
        """
        try:
            return self.read(_plain(value))
        except UserError:  # a sentence of its own
            raise
        except (_Mismatch, TypeError, ValueError):
            way_out = self.way_out.replace("{key}", key)
            raise UserError(f"{key} is {value!r}, but has to be {self.wanted}: {way_out}") from None


Declarations = Mapping[str, Rule]


def whole(min: int | None = None, max: int | None = None) -> Rule:
    """Whole numbers within bounds, both included."""

    def read(value: Any) -> int:
        number = _number(value)
        _require(number == int(number) and _is_between(number, min, max))
        return int(number)

    limits = _limits(at_least=min, at_most=max)
    example = 1 if min is None else min
    return Rule(
        f"a whole number{limits}",
        f"give one, as in --{{key}}={example}",
        read,
        f"whole numbers{limits}",
    )


def number(
    min: float | None = None, above: float | None = None, below: float | None = None
) -> Rule:
    """Finite numbers of at least `min`, or above `above`, and below `below`."""

    def read(value: Any) -> int | float:
        found = _number(value)
        _require(_is_between(found, min, None))
        _require(above is None or found > above)
        _require(below is None or found < below)
        return found

    limits = _limits(at_least=min, above=above, below=below)
    return Rule(f"a number{limits}", "give one, as in --{key}=0.1", read, f"numbers{limits}")


def one_of(*choices: str) -> Rule:
    """Choose one of some words; the command line's none is the word none."""

    def read(value: Any) -> str:
        word = "none" if value is None else value
        _require(isinstance(word, str) and word in choices)
        return word

    return Rule(f"one of {', '.join(choices)}", "choose one", read)


def flag() -> Rule:
    """True or False; 1 and 0 are accepted too."""

    def read(value: Any) -> bool:
        _require(isinstance(value, (bool, int, float)) and value in (0, 1))
        return bool(value)

    return Rule("True or False", "choose one", read)


def text() -> Rule:
    """Any text or path; the command line's whole numbers are text too."""

    def read(value: Any) -> str:
        _require(isinstance(value, (str, int)) and not isinstance(value, bool))
        return str(value)

    return Rule("text", "give --{key}=text", read, "texts")


def mapping() -> Rule:
    """Names with values, not looked into."""

    def read(value: Any) -> dict[Any, Any]:
        _require(isinstance(value, Mapping))
        return dict(value)

    return Rule("a mapping", "write {name: value}", read)


def list_of(rule: Rule, example: str, length: int | None = None, min_length: int = 1) -> Rule:
    """Values that all follow one rule; `example` is a list that does."""

    def read(value: Any) -> list[Any]:
        _require(isinstance(value, (list, tuple)))
        _require(len(value) >= min_length if length is None else len(value) == length)
        return [rule.read(_plain(item)) for item in value]

    size = "a list of" if length is None else f"a list of {length}"
    return Rule(f"{size} {rule.plural}", f"write for example {example}", read)


def optional(rule: Rule) -> Rule:
    """None, or a value that follows the rule."""
    return Rule(
        f"{rule.wanted}, or none",
        rule.way_out,
        lambda value: None if value is None else rule.read(value),
        rule.plural,
    )


def either(*rules: Rule) -> Rule:
    """A value that follows at least one of some rules."""

    def read(value: Any) -> Any:
        for rule in rules:
            try:
                return rule.read(value)
            except (_Mismatch, TypeError, ValueError):
                continue
        raise _Mismatch

    return Rule(" or ".join(rule.wanted for rule in rules), rules[0].way_out, read)


def declared(model_class: type) -> dict[str, Rule]:
    """Return the settings that a model class and its bases declare; the derived class wins."""
    merged: dict[str, Rule] = {}
    for base in reversed(model_class.__mro__):
        merged.update(vars(base).get("settings", {}))
    return merged


def _require(is_met: bool) -> None:
    if not is_met:
        raise _Mismatch


def _plain(value: Any) -> Any:
    """Return numpy's numbers and arrays as Python's, and a path as its text."""
    if isinstance(value, PurePath):
        return str(value)
    return value.tolist() if type(value).__module__ == "numpy" else value


def _number(value: Any) -> int | float:
    _require(isinstance(value, (int, float)) and not isinstance(value, bool))
    _require(math.isfinite(value))
    return value


def _is_between(value: float, min: float | None, max: float | None) -> bool:
    return (min is None or value >= min) and (max is None or value <= max)


def _limits(**limits: float | None) -> str:
    """Return the limits as words, such as " of at least 0 and below 1"."""
    words = {"at_least": "of at least", "above": "above", "at_most": "of at most", "below": "below"}
    return " and".join(
        f" {words[name]} {limit}" for name, limit in limits.items() if limit is not None
    )
