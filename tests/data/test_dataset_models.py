"""RecBole's splits, loaders and sequential models on a GenRecDataset."""

from __future__ import annotations

import copy
import logging
import random

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.utils import data_preparation
from recbole.utils import get_model, init_seed

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data import prefixes
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.prefixes import Prefixes
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import create_dataset

HEADER = "user_id:token\titem_id:token\ttimestamp:float\trating:float"
RANKING = {"metrics": ["Recall"], "valid_metric": "Recall@10"}
LEAVE_ONE_OUT = {"order": "TO", "group_by": "user", "mode": "full"}


@pytest.fixture
def rows():
    """Write 30 users with 4 to 12 of 20 items, each at its own time, in shuffled order."""
    generator = np.random.default_rng(5)
    users = [user for user in range(30) for _ in range(generator.integers(4, 13))]
    times = generator.permutation(len(users))
    lines = [
        (f"u{user}", f"i{generator.integers(20)}", 1000 * time, generator.integers(1, 6))
        for user, time in zip(users, times)
    ]
    return [lines[number] for number in generator.permutation(len(lines))]


@pytest.fixture
def config_of(make_config, rows, tmp_path):
    def config_of(model="SASRec", with_items=False, **settings):
        columns = {"inter": ["user_id", "item_id", "timestamp", "rating"]}
        if with_items:
            columns["item"] = ["item_id", "class", "brand"]
        given = {
            "load_col": columns,
            "eval_args": {"split": {"LS": "valid_and_test"}, **LEAVE_ONE_OUT},
            "train_batch_size": 16,
            **settings,
        }
        config = make_config(rows, header=HEADER, model=model, **given)
        if with_items:
            lines = "".join(
                f"i{item}\tc{item % 3} c{item % 4}\tb{item % 5}\n" for item in range(20)
            )
            (tmp_path / "toy" / "toy.item").write_text(
                "item_id:token\tclass:token_seq\tbrand:token\n" + lines
            )
        return config

    return config_of


def assert_same_interactions(ours, theirs):
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs)
    for field in theirs:
        assert ours[field].dtype == theirs[field].dtype, field
        assert torch.equal(ours[field], theirs[field]), field


@pytest.mark.parametrize(
    "split",
    [
        {"split": {"LS": "valid_and_test"}},
        {"split": {"LS": "valid_only"}},
        {"split": {"LS": "test_only"}},
        {"split": {"RS": [0.8, 0.1, 0.1]}},
        {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
        {"split": {"TS": [0.7, 0.1, 0.2]}},
    ],
    ids=str,
)
def test_splits_equal_recboles(config_of, split):
    given = {
        "eval_args": {**LEAVE_ONE_OUT, **split},
        "unused_col": {"inter": ["rating", "timestamp_list"]},
    }
    ours, theirs = (
        GenRecDataset(config_of(**given)).build(),
        SequentialDataset(config_of(**given)).build(),
    )
    assert_same_interactions(ours[0].inter_feat, theirs[0].inter_feat)
    for mine, other in zip(ours[1:], theirs[1:]):
        assert_same_interactions(
            mine.inter_feat,
            other.inter_feat[torch.argsort(other.inter_feat["item_length"], stable=True)],
        )
    assert "rating_list" in ours[0].inter_feat and "rating" not in ours[0].inter_feat


def test_an_unknown_way_to_leave_out_is_recboles_error(config_of):
    with pytest.raises(NotImplementedError, match="leave_one_mode"):
        GenRecDataset(config_of(eval_args={**LEAVE_ONE_OUT, "split": {"LS": "all"}})).build()


def test_no_history_is_cut_before_a_batch_wants_it(config_of, monkeypatch):
    n_cut, cut = [], prefixes.cut_histories

    def count(values, target, *given):
        n_cut.append(len(target))
        return cut(values, target, *given)

    monkeypatch.setattr(prefixes, "cut_histories", count)
    config = config_of()
    train_data, valid_data, test_data = data_preparation(config, GenRecDataset(config))
    assert not n_cut
    assert all(
        type(loader.dataset.inter_feat) is Prefixes
        for loader in (train_data, valid_data, test_data)
    )
    assert len(next(iter(train_data))) == 16
    assert set(n_cut) == {16}


def test_parts_share_the_sequences(config_of):
    dataset = GenRecDataset(config_of())
    parts = dataset.build()
    held = {
        part.inter_feat.interaction.sources["item_id_list"].values.data_ptr()
        for part in [dataset, *parts]
    }
    assert len(held) == 1


def test_rows_of_a_data_set_are_joined_with_features(config_of):
    ours, theirs = (
        kind(config_of(with_items=True)).build()[0] for kind in (GenRecDataset, SequentialDataset)
    )
    for index in (np.array([3, 1, 40]), slice(5, 9), [7]):
        assert_same_interactions(ours[index], theirs[index])
        assert "class" in ours[index].columns
        assert_same_interactions(
            ours.__getitem__(index, join=False), theirs.__getitem__(index, join=False)
        )
    assert len(ours) == len(theirs)


def test_counts_and_matrices_equal_recboles(config_of):
    ours, theirs = (kind(config_of()) for kind in (GenRecDataset, SequentialDataset))
    mine, other = ours.build()[0], theirs.build()[0]
    assert (mine.inter_matrix() != other.inter_matrix()).nnz == 0
    assert mine.item_counter == other.item_counter and mine.user_counter == other.user_counter
    assert str(mine) == str(other)
    for part in (mine, other):
        torch.manual_seed(0)
        part.histories = part.history_item_matrix()
    assert all(torch.equal(a, b) for a, b in zip(mine.histories, other.histories))


def batches_and_loss(config, dataset):
    """All training and test batches of a seeded run, and the loss of the first one."""
    init_seed(1, True)
    loaders = data_preparation(config, dataset)
    model = get_model(config["model"])(config, loaders[0]._dataset).to(config["device"])
    random.seed(2)
    train = [copy.deepcopy(batch) for batch in loaders[0]]
    test = [batch[0] for batch in loaders[2]]
    init_seed(3, True)
    return train, test, model.calculate_loss(train[0].to(config["device"]))


@pytest.mark.parametrize(
    "model, settings",
    [
        ("SASRec", {}),
        ("BERT4Rec", {"mask_ratio": 0.5}),
        (
            "GRU4Rec",
            {
                "loss_type": "BPR",
                "train_neg_sample_args": {"distribution": "uniform", "sample_num": 2, "alpha": 1.0},
            },
        ),
        ("NARM", {}),
        ("Caser", {"MAX_ITEM_LIST_LENGTH": 5}),
        (
            "DIN",
            {
                "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0},
                "with_items": True,
                **RANKING,
            },
        ),
        ("SASRecF", {"with_items": True, "selected_features": ["class", "brand"]}),
        ("FDSA", {"with_items": True, "selected_features": ["class"]}),
        ("GRU4RecF", {"with_items": True, "selected_features": ["brand"]}),
        ("FEARec", {"train_batch_size": 8}),
        ("HGN", {}),
        (
            "S3Rec",
            {
                "with_items": True,
                "item_attribute": "class",
                "train_stage": "pretrain",
                "MASK_ITEM_SEQ": "m",
            },
        ),
    ],
)
def test_models_see_the_batches_of_recboles_data_set(config_of, model, settings):
    """Training batches and losses are equal; evaluation batches hold the same rows."""
    configs = {kind: config_of(model, **settings) for kind in (GenRecDataset, SequentialDataset)}
    runs = [batches_and_loss(config, kind(config)) for kind, config in configs.items()]
    (ours, our_test, our_loss), (theirs, their_test, their_loss) = runs
    assert len(ours) == len(theirs) > 5
    for mine, other in zip(ours, theirs):
        assert_same_interactions(mine, other)
    assert sorted(torch.cat([batch["item_id"] for batch in our_test])) == sorted(
        torch.cat([batch["item_id"] for batch in their_test])
    )
    assert torch.equal(
        *(sum(loss) if isinstance(loss, tuple) else loss for loss in (our_loss, their_loss))
    )


def test_evaluation_with_sampled_negatives(config_of):
    settings = {"eval_args": {"split": {"LS": "valid_and_test"}, **LEAVE_ONE_OUT, "mode": "uni5"}}
    batches = []
    for kind in (GenRecDataset, SequentialDataset):
        config = config_of(**settings)
        loaders = data_preparation(config, kind(config))
        init_seed(4, True)
        batches.append(list(loaders[2]))
    for mine, other in zip(*batches):
        assert_same_interactions(mine[0], other[0])


def test_numerical_columns_of_pairs(config_of):
    settings = {
        "numerical_features": ["rating"],
        "discretization": {"rating": {"method": "ED", "bucket": 3}},
    }
    ours, theirs = (
        kind(config_of(**settings)).build()[0] for kind in (GenRecDataset, SequentialDataset)
    )
    assert ours.inter_feat["rating_list"].shape[1:] == (3, 2)
    assert_same_interactions(ours.inter_feat, theirs.inter_feat)


def test_ready_made_splits_are_recboles(make_config, tmp_path):
    (tmp_path / "toy").mkdir()
    for part in ("train", "valid", "test"):
        lines = "".join(f"u{user}\ti{user} i2\ti{user + 1}\n" for user in range(3))
        (tmp_path / "toy" / f"toy.{part}.inter").write_text(
            "user_id:token\titem_id_list:token_seq\titem_id:token\n" + lines
        )
    columns = {"inter": ["user_id", "item_id_list", "item_id"]}
    given = {
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": columns,
    }
    for mine, other in zip(
        *(kind(make_config(**given)).build() for kind in (GenRecDataset, SequentialDataset))
    ):
        assert_same_interactions(mine.inter_feat, other.inter_feat)


@pytest.mark.parametrize("columns", [["user_id", "item_id"], ["user_id", "item_id", "timestamp"]])
def test_ready_made_splits_of_a_general_model_stay_what_they_are(tmp_path, tiny_settings, columns):
    """Also where the test part has the earlier times, and where there are none."""
    (tmp_path / "toy").mkdir()
    fields = {
        "user_id": "user_id:token",
        "item_id": "item_id:token",
        "timestamp": "timestamp:float",
    }
    for time, part in zip((3, 2, 1), ("train", "valid", "test")):
        rows = [
            {"user_id": f"u{user}", "item_id": f"{part}{item}", "timestamp": str(time)}
            for user in range(3)
            for item in range(2)
        ]
        lines = [
            "\t".join(fields[name] for name in columns),
            *("\t".join(row[name] for name in columns) for row in rows),
        ]
        (tmp_path / "toy" / f"toy.{part}.inter").write_text("\n".join(lines) + "\n")
    given = {
        "data_path": str(tmp_path),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": columns},
    }
    data = create_dataset(GenRecConfig("BPR", "toy", config_dict={**tiny_settings, **given}))
    for part, built in zip(("train", "valid", "test"), data.build()):
        items = data.id2token("item_id", built.inter_feat["item_id"])
        assert sorted(items) == sorted(f"{part}{item}" for item in (0, 1) for _ in range(3))


@pytest.mark.parametrize("model", ["BPR", "FM"])
def test_without_times_there_is_no_order_and_one_sentence(tmp_path, tiny_settings, model):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.inter").write_text("user_id:token\titem_id:token\nu1\ti1\nu1\ti2\n")
    settings = {
        **tiny_settings,
        "data_path": str(tmp_path),
        "load_col": {"inter": ["user_id", "item_id"]},
    }
    with pytest.raises(
        UserError,
        match=r"lacks .'timestamp'.: add them, or name your columns with USER_ID_FIELD, ITEM",
    ):
        create_dataset(GenRecConfig(model, "toy", config_dict=settings))


def test_data_sets_of_single_models_are_read_in_the_same_way(tiny_settings, caplog):
    """RecBole's DIEN builds its rows itself."""
    with caplog.at_level(logging.ERROR):
        config = GenRecConfig("DIEN", config_dict=tiny_settings)
        data = create_dataset(config)
        train_data, _, _ = data_preparation(config, data)
    assert isinstance(data, GenRecDataset)
    assert "neg_item_id_list" in next(iter(train_data))
