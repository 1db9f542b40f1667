from __future__ import annotations

import hashlib
import json
import logging

import pandas as pd
import pytest

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.features.text import item_sentences
from recbole_genrec.prepare import own_files, table_files
from recbole_genrec.prepare.catalog import dump_names
from recbole_genrec.prepare.column_names import ColumnNames
from recbole_genrec.prepare.own_files import check_target, item_texts, prepare_own_files
from recbole_genrec.quick_start import create_dataset

RATINGS = """userId,movieId,rating,timestamp
ann,007,4,400
bob,1.0,5,100
ann,7,3.5,100
ann,007,4,300
bob,007,,50
"""
PURCHASES = (
    ("007", "1.0", "03T10:00:00"),
    ("007", "a, b", "01T10:00:00Z"),
    ("7", "1", "04T10:00:00"),
    ("007", "01", "03T10:00:00+01:00"),
    ("7", "01", "02T10:00:00"),
    ("007", "1", "09T10:00:00"),
    ("7", "1.0", "03T10:00:00"),
    ("7", "1.0", "08T10:00:00"),
    (" 7 ", "a, b", "07T10:00:00"),
)
MOVIES = """movieId,title,year,rating
7,"Seven, the film",1995,18
007,Dr. No,1962,12
x,Unseen,2000,6
7,Seven again,1995,18
,Nameless,1,1
"""


@pytest.fixture
def prepare(tmp_path):
    """Return a function that prepares tables and returns the lines of .inter and .item."""

    def make(interactions, items=None, name="shop", k_core=None, separator=None, **given):
        paths = []
        for kind, content in (("inter.csv", interactions), ("items.csv", items)):
            paths.append(None if content is None else tmp_path / kind)
            if content is not None:
                paths[-1].write_text(content, encoding="utf-8")
        target = tmp_path / "data" / name
        prepare_own_files(*paths, target, ColumnNames(**given), k_core, separator)
        tables = [target / f"{name}.inter", target / f"{name}.item"]
        return [path.read_text(encoding="utf-8").splitlines() for path in tables if path.exists()]

    return make


def refused(prepare, *arguments, **settings):
    with pytest.raises(UserError) as refusal:
        prepare(*arguments, **settings)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_two_tables_become_atomic_files_and_a_card(prepare, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    interactions, items = prepare(RATINGS, MOVIES)
    assert interactions == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "ann\t007\t4\t400",
        "bob\t1.0\t5\t100",
        "ann\t7\t3.5\t100",
        "ann\t007\t4\t300",
        "bob\t007\t\t50",
    ]
    assert items == [
        "item_id:token\ttitle:token_seq\tyear:token_seq\titem_rating:token_seq",
        "7\tSeven, the film\t1995\t18",
        "007\tDr. No\t1962\t12",
    ]
    for words in (
        "user = 'userId', item = 'movieId', time = 'timestamp', rating = 'rating'",
        "item = 'movieId', all others are text",
        "1 rows without an item id and 1 rows that repeat one",
        "1 of 3 items have no row in the item table",
        "1 of 3 items of the item table have no interactions",
    ):
        assert words in caplog.text
    card = json.loads((tmp_path / "data" / "shop" / "data_card.json").read_text())
    assert card["name"] == "shop"
    assert card["counts"] == {"users": 2, "items": 3, "interactions": 5}
    assert card["columns"] == {
        "user": "userId",
        "item": "movieId",
        "time": "timestamp",
        "rating": "rating",
        "item_id": "movieId",
    }
    assert (card["timestamp"], card["filter"]) == ("the numbers of 'timestamp'", "none")
    assert card["rows_left_out_for_an_empty_id"] == 0
    assert [file["name"] for file in card["files"]] == ["inter.csv", "items.csv"]
    assert card["files"][0]["sha256"] == hashlib.sha256(RATINGS.encode()).hexdigest()
    assert card["files"][1]["bytes"] == len(MOVIES.encode())


def test_from_two_tables_to_sequences(tmp_path, monkeypatch):
    """Ids are as written, dates are times, histories are in time order, text is at its item."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.csv").write_text(
        "customer;sku;date\n"
        + "".join(f"{user};{item};2024-05-{time}\n" for user, item, time in PURCHASES)
    )
    (tmp_path / "items.csv").write_text(
        'product;name\n01;"red; drum"\n1.0;blue drum\na, b;"quoted"\n1;horn\n'
    )
    given = ColumnNames(item_id="product")
    prepare_own_files(
        tmp_path / "my.csv", tmp_path / "items.csv", tmp_path / "data" / "shop", given, None, ";"
    )
    settings = {
        "data_path": str(tmp_path / "data"),
        "topk": [3],
        "valid_metric": "NDCG@3",
        "n_beams": 3,
    }
    config = GenRecConfig("TIGER", "shop", config_dict=settings)
    dataset = create_dataset(config)
    tokens = dataset.field2id_token["item_id"]
    starts = dataset.sequences.starts.tolist()
    items = tokens[dataset.sequences.items.numpy()].tolist()
    histories = {
        user: items[starts[number] : starts[number + 1]]
        for number, user in enumerate(dataset.field2id_token["user_id"])
    }
    assert histories == {
        "[PAD]": [],
        "007": ["a, b", "01", "1.0", "1"],
        "7": ["01", "1.0", "1", "a, b", "1.0"],
    }
    sentences = dict(zip(tokens, item_sentences(config, dataset)))
    assert sentences == {
        "[PAD]": "",
        "01": "red; drum",
        "1.0": "blue drum",
        "a, b": "quoted",
        "1": "horn",
    }


def test_without_times_the_order_of_the_file_counts(prepare, caplog):
    (interactions,) = prepare("user,item\nb,1\n,9\na,2\nb,0\n")
    assert interactions == [
        "user_id:token\titem_id:token\ttimestamp:float",
        "b\t1\t0",
        "a\t2\t2",
        "b\t0\t3",
    ]
    assert "the order of its rows is taken" in caplog.text
    assert "1 of 4 rows have no user or no item" in caplog.text


def test_repeated_interactions_and_equal_times_stay_in_file_order(prepare):
    (interactions,) = prepare("user,item,time\na,2,5\na,1,5\na,2,5\n")
    assert interactions[1:] == ["a\t2\t5", "a\t1\t5", "a\t2\t5"]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_pieces_make_no_difference(prepare, monkeypatch, size):
    monkeypatch.setattr(table_files, "_PIECE_ROWS", size)
    interactions, items = prepare(
        "user,item,time\n,2,\na,2,2024-01-01\nb,1,2024-01-02\na,1,2024-01-03\n",
        "item,title\n1,x\n2,y\n",
    )
    assert interactions[1:] == ["a\t2\t1704067200", "b\t1\t1704153600", "a\t1\t1704240000"]
    assert items[1:] == ["1\tx", "2\ty"]


def test_a_bad_time_far_below_is_named_by_its_row(prepare, monkeypatch):
    monkeypatch.setattr(table_files, "_PIECE_ROWS", 2)
    message = refused(prepare, "user,item,time\na,1,1\na,2,2\n,,\na,3,2024-01-01\n")
    assert "'2024-01-01' in row 4 below the header" in message


def test_k_core_by_hand(prepare, tmp_path, caplog):
    """c goes for its one interaction, then item 3 for its last, then b; a and d keep 1 and 2."""
    caplog.set_level(logging.INFO)
    rows = "a,1 a,2 b,3 b,1 c,3 d,1 d,2".replace(" ", "\n")
    interactions, items = prepare(f"user,item\n{rows}\n", "item,title\n3,c\n2,b\n1,a\n", k_core=2)
    assert interactions[1:] == ["a\t1\t0", "a\t2\t1", "d\t1\t5", "d\t2\t6"]
    assert items[1:] == ["2\tb", "1\ta"]
    assert "2-core: 4 of 7 interactions stay" in caplog.text
    card = json.loads((tmp_path / "data" / "shop" / "data_card.json").read_text())
    assert card["counts"] == {"users": 2, "items": 2, "interactions": 4}
    assert "at least 2 interactions" in card["filter"]["core"]


def test_filters_that_leave_nothing_and_senseless_ones(prepare, tmp_path):
    assert "3-core of 2 interactions is empty" in refused(
        prepare, "user,item\na,1\na,2\n", k_core=3
    )
    assert "k_core is 0" in refused(prepare, "user,item\na,1\na,2\n", k_core=0)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "interactions, items, words",
    [
        ("user,item,time\n", None, ["header and no rows"]),
        ("user,item\n,1\na,\n", None, ["none of the 2 rows"]),
        ("user,item\na,1\na,\n", "item,title\n", ["header and no rows", "--items"]),
        ("user,item\na,1\n", "item,title\n,x\n", ["no row", "'item'", "--item_id_column"]),
        ("user,item\na,1\n", ",item\n0,1\n", ["no named column beside 'item'"]),
        ("user,item\na,i1\n", "item,title\n1,x\n2,y\n", ["'i1'", "'1', '2'", "--item_id_column"]),
        ('user,item\na,1\nb,"x\ty"\n', None, ["item id 'x\\ty'", "row 2 below the header"]),
        ('user,item\n"a\nb",1\n', None, ["user id 'a\\nb'", "row 1 below the header"]),
        (
            "user,item\na,1\n",
            'item,title\n1,x\n"2\n3",y\n',
            ["item id '2\\n3'", "row 2 below the header", "items.csv"],
        ),
        ("user,item,time\na,1,5\na,2,\n", None, ["time ''", "row 2 below the header"]),
        (
            "user,item,time\na,1,yesterday\n",
            None,
            ["'yesterday'", "row 1", "number or an ISO date"],
        ),
        ("user,item,rating\na,1,5\na,2,good\n", None, ["rating 'good'", "row 2"]),
        ("user,item\nNA,1\n", None, ["'NA'", "user_id"]),
    ],
)
def test_tables_that_are_refused(prepare, tmp_path, interactions, items, words):
    message = refused(prepare, interactions, items)
    assert all(word in message for word in words), message
    assert not (tmp_path / "data" / "shop").exists()


def test_every_way_to_write_an_id_is_an_id_of_its_own(prepare):
    (interactions,) = prepare("user,item\n007,1\n7,1.0\n7.0,01\n1e3,+1\nTrue,-1\n")
    assert [line.split("\t")[:2] for line in interactions[1:]] == [
        ["007", "1"],
        ["7", "1.0"],
        ["7.0", "01"],
        ["1e3", "+1"],
        ["True", "-1"],
    ]


@pytest.mark.parametrize("name", ["", "..", ".shop", "a b", "a\tb", "a\\b", "-x", "shop\n"])
def test_names_that_are_no_folder(tmp_path, name):
    target = tmp_path / name if name else own_files.Path("")
    with pytest.raises(UserError, match="no name of a folder"):
        check_target(target)


def test_names_of_public_data_sets_and_taken_folders(tmp_path):
    for name in ("ml-100k", "ml-1m", "yelp-2018", *dump_names()[:2], dump_names()[-1]):
        with pytest.raises(UserError, match="public data set"):
            check_target(tmp_path / name)
    (tmp_path / "mine").mkdir()
    check_target(tmp_path / "mine")
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        check_target(tmp_path / "mine")
    for name in ("shop", "Shop_2.0-x", "größe", "7"):
        check_target(tmp_path / name)


def test_a_taken_name_is_refused_before_the_files_are_read(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        prepare_own_files(
            tmp_path / "nowhere.csv", None, tmp_path / "shop", ColumnNames(), None, None
        )


def test_the_separator_applies_to_tables_of_the_same_kind(tmp_path):
    (tmp_path / "my.csv").write_text("user;item\na;1\n")
    (tmp_path / "items.jsonl").write_text('{"item": 1, "title": "x;y", "tags": ["p", "q"]}\n')
    prepare_own_files(
        tmp_path / "my.csv", tmp_path / "items.jsonl", tmp_path / "shop", ColumnNames(), None, ";"
    )
    assert (tmp_path / "shop" / "shop.item").read_text().splitlines()[1] == "1\tx;y\tp q"


def test_row_numbers_of_pandas_are_no_text():
    rows = pd.DataFrame({"": ["0"], "id": ["a"], "Unnamed: 0": ["0"], "title": ["x"]})
    assert item_texts(rows, "id", "i.csv").to_dict("list") == {"item_id": ["a"], "title": ["x"]}
