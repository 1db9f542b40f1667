"""Epoch of the SASRec teacher on ml-100k: ours, all positions at once, beside RecBole's trainer."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import make_config, synchronize
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.loaders import make_evaluation_loaders
from recbole_genrec.quick_start import create_dataset
from recbole_genrec.teacher.recbole_model import settings_of_run
from recbole_genrec.teacher.sasrec import SASRecTeacher, sasrec_settings
from recbole_genrec.trainer.optimizer import StageOptimizer
from recbole_genrec.trainer.trainer import GenRecTrainer

MIN_RATIO = 10.0
QUICK_SETTINGS = {"user_inter_num_interval": "[20,22]"}  # some fifty users


def cases(options: Options) -> list[Case]:
    return [Case("teacher", "SASRec teacher, epoch of ml-100k", ("ours", "RecBole"))]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    settings = QUICK_SETTINGS if options.quick else {}
    config = make_config("TIGER", "ml-100k", settings, options)
    return (prepare_ours if contender == "ours" else prepare_recbole)(config, settings)


def prepare_ours(config: GenRecConfig, settings: dict[str, Any]) -> tuple[dict[str, Any], Measure]:
    """Prepare training epochs without the validation between them."""
    loaders = make_evaluation_loaders(config, create_dataset(config))
    given = {**settings_of_run(config), **sasrec_settings(config)}
    teacher_config = GenRecConfig("SASRec", config["dataset"], config_dict=given)
    torch.manual_seed(config["seed"])
    model = SASRecTeacher(teacher_config, loaders[0].dataset).to(config["device"])
    trainer, [stage] = GenRecTrainer(teacher_config, model), model.stages()
    optimizer = StageOptimizer(model, stage, trainer.learner, None, len(model.batches))

    def measure(number: int) -> dict[str, float]:
        started = time.perf_counter()
        trainer._train(stage, number, model.batches, [optimizer], False)
        synchronize(config["device"])
        return {"seconds": time.perf_counter() - started}

    measure(0)
    return {"targets": int(model.batches.windows.n_targets.sum())}, measure


def prepare_recbole(
    config: GenRecConfig, settings: dict[str, Any]
) -> tuple[dict[str, Any], Measure]:
    """Prepare RecBole's data set, loader (default batch size) and trainer."""
    from recbole.config import Config
    from recbole.data import create_dataset as create_recbole_dataset
    from recbole.data import data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer

    recbole_config = Config(
        model="SASRec",
        dataset="ml-100k",
        config_dict={**recbole_settings(config), **settings, "train_neg_sample_args": None},
    )
    train, _, _ = data_preparation(recbole_config, create_recbole_dataset(recbole_config))
    torch.manual_seed(config["seed"])
    trainer = Trainer(
        recbole_config, SASRec(recbole_config, train.dataset).to(recbole_config["device"])
    )

    def measure(number: int) -> dict[str, float]:
        # RecBole trains like this: importing its models switches anomaly detection on.
        with torch.autograd.set_detect_anomaly(True, check_nan=True):
            started = time.perf_counter()
            trainer._train_epoch(train, number)
            synchronize(recbole_config["device"])
            return {"seconds": time.perf_counter() - started}

    measure(0)
    return {
        "targets": len(train.dataset.inter_feat),
        "batch_size": recbole_config["train_batch_size"],
    }, measure


def recbole_settings(config: GenRecConfig) -> dict[str, Any]:
    """Return the teacher's settings under RecBole's names."""
    own = ("hidden_size", "inner_size", "n_layers", "n_heads", "learning_rate")
    shared = ("MAX_ITEM_LIST_LENGTH", "load_col", "eval_args", "seed")
    return {
        **{name: config[f"teacher_{name}"] for name in own},
        **{name: config[name] for name in shared},
        "hidden_dropout_prob": config["teacher_dropout_prob"],
        "attn_dropout_prob": config["teacher_dropout_prob"],
    }


def rows(results: list[Result]) -> list[Row]:
    return [
        Row(
            result.case.title,
            "s",
            result.median("ours", "seconds"),
            result.median("RecBole", "seconds"),
            ("ratio", ">=", MIN_RATIO),
        )
        for result in results
    ]
