"""The exact ranking of a trained model beside its beam search."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import synchronize
from recbole_genrec.data.batches import to_device
from recbole_genrec.quick_start import load

N_BEAMS, TOP = 20, (10, 20)
N_USERS = 1024
MIN_RATIO = 0.5  # at most twice the cost of the beams


def cases(options: Options) -> list[Case]:
    if options.checkpoint is None:
        return []
    name = Path(options.checkpoint).name
    return [
        Case("exact", f"exact top {k}, {name}", ("ours, exact", "ours, beams"), {"k": k})
        for k in TOP
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    data_path = {} if options.data_path is None else {"data_path": options.data_path}
    scoring = "exact" if contender == "ours, exact" else "beam"
    config, model, _, _, _, test = load(
        options.checkpoint,
        {**data_path, "n_beams": N_BEAMS, "scoring": scoring, "show_progress": False},
    )
    inter_feat, batch_size = test.dataset.inter_feat, config["eval_batch_size"]
    n_users = min(N_USERS, len(inter_feat))
    rows_of_users = [number * len(inter_feat) // n_users for number in range(n_users)]

    def measure(number: int) -> dict[str, float]:
        started, n_proven = time.perf_counter(), 0
        for first in range(0, n_users, batch_size):
            users = inter_feat[rows_of_users[first : first + batch_size]].cut()
            longest = int(users[model.ITEM_SEQ_LEN].max())
            users.interaction[model.ITEM_SEQ] = users[model.ITEM_SEQ][:, :longest]
            beams = model.search(to_device(users, config["device"]), case.details["k"])
            n_proven += int(beams.proven(case.details["k"]).sum())
        synchronize(config["device"])
        return {
            "users_per_second": n_users / (time.perf_counter() - started),
            "proven_share": n_proven / n_users,
        }

    measure(0)
    return {"users": n_users, "batch_size": batch_size}, measure


def rows(results: list[Result]) -> list[Row]:
    table = []
    for result in results:
        exact, beams = (
            result.median(contender, "users_per_second") for contender in result.case.contenders
        )
        table.append(
            Row(
                f"{result.case.title}, beside {N_BEAMS} beams",
                "users/s",
                exact,
                beams,
                ("ratio", ">=", MIN_RATIO),
            )
        )
        share = 100 * result.median("ours, beams", "proven_share")
        table.append(
            Row(f"{result.case.title}: lists that {N_BEAMS} beams prove exact", "%", share)
        )
    return table
