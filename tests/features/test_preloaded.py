import logging

import pytest
import torch
from recbole.data import data_preparation

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.features.preloaded import preloaded_embeddings
from recbole_genrec.quick_start import create_dataset

VECTORS = {f"i{item}": [item + 0.5, -item, 7.0] for item in range(1, 11)}
LOAD_COL = {"inter": ["user_id", "item_id", "timestamp"], "ent": ["ent_id", "ent_emb"]}


@pytest.fixture
def make(small_settings, tiny_data):
    """make(rows, header, **settings): write tiny.ent, in reverse order, and read the data."""

    def make(rows=None, header="ent_id:token\tent_emb:float_seq", **settings):
        rows = list(reversed(VECTORS.items())) if rows is None else rows
        lines = [f"{token}\t{' '.join(map(str, values))}" for token, values in rows]
        (tiny_data / "tiny" / "tiny.ent").write_text("\n".join([header, *lines]) + "\n")
        own = {
            "additional_feat_suffix": ["ent"],
            "load_col": LOAD_COL,
            "preload_weight": {"ent_id": "ent_emb"},
            "alias_of_item_id": ["ent_id"],
        }
        config = GenRecConfig("TIGER", config_dict={**small_settings("TIGER"), **own, **settings})
        return config, create_dataset(config)

    return make


def by_token(dataset, embeddings):
    return {
        token: row for token, row in zip(dataset.field2id_token["item_id"], embeddings.tolist())
    }


def test_vectors_are_joined_by_token(make, caplog):
    config, dataset = make()
    with caplog.at_level(logging.WARNING, logger="recbole_genrec"):
        embeddings = preloaded_embeddings(config, dataset)
    assert embeddings.dtype == torch.float32
    assert by_token(dataset, embeddings) == {"[PAD]": [0, 0, 0], **VECTORS}
    assert not caplog.records


def test_the_training_part_gives_the_same(make):
    """A model sees the data set after RecBole has split it and turned its tables into tensors."""
    config, dataset = make()
    train_data, _, _ = data_preparation(config, dataset)
    assert by_token(train_data.dataset, preloaded_embeddings(config, train_data.dataset)) == {
        "[PAD]": [0, 0, 0],
        **VECTORS,
    }


def test_items_of_that_file_alone_join_the_catalogue_and_are_counted(make, caplog):
    config, dataset = make([("new", [1.0, 2.0, 3.0]), *VECTORS.items()])
    with caplog.at_level(logging.WARNING, logger="recbole_genrec"):
        embeddings = preloaded_embeddings(config, dataset)
    assert by_token(dataset, embeddings) == {"[PAD]": [0, 0, 0], "new": [1, 2, 3], **VECTORS}
    assert [
        record.getMessage().startswith("1 of 11 items of 'tiny' occur in no interaction")
        for record in caplog.records
    ] == [True]


def test_a_single_number_per_item(make):
    config, dataset = make(
        [(token, values[:1]) for token, values in VECTORS.items()], "ent_id:token\tent_emb:float"
    )
    expected = {"[PAD]": [0.0], **{token: values[:1] for token, values in VECTORS.items()}}
    assert by_token(dataset, preloaded_embeddings(config, dataset)) == expected


def test_items_without_a_vector_are_counted_and_named(make):
    config, dataset = make([row for row in VECTORS.items() if row[0] not in ("i4", "i9")])
    with pytest.raises(
        UserError,
        match=r"^2 of 10 items \(such as i4, i9\) have no vector in the file of 'ent_id', ",
    ):
        preloaded_embeddings(config, dataset)


def test_items_with_two_vectors_are_named(make):
    config, dataset = make([*VECTORS.items(), ("i3", [0.0, 0.0, 0.0])])
    with pytest.raises(
        UserError,
        match=r"^1 of 10 items \(such as i3\) have more than one vector in the file of 'ent_id', ",
    ):
        preloaded_embeddings(config, dataset)


def test_the_alias_says_which_field_has_the_items(make, tiny_data):
    (tiny_data / "tiny" / "tiny.who").write_text("who_id:token\twho_emb:float_seq\nu1\t1 2\n")
    config, dataset = make(
        load_col={**LOAD_COL, "who": ["who_id", "who_emb"]},
        additional_feat_suffix=["ent", "who"],
        preload_weight={"who_id": "who_emb", "ent_id": "ent_emb"},
        alias_of_user_id=["who_id"],
    )
    assert by_token(dataset, preloaded_embeddings(config, dataset)) == {
        "[PAD]": [0, 0, 0],
        **VECTORS,
    }


@pytest.mark.parametrize(
    "settings",
    [{"preload_weight": None}, {"alias_of_item_id": None, "alias_of_user_id": ["ent_id"]}],
)
def test_without_a_field_of_items_the_settings_are_shown(make, settings):
    with pytest.raises(UserError, match="need one id field that is in both"):
        preloaded_embeddings(*make(**settings))
