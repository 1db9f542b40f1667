"""The machine's peak: best rate of a product of two matrices in float32."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.plan import Case, Measure, Options, Result, Row

SIZES = (512, 1024, 2048, 3072)
QUICK_SIZES = (64, 128)
SECONDS_PER_SIZE = 0.5


def cases(options: Options) -> list[Case]:
    return [Case("matmul", "matmul peak, float32", ("matmul",))]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    """Prepare products of several sizes, of which the best counts; other subjects run it too."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes, seconds = (QUICK_SIZES, 0.01) if options.quick else (SIZES, SECONDS_PER_SIZE)

    def measure(number: int) -> dict[str, float]:
        return {"flops_per_second": max(matmul_rate(size, seconds, device) for size in sizes)}

    measure(0)
    return {"sizes": sizes}, measure


def matmul_rate(size: int, seconds: float, device: torch.device) -> float:
    """Return the operations per second of the fastest product within `seconds`, at least one."""
    left, right = torch.randn(2, size, size, device=device)
    product, best = torch.empty(size, size, device=device), float("inf")
    end = time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def rows(results: list[Result]) -> list[Row]:
    return [
        Row(result.case.title, "GFLOP/s", result.median("matmul", "flops_per_second") / 1e9)
        for result in results
    ]
