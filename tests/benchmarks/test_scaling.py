from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import rounds, scaling
from benchmarks.plan import Case, Result


@pytest.fixture
def as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_one_thread_leaves_nothing_to_compare(quick):
    assert scaling.cases(replace(quick, quick=False)) == []
    assert [
        case.details["processes"] for case in scaling.cases(replace(quick, quick=False, threads=4))
    ] == [4]


@pytest.mark.slow
def test_processes_train_together(quick):
    """Both report the same rows; the second process is started by the first."""
    (case,) = scaling.cases(quick)
    result = rounds.run_case(replace(case, contenders=(scaling.ONE, scaling.PROCESSES)), quick)
    assert [result.facts[name].pop("processes") for name in (scaling.ONE, scaling.PROCESSES)] == [
        1,
        2,
    ]
    assert result.facts[scaling.ONE] == result.facts[scaling.PROCESSES]
    assert all(measured[0]["examples_per_second"] > 0 for measured in result.rounds.values())


@pytest.mark.parametrize("contender, threads", [(scaling.ONE, 1), (scaling.THREADS, 2)])
@pytest.mark.slow
def test_threads_of_a_contender(quick, as_before, contender, threads):
    (case,) = scaling.cases(quick)
    scaling.prepare(contender, case, quick)
    assert torch.get_num_threads() == threads


def test_efficiency():
    speeds = {scaling.ONE: 100.0, scaling.THREADS: 120.0, scaling.PROCESSES: 180.0}
    measured = {name: [{"examples_per_second": speed}] for name, speed in speeds.items()}
    case = Case("scaling", "training", tuple(speeds), {"processes": 2})
    beside_one, efficiency, beside_threads = scaling.rows([Result(case, {}, measured)])
    assert (beside_one.ratio, efficiency.ours, beside_threads.ratio) == (1.8, 90.0, 1.5)
