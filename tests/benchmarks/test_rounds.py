from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from benchmarks import rounds
from benchmarks.plan import Case


class Recorded:
    """A contender without a process."""

    turns: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, name, case, options):
        self.name, self.facts = name, {"name": name}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.turns.append((self.name, -1))

    def measure(self, number):
        self.turns.append((self.name, number))
        return {"seconds": float(number)}


def test_contenders_take_turns(monkeypatch, quick):
    monkeypatch.setattr(rounds, "Contender", Recorded)
    monkeypatch.setattr(Recorded, "turns", [])
    result = rounds.run_case(Case("matmul", "peak", ("a", "b")), replace(quick, rounds=3))
    assert Recorded.turns[:6] == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert sorted(Recorded.turns[6:]) == [("a", -1), ("b", -1)]
    assert result.facts == {"a": {"name": "a"}, "b": {"name": "b"}}
    assert result.rounds == {
        name: [{"seconds": 0.0}, {"seconds": 1.0}, {"seconds": 2.0}] for name in ("a", "b")
    }


@pytest.mark.slow
def test_a_contender_that_fails_is_named(quick, capfd):
    with pytest.raises(RuntimeError, match="peak: the process of ours ended with 1"):
        rounds.run_case(Case("no_such_subject", "peak", ("ours",)), quick)
    assert "no_such_subject" in capfd.readouterr().err


def test_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    environment = rounds.environment(3)
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("3", "3")
    assert environment["PYTHONPATH"].split(":") == [str(rounds.ROOT), "elsewhere"]
