from __future__ import annotations

import pytest

from benchmarks.plan import Case, Options, Result, Row


def test_ratio_says_how_many_times_as_fast_ours_is():
    assert Row("a rate", "users/s", 40.0, 10.0).ratio == 4.0
    assert Row("a time", "s", 10.0, 40.0).ratio == 4.0
    assert Row("alone", "s", 10.0).ratio is None


@pytest.mark.parametrize(
    "ours, goal, met",
    [(8.0, (">=", 4.0), True), (7.9, (">=", 4.0), False), (8.0, ("<=", 3.9), False)],
)
def test_goal_of_a_ratio(ours, goal, met):
    assert Row("a rate", "users/s", ours, 2.0, ("ratio", *goal)).met is met


def test_goal_of_our_own_figure():
    assert Row("a time", "s", 60.0, goal=("ours", "<=", 60.0)).met is True
    assert Row("a time", "s", 61.0, 1.0, goal=("ours", "<=", 60.0)).met is False
    assert Row("a time", "s", 61.0).met is None


def test_median_of_a_contender():
    rounds = {
        "ours": [
            {"seconds": 5.0, "other": 0.0},
            {"seconds": 1.0, "other": 0.0},
            {"seconds": 2.0, "other": 9.0},
        ]
    }
    result = Result(Case("training", "", ("ours",)), {}, rounds)
    assert (result.median("ours", "seconds"), result.median("ours", "other")) == (2.0, 0.0)


def test_quick_looks_take_one_data_set():
    assert Options(None, 1, 1, quick=True).datasets("a", "b") == ["ml-100k"]
    assert Options(None, 1, 1, quick=False).datasets("a", "b") == ["a", "b"]
    assert Options(None, 1, 1, quick=False, only="b").datasets("a", "b") == ["b"]
    assert Options(None, 1, 1, quick=True, only="b").datasets("a", "b") == ["ml-100k"]
