"""GenRecDataset reads, filters and numbers exactly as RecBole's SequentialDataset does."""

from __future__ import annotations

import builtins
import shutil
from pathlib import Path

import pandas as pd
import pytest
import recbole
from recbole.data.dataset import SequentialDataset

from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.files import InteractionFile
from recbole_genrec.errors import UserError

ML_100K = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
HEADER = "user_id:token\titem_id:token\ttimestamp:float"


@pytest.fixture
def reads(monkeypatch):
    """Return the files that this package's own reader has read."""
    paths, read = [], InteractionFile.read_columns

    def count(file, columns):
        table = read(file, columns)
        paths.extend([] if table is None else [file.path])
        return table

    monkeypatch.setattr(InteractionFile, "read_columns", count)
    return paths


def assert_same_feat(ours, theirs):
    if theirs is None:
        assert ours is None
        return
    assert list(ours.columns) == list(theirs.columns)
    for field in theirs:
        mine, other = ours[field].tolist(), theirs[field].tolist()
        assert ours[field].dtype == theirs[field].dtype
        assert (
            [list(row) for row in mine] == [list(row) for row in other]
            if ours[field].dtype == object
            else mine == other
        ), field


def assert_same(config_of):
    ours, theirs = GenRecDataset(config_of()), SequentialDataset(config_of())
    ordered = theirs.inter_feat.sort_values(
        ["user_id", "timestamp"], kind="stable", ignore_index=True
    )
    assert_same_feat(ours.inter_feat, ordered)
    assert_same_feat(ours.user_feat, theirs.user_feat)
    assert_same_feat(ours.item_feat, theirs.item_feat)
    for name in ("field2type", "field2source", "field2seqlen", "field2bucketnum", "field2token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
        assert list(getattr(ours, name)) == list(getattr(theirs, name)), name
    assert list(ours.field2id_token) == list(theirs.field2id_token)
    for field, tokens in theirs.field2id_token.items():
        assert ours.field2id_token[field].dtype == tokens.dtype
        assert ours.field2id_token[field].tolist() == tokens.tolist()
    assert str(ours) == str(theirs)
    return ours


@pytest.fixture
def ml_config(make_config, tmp_path):
    """Return settings for 20,000 rows of ml-100k, some twice, with its users and items."""
    folder = tmp_path / "ml"
    folder.mkdir()
    header, *rows = (ML_100K / "ml-100k.inter").read_text().splitlines()
    (folder / "ml.inter").write_text("\n".join([header, *rows[:20000], *rows[5000:5300]]) + "\n")
    for suffix in ("user", "item"):
        shutil.copy(ML_100K / f"ml-100k.{suffix}", folder / f"ml.{suffix}")
    columns = {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age"],
        "item": ["item_id", "class"],
    }
    return lambda **settings: make_config(name="ml", **{"load_col": columns, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}},
        {"load_col": None},
        {"user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[5,inf)"},
        {"user_inter_num_interval": "[30,60];(80,inf)"},
        {"item_inter_num_interval": "(2,40]", "load_col": {"inter": "*"}},
        {"val_interval": {"rating": "[4,inf)", "item_id": ["242", "302", "50", "100"]}},
        {"filter_inter_by_user_or_item": False},
        {"threshold": {"rating": 3}},
        {"unload_col": {"inter": ["rating"]}, "load_col": None},
    ],
    ids=str,
)
def test_ml_100k(ml_config, reads, settings):
    assert_same(lambda: ml_config(**settings))
    assert len(reads) == 1


def test_all_of_ml_100k(make_config, reads):
    settings = {
        "user_inter_num_interval": "[50,inf)",
        "item_inter_num_interval": "[50,inf)",
        "load_col": {"inter": "*"},
    }
    ours = assert_same(lambda: make_config(name="ml-100k", data_path=None, **settings))
    assert reads and 20000 < ours.inter_num < 100000


@pytest.mark.parametrize("keep", ["first", "last"])
def test_the_same_repeated_interactions_are_removed(ml_config, reads, keep):
    """RecBole numbers the rest in time order, ties by chance; here the file's order stays."""
    tables = []
    for data in (
        GenRecDataset(ml_config(rm_dup_inter=keep)),
        SequentialDataset(ml_config(rm_dup_inter=keep)),
    ):
        table = data.inter_feat.copy()
        for field in ("user_id", "item_id"):
            table[field] = data.id2token(field, table[field].to_numpy())
        tables.append(table.sort_values(list(table), ignore_index=True))
    assert len(tables[0]) == 20000 and reads
    pd.testing.assert_frame_equal(*tables)


LITERAL = [
    ("a", "x", 3, "red"),
    ("b", "x", 1, ""),
    ("b", "x", 2, "red"),
    ("a", "NA", 2, "red"),
    ("0012", "12", 5, "blue"),
    ("12", "0012", 5, "null"),
    ("a", "y z", 3, "blue"),
    ("ü", " x", 0.5, "green"),
    ("[PAD]", "x", 7, "[PAD]"),
    ("a", "x", 3, "red"),
    ("b", "q", -1, "None"),
]


@pytest.mark.parametrize(
    "settings", [{}, {"item_inter_num_interval": "[2,inf)"}, {"val_interval": {"color": ["red"]}}]
)
def test_missing_strange_and_repeated_tokens(make_config, reads, settings):
    ours = assert_same(lambda: make_config(LITERAL, header=HEADER + "\tcolor:token", **settings))
    assert reads
    if not settings:
        assert ours.field2id_token["user_id"].tolist() == [
            "[PAD]",
            "a",
            "b",
            "0012",
            "12",
            "ü",
            "[PAD]",
        ]
        assert ours.field2id_token["item_id"].tolist() == [
            "[PAD]",
            "x",
            "12",
            "0012",
            "y z",
            " x",
            "q",
        ]


def test_rows_without_user_or_item_are_left_out(make_config, caplog):
    """RecBole itself removes wrong rows if both occur or repeated items come before them."""
    rows = [
        ("a", "x", 1),
        ("", "y", 2),
        ("a", "", 3),
        ("a", "z", 4),
        ("null", "NA", 5),
        ("b", "x", 6),
        ("a", "y", 7),
    ]
    config = make_config(rows, load_col=None)
    folder = Path(config["data_path"])
    (folder / "toy.item").write_text("item_id:token\tsize:float\nx\t1\nx\t2\n\t3\ny\t4\nz\t5\n")
    data = GenRecDataset(config)
    assert data.id2token("user_id", data.inter_feat["user_id"]).tolist() == list("aaab")
    assert data.id2token("item_id", data.inter_feat["item_id"]).tolist() == list("xzyx")
    assert data.item_feat["size"].tolist()[1:] == [1, 5, 4]
    assert [line for line in caplog.messages if "left out" in line] == [
        "1 rows of item_feat have no item_id: they are left out",
        "3 rows of inter_feat have no user_id or item_id: they are left out",
    ]


def test_items_and_users_of_files(make_config, tmp_path, reads):
    def config_of(**given):
        return make_config(LITERAL, header=HEADER + "\tcolor:token", load_col=None, **given)

    config_of()
    (tmp_path / "toy" / "toy.item").write_text(
        "item_id:token\tsize:float\ttags:token_seq\nq\t1\ta b\nnew\t2\tb\n\t3\ta\nx\t\t\nq\t5\t\n"
    )
    (tmp_path / "toy" / "toy.user").write_text("user_id:token\tage:token\nother\t3\na\t4\nb\t\n")
    for given in (
        {},
        {"filter_inter_by_user_or_item": False},
        {"item_inter_num_interval": "[1,inf)", "user_inter_num_interval": "[2,9]"},
    ):
        assert_same(lambda given=given: config_of(**given))
    assert len(reads) == 3


def test_other_columns_that_share_the_items_ids(make_config, reads):
    rows = [
        (*row[:3], other)
        for row, other in zip(LITERAL, ["q", "x", "z", "x", "y", "q", "x", "x", "x", "x", "w"])
    ]
    ours = assert_same(
        lambda: make_config(rows, header=HEADER + "\tseen:token", alias_of_item_id=["seen"])
    )
    assert reads
    assert ours.field2token_id["seen"] is ours.field2token_id["item_id"]


FIELDS = [column.split(":")[0] for column in HEADER.split("\t")]


def test_items_of_the_item_file_that_share_the_items_ids(make_config, reads):
    config = make_config(
        LITERAL, header=HEADER + "\tcolor:token", load_col=None, alias_of_item_id=["similar"]
    )
    (Path(config["data_path"]) / "toy.item").write_text(
        "item_id:token\tsimilar:token_seq\nq\tx new\nx\t\nw\tq q\n"
    )
    ours = assert_same(lambda: config)
    assert reads
    assert [list(row) for row in ours.item_feat["similar"][:2]] == [[], []]
    assert list(
        ours.id2token("item_id", ours.item_feat["similar"][ours.token2id("item_id", "q")])
    ) == ["x", "new"]


@pytest.mark.parametrize(
    "columns, row",
    [
        ("tags:token_seq", "red blue"),
        ("embedding:float_seq", "1 2.5"),
        ("seen_items:token_seq", "x q"),
    ],
    ids=["token_seq", "float_seq", "alias"],
)
def test_sequence_columns_are_read_by_recbole(make_config, reads, columns, row):
    rows = [(*line[:3], row if number % 2 else "") for number, line in enumerate(LITERAL)]
    alias = {"alias_of_item_id": ["seen_items"]} if "seen" in columns else {}
    assert_same(lambda: make_config(rows, header=f"{HEADER}\t{columns}", **alias))
    assert not reads


def test_sequence_columns_that_are_not_loaded_do_not_matter(make_config, reads):
    rows = [(*row[:3], "a b") for row in LITERAL]
    assert_same(
        lambda: make_config(rows, header=f"{HEADER}\ttags:token_seq", load_col={"inter": FIELDS})
    )
    assert reads


def test_quoted_tokens_are_read_by_recbole(make_config, reads):
    rows = [('"the ""x"""', "x", 1), ("a", 'so "called"', 2), ('"a"', "x", 3)]
    ours = assert_same(lambda: make_config(rows))
    assert not reads
    assert ours.field2id_token["user_id"].tolist() == ["[PAD]", 'the "x"', "a"]


def test_long_separators_are_read_by_recbole(make_config, reads):
    config = make_config([], field_separator=", ")
    lines = [
        HEADER.replace("\t", ", "),
        *(f"{user}, {item}, {time}" for user, item, time, _ in LITERAL),
    ]
    (Path(config["data_path"]) / "toy.inter").write_text("\n".join(lines) + "\n")
    assert_same(lambda: config)
    assert not reads


def test_a_column_of_a_type_that_recbole_does_not_know(make_config):
    with pytest.raises(
        UserError, match=r"declares 'x' as 'words', but RecBole's types are token, "
    ):
        GenRecDataset(make_config([("a", "x", 1, 2)], header=f"{HEADER}\tx:words"))


def test_strings_of_the_file_are_not_held_after_reading(make_config):
    data = GenRecDataset(make_config(LITERAL, header=HEADER + "\tcolor:token"))
    assert {dtype.kind for dtype in data.inter_feat.dtypes} == {"i", "f"}


def test_a_plain_file_is_opened_once(make_config, monkeypatch):
    paths, opened = [], builtins.open

    def count(path, *given, **named):
        paths.append(str(path))
        return opened(path, *given, **named)

    config = make_config([("a", item, item) for item in range(5)])
    monkeypatch.setattr(builtins, "open", count)
    GenRecDataset(config)
    assert len([path for path in paths if path.endswith(".inter")]) == 1
