"""Comparison of two runs on the same users: differences of metrics with bootstrap intervals."""

# Shapes: N users, K length of the ranked lists, M metrics

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metrics_dict
from scipy.stats import bootstrap

from recbole_genrec.compat import add_numpy_aliases
from recbole_genrec.errors import MissingFileError, UserError, disk_errors
from recbole_genrec.results.outcomes import Outcomes, outcomes_path, read_outcomes
from recbole_genrec.results.table import as_markdown

CONFIDENCE = 0.95
N_RESAMPLES = 10_000
RESAMPLES_PER_BATCH = 100
MAX_DRAWN = 2**24  # values per batch of resamples: a few hundred megabytes
SEED = 0


class Difference(NamedTuple):
    """A metric's means over users in two runs, second - first, and its 95 % bootstrap interval."""

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float


def user_values(outcomes: Outcomes, metrics: Sequence[str]) -> np.ndarray:
    """Return every user's contribution to metrics such as "ndcg@10", float [M, N].

    RecBole computes the values.

    Raises:
        UserError: a metric is not one of ranked lists, or needs longer lists.
    """
    add_numpy_aliases()
    longest = outcomes.hits.shape[1]
    hits_and_counts = (outcomes.hits.int(), outcomes.n_positives.int().unsqueeze(1))
    collected = DataStruct()
    collected.set("rec.topk", torch.cat(hits_and_counts, dim=1))
    values = []
    for metric in metrics:
        name, _, k = metric.lower().partition("@")
        if not _is_of_lists(name) or not k.isdigit() or not 1 <= int(k) <= longest:
            raise UserError(
                f"the metric {metric!r} has no value for a single user in lists of {longest}: "
                f"use one such as ndcg@{longest}"
            )
        found = metrics_dict[name]({"topk": [longest], "metric_decimal_place": 6})
        # RecBole's method of this name takes the mean over users.
        found.topk_result = lambda _, by_user: by_user
        values.append(found.calculate_metric(collected)[:, int(k) - 1])
    return np.stack(values).astype(np.float64)


def paired_differences(
    first: Outcomes, second: Outcomes, metrics: Sequence[str]
) -> list[Difference]:
    """Compute differences of metrics with percentile intervals.

    Users are drawn with replacement, the same for both runs. The interval covers the chance of
    the users only, not of another training seed.

    Raises:
        UserError: the runs were tested on different users.
    """
    order = {user: row for row, user in enumerate(second.users)}
    if order.keys() != set(first.users) or len(order) != len(first.users):
        raise UserError(
            f"the runs were tested on {len(first.users)} and {len(second.users)} users that are "
            "not the same: compare runs on one data set"
        )
    rows = torch.tensor([order[user] for user in first.users])
    second = Outcomes(first.users, second.hits[rows], second.n_positives[rows])
    before, after = user_values(first, metrics), user_values(second, metrics)
    interval = bootstrap(
        (after - before,),
        np.mean,
        axis=-1,
        n_resamples=N_RESAMPLES,
        batch=max(1, min(RESAMPLES_PER_BATCH, MAX_DRAWN // before.size)),
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    means = before.mean(axis=1), after.mean(axis=1)
    columns = (*means, means[1] - means[0], interval.low, interval.high)
    return [
        Difference(metric, *(float(column[row]) for column in columns))
        for row, metric in enumerate(metrics)
    ]


def compare_records(first: Path, second: Path, metrics: Sequence[str] | None = None) -> str:
    """Compare two runs by the records (.json) that they wrote.

    Args:
        first: record of the first run.
        second: record of the second run.
        metrics: such as ["ndcg@10"]; None takes all metrics of ranked lists in the first record.

    Returns:
        A Markdown table with one row per metric.

    Raises:
        MissingFileError: a record or the outcomes beside it are missing.
        UserError: a file is not a record, or the runs cannot be compared.
    """
    records = [_read_record(path) for path in (first, second)]
    if any(records[0][key] != records[1][key] for key in ("dataset_fingerprint", "dataset")):
        names = " and ".join(record["dataset"] for record in records)
        raise UserError(
            f"the runs are of different data ({names}, by their fingerprints): "
            "compare runs on one data set"
        )
    before, after = (read_outcomes(outcomes_path(path)) for path in (first, second))
    if not metrics:
        metrics = [name for name in records[0]["test_result"] if _is_of_lists(name)]
    titles = [f"{record['model']}, {path.stem}" for record, path in zip(records, (first, second))]
    rows = [_cells(each) for each in paired_differences(before, after, metrics)]
    return as_markdown(["metric", *titles, "difference", "95 % interval"], rows)


def _cells(each: Difference) -> list[str]:
    interval = f"{each.low:+.4f} to {each.high:+.4f}"
    return [
        each.metric,
        f"{each.first:.4f}",
        f"{each.second:.4f}",
        f"{each.difference:+.4f}",
        interval,
    ]


def _is_of_lists(metric: str) -> bool:
    kind = metrics_dict.get(metric.partition("@")[0])
    return kind is not None and issubclass(kind, TopkMetric)


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(
            f"there is no {str(path)!r}: give the .json files that two runs wrote beside their "
            "checkpoints"
        )
    keys = ("model", "dataset", "dataset_fingerprint", "test_result")
    try:
        with disk_errors(path):
            content = path.read_text(encoding="utf-8")
        record = json.loads(content)
        return {key: record[key] for key in keys}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{str(path)!r} is not a record of a run: give the .json file beside a checkpoint"
        ) from None
