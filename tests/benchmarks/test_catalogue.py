from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks import catalogue
from benchmarks.plan import Case, Result


def test_every_storage_is_counted_once():
    shared = torch.zeros(10)
    holder = SimpleNamespace(
        keys=[shared, shared[:4]], more={"a": (torch.zeros(3), 5)}, name="trie"
    )
    assert sorted(tensor.untyped_storage().nbytes() for tensor in catalogue.tensors_of(holder)) == [
        12,
        40,
    ]


def test_a_catalogue_of_random_items(quick):
    case = catalogue.cases(quick)[0]
    facts, measure = catalogue.prepare("300 items", case, quick)
    assert measure(0)["seconds_per_user"] > 0
    # At least the item ids, which are int64, and at most a few numbers per item and level.
    assert 8 / 4 < facts["bytes_per_item_and_level"] < 64


def test_growth_from_size_to_size():
    contenders = ("10 items", "100 items", "1,000 items")
    rounds = {
        name: [{"seconds_per_user": seconds}]
        for name, seconds in zip(contenders, (0.001, 0.0012, 0.0024))
    }
    facts = {
        name: {"bytes_per_item_and_level": 65.0 - number} for number, name in enumerate(contenders)
    }
    rows = catalogue.rows([Result(Case("catalogue", "search", contenders), facts, rounds)])
    assert [(round(row.ours, 6), row.met) for row in rows[3:5]] == [(1.2, True), (2.0, False)]
    assert [row.met for row in rows[5:]] == [False, True, True]
