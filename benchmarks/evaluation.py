"""A whole evaluation of all users, with beam search, metrics and random weights."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import make_tiger, synchronize, t5_settings

MAX_SECONDS = 60.0


def cases(options: Options) -> list[Case]:
    dataset = options.dataset("amazon-beauty")
    return [
        Case(
            "evaluation",
            f"evaluation of all users, 20 beams, small T5, {dataset}",
            ("ours",),
            {"dataset": dataset},
        )
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    experiment = make_tiger(
        case.details["dataset"], {**t5_settings("small", options), "n_beams": 20}, options
    )
    experiment.trainer.eval_collector.data_collect(experiment.train)  # as Trainer.fit does

    def measure(number: int) -> dict[str, float]:
        started = time.perf_counter()
        experiment.trainer.evaluate(experiment.test, load_best_model=False)
        synchronize(experiment.config["device"])
        return {"seconds": time.perf_counter() - started}

    measure(0)
    return {
        "users": len(experiment.test.dataset.inter_feat),
        "metrics": experiment.config["metrics"],
    }, measure


def rows(results: list[Result]) -> list[Row]:
    goal = ("ours", "<=", MAX_SECONDS)
    return [
        Row(
            f"{result.case.title} ({result.facts['ours']['users']:,})",
            "s",
            result.median("ours", "seconds"),
            goal=goal,
        )
        for result in results
    ]
