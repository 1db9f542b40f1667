"""Time from process start to the end of the first training step, with a cached teacher.

As a program (`python -m benchmarks.start --model=TIGER ...`) it is a run that ends after the first
step and writes the time to stdout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.plan import Case, Measure, Options, Result, Row

MAX_SECONDS = 10.0
QUICK_SETTINGS = ("--kmeans_iterations=2", "--n_levels=2")


def cases(options: Options) -> list[Case]:
    dataset = options.dataset("amazon-instruments")
    return [
        Case(
            "start",
            f"process start to first training step, {dataset}",
            ("TIGER", "UniGRec"),
            {"dataset": dataset},
        )
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    """Prepare a contender, which is a model: one run fills the caches with a one-epoch teacher.

    Raises:
        RuntimeError: the run fails.
    """
    dataset = case.details["dataset"]
    settings = [
        f"--model={contender}",
        f"--dataset={dataset}",
        "--teacher_epochs=1",
        "--show_progress=False",
    ]
    settings += (
        [] if options.data_path is None or options.quick else [f"--data_path={options.data_path}"]
    )
    command = [
        sys.executable,
        "-m",
        "benchmarks.start",
        *settings,
        *(QUICK_SETTINGS if options.quick else ()),
    ]

    def measure(number: int) -> dict[str, float]:
        started = time.time()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
            )
        return {"seconds": float(done.stdout.splitlines()[-1]) - started}

    measure(0)
    return {"command": settings}, measure


def rows(results: list[Result]) -> list[Row]:
    return [
        Row(
            f"{result.case.title}, {model}",
            "s",
            result.median(model, "seconds"),
            goal=("ours", "<=", MAX_SECONDS),
        )
        for result in results
        for model in result.case.contenders
    ]


def run_one_step(argv: list[str]) -> None:
    """Run the command `run` until the first training step, then write the time and exit."""
    from recbole_genrec.cli import main
    from recbole_genrec.trainer.optimizer import StageOptimizer

    take_step = StageOptimizer.step

    def step_and_end(optimizer, loss, step: int) -> None:
        take_step(optimizer, loss, step)
        sys.stdout.write(f"\n{time.time()!r}\n")
        sys.stdout.flush()
        os._exit(0)

    StageOptimizer.step = step_and_end
    sys.exit(main(["run", *argv]) or "the run ended without a training step")


if __name__ == "__main__":
    run_one_step(sys.argv[1:])
