"""Whether one run is better than another: the same users, a difference, an interval."""

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
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.results.outcomes import Outcomes, outcomes_path, read_outcomes
from recbole_genrec.results.table import as_markdown

CONFIDENCE = 0.95
N_RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 100  # of N users each, unless these are
MOST_DRAWN = 2**24  # values at once: a few hundred megabytes
SEED = 0


class Difference(NamedTuple):
    """Means over users of a metric in two runs, second - first, and a 95 % bootstrap interval of that."""

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float


def user_values(outcomes: Outcomes, metrics: Sequence[str]) -> np.ndarray:
    """What every user contributes to metrics such as "ndcg@10", as RecBole computes it; float [M, N].

    Raises:
        ValueError: a metric is no metric of ranked lists, or looks farther than the lists reach.
    """
    add_numpy_aliases()
    longest = outcomes.hits.shape[1]
    collected = DataStruct()
    collected.set(
        "rec.topk", torch.cat((outcomes.hits.int(), outcomes.n_positives.int().unsqueeze(1)), dim=1)
    )
    values = []
    for metric in metrics:
        name, _, k = metric.lower().partition("@")
        kind = metrics_dict.get(name)
        if (
            kind is None
            or not issubclass(kind, TopkMetric)
            or not k.isdigit()
            or not 1 <= int(k) <= longest
        ):
            raise UserError(
                f"the metric {metric!r} has no value for a single user in lists of {longest}: use one such as ndcg@{longest}"
            )
        found = kind({"topk": [longest], "metric_decimal_place": 6})
        found.topk_result = lambda _, of_users: (
            of_users
        )  # all that RecBole does afterwards is to take the mean
        values.append(found.calculate_metric(collected)[:, int(k) - 1])
    return np.stack(values).astype(np.float64)


def paired_differences(
    first: Outcomes, second: Outcomes, metrics: Sequence[str]
) -> list[Difference]:
    """Differences of metrics with percentile intervals, users drawn with replacement, alike for both runs.

    The interval holds the users' chance only, not that of another seed of the training.

    Raises:
        ValueError: the runs ranked for different users.
    """
    order = {user: row for row, user in enumerate(second.users)}
    if order.keys() != set(first.users) or len(order) != len(first.users):
        raise UserError(
            f"the runs were tested on {len(first.users)} and {len(second.users)} users that are not the same: compare runs on one data set"
        )
    rows = torch.tensor([order[user] for user in first.users])
    second = Outcomes(first.users, second.hits[rows], second.n_positives[rows])
    before, after = user_values(first, metrics), user_values(second, metrics)
    drawn = bootstrap(
        (after - before,),
        np.mean,
        axis=-1,
        n_resamples=N_RESAMPLES,
        batch=max(1, min(RESAMPLES_AT_ONCE, MOST_DRAWN // before.size)),
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    means = before.mean(axis=1), after.mean(axis=1)
    columns = (*means, means[1] - means[0], drawn.low, drawn.high)
    return [
        Difference(metric, *(float(column[place]) for column in columns))
        for place, metric in enumerate(metrics)
    ]


def compare_records(first: Path, second: Path, metrics: Sequence[str] | None = None) -> str:
    """Two runs in a Markdown table, from the records (.json) that they wrote.

    Args:
        metrics: such as ["ndcg@10"]; None: all metrics of ranked lists that the first record has.

    Raises:
        FileNotFoundError: a record or the outcomes beside it are missing.
        ValueError: a file is no record, or the runs cannot be compared.
    """
    records = [_read(path) for path in (first, second)]
    if (
        records[0]["dataset_fingerprint"] != records[1]["dataset_fingerprint"]
        or records[0]["dataset"] != records[1]["dataset"]
    ):
        names = " and ".join(record["dataset"] for record in records)
        raise UserError(
            f"the runs are of different data ({names}, by their fingerprints): compare runs on one data set"
        )
    outcomes = [read_outcomes(outcomes_path(path)) for path in (first, second)]
    differences = paired_differences(
        *outcomes, metrics or [name for name in records[0]["test_result"] if _is_of_lists(name)]
    )
    header = [
        "metric",
        *(f"{record['model']}, {path.stem}" for record, path in zip(records, (first, second))),
    ]
    rows = [
        [each.metric, f"{each.first:.4f}", f"{each.second:.4f}", *_interval(each)]
        for each in differences
    ]
    return as_markdown([*header, "difference", "95 % interval"], rows)


def _interval(each: Difference) -> tuple[str, str]:
    return f"{each.difference:+.4f}", f"{each.low:+.4f} to {each.high:+.4f}"


def _is_of_lists(metric: str) -> bool:
    kind = metrics_dict.get(metric.partition("@")[0])
    return kind is not None and issubclass(kind, TopkMetric)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(
            f"there is no {str(path)!r}: give the .json files that two runs wrote beside their checkpoints"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: record[key] for key in ("model", "dataset", "dataset_fingerprint", "test_result")
        }
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{str(path)!r} is no record of a run: give the .json file that stands beside a checkpoint"
        ) from None
