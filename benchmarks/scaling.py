"""Training on several CPU processes, as under torchrun, beside one process with 1 or n threads."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import make_tiger, t5_settings
from benchmarks.rounds import Contender
from benchmarks.training import (
    BATCH_SIZE,
    N_BATCHES,
    N_QUICK_BATCHES,
    QUICK_BATCH_SIZE,
    batches_of,
    evenly_spaced_rows,
    prepare_ours,
)
from recbole_genrec.runtime import distributed as runtime

ONE, THREADS, PROCESSES = "ours", "ours, threads", "ours, processes"
N_QUICK_PROCESSES = 2
TIMEOUT = timedelta(minutes=5)  # for a process that does not start
# Environment of a process that the first one starts: its rank, and the file of the rendezvous.
RANK, MEETING = "BENCHMARK_RANK", "BENCHMARK_MEETING"


def cases(options: Options) -> list[Case]:
    n_processes = N_QUICK_PROCESSES if options.quick else options.threads
    # With GPUs each process would take one, and there may be too few.
    if n_processes < 2 or torch.cuda.is_available():
        return []
    dataset = options.dataset("amazon-instruments")
    details = {"dataset": dataset, "size": "small", "processes": n_processes}
    return [
        Case(
            "scaling",
            f"training, small T5, {dataset}, {n_processes} processes",
            (ONE, THREADS, PROCESSES),
            details,
        )
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    n_processes = case.details["processes"]
    torch.set_num_threads(n_processes if contender == THREADS else 1)
    others = join(contender, case, options, n_processes) if contender == PROCESSES else []
    settings = {
        **t5_settings(case.details["size"], options),
        "train_batch_size": QUICK_BATCH_SIZE if options.quick else BATCH_SIZE,
    }
    experiment = make_tiger(case.details["dataset"], settings, options)
    rows = evenly_spaced_rows(
        batches_of(experiment, slice(None)), N_QUICK_BATCHES if options.quick else N_BATCHES
    )
    facts, measure = prepare_ours(experiment, rows)
    for other in others:
        other.receive()
    facts["processes"] = runtime.size()
    return facts, lambda number: measure_together(measure, others, number)


def join(contender: str, case: Case, options: Options, n_processes: int) -> list[Contender]:
    """Join the process group; the first process starts the others and returns them."""
    rank, others = int(os.environ.get(RANK, 0)), []
    if rank == 0:
        meeting = os.path.join(tempfile.mkdtemp(dir=os.getcwd()), "meeting")
        others = [
            Contender(contender, case, options, {RANK: str(number), MEETING: meeting})
            for number in range(1, n_processes)
        ]
        for other in others:
            other.start()
    else:
        meeting = os.environ[MEETING]
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_processes, timeout=TIMEOUT
    )
    return others


def measure_together(measure: Measure, others: list[Contender], number: int) -> dict[str, float]:
    """Return the figures of this process while the others do their part."""
    for other in others:
        other.ask(number)
    measured = measure(number)
    for other in others:
        other.receive()
    return measured


def rows(results: list[Result]) -> list[Row]:
    table = []
    for result in results:
        one, threads, processes = (
            result.median(contender, "examples_per_second")
            for contender in (ONE, THREADS, PROCESSES)
        )
        title, n_processes = result.case.title, result.case.details["processes"]
        table.append(Row(f"{title}, beside one of one thread", "examples/s", processes, one))
        table.append(Row(f"{title}: efficiency", "%", 100 * processes / (n_processes * one)))
        table.append(
            Row(f"{title}, beside one of {n_processes} threads", "examples/s", processes, threads)
        )
    return table
