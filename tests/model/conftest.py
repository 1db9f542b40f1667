from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from recbole.data import data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_genrec.config import GenRecConfig
from recbole_genrec.quick_start import create_dataset


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
def make_experiment(small_settings):
    """Build `model` on the data set `tiny` as a run does; settings given by name win over the small ones."""

    def make(model: str, **settings) -> Experiment:
        config = GenRecConfig(model, config_dict={**small_settings(model), **settings})
        init_seed(config["seed"], config["reproducibility"])
        parts = data_preparation(config, create_dataset(config))
        init_seed(config["seed"], config["reproducibility"])
        return Experiment(config, config.model_class(config, parts[0].dataset), *parts)

    return make


@pytest.fixture
def make_batch():
    """Histories, their next items and users 1, 2, ... as a batch; `width` pads the histories on the right with item 0."""

    def make(histories, targets, width: int | None = None, user_ids=None) -> Interaction:
        width = max(map(len, histories)) if width is None else width
        item_id_list = torch.tensor([[*items, *[0] * (width - len(items))] for items in histories])
        lengths = torch.tensor([len(items) for items in histories])
        users = torch.arange(1, len(histories) + 1) if user_ids is None else torch.tensor(user_ids)
        return Interaction({"user_id": users, "item_id_list": item_id_list, "item_length": lengths, "item_id": torch.tensor(targets)})

    return make
