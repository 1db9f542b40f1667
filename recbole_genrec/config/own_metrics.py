"""Metrics outside this package: classes given by their path, as RecBole's documentation has them.

`--metrics="[Recall, my_package.my_metrics:Novelty]"` computes Novelty beside Recall.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from recbole.evaluator import metrics_dict
from recbole.evaluator.base_metric import AbstractMetric

from recbole_genrec.compat import add_metric
from recbole_genrec.config.own_models import import_class
from recbole_genrec.errors import UserError


def import_metric(path: str) -> None:
    """Import a metric by its path and let RecBole's evaluator know it by this path.

    Raises:
        UserError: the path leads to no class, the class is no metric, or RecBole has one of its
            name.
    """
    found = import_class("metric", path)
    if not issubclass(found, AbstractMetric) or not hasattr(found, "metric_need"):
        raise UserError(
            f"the metric {path!r} is no metric of ranked lists or scores: derive the class from "
            "recbole.evaluator.base_metric.TopkMetric, or give it metric_type and metric_need"
        )
    if found.__name__.lower() in metrics_dict:
        raise UserError(
            f"the metric {path!r} has the name of a metric of RecBole: rename the class"
        )
    add_metric(path, found)


def metric_files(metrics: Iterable[str]) -> list[Path]:
    """Return the files of the modules of all metrics that are paths, which are imported."""
    modules = [sys.modules[name.partition(":")[0]] for name in metrics if ":" in name]
    return [Path(module.__file__) for module in modules if module.__file__]
