from __future__ import annotations

import io
import json
from dataclasses import asdict

import pytest
import torch

from benchmarks import matmul
from benchmarks.contender import serve
from benchmarks.plan import Case


@pytest.fixture
def as_before():
    anomaly, threads = torch.is_anomaly_enabled(), torch.get_num_threads()
    yield
    torch.autograd.set_detect_anomaly(anomaly)
    torch.set_num_threads(threads)


def test_answers_once_for_every_round(monkeypatch, quick, as_before):
    def prepare(contender, case, options):
        torch.autograd.set_detect_anomaly(True)
        return {"contender": contender}, lambda number: {
            "doubled": 2 * number,
            "watched": torch.is_anomaly_enabled(),
        }

    monkeypatch.setattr(matmul, "prepare", prepare)
    request = {
        "contender": "ours",
        "case": asdict(Case("matmul", "peak", ("ours",))),
        "options": asdict(quick),
    }
    answers = io.StringIO()
    serve(request, io.StringIO("3\n5\n"), answers)
    expected = [
        {"contender": "ours"},
        {"doubled": 6, "watched": False},
        {"doubled": 10, "watched": False},
    ]
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == expected
