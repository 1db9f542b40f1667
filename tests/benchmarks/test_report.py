from __future__ import annotations

import json

import pytest

from benchmarks.plan import Case, Options, Result, Row
from benchmarks.report import number, table, write_json


def test_table():
    rows = [
        Row("training", "examples/s", 700.0, 120.0, ("ratio", ">=", 8.0)),
        Row("evaluation", "s", 51.25, goal=("ours", "<=", 60.0)),
        Row("peak", "GFLOP/s", 1450.0),
    ]
    assert table(rows).splitlines()[2:] == [
        "| training | 700 examples/s | 120 examples/s | 5.83x | ratio >= 8 | no |",
        "| evaluation | 51.2 s |  |  | ours <= 60 | yes |",
        "| peak | 1,450 GFLOP/s |  |  |  |  |",
    ]


@pytest.mark.parametrize(
    "value, text",
    [(12345.6, "12,346"), (100, "100"), (99.96, "100"), (3.14159, "3.14"), (0.00123, "0.00123")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_json_has_every_round(tmp_path):
    result = Result(
        Case("matmul", "peak", ("ours",), {"size": 3}),
        {"ours": {"users": 2}},
        {"ours": [{"seconds": 1.5}, {"seconds": 2.5}]},
    )
    path = tmp_path / "new" / "figures.json"
    write_json(
        path,
        0.0,
        Options("data", 2, 5, False),
        [result],
        [Row("time", "s", 2.0, 4.0, ("ratio", ">=", 3.0))],
    )
    content = json.loads(path.read_text())
    assert content["results"][0]["rounds"] == {"ours": [{"seconds": 1.5}, {"seconds": 2.5}]}
    assert content["results"][0]["facts"] == {"ours": {"users": 2}}
    assert (content["table"][0]["ratio"], content["table"][0]["met"]) == (2.0, False)
    assert content["options"] == {
        "data_path": "data",
        "threads": 2,
        "rounds": 5,
        "quick": False,
        "checkpoint": None,
        "only": None,
    }
    assert content["versions"]["torch"] and content["machine"]["cores"] >= 1
