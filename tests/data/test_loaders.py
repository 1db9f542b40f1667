from __future__ import annotations

import pytest
import torch

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.loaders import make_evaluation_loaders, make_loaders
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import create_dataset


def loaders_of(model: str, settings: dict) -> tuple:
    config = GenRecConfig(model, config_dict=settings)
    return make_loaders(config, create_dataset(config))


def had_in_training(train) -> dict[int, set[int]]:
    had = {}
    rows = train.dataset.inter_feat
    for user, item in zip(rows["user_id"].tolist(), rows["item_id"].tolist()):
        had.setdefault(user, set()).add(item)
    return had


@pytest.mark.parametrize("repeatable", [True, False])
def test_negatives_of_a_general_model_are_nothing_that_the_user_had(tiny_settings, repeatable):
    train, _, _ = loaders_of("BPR", {**tiny_settings, "repeatable": repeatable})
    had, n_pairs = had_in_training(train), 0
    for _ in range(20):
        for batch in train:
            for user, item in zip(batch["user_id"].tolist(), batch["neg_item_id"].tolist()):
                assert item not in had[user]
                n_pairs += 1
    assert n_pairs == 20 * len(train.dataset.inter_feat) > 500


def test_the_history_stays_a_candidate_of_a_general_models_ranking(tiny_settings):
    """As `repeatable` says: nothing is masked for any user."""
    for loader in loaders_of("BPR", tiny_settings)[1:]:
        for _, (users, items), _, _ in loader:
            assert len(users) == len(items) == 0


def test_sequential_models_have_recboles_batches(tiny_settings):
    """Whose sampler leaves out the row's own target only."""
    train, _, _ = loaders_of("GRU4Rec", {**tiny_settings, "loss_type": "BPR"})
    for batch in train:
        assert not (batch["neg_item_id"] == batch["item_id"]).any()


def test_a_generative_model_has_recboles_evaluation_loaders_and_no_training_loader(tiny_settings):
    config = GenRecConfig("TIGER", config_dict=tiny_settings)
    train, *parts = make_evaluation_loaders(config, create_dataset(config))
    expected_train, *expected = make_loaders(config, create_dataset(config))
    assert not hasattr(train, "sampler")
    assert len(train.dataset) == len(expected_train.dataset)
    for loader, other in zip(parts, expected):
        assert type(loader) is type(other) and len(loader) == len(other)
        for (batch, *_), (other_batch, *_) in zip(loader, other):
            assert list(batch.interaction) == list(other_batch.interaction)
            assert all(torch.equal(batch[name], other_batch[name]) for name in batch.interaction)


def test_loaders_that_do_not_exist_are_not_saved(tiny_settings):
    config = GenRecConfig("TIGER", config_dict={**tiny_settings, "save_dataloaders": True})
    with pytest.raises(UserError, match=r"save_dataloaders is set.*: leave it out"):
        make_evaluation_loaders(config, create_dataset(config))
