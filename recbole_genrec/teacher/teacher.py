"""Train the teachers of a run, or read them from their cache, and give their item tables."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from recbole.utils import init_seed

from recbole_genrec.compat import without_anomaly_detection
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.features.cache import cache_path, cached
from recbole_genrec.runtime import distributed
from recbole_genrec.runtime.random_state import own_random_state
from recbole_genrec.teacher.recbole_model import (
    SETTINGS_WITHOUT_EFFECT,
    recbole_config,
    settings_of_run,
    train_recbole,
)
from recbole_genrec.teacher.sasrec import SASRecTeacher, sasrec_settings
from recbole_genrec.trainer.trainer import GenRecTrainer

logger = logging.getLogger(__name__)

FORMAT = 3  # of the cache; raise it when training itself changes


class Teacher(NamedTuple):
    """A trained teacher.

    Attributes:
        item_embeddings: float32 [n_items, d] on the CPU, row i = internal item id i, row 0 zeros.
        metrics: {"valid": {metric: value}, "test": {metric: value}}.
    """

    item_embeddings: torch.Tensor
    metrics: dict[str, dict[str, float]]


def teacher_table(config: GenRecConfig, loaders: tuple, model_name: str) -> torch.Tensor:
    """Return the item embeddings of a trained teacher; see train_teacher."""
    return train_teacher(config, loaders, model_name).item_embeddings


def train_teacher(config: GenRecConfig, loaders: tuple, model_name: str) -> Teacher:
    """Train a teacher on the training part of a run, or read it from teacher_cache_dir.

    SASRec is trained by GenRecTrainer with the teacher_* settings. If that is interrupted, the
    next run continues from the teacher's resume file in teacher_cache_dir. Any other general or
    sequential recommender of RecBole is trained by its own trainer with teacher_settings. The
    epoch with the best validation is kept. The caller's random state is not touched.

    Args:
        config: settings of the run.
        loaders: training, validation and test loader of the run.
        model_name: "SASRec" or the name of another model of RecBole.

    Raises:
        UserError: no such model, a model that cannot be a teacher, or settings that it refuses.
    """
    dataset = loaders[0].dataset
    if model_name == "SASRec":
        own = sasrec_settings(config)
        given = {**settings_of_run(config), **own}
        teacher_config = GenRecConfig(model_name, config["dataset"], config_dict=given)
        settings = {**own, "width": config["MAX_ITEM_LIST_LENGTH"], "seed": config["seed"]}
    else:
        teacher_config = recbole_config(config, dataset, model_name)
        settings = teacher_config.settings()
    key = {
        "format": FORMAT,
        "model": model_name,
        "dataset": dataset.fingerprint(),
        "settings": {k: v for k, v in settings.items() if k not in SETTINGS_WITHOUT_EFFECT},
    }
    folder, name = config["teacher_cache_dir"], f"{model_name}-{dataset.dataset_name}"

    def train() -> dict[str, Any]:
        with (
            distributed.alone(),
            own_random_state(config["device"], config["seed"]),
            without_anomaly_detection(),
        ):
            init_seed(config["seed"], config["reproducibility"])
            if model_name != "SASRec":
                return train_recbole(teacher_config, dataset)
            with _training_file(None if folder is None else cache_path(folder, name, key)) as file:
                return _train_sasrec(teacher_config, loaders, file)

    teacher = Teacher(**cached(folder, name, key, train))
    logger.info("Teacher %s: %s", model_name, _figures(teacher.metrics))
    return teacher


@contextmanager
def _training_file(path: str | None) -> Iterator[str]:
    """Yield the path of the weights while a teacher trains.

    The file lies in a temporary folder if the teacher's own cannot be written, or if another run
    trains the same teacher: that costs no more than the resume of a killed training. It is removed
    after the training, unless that fails.
    """
    stem = None if path is None else f"{path.removesuffix('.pth')}.training"
    lock = None if stem is None else _lock(f"{stem}.lock")
    if lock is None:
        with tempfile.TemporaryDirectory() as folder:
            yield os.path.join(folder, "training.pth")
        return
    try:
        yield f"{stem}.pth"
        for file in (f"{stem}.pth", f"{stem}.resume.pth"):
            if os.path.exists(file):
                os.remove(file)
    finally:
        with suppress(OSError):  # Windows removes no open file
            os.remove(lock.lock_file)
        lock.release()


def _lock(path: str) -> FileLock | None:
    """Return a lock that this process now holds, or None if it cannot have it."""
    lock = FileLock(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        lock.acquire(blocking=False)
    except (OSError, NotImplementedError):  # filelock's Timeout is an OSError
        return None
    return lock


def _train_sasrec(config: GenRecConfig, loaders: tuple, file: str) -> dict[str, Any]:
    trainer = _sasrec_trainer(config, loaders[0].dataset, file)
    if os.path.isfile(trainer.resume_file):
        try:
            trainer.resume_checkpoint(trainer.resume_file)
        except UserError as error:
            logger.warning("the teacher SASRec starts from scratch: %s", error)
            init_seed(config["seed"], config["reproducibility"])
            trainer = _sasrec_trainer(config, loaders[0].dataset, file)
    train_data, valid_data, test_data = loaders
    _, valid = trainer.fit(train_data, valid_data, show_progress=config["show_progress"])
    test = trainer.evaluate(test_data, show_progress=config["show_progress"])
    trainer.tensorboard.close()
    item_embeddings = trainer.model.item_embedding.weight.detach().cpu().clone()
    item_embeddings[0] = 0
    return {
        "item_embeddings": item_embeddings,
        "metrics": {"valid": _plain(valid), "test": _plain(test)},
    }


def _sasrec_trainer(config: GenRecConfig, dataset, file: str) -> GenRecTrainer:
    trainer = GenRecTrainer(config, SASRecTeacher(config, dataset).to(config["device"]))
    trainer.saved_model_file = file
    trainer.resume_file = f"{file.removesuffix('.pth')}.resume.pth"
    return trainer


def _plain(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _figures(metrics: dict[str, dict[str, float]]) -> str:
    return ", ".join(
        f"{part} {name} {value:.4f}"
        for part, figures in metrics.items()
        for name, value in figures.items()
    )
