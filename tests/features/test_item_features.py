import logging
import os
import sys

import numpy as np
import pytest
import torch
from recbole.config import Config
from scipy.stats import zscore
from sklearn.decomposition import PCA

import recbole_genrec.features.item_features as item_features
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.features.item_features import ItemFeatures, principal_components


@pytest.fixture
def make_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def make(items=None, **settings):
        (tmp_path / "toy").mkdir(exist_ok=True)
        lines = [f"a\t{token}\t{step}" for step, token in enumerate("xyzw")]
        (tmp_path / "toy" / "toy.inter").write_text(
            "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n"
        )
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
    features = ItemFeatures.from_dataset(
        *make_dataset(item_features=sources, item_feature_tokens=str(tmp_path / "names.txt"))
    )
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
    monkeypatch.setattr(
        item_features, "teacher_embeddings", lambda config, dataset, model_name: table
    )
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        features = ItemFeatures.from_dataset(*make_dataset())
    assert len(caplog.messages) == 1
    assert "'toy' has no item text, so the item embeddings of a SASRec" in caplog.messages[0]
    assert torch.equal(features["cf"][1:], table[1:])
    assert not features["cf"][0].any()


def test_every_source_is_read_by_its_own_reader(make_dataset, write, monkeypatch):
    def give(first):
        return torch.tensor([[0.0], [first], [3], [4], [5]])

    monkeypatch.setattr(item_features, "tfidf_features", lambda config, dataset: give(1))
    monkeypatch.setattr(item_features, "preloaded_embeddings", lambda config, dataset: give(2))
    monkeypatch.setattr(
        item_features,
        "teacher_embeddings",
        lambda config, dataset, model_name: give({"BPR": 3, "SASRec": 4}[model_name]),
    )
    monkeypatch.setattr(
        item_features, "encoder_features", lambda config, dataset, source: give(len(source))
    )
    sources = {
        "a": "SASRec",
        "b": "BPR",
        "c": "preloaded",
        "d": "sentence-transformers/it",
        "e": write(VALUES),
        "f": "tfidf",
    }
    features = ItemFeatures.from_dataset(*make_dataset(item_features=sources))
    assert list(features) == list(sources)
    assert features.matrix()[1].tolist() == [4, 3, 2, 24, 1, 10, 1]


def test_text_and_teacher_stand_side_by_side(make_dataset, monkeypatch):
    table = torch.arange(10.0).view(5, 2)
    monkeypatch.setattr(
        item_features, "teacher_embeddings", lambda config, dataset, model_name: table
    )
    items = "item_id:token\ttitle:token_seq\nx\tred drum\ny\tdrum\nz\tflute\nw\tred flute\n"
    features = ItemFeatures.from_dataset(
        *make_dataset(items=items, item_features={"text": "tfidf", "cf": "SASRec"})
    )
    assert torch.equal(features.matrix(), torch.cat([features["text"], features["cf"]], dim=1))
    assert [values.shape for values in features.values()] == [(5, 3), (5, 2)]


def test_an_unknown_source_is_refused_before_another_is_read(make_dataset, monkeypatch):
    monkeypatch.setattr(
        item_features,
        "teacher_embeddings",
        lambda *given, **settings: pytest.fail("a teacher was trained"),
    )
    with pytest.raises(ValueError, match="names the source 'SASRek'"):
        ItemFeatures.from_dataset(*make_dataset(item_features={"cf": "SASRec", "more": "SASRek"}))


def test_a_teacher_is_trained_only_after_all_else_is_read(make_dataset, monkeypatch):
    monkeypatch.setattr(
        item_features,
        "teacher_embeddings",
        lambda *given, **settings: pytest.fail("a teacher was trained"),
    )
    with pytest.raises(FileNotFoundError, match="there is no file 'gone.npy'"):
        ItemFeatures.from_dataset(*make_dataset(item_features={"cf": "SASRec", "more": "gone.npy"}))


@pytest.mark.parametrize(
    "change, message",
    [({}, "'more' has NaN or infinite"), ({"feature_pca": 3}, "'more' has NaN or infinite")],
)
def test_a_teacher_is_trained_only_after_all_else_is_checked(
    make_dataset, write, monkeypatch, change, message
):
    monkeypatch.setattr(
        item_features,
        "teacher_embeddings",
        lambda *given, **settings: pytest.fail("a teacher was trained"),
    )
    values = np.array(VALUES, dtype=np.float32)
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match=message):
        ItemFeatures.from_dataset(
            *make_dataset(item_features={"cf": "SASRec", "more": write(values)}, **change)
        )


def test_a_file_in_the_home_folder(make_dataset, write, monkeypatch):
    path = write(VALUES)
    monkeypatch.setenv("HOME", os.path.dirname(path))
    features = ItemFeatures.from_dataset(
        *make_dataset(item_features={"mine": f"~/{os.path.basename(path)}"})
    )
    assert torch.equal(
        features["mine"],
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": path}))["mine"],
    )


def seeded(n_items: int, width: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n_items, rank, generator=generator)
        @ torch.randn(rank, width, generator=generator)
        + 3
    )


@pytest.mark.parametrize("block", [7, 65536])
def test_principal_components_are_those_of_sklearn(block, monkeypatch):
    monkeypatch.setattr(item_features, "_BLOCK", block)
    values = seeded(41, 6, 6)
    reduced = principal_components("a", values, 4)
    assert not reduced[0].any()
    pca = PCA(4, svd_solver="full").fit(values[1:].double().numpy())
    largest = np.abs(pca.components_).argmax(1)
    signs = np.sign(pca.components_[range(4), largest])
    np.testing.assert_allclose(
        reduced[1:].numpy(), pca.transform(values[1:].double().numpy()) * signs, atol=1e-5
    )


def test_components_beyond_the_rank_are_zeros():
    reduced = principal_components("a", seeded(41, 6, 2), 4)
    assert reduced[1:, :2].std(0).min() > 0.1
    assert not reduced[:, 2:].any()
    matrix = ItemFeatures({"a": reduced}, "standardize").matrix()
    assert not matrix[:, 2:].any()


def test_components_are_made_of_each_feature_before_scaling(make_dataset, write):
    first, second = seeded(5, 4, 4).numpy(), seeded(5, 3, 3).numpy() * 5
    sources = {"one": write(first), "two": write(second, name="other")}
    config, dataset = make_dataset(
        item_features=sources, feature_pca=2, feature_scaling="standardize"
    )
    matrix = ItemFeatures.from_dataset(config, dataset).matrix()
    # Rows of the file: w z y x v; of the data set: x y z w.
    parts = [
        principal_components(
            "a", torch.from_numpy(np.vstack([values[:1], values[[3, 2, 1, 0]]])), 2
        )
        for values in (first, second)
    ]
    np.testing.assert_allclose(
        matrix[1:].numpy(), zscore(torch.cat(parts, dim=1)[1:].double().numpy()), atol=1e-5
    )


@pytest.mark.parametrize("wanted", [0, 3, 2.5, True])
def test_components_that_cannot_be_are_refused(make_dataset, write, wanted):
    config, dataset = make_dataset(item_features={"mine": write(VALUES)}, feature_pca=wanted)
    with pytest.raises(
        ValueError,
        match="feature 'mine' has 4 items and 2 columns: give a whole number from 1 to 2, or none",
    ):
        ItemFeatures.from_dataset(config, dataset)


def test_no_more_components_than_items():
    with pytest.raises(
        ValueError, match="has 3 items and 9 columns: give a whole number from 1 to 3"
    ):
        principal_components("a", seeded(4, 9, 3), 4)


@pytest.mark.parametrize("row", [[0.0, 0.0], [0.3, -7.0]])
def test_a_feature_that_is_the_same_for_all_items_is_refused(row):
    values = torch.tensor([[9.0, 9.0]] + [row] * 3)
    with pytest.raises(ValueError, match="item feature 'a' has the same row for each of 3 items"):
        ItemFeatures({"a": values}, "raw")
    values[2, 1] += 1
    assert len(ItemFeatures({"a": values}, "raw")) == 1
    assert len(ItemFeatures({"a": values[:2]}, "raw")) == 1


def test_standardize_is_the_z_score_over_items():
    torch.manual_seed(0)
    values = torch.randn(50, 4) * torch.tensor([1.0, 1e-6, 1e4, 1.0]) + torch.tensor(
        [3.0, 0.0, 1e4, 0.0]
    )
    values[1:, 3] = 0.1
    matrix = ItemFeatures({"a": values}, "standardize").matrix()
    np.testing.assert_allclose(
        matrix[1:, :3].numpy(), zscore(values[1:, :3].double().numpy()), atol=1e-5
    )
    assert not matrix[:, 3].any()
    assert not matrix[0].any()


def test_unit_norm_scales_each_feature_of_each_item():
    values = torch.tensor([[7.0, 7.0], [3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    matrix = ItemFeatures({"a": values, "b": values[:, :1]}, "unit_norm").matrix()
    torch.testing.assert_close(
        matrix, torch.tensor([[0.0, 0, 0], [0.6, 0.8, 1], [0, 0, 0], [0, -1, 0]])
    )


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
        (
            [[1.0], [float("nan")], [float("inf")], [1.0]],
            "xyzw",
            "NaN or infinite values in 2 of 5 rows",
        ),
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
        ItemFeatures.from_dataset(
            *make_dataset(item_features={"mine": write(np.array([{}], dtype=object))})
        )
    (tmp_path / "mine.npy").write_bytes(b"")  # what an interrupted copy leaves
    with pytest.raises(ValueError, match="not a plain numpy array"):
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": path}))


def test_names_of_rows_in_other_encodings(make_dataset, write, tmp_path):
    path = write(VALUES)
    tokens = tmp_path / "mine.tokens"
    expected = ItemFeatures.from_dataset(*make_dataset(item_features={"mine": path}))["mine"]
    tokens.write_bytes(b"\xef\xbb\xbf" + tokens.read_bytes())  # as Windows begins a file
    assert torch.equal(
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": path}))["mine"], expected
    )
    tokens.write_bytes(b"\xfc\n" * 4)
    with pytest.raises(ValueError, match="mine.tokens' is not UTF-8"):
        ItemFeatures.from_dataset(*make_dataset(item_features={"mine": path}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item_features": "text"}, "item_features is 'text'"),
        ({"item_features": {}}, "item_features is empty"),
        ({"item_features": {"text": "bert"}}, "names the source 'bert'"),
        ({"item_features": {"text": None}}, "names the source None"),
        ({"item_features": {"text": ["tfidf"]}}, r"names the source \['tfidf'\]"),
        (
            {"item_features": {1: "tfidf"}},
            "names a feature 1, but a name is text: write {text: tfidf}",
        ),
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
