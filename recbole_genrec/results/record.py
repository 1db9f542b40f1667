"""What is kept of a run: its record as JSON beside the checkpoint, and its last lines in the log."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import numpy
import recbole
import torch
from recbole.utils import get_local_time

import recbole_genrec
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.features.sentence_encoder import PREFIX, encoder_identity
from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.results.outcomes import Outcomes, outcomes_path, write_outcomes
from recbole_genrec.results.table import as_csv, as_markdown, table
from recbole_genrec.storage import replacing
from recbole_genrec.trainer.collector import TopKCollector
from recbole_genrec.trainer.progress import SETTINGS_WITHOUT_EFFECT

logger = logging.getLogger(__name__)


def generative_figures(network: torch.nn.Module, trainer) -> dict[str, Any]:
    """Health of the semantic ids, seconds per stage and the share of the ranked lists proven exact; nothing for a model without them."""
    if not isinstance(network, GenerativeRecommender):
        return {}
    figures = {"stage_seconds": trainer.progress.seconds, "proven_share": trainer.proven_share}
    return {"semantic_ids": network.semantic_ids.statistics(), **figures}


def write_record(
    config: GenRecConfig, data, n_interactions: int, result: dict[str, Any], seconds: float
) -> None:
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
        "run_digest": run_digest(config),
        "given_settings": {
            key: value
            for key, value in config.external_config_dict.items()
            if key not in ("model", "dataset")
        },
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


def write_test_outcomes(collector, data, checkpoint: str) -> None:
    """Write what the last evaluation gave user by user beside the checkpoint; nothing if no metric of ranked lists was wanted."""
    if isinstance(collector, TopKCollector) and collector.hits is not None:
        users = data.id2token(data.uid_field, collector.users.cpu().numpy())
        write_outcomes(
            Outcomes(list(users), collector.hits[:, :-1].bool(), collector.hits[:, -1].long()),
            outcomes_path(checkpoint),
        )


def log_summary(
    config: GenRecConfig, data, n_interactions: int, result: dict[str, Any], seconds: float
) -> None:
    """Log the data's counts, the health of the semantic ids, the times and the metrics."""
    logger.info(
        "%s on %s, seed %s, %.1f s", config["model"], config["dataset"], config["seed"], seconds
    )
    logger.info(
        "data: %d users, %d items, %d interactions",
        data.user_num - 1,
        data.item_num - 1,
        n_interactions,
    )
    for name in ("semantic_ids", "stage_seconds", "best_valid_result", "test_result"):
        if result.get(name):
            logger.info(
                "%s: %s",
                name,
                "    ".join(f"{key} : {round(value, 6)}" for key, value in result[name].items()),
            )
    logger.info(
        "checkpoint: %s (its settings and metrics: %s)",
        result["checkpoint"],
        Path(result["checkpoint"]).with_suffix(".json"),
    )


def _fingerprint(data) -> str | None:
    """What tells a data set from another; RecBole's other data sets and ready-made splits have no such thing."""
    return (
        data.fingerprint()
        if isinstance(data, GenRecDataset) and data.benchmark_filename_list is None
        else None
    )


def run_digest(config: GenRecConfig) -> str:
    """SHA-256 (hex) of all that a run's figures follow from: settings, versions, the files of the data set and those that settings name.

    The former are looked for as <data set's folder>/<name>.*, as RecBole does.
    """
    settings = {
        key: value for key, value in config.settings().items() if key not in SETTINGS_WITHOUT_EFFECT
    }
    versions = {
        "recbole_genrec": recbole_genrec.__version__,
        "recbole": recbole.__version__,
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(
        json.dumps({**settings, "versions": versions}, sort_keys=True, default=str).encode()
    )
    for file in (
        *sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*")),
        *_named_files(settings),
    ):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with open(file, "rb") as content:
            for block in iter(lambda: content.read(1 << 20), b""):
                digest.update(block)
    for source in _sources(settings):
        if source.startswith(PREFIX):
            digest.update(encoder_identity(source).encode())
    return digest.hexdigest()


def _sources(settings: dict[str, Any]) -> list[str]:
    sources = settings.get("item_features")
    return (
        [source for source in sources.values() if isinstance(source, str)]
        if isinstance(sources, dict)
        else []
    )


def _named_files(settings: dict[str, Any]) -> list[Path]:
    """Files of item vectors and of semantic ids."""
    named = [
        *_sources(settings),
        settings.get("item_feature_tokens"),
        settings.get("semantic_ids_file"),
    ]
    paths = [Path(value).expanduser() for value in named if isinstance(value, str)]
    return [
        file for path in paths for file in (path, path.with_suffix(".tokens")) if file.is_file()
    ]


def find_record(config: GenRecConfig) -> dict[str, Any] | None:
    """The record of the newest run in checkpoint_dir that these settings, data and versions would repeat; None if there is none."""
    digest = run_digest(config)
    files = Path(config["checkpoint_dir"]).glob(f"{config['model']}-{config['dataset']}-*.json")
    for file in sorted(files, key=os.path.getmtime, reverse=True):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["run_digest"] == digest:
                return record
        except (OSError, ValueError, TypeError, KeyError):
            continue  # written by an older version, or not a record
    return None


def write_table(records: list[dict[str, Any]], config: GenRecConfig) -> Path:
    """Write the comparison of several models into checkpoint_dir, as .md and .csv; returns the path of the former."""
    header, rows = table(records)
    path = Path(config["checkpoint_dir"]) / f"comparison-{config['dataset']}-{get_local_time()}.md"
    for file, content in (
        (path, as_markdown(header, rows)),
        (path.with_suffix(".csv"), as_csv(header, rows)),
    ):
        with replacing(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return path
