"""Our models, data and trainer at the measured sizes, made as a run makes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from recbole.data import data_preparation
from recbole.utils import init_seed

from benchmarks.plan import Options
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.quick_start import create_dataset
from recbole_genrec.trainer.trainer import GenRecTrainer

T5_SIZES = {
    "small": {"hidden_size": 128, "inner_size": 512, "n_layers": 2, "n_heads": 4, "head_size": 32},
    "papers'": {
        "hidden_size": 128,
        "inner_size": 512,
        "n_layers": 6,
        "n_heads": 4,
        "head_size": 64,
    },
    "quick": {"hidden_size": 16, "inner_size": 32, "n_layers": 1, "n_heads": 2, "head_size": 8},
}
# Four codes per item, as in the papers; random, so that no tokenizer needs training.
CODES = {"tokenizer": "random", "n_levels": 4, "codebook_size": 256, "counter_size": 0}
DROPOUT = 0.1


class Experiment(NamedTuple):
    """A run before its first step; `train` and `test` are RecBole's loaders."""

    config: GenRecConfig
    model: GenerativeRecommender
    trainer: GenRecTrainer
    train: Any
    test: Any


class RandomCatalogue:
    """Stand-in for a data set without interactions; n_items counts the padding item."""

    iid_field = "item_id"

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.field2id_token = {self.iid_field: [str(item) for item in range(n_items)]}

    def num(self, field: str) -> int:
        """Return the number of items, as RecBole's data sets do."""
        return self.n_items

    def fingerprint(self) -> str:
        """Return the identity of the data, as GenRecDataset does."""
        return f"{self.n_items} items without interactions"


def t5_settings(size: str, options: Options) -> dict[str, Any]:
    """Return settings of TIGER with a T5 of this size and random codes."""
    sizes = T5_SIZES["quick" if options.quick else size]
    return {
        **CODES,
        **sizes,
        "hidden_dropout_prob": DROPOUT,
        "attn_dropout_prob": DROPOUT,
        "train_mode": "prefixes",
    }


def make_config(
    model: str, dataset: str, settings: dict[str, Any], options: Options
) -> GenRecConfig:
    """Return the settings of a run."""
    defaults: dict[str, Any] = {"show_progress": False}
    if options.data_path is not None and dataset != "ml-100k":
        defaults["data_path"] = options.data_path
    return GenRecConfig(model, dataset, config_dict={**defaults, **settings})


def make_tiger(dataset: str, settings: dict[str, Any], options: Options) -> Experiment:
    """Make TIGER; the same settings give the same weights in every process."""
    config = make_config("TIGER", dataset, settings, options)
    train, _, test = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = config.model_class(config, train.dataset).to(config["device"])
    model.refresh_semantic_ids()
    return Experiment(config, model, GenRecTrainer(config, model), train, test)


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
