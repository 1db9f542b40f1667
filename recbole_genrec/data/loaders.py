"""The batches of RecBole's models, as RecBole makes them, but for negatives that are none."""

from __future__ import annotations

from recbole.data import data_preparation
from recbole.sampler import Sampler
from recbole.utils import ModelType


def make_loaders(config, dataset) -> tuple:
    """RecBole's training, validation and test loaders of a data set.

    `repeatable` leaves the history among the candidates of a ranking. RecBole draws training
    negatives by it, too: for a model without
    histories these would hold what the user has had in other rows, so for such a model they are
    drawn from the rest.
    """
    train, valid, test = data_preparation(config, dataset)
    drawn = config["train_neg_sample_args"]
    if (
        config["MODEL_TYPE"] != ModelType.SEQUENTIAL
        and config["repeatable"]
        and drawn["distribution"] != "none"
    ):
        loader = getattr(
            train, "general_dataloader", train
        )  # of models with a knowledge graph one of two
        loader._sampler = Sampler(
            "train", loader._dataset, drawn["distribution"], drawn["alpha"]
        ).set_phase("train")
    return train, valid, test
