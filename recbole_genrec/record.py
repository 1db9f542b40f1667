"""What is kept of a run: its record as JSON beside the checkpoint, and its last lines in the log."""

from __future__ import annotations

import json
import logging
import platform
from pathlib import Path
from typing import Any

import numpy
import recbole
import torch

import recbole_genrec
from recbole_genrec.compat import replacing
from recbole_genrec.config import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.model.abstract import GenerativeRecommender

logger = logging.getLogger(__name__)


def generative_figures(network: torch.nn.Module, trainer) -> dict[str, Any]:
    """Health of the semantic ids and seconds per stage; nothing for a model that has neither."""
    if not isinstance(network, GenerativeRecommender):
        return {}
    return {"semantic_ids": network.semantic_ids.statistics(), "stage_seconds": trainer.progress.seconds}


def write_record(config: GenRecConfig, data, n_interactions: int, result: dict[str, Any], seconds: float) -> None:
    """Write what is needed to cite or repeat a run beside its checkpoint, as JSON."""
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "dataset_fingerprint": _fingerprint(data),
        "n_users": data.user_num - 1,
        "n_items": data.item_num - 1,
        "n_interactions": n_interactions,
        "seed": config["seed"],
        "seconds": round(seconds, 1),
        "given_settings": {key: value for key, value in config.external_config_dict.items() if key not in ("model", "dataset")},
        "versions": {
            "recbole_genrec": recbole_genrec.__version__,
            "recbole": recbole.__version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        **result,
    }
    with replacing(Path(result["checkpoint"]).with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")


def log_summary(config: GenRecConfig, data, n_interactions: int, result: dict[str, Any], seconds: float) -> None:
    """Log the data's counts, the health of the semantic ids, the times and the metrics."""
    logger.info("%s on %s, seed %s, %.1f s", config["model"], config["dataset"], config["seed"], seconds)
    logger.info("data: %d users, %d items, %d interactions", data.user_num - 1, data.item_num - 1, n_interactions)
    for name in ("semantic_ids", "stage_seconds", "best_valid_result", "test_result"):
        if result.get(name):
            logger.info("%s: %s", name, "    ".join(f"{key} : {round(value, 6)}" for key, value in result[name].items()))
    logger.info("checkpoint: %s (its settings and metrics: %s)", result["checkpoint"], Path(result["checkpoint"]).with_suffix(".json"))


def _fingerprint(data) -> str | None:
    """What tells a data set from another; RecBole's other data sets and ready-made splits have no such thing."""
    return data.fingerprint() if isinstance(data, GenRecDataset) and data.benchmark_filename_list is None else None
