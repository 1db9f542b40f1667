from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from recbole.data import data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_genrec.config import GenRecConfig
from recbole_genrec.quick_start import create_dataset
from recbole_genrec.trainer.optimizer import StageOptimizer, training_only


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


def wave(shape, phase: float) -> torch.Tensor:
    """Fixed numbers that look like nothing in particular, the same on every machine."""
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * 1.7 + phase).reshape(shape)


@pytest.fixture
def fixed_model(make_experiment, tmp_path):
    """A model whose features, teacher and weights come from a formula, not from a random generator.

    fixed_model(model, vectors, **settings): `vectors` has the phase and the width of every item feature.
    """

    def make(model: str, vectors: dict[str, tuple[float, int]] | None = None, **settings) -> torch.nn.Module:
        sources = {name: str(tmp_path / f"{name}.npy") for name in vectors or {"text": (0.3, 6)}}
        for name, (phase, width) in (vectors or {"text": (0.3, 6)}).items():
            np.save(sources[name], wave((10, width), phase).numpy())
            (tmp_path / f"{name}.tokens").write_text("\n".join(f"i{item}" for item in range(1, 11)) + "\n")
        made = make_experiment(model, item_features=sources, feature_scaling="raw", **settings).model.double()
        with torch.no_grad():
            for number, weight in enumerate(made.parameters()):
                weight.copy_(0.3 * wave(weight.shape, number) + (weight.dim() == 1))
            if hasattr(made, "teacher"):
                made.teacher.copy_(wave(made.teacher.shape, 1.1))
        return made

    return make


@pytest.fixture
def released_unigrec() -> dict[str, object]:
    """The settings of UniGRec's released code in distillation and reconstruction."""
    return {
        "history_pooling": "padded",
        "adapters": "drawn",
        "distillation_sign": "plus",
        "distillation_residual": "hard",
        "distillation_temperature": 1.0,
        "repeated_targets": "dropped",
        "reconstruction_rows": "slots",
    }


@pytest.fixture
def five_steps_an_epoch():
    """five_steps_an_epoch(model, stage, batch, n_epochs): every term of the first step of all and of the last step of each epoch."""

    def train(model, stage, batch, n_epochs: int) -> list[dict[str, float]]:
        optimizer, found = StageOptimizer(model, stage, "adamw", 1.0, 5), []
        for epoch in range(n_epochs):
            if stage.before_epoch is not None:
                stage.before_epoch(epoch)
            with training_only(model, stage.groups):
                for step in range(5):
                    losses = stage.losses(batch)
                    optimizer.step(sum(losses.values()), 5 * epoch + step)
                    if step == 4 or (epoch, step) == (0, 0):
                        found.append({name: loss.item() for name, loss in losses.items()})
            if stage.after_epoch is not None:
                stage.after_epoch(epoch)
        return found

    return train
