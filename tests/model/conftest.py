from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from recbole.data import data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_genrec.config import GenRecConfig
from recbole_genrec.quick_start import create_dataset

# Sizes at which a whole run takes a second; temperatures at which every codeword has a share.
SMALL_SETTINGS = {
    "text_dim": 6,
    "n_levels": 3,
    "codebook_size": 4,
    "counter_size": 10,
    "code_dim": 4,
    "tokenizer_hidden_sizes": [8],
    "kmeans_iterations": 10,
    "tokenizer_epochs": 4,
    "tokenizer_batch_size": 4,
    "tokenizer_learning_rate": 0.01,
    "tokenizer_warmup_epochs": 1,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "head_size": 8,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "learning_rate": 0.01,
    "epochs": 2,
    "train_batch_size": 8,
    "eval_batch_size": 5,
    "n_beams": 5,
    "topk": [3, 5],
    "valid_metric": "NDCG@5",
}
SMALL_UNIGREC_SETTINGS = {
    "teacher_hidden_size": 8,
    "teacher_inner_size": 16,
    "teacher_n_layers": 1,
    "teacher_n_heads": 1,
    "teacher_epochs": 1,
    "temperature_max": 0.5,
    "temperature_min": 0.1,
    "joint_tokenizer_learning_rate": 0.001,
    "finetune_epochs": 2,
}


class Experiment(NamedTuple):
    """What a run consists of, before its first step."""

    config: GenRecConfig
    model: torch.nn.Module
    train: object
    valid: object
    test: object

    def name_items(self) -> torch.nn.Module:
        """The model with started tokenizer and semantic ids, in evaluation mode."""
        self.model.start_tokenizer()
        self.model.refresh_semantic_ids()
        return self.model.eval()


@pytest.fixture
def make_experiment(tiny_settings):
    """Build `model` on the data set `tiny` as a run does; settings given by name win over the small ones."""

    def make(model: str, **settings) -> Experiment:
        small = {**SMALL_SETTINGS, **(SMALL_UNIGREC_SETTINGS if model == "UniGRec" else {})}
        config = GenRecConfig(model, config_dict={**tiny_settings, **small, **settings})
        init_seed(config["seed"], config["reproducibility"])
        parts = data_preparation(config, create_dataset(config))
        init_seed(config["seed"], config["reproducibility"])
        return Experiment(config, config.model_class(config, parts[0].dataset), *parts)

    return make


@pytest.fixture
def make_batch():
    """Histories and their next items as a batch; `width` pads the histories on the right with item 0."""

    def make(histories, targets, width: int | None = None) -> Interaction:
        width = max(map(len, histories)) if width is None else width
        item_id_list = torch.tensor([[*items, *[0] * (width - len(items))] for items in histories])
        lengths = torch.tensor([len(items) for items in histories])
        return Interaction({"item_id_list": item_id_list, "item_length": lengths, "item_id": torch.tensor(targets)})

    return make
