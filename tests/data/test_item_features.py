import logging
import sys

import numpy as np
import pytest
import torch
from recbole.config import Config
from scipy.stats import zscore

import recbole_genrec.data.item_features as item_features
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.item_features import ItemFeatures


@pytest.fixture
def make_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def make(items=None, **settings):
        (tmp_path / "toy").mkdir(exist_ok=True)
        lines = [f"a\t{token}\t{step}" for step, token in enumerate("xyzw")]
        (tmp_path / "toy" / "toy.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")
        if items is not None:
            (tmp_path / "toy" / "toy.item").write_text(items)
        base = {
            "data_path": str(tmp_path),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "train_neg_sample_args": None,
            "item_features": "auto",
            "item_feature_tokens": None,
            "text_fields": None,
            "text_template": None,
            "feature_pca": None,
            "text_dim": 8,
            "feature_scaling": "raw",
        }
        config = Config(model="SASRec", dataset="toy", config_dict={**base, **settings})
        return config, GenRecDataset(config)

    return make


@pytest.fixture
def write(tmp_path):
    def write(values, tokens="wzyxv", name="mine"):
        np.save(tmp_path / f"{name}.npy", np.asarray(values))
        (tmp_path / f"{name}.tokens").write_text("\n".join(tokens) + "\n")
        return str(tmp_path / f"{name}.npy")

    return write


VALUES = [[4.0, 40.0], [3.0, 30.0], [2.0, 20.0], [1.0, 10.0], [9.0, 90.0]]


def test_rows_of_a_file_are_joined_by_item_token(make_dataset, write):
    features = ItemFeatures.from_dataset(*make_dataset(item_features={"mine": write(VALUES)}))
    assert list(features) == ["mine"]
    assert features["mine"].tolist() == [[0, 0], [1, 10], [2, 20], [3, 30], [4, 40]]
    assert features.matrix().tolist() == features["mine"].tolist()


def test_tokens_may_lie_elsewhere_and_features_stand_side_by_side(make_dataset, write, tmp_path):
    (tmp_path / "names.txt").write_text("x\ny\nz\nw\nv\n")
    sources = {"one": write(VALUES), "two": write([[5], [6], [7], [8], [9]], name="other")}
    features = ItemFeatures.from_dataset(*make_dataset(item_features=sources, item_feature_tokens=str(tmp_path / "names.txt")))
    assert len(features) == 2
    assert features.matrix().tolist() == [[0, 0, 0], [4, 40, 5], [3, 30, 6], [2, 20, 7], [1, 10, 8]]


def test_auto_prefers_text(make_dataset):
    items = "item_id:token\ttitle:token_seq\nx\tred drum\ny\tdrum\nz\tflute\nw\tred flute\n"
    features = ItemFeatures.from_dataset(*make_dataset(items=items))
    assert list(features) == ["text"]
    # Three words, hence three components.
    assert features["text"].shape == (5, 3)


def test_auto_without_text_takes_the_teacher_and_says_so(make_dataset, monkeypatch, caplog):
    table = torch.arange(10.0).view(5, 2)
    monkeypatch.setattr(item_features, "teacher_embeddings", lambda config, dataset, model_name: table)
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        features = ItemFeatures.from_dataset(*make_dataset())
    assert len(caplog.messages) == 1
    assert "'toy' has no item text, so the item embeddings of a SASRec" in caplog.messages[0]
    assert torch.equal(features["cf"][1:], table[1:])
    assert not features["cf"][0].any()


def test_standardize_is_the_z_score_over_items():
    torch.manual_seed(0)
    values = torch.randn(50, 4) * torch.tensor([1.0, 1e-6, 1e4, 1.0]) + torch.tensor([3.0, 0.0, 1e4, 0.0])
    values[1:, 3] = 0.1
    matrix = ItemFeatures({"a": values}, "standardize").matrix()
    np.testing.assert_allclose(matrix[1:, :3].numpy(), zscore(values[1:, :3].double().numpy()), atol=1e-5)
    assert not matrix[:, 3].any()
    assert not matrix[0].any()


def test_unit_norm_scales_each_feature_of_each_item():
    values = torch.tensor([[7.0, 7.0], [3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    matrix = ItemFeatures({"a": values, "b": values[:, :1]}, "unit_norm").matrix()
    torch.testing.assert_close(matrix, torch.tensor([[0.0, 0, 0], [0.6, 0.8, 1], [0, 0, 0], [0, -1, 0]]))


def test_scaling_leaves_the_features_themselves_alone():
    values = torch.tensor([[5.0], [1.0], [2.0]])
    features = ItemFeatures({"a": values}, "standardize")
    features.matrix()
    assert features["a"].tolist() == [[0], [1], [2]]
    assert values.tolist() == [[5], [1], [2]]


@pytest.mark.parametrize(
    ("values", "tokens", "message"),
    [
        (VALUES[:4], "wzyxv", r"shape \[4, 2\] .* has 5 lines"),
        ([1.0, 2.0], "xy", r"shape \[2\]"),
        (VALUES[:3], "xyv", r"no row for 2 of 4 items \(such as z, w\)"),
        (VALUES, "xyzwx", "names 1 item tokens more than once"),
        ([[1.0], [float("nan")], [float("inf")], [1.0]], "xyzw", "NaN or infinite values in 2 of 5 rows"),
        ([["a"]] * 4, "xyzw", "type <U1"),
    ],
)
def test_unusable_files_are_named(make_dataset, write, values, tokens, message):
    with pytest.raises(ValueError, match=message):
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": write(values, tokens)}))


def test_missing_and_pickled_files_are_named(make_dataset, write, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file 'gone.npy'"):
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": "gone.npy"}))
    path = write(VALUES)
    (tmp_path / "mine.tokens").unlink()
    with pytest.raises(FileNotFoundError, match="mine.tokens"):
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": path}))
    with pytest.raises(ValueError, match="not a plain numpy array"):
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": write(np.array([{}], dtype=object))}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item_features": "text"}, "item_features is 'text'"),
        ({"item_features": {}}, "item_features is empty"),
        ({"item_features": {"text": "bert"}}, "names the source 'bert'"),
    ],
)
def test_unknown_sources_are_named(make_dataset, settings, message):
    with pytest.raises(ValueError, match=message):
        ItemFeatures.from_dataset(*make_dataset(**settings))


def test_unknown_scaling_and_uneven_rows_are_named():
    with pytest.raises(ValueError, match="feature_scaling is 'minmax'"):
        ItemFeatures({"a": torch.ones(3, 1)}, "minmax")
    with pytest.raises(ValueError, match=r"'b' has the shape \[4, 1\], but needs 3 rows"):
        ItemFeatures({"a": torch.arange(3.0)[:, None], "b": torch.ones(4, 1)}, "raw")
