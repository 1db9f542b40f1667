from __future__ import annotations

import itertools

import torch

from benchmarks import matmul
from benchmarks.matmul import matmul_rate


def test_rate_of_the_fastest_product(monkeypatch):
    """A clock that stands still for 4, then 2, then 3 seconds in a product."""
    ticks = itertools.chain([0.0, 0.0, 4.0, 4.0, 4.0, 6.0, 6.0, 6.0, 9.0], itertools.repeat(100.0))
    monkeypatch.setattr(matmul.time, "perf_counter", lambda: next(ticks))
    assert matmul_rate(10, 7.0, torch.device("cpu")) == 2 * 10**3 / 2.0


def test_at_least_one_product_is_made():
    assert 0 < matmul_rate(8, 0.0, torch.device("cpu")) < float("inf")
