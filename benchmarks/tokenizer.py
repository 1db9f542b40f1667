"""Tokenizer epochs on random features: our stage beside a plain loop.

Also the share of an epoch that LETTER's constrained clustering of codewords takes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from recbole.utils import init_seed

from benchmarks.plain_tokenizers import HardLevel, PlainLoop, PlainTokenizer, SoftLevel
from benchmarks.plan import Case, Measure, Options, Result, Row
from benchmarks.product import RandomCatalogue, make_config, synchronize
from recbole_genrec.trainer.trainer import GenRecTrainer

MODELS = {"RQ-VAE": "TIGER", "soft RQ-VAE": "UniGRec", "LETTER's RQ-VAE": "LETTER"}
BFLOAT16, PLAIN, PLAIN_BFLOAT16 = "ours, bfloat16", "plain loop", "plain loop, bfloat16"
# The soft RQ-VAE always runs in float32: its temperature magnifies rounding errors.
CONTENDERS = {
    "TIGER": ("ours", BFLOAT16, PLAIN, PLAIN_BFLOAT16),
    "UniGRec": ("ours", PLAIN),
    "LETTER": ("ours",),
}
N_ITEMS, N_FEATURES = 12_101, 768
QUICK_N_ITEMS, QUICK_N_FEATURES = 200, 16
# Epochs of a round. Ten of ours include one search for unused codes, as the settings have it.
N_EPOCHS, N_PLAIN_EPOCHS = 10, 2
QUICK_SETTINGS = {
    "tokenizer_hidden_sizes": [16],
    "codebook_size": 16,
    "kmeans_iterations": 5,
    "tokenizer_batch_size": 64,
}
MIN_RATIO, MAX_SHARE = 3.0, 10.0


def cases(options: Options) -> list[Case]:
    return [
        Case("tokenizer", name, CONTENDERS[model], {"model": model})
        for name, model in MODELS.items()
    ]


def prepare(contender: str, case: Case, options: Options) -> tuple[dict[str, Any], Measure]:
    n_items, n_features = (
        (QUICK_N_ITEMS, QUICK_N_FEATURES) if options.quick else (N_ITEMS, N_FEATURES)
    )
    settings = dict(QUICK_SETTINGS) if options.quick else {}
    if options.quick and case.details["model"] == "LETTER":
        settings.update(n_groups=2, group_sizes=[1, 15])
    settings["enable_amp"] = contender in (BFLOAT16, PLAIN_BFLOAT16)
    config = make_config(case.details["model"], "random", settings, options)
    init_seed(config["seed"], config["reproducibility"])
    features = torch.randn(n_items + 1, n_features)
    facts = {"items": n_items, "features": n_features, "batch_size": config["tokenizer_batch_size"]}
    is_plain = contender in (PLAIN, PLAIN_BFLOAT16)
    return facts, (prepare_plain_loop if is_plain else prepare_ours)(config, features)


def prepare_ours(config, features: torch.Tensor) -> Measure:
    """Prepare epochs of the tokenizer stage by the trainer, without the k-means before them."""
    saved = {
        "item_features": features,
        "teacher": torch.randn(len(features), config["teacher_hidden_size"]),
        "collaborative": torch.randn(len(features), config["code_dim"]),
    }
    model = config.model_class(config, RandomCatalogue(len(features)), saved).to(config["device"])
    trainer, stage = GenRecTrainer(config, model), model.stages()[0]
    before = Stopwatch(stage.before_epoch)
    stage = replace(stage, before_epoch=before)
    batches = trainer._batches(stage, None)
    optimizers = trainer._optimizers(stage, len(batches))
    stage.start()

    def measure(number: int) -> dict[str, float]:
        before.seconds = 0.0
        started = time.perf_counter()
        for epoch in range(number * N_EPOCHS, (number + 1) * N_EPOCHS):
            trainer._train(stage, epoch, batches, optimizers, False)
        synchronize(config["device"])
        seconds = (time.perf_counter() - started) / N_EPOCHS
        return {"seconds_per_epoch": seconds, "seconds_before_epoch": before.seconds / N_EPOCHS}

    trainer._train(stage, 0, batches, optimizers, False)
    return measure


class Stopwatch:
    """Call the function that a stage calls before an epoch, if any, and sum its time."""

    def __init__(self, function) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, epoch: int) -> None:
        started = time.perf_counter()
        if self.function is not None:
            self.function(epoch)
        self.seconds += time.perf_counter() - started


def prepare_plain_loop(config, features: torch.Tensor) -> Measure:
    """Prepare the same tokenizer in a plain loop, without the padding item's row."""
    size = config["codebook_size"], config["code_dim"]
    if config["model"] == "UniGRec":
        levels = [
            SoftLevel(*size, config["temperature_max"], config["tokenizer_uniformity_weight"])
            for _ in range(config["n_levels"])
        ]
    else:
        levels = [HardLevel(*size, config["commitment_weight"]) for _ in range(config["n_levels"])]
    model = PlainTokenizer(
        [features.shape[1], *config["tokenizer_hidden_sizes"], config["code_dim"]], levels
    ).to(config["device"])
    rates = config["tokenizer_learning_rate"], config["tokenizer_weight_decay"]
    loop = PlainLoop(
        model, features[1:], config["tokenizer_batch_size"], *rates, is_mixed=config["enable_amp"]
    )

    def measure(number: int) -> dict[str, float]:
        started = time.perf_counter()
        for _ in range(N_PLAIN_EPOCHS):
            loop.epoch(config["device"])
        return {"seconds_per_epoch": (time.perf_counter() - started) / N_PLAIN_EPOCHS}

    loop.epoch(config["device"])
    return measure


def rows(results: list[Result]) -> list[Row]:
    table = []
    for result in results:
        facts, ours = result.facts["ours"], result.median("ours", "seconds_per_epoch")
        title = f"{result.case.title}, epoch of {facts['items']:,} x {facts['features']}"
        if PLAIN in result.rounds:
            goal = ("ratio", ">=", MIN_RATIO)
            table.append(Row(title, "s", ours, result.median(PLAIN, "seconds_per_epoch"), goal))
            if BFLOAT16 in result.rounds:
                short = (
                    result.median(name, "seconds_per_epoch") for name in (BFLOAT16, PLAIN_BFLOAT16)
                )
                table.append(Row(f"{title}, bfloat16", "s", *short, goal))
        else:
            table.append(Row(title, "s", ours))
            share = 100 * result.median("ours", "seconds_before_epoch") / ours
            table.append(
                Row(
                    f"{title}: share of the constrained clustering",
                    "%",
                    share,
                    goal=("ours", "<=", MAX_SHARE),
                )
            )
    return table
