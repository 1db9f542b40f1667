import logging
import os
import sys

import numpy as np
import pytest
import torch
from recbole.config import Config
from scipy.stats import zscore
from sklearn.decomposition import PCA

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.features import item_features
from recbole_genrec.features.item_features import (
    choose_sources,
    item_matrix,
    principal_components,
    read_feature,
    scaled_matrix,
)


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
            "text_min_df": 1,
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
ITEMS = "item_id:token\ttitle:token_seq\nx\tred drum\ny\tdrum\nz\tflute\nw\tred flute\n"


def refuse_teacher(name: str):
    pytest.fail(f"the teacher {name} was trained")


def test_rows_of_a_file_are_joined_by_item_token(make_dataset, write):
    """The file has its rows in another order and one of an item that the data set lacks."""
    matrix = item_matrix(*make_dataset(item_features={"mine": write(VALUES)}))
    assert matrix.tolist() == [[0, 0], [1, 10], [2, 20], [3, 30], [4, 40]]
    assert matrix.dtype == torch.float32


def test_the_tokens_may_be_in_another_file(make_dataset, write, tmp_path):
    (tmp_path / "names.txt").write_text("x\ny\nz\nw\nv\n")
    sources = {"one": write(VALUES), "two": write([[5], [6], [7], [8], [9]], name="other")}
    matrix = item_matrix(
        *make_dataset(item_features=sources, item_feature_tokens=str(tmp_path / "names.txt"))
    )
    assert matrix.tolist() == [[0, 0, 0], [4, 40, 5], [3, 30, 6], [2, 20, 7], [1, 10, 8]]


def test_auto_prefers_text(make_dataset):
    config, dataset = make_dataset(items=ITEMS)
    assert choose_sources(config, dataset) == {"text": "tfidf"}
    # Three words, hence three components.
    assert item_matrix(config, dataset, refuse_teacher).shape == (5, 3)


def test_auto_without_text_takes_the_teacher_and_says_so(make_dataset, caplog):
    table = torch.arange(10.0).view(5, 2)
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        matrix = item_matrix(*make_dataset(), {"SASRec": table}.__getitem__)
    assert len(caplog.messages) == 1
    assert "'toy' has no item text, so the item embeddings of a SASRec" in caplog.messages[0]
    assert torch.equal(matrix[1:], table[1:])
    assert not matrix[0].any()
    assert table[0].any()


def test_every_source_has_its_own_reader(make_dataset, write, monkeypatch):
    def give(first):
        return torch.tensor([[0.0], [first], [3], [4], [5]])

    monkeypatch.setattr(item_features, "tfidf_features", lambda config, dataset: give(1))
    monkeypatch.setattr(item_features, "ppmi_features", lambda config, dataset: give(7))
    monkeypatch.setattr(item_features, "preloaded_embeddings", lambda config, dataset: give(2))
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
        "g": "minilm",
        "h": "ppmi",
    }
    tables = {"BPR": give(3), "SASRec": give(4)}
    matrix = item_matrix(*make_dataset(item_features=sources), tables.__getitem__)
    assert matrix[1].tolist() == [4, 3, 2, 24, 1, 10, 1, 6, 7]


def test_given_sources_replace_the_setting(make_dataset, write):
    run = make_dataset(item_features={"cf": "SASRec"})
    assert item_matrix(*run, refuse_teacher, {"mine": write(VALUES)})[1].tolist() == [1, 10]


def test_an_unknown_source_is_refused_before_any_is_read(make_dataset):
    run = make_dataset(item_features={"cf": "SASRec", "more": "SASRek"})
    with pytest.raises(UserError, match="names the source 'SASRek'"):
        item_matrix(*run, refuse_teacher)


def test_a_teacher_comes_after_all_other_sources_are_read(make_dataset):
    run = make_dataset(item_features={"cf": "SASRec", "more": "gone.npy"})
    with pytest.raises(MissingFileError, match=r"there is no file 'gone\.npy'"):
        item_matrix(*run, refuse_teacher)


@pytest.mark.parametrize("change", [{}, {"feature_pca": 3}])
def test_a_teacher_comes_after_all_other_sources_are_checked(make_dataset, write, change):
    values = np.array(VALUES, dtype=np.float32)
    values[0, 0] = np.nan
    run = make_dataset(item_features={"cf": "SASRec", "more": write(values)}, **change)
    with pytest.raises(UserError, match="'more' has NaN or infinite"):
        item_matrix(*run, refuse_teacher)


def test_a_missing_teacher_is_named(make_dataset):
    with pytest.raises(UserError, match="embeddings of SASRec are needed, but the model was given"):
        item_matrix(*make_dataset())


def test_a_file_in_the_home_folder(make_dataset, write, monkeypatch):
    path = write(VALUES)
    monkeypatch.setenv("HOME", os.path.dirname(path))
    matrix = item_matrix(*make_dataset(item_features={"mine": f"~/{os.path.basename(path)}"}))
    assert matrix[1].tolist() == [1, 10]


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
    matrix = scaled_matrix([reduced], "standardize")
    assert not matrix[:, 2:].any()


def test_components_are_made_of_each_feature_before_scaling(make_dataset, write):
    first, second = seeded(5, 4, 4).numpy(), seeded(5, 3, 3).numpy() * 5
    sources = {"one": write(first), "two": write(second, name="other")}
    config, dataset = make_dataset(
        item_features=sources, feature_pca=2, feature_scaling="standardize"
    )
    matrix = item_matrix(config, dataset)
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
        UserError,
        match="feature 'mine' has 4 items and 2 columns: give a whole number from 1 to 2, or none",
    ):
        item_matrix(config, dataset)


def test_no_more_components_than_items():
    with pytest.raises(
        UserError, match="has 3 items and 9 columns: give a whole number from 1 to 3"
    ):
        principal_components("a", seeded(4, 9, 3), 4)


@pytest.mark.parametrize("row", [[0.0, 0.0], [0.3, -7.0]])
def test_a_feature_that_is_the_same_for_all_items_is_refused(make_dataset, row):
    config, dataset = make_dataset()
    values = torch.tensor([[9.0, 9.0]] + [row] * 4)
    with pytest.raises(UserError, match="item feature 'a' has the same row for each of 4 items"):
        read_feature("a", "SASRec", config, dataset, lambda name: values)
    values[2, 1] += 1
    read = read_feature("a", "SASRec", config, dataset, lambda name: values)
    assert torch.equal(read[1:], values[1:])


@pytest.mark.parametrize("shape", [(4, 1), (5, 0), (5,)])
def test_a_feature_needs_a_row_per_item(make_dataset, shape):
    with pytest.raises(UserError, match=r"'b' has the shape \[.*\], but needs 5 rows"):
        read_feature("b", "SASRec", *make_dataset(), lambda name: torch.ones(shape))


def test_standardize_is_the_z_score_over_items():
    torch.manual_seed(0)
    values = torch.randn(50, 4) * torch.tensor([1.0, 1e-6, 1e4, 1.0]) + torch.tensor(
        [3.0, 0.0, 1e4, 0.0]
    )
    values[1:, 3] = 0.1
    before = values.clone()
    matrix = scaled_matrix([values], "standardize")
    np.testing.assert_allclose(
        matrix[1:, :3].numpy(), zscore(values[1:, :3].double().numpy()), atol=1e-5
    )
    assert not matrix[:, 3].any()
    assert not matrix[0].any()
    assert torch.equal(values, before)


def test_unit_norm_scales_each_feature_of_each_item():
    values = torch.tensor([[7.0, 7.0], [3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    torch.testing.assert_close(
        scaled_matrix([values, values[:, :1]], "unit_norm"),
        torch.tensor([[0.0, 0, 0], [0.6, 0.8, 1], [0, 0, 0], [0, -1, 0]]),
    )


def test_centered_is_the_direction_from_the_mean_item():
    values = torch.tensor([[7.0, 7.0], [13.0, 14.0], [7.0, 6.0]])
    torch.testing.assert_close(
        scaled_matrix([values], "centered"), torch.tensor([[0.0, 0], [0.6, 0.8], [-0.6, -0.8]])
    )


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
    with pytest.raises(UserError, match=message):
        item_matrix(*make_dataset(item_features={"mine": write(values, tokens)}))


def test_missing_and_pickled_files_are_named(make_dataset, write, tmp_path):
    with pytest.raises(MissingFileError, match=r"no file 'gone\.npy'"):
        item_matrix(*make_dataset(item_features={"mine": "gone.npy"}))
    path = write(VALUES)
    (tmp_path / "mine.tokens").unlink()
    with pytest.raises(MissingFileError, match=r"mine\.tokens"):
        item_matrix(*make_dataset(item_features={"mine": path}))
    with pytest.raises(UserError, match="not a plain numpy array"):
        item_matrix(*make_dataset(item_features={"mine": write(np.array([{}], dtype=object))}))
    (tmp_path / "mine.npy").write_bytes(b"")  # as after an interrupted copy
    with pytest.raises(UserError, match="not a plain numpy array"):
        item_matrix(*make_dataset(item_features={"mine": path}))


def test_tokens_of_rows_in_other_encodings(make_dataset, write, tmp_path):
    run = make_dataset(item_features={"mine": write(VALUES)})
    tokens = tmp_path / "mine.tokens"
    expected = item_matrix(*run)
    tokens.write_bytes(b"\xef\xbb\xbf" + tokens.read_bytes())  # as Windows begins a file
    assert torch.equal(item_matrix(*run), expected)
    tokens.write_bytes(b"\xfc\n" * 4)
    with pytest.raises(UserError, match=r"mine\.tokens' is not UTF-8"):
        item_matrix(*run)


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
    with pytest.raises(UserError, match=message):
        item_matrix(*make_dataset(**settings))
