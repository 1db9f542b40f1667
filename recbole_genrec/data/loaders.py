"""RecBole's loaders of a data set; a generative model's trainer cuts its own training batches."""

from __future__ import annotations

from typing import Any, NamedTuple

from recbole.data import data_preparation
from recbole.data.utils import create_samplers, get_dataloader

from recbole_genrec.compat import true_negatives
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import UserError


class TrainingPart(NamedTuple):
    """The training part of a data set, in the role of RecBole's training loader."""

    dataset: GenRecDataset


def make_loaders(config: Any, dataset: Any) -> tuple[Any, Any, Any]:
    """Return RecBole's training, validation and test loaders of a data set."""
    train, valid, test = data_preparation(config, dataset)
    true_negatives(train, config)
    return train, valid, test


def make_evaluation_loaders(config: Any, dataset: GenRecDataset) -> tuple[TrainingPart, Any, Any]:
    """Return the training part and RecBole's validation and test loaders of a data set.

    Raises:
        UserError: save_dataloaders is set.
    """
    if config["save_dataloaders"]:
        raise UserError(
            "save_dataloaders is set, but a generative model cuts its own training batches and has "
            "no training loader to save: leave it out"
        )
    train, *parts = dataset.build()
    _, *samplers = create_samplers(config, dataset, [train, *parts])
    valid, test = (
        get_dataloader(config, phase)(config, part, sampler, shuffle=False)
        for phase, part, sampler in zip(("valid", "test"), parts, samplers)
    )
    return TrainingPart(train), valid, test
