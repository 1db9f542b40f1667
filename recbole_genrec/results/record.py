"""The record of a run: JSON beside its checkpoint, and the last lines of its log."""

from __future__ import annotations

import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import numpy
import recbole
import torch
from recbole.data.dataset import Dataset
from recbole.utils import get_local_time

import recbole_genrec
from recbole_genrec.config.own_metrics import metric_files
from recbole_genrec.config.own_models import module_files
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import disk_errors
from recbole_genrec.features.sentence_encoder import encoder_identity, is_encoder
from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.results.outcomes import Outcomes, outcomes_path, write_outcomes
from recbole_genrec.results.table import as_csv, as_markdown, table
from recbole_genrec.storage import replacing, sha256
from recbole_genrec.trainer.collector import TopKCollector
from recbole_genrec.trainer.progress import SETTINGS_WITHOUT_EFFECT

logger = logging.getLogger(__name__)


def generative_figures(model: torch.nn.Module, trainer) -> dict[str, Any]:
    """Return the figures that only generative models have.

    These are the statistics of the semantic ids, the seconds of every stage, and the share of
    ranked lists proven exact.
    """
    if not isinstance(model, GenerativeRecommender):
        return {}
    return {
        "semantic_ids": model.semantic_ids.statistics(),
        "stage_seconds": trainer.progress.seconds,
        "proven_share": trainer.proven_share,
    }


def write_record(
    config: GenRecConfig,
    dataset: Dataset,
    n_interactions: int,
    result: dict[str, Any],
    seconds: float,
) -> None:
    """Write all that is needed to cite or repeat a run, as JSON beside its checkpoint.

    Args:
        config: settings of the run.
        dataset: its data set.
        n_interactions: interactions of the data set before they became training rows.
        result: see quick_start.run.
        seconds: duration of the run.

    Raises:
        DiskError: the file cannot be written.
    """
    given = {
        key: value
        for key, value in config.external_config_dict.items()
        if key not in ("model", "dataset")
    }
    record = {
        "model": config["model"],
        "dataset": config["dataset"],
        "dataset_fingerprint": _fingerprint(dataset),
        "n_users": dataset.user_num - 1,
        "n_items": dataset.item_num - 1,
        "n_interactions": n_interactions,
        "seed": config["seed"],
        "seconds": round(seconds, 1),
        "run_digest": run_digest(config),
        "given_settings": given,
        "versions": {
            **_versions(),
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        **result,
    }
    with replacing(Path(result["checkpoint"]).with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")


def write_test_outcomes(collector, dataset: Dataset, checkpoint: str) -> None:
    """Write the outcomes of the last evaluation beside the checkpoint.

    Without a metric of ranked lists there are none.

    Raises:
        DiskError: the file cannot be written.
    """
    if not isinstance(collector, TopKCollector) or collector.users is None:
        return
    if collector.hits is not None:
        users = dataset.id2token(dataset.uid_field, collector.users.cpu().numpy())
        hits, n_positives = collector.hits[:, :-1].bool(), collector.hits[:, -1].long()
        write_outcomes(Outcomes(list(users), hits, n_positives), outcomes_path(checkpoint))


def log_summary(
    config: GenRecConfig,
    dataset: Dataset,
    n_interactions: int,
    result: dict[str, Any],
    seconds: float,
) -> None:
    """Log the data's counts, the statistics of the semantic ids, the times and the metrics."""
    logger.info(
        "%s on %s, seed %s, %.1f s", config["model"], config["dataset"], config["seed"], seconds
    )
    logger.info(
        "data: %d users, %d items, %d interactions",
        dataset.user_num - 1,
        dataset.item_num - 1,
        n_interactions,
    )
    for name in ("semantic_ids", "stage_seconds", "best_valid_result", "test_result"):
        if result.get(name):
            values = [f"{key} : {round(value, 6)}" for key, value in result[name].items()]
            logger.info("%s: %s", name, "    ".join(values))
    logger.info(
        "checkpoint: %s (its settings and metrics: %s)",
        result["checkpoint"],
        Path(result["checkpoint"]).with_suffix(".json"),
    )


def _versions() -> dict[str, str]:
    """Return the versions of the packages that a run's figures follow from."""
    return {
        "recbole_genrec": recbole_genrec.__version__,
        "recbole": recbole.__version__,
        "torch": torch.__version__,
    }


def _fingerprint(dataset: Dataset) -> str | None:
    """Return the data set's fingerprint; RecBole's own and ready-made splits have none."""
    has_one = isinstance(dataset, GenRecDataset) and dataset.benchmark_filename_list is None
    return dataset.fingerprint() if has_one else None


@disk_errors()
def run_digest(config: GenRecConfig) -> str:
    """Return the SHA-256 (hex) of everything that a run's figures follow from.

    This covers settings, versions, the data set's files (<data_path>/<name>.*, as RecBole looks
    for them), the files that settings name and the modules of a model or metric outside this
    package.

    Raises:
        DiskError: a file cannot be read.
    """
    given = config.settings().items()
    settings = {key: value for key, value in given if key not in SETTINGS_WITHOUT_EFFECT}
    files = sorted(Path(config["data_path"]).glob(f"{config['dataset']}.*"))
    files += [*_named_files(settings), *module_files(config.model_class)]
    files += metric_files(settings["metrics"])
    encoders = [source for source in _sources(settings) if is_encoder(source)]
    content = {
        **settings,
        "versions": _versions(),
        "files": [(file.name, sha256(file)) for file in files],
        "encoders": [encoder_identity(source) for source in encoders],
    }
    return sha256(json.dumps(content, sort_keys=True, default=str))


def _sources(settings: dict[str, Any]) -> list[str]:
    sources = settings.get("item_features")
    values = sources.values() if isinstance(sources, dict) else ()
    return [source for source in values if isinstance(source, str)]


def _named_files(settings: dict[str, Any]) -> list[Path]:
    """Return the files of item vectors and semantic ids that settings name."""
    names = [
        *_sources(settings),
        settings.get("item_feature_tokens"),
        settings.get("semantic_ids_file"),
    ]
    paths = [Path(name).expanduser() for name in names if isinstance(name, str)]
    candidates = [file for path in paths for file in (path, path.with_suffix(".tokens"))]
    return [file for file in candidates if file.is_file()]


def find_record(config: GenRecConfig) -> dict[str, Any] | None:
    """Return the newest record in checkpoint_dir with these settings, data and versions, or None.

    Raises:
        DiskError: a file of the data cannot be read.
    """
    digest = run_digest(config)
    files = Path(config["checkpoint_dir"]).glob(f"{config['model']}-{config['dataset']}-*.json")
    for file in sorted(files, key=os.path.getmtime, reverse=True):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["run_digest"] == digest:
                return record
        except (OSError, ValueError, TypeError, KeyError):
            continue  # from an older version, or not a record
    return None


def write_table(records: list[dict[str, Any]], config: GenRecConfig) -> Path:
    """Write the table of several models into checkpoint_dir, as .md and .csv.

    Returns:
        The path of the .md file.

    Raises:
        DiskError: a file cannot be written.
    """
    header, rows = table(records)
    path = Path(config["checkpoint_dir"]) / f"comparison-{config['dataset']}-{get_local_time()}.md"
    contents = {path: as_markdown(header, rows), path.with_suffix(".csv"): as_csv(header, rows)}
    for file, content in contents.items():
        with replacing(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return path
