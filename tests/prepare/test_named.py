"""Whole preparations: from files in the publishers' formats, served locally, to loaded data."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os

import pytest

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.prepare import folder, named
from recbole_genrec.prepare.named import is_known, prepare
from recbole_genrec.quick_start import create_dataset

DAY = 86400
START = 1400000000 // DAY * DAY
# User -> (item, day). b has one day for all; every item is in every history, so that this is a
# 5-core of 5 users and 5 items.
CORE = {
    "ua": [("i1", 1), ("i2", 2), ("i3", 3), ("i4", 4), ("i5", 5)],
    "ub": [("i3", 9), ("i1", 9), ("i5", 9), ("i2", 9), ("i4", 9)],
    "uc": [("i5", 5), ("i4", 4), ("i3", 3), ("i2", 2), ("i1", 1)],
    "ud": [("i2", 2), ("i4", 1), ("i1", 2), ("i5", 1), ("i3", 2)],
    "ue": [("i4", 7), ("i5", 8), ("i1", 9), ("i2", 9), ("i3", 8)],
}
# Ties in the order of the file, which is user by user here.
SEQUENCES = {
    "ua": ["i1", "i2", "i3", "i4", "i5"],
    "ub": ["i3", "i1", "i5", "i2", "i4"],
    "uc": ["i1", "i2", "i3", "i4", "i5"],
    "ud": ["i4", "i5", "i2", "i1", "i3"],
    "ue": ["i4", "i5", "i3", "i1", "i2"],
}
ROWS = [(user, item, day) for user, history in CORE.items() for item, day in history]
# ub came back to i4 later and, on the same day, reviewed i3 again; uf and i6 fall out of the core,
# and then ug.
EXTRA = [
    ("ub", "i4", 11),
    ("ub", "i3", 9),
    ("uf", "i6", 1),
    *[("ug", item, 1) for item in ("i1", "i2", "i3", "i4", "i6")],
]
HUGE = "<p>Huge &amp; long</p> " + "word " * 2_000_000


def packed(lines):
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), compresslevel=1)


def reviews_2014(rows):
    return [
        json.dumps(
            {
                "reviewerID": user,
                "asin": item,
                "reviewText": "\u00e9",
                "overall": 4.0,
                "unixReviewTime": START + day * DAY,
            }
        )
        for user, item, day in rows
    ]


def reviews_2023(rows):
    lines = [f"{user},{item},4.0,{(START + day * DAY) * 1000 + 7}" for user, item, day in rows]
    return ["user_id,parent_asin,rating,timestamp", *lines]


def metadata(key, items, **fields):
    return [
        {key: item, "title": f"Item {item[1:]} &amp; co", "description": ["plain"], **fields}
        for item in items
    ]


# name: served path and content of the reviews and of the metadata
def served_2014(description="plain"):
    records = [
        {**record, "categories": [["Beauty", "Hair"]]}
        for record in metadata("asin", ["i1", "i2", "i3", "i4", "i9"])
    ]
    records[1]["description"] = description
    return {
        "/amazon-2014/reviews_Beauty_5.json.gz": packed(reviews_2014(ROWS)),
        "/amazon-2014/meta_Beauty.json.gz": packed([repr(record) for record in records]),
    }


def served_2018():
    # i7 has enough reviews but no metadata: its users' reviews of it go.
    rows = [*ROWS, *EXTRA, *[(user, "i7", 12) for user in CORE]]
    records = metadata(
        "asin", ["i1", "i2", "i3", "i4", "i5", "i6"], category=["Music"], brand="by\n  Brand"
    )
    return {
        "/amazon-2018/Musical_Instruments_5.json.gz": packed(reviews_2014(rows)),
        "/amazon-2018/meta_Musical_Instruments.json.gz": packed(
            [json.dumps(record) for record in records]
        ),
    }


def served_2023():
    records = metadata(
        "parent_asin",
        ["i1", "i2", "i3", "i4", "i5"],
        store="Store",
        main_category="Music",
        features=["Good"],
    )
    return {
        "/amazon-2023/Musical_Instruments.csv.gz": packed(reviews_2023([*ROWS, *EXTRA])),
        "/amazon-2023/meta_Musical_Instruments.jsonl.gz": packed(
            [json.dumps(record) for record in records]
        ),
    }


SERVED = {
    "amazon-beauty-2014": served_2014,
    "amazon-instruments-2018": served_2018,
    "amazon-instruments": served_2023,
}


@pytest.fixture
def prepared(server, tmp_path):
    """Return a function that makes the folder of a name from the served files."""

    def make(name):
        server.files.update(SERVED[name]())
        return prepare(name, tmp_path / "data", server.url, False)

    return make


def loaded_sequences(name, data_path):
    """Return {user token: item tokens} as the data set of a run has them."""
    config = GenRecConfig(
        "TIGER",
        name,
        config_dict={"data_path": str(data_path), "user_inter_num_interval": "[0,inf)"},
    )
    data = create_dataset(config)
    users, items = data.field2id_token[data.uid_field], data.field2id_token[data.iid_field]
    starts = data.sequences.starts.tolist()
    return {
        str(users[user]): [
            str(items[item])
            for item in data.sequences.items[starts[user] : starts[user + 1]].tolist()
        ]
        for user in range(1, data.user_num)
    }


@pytest.mark.parametrize("name", SERVED)
def test_every_release_gives_the_same_histories_to_a_run(prepared, monkeypatch, name):
    target = prepared(name)
    assert sorted(os.listdir(target)) == [f"{name}.inter", f"{name}.item", "data_card.json"]
    monkeypatch.chdir(target.parent)
    assert loaded_sequences(name, target.parent) == SEQUENCES


def test_files_of_2014_literally_with_a_description_of_ten_megabytes(server, tmp_path):
    server.files.update(served_2014(HUGE))
    target = prepare("amazon-beauty-2014", tmp_path, server.url, False)
    lines = (target / "amazon-beauty-2014.inter").read_text().splitlines()
    assert lines[:3] == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        f"ua\ti1\t4\t{START + DAY}",
        f"ua\ti2\t4\t{START + 2 * DAY}",
    ]
    assert [tuple(line.split("\t")[:2]) for line in lines[1:]] == [
        (user, item) for user, items in SEQUENCES.items() for item in items
    ]
    lines = (target / "amazon-beauty-2014.item").read_text().splitlines()
    huge = ("Huge & long " + "word " * 1000)[:2000].rstrip()
    assert lines == [
        "item_id:token\ttitle:token_seq\tbrand:token_seq\tcategories:token_seq\tdescription:token_seq",
        "i1\tItem 1 & co\t\tBeauty, Hair\tplain",
        f"i2\tItem 2 & co\t\tBeauty, Hair\t{huge}",
        "i3\tItem 3 & co\t\tBeauty, Hair\tplain",
        "i4\tItem 4 & co\t\tBeauty, Hair\tplain",
        "i5\t\t\t\t",
    ]


def test_items_of_2018_and_2023_literally(prepared):
    lines = (
        (prepared("amazon-instruments-2018") / "amazon-instruments-2018.item")
        .read_text()
        .splitlines()
    )
    assert (lines[1], len(lines)) == ("i1\tItem 1 & co\tBrand\tMusic\tplain", 6)
    target = prepared("amazon-instruments")
    lines = (target / "amazon-instruments.item").read_text().splitlines()
    assert (lines[1], len(lines)) == ("i1\tItem 1 & co\tStore\tMusic\tGood plain", 6)
    assert (
        f"\nub\ti4\t4\t{(START + 9 * DAY) * 1000 + 7}\n"
        in (target / "amazon-instruments.inter").read_text()
    )


def test_the_card_says_where_everything_comes_from(prepared, server):
    card = json.loads((prepared("amazon-instruments-2018") / "data_card.json").read_text())
    content = server.files["/amazon-2018/Musical_Instruments_5.json.gz"]
    assert card["files"][0]["name"] == "Musical_Instruments_5.json.gz"
    assert (
        card["files"][0]["addresses"][0]
        == f"{server.url}/amazon-2018/Musical_Instruments_5.json.gz"
    )
    assert card["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert card["files"][0]["bytes"] == len(content)
    assert card["counts"] == {
        "users": 5,
        "items": 5,
        "interactions": 25,
        "items_without_metadata": 0,
        "items_without_text": 0,
        "reviews_read": 38,
        "review_lines_skipped": 0,
        "metadata_lines_skipped": 0,
    }
    assert card["published_counts"] == {"users": 24772, "items": 9922, "interactions": 206153}
    assert (card["name"], card["release"], card["category"]) == (
        "amazon-instruments-2018",
        "amazon-2018",
        "Musical_Instruments",
    )
    assert card["timestamp"] == "seconds since 1970"
    assert card["filter"]["items_without_metadata"].startswith("dropped")
    assert card["date"].endswith("+00:00")
    assert card["citation"] and card["terms"] and card["source"].startswith("https://")


def test_items_without_metadata_are_kept_and_counted_in_2014(prepared, caplog):
    with caplog.at_level(logging.INFO):
        target = prepared("amazon-beauty-2014")
    counts = json.loads((target / "data_card.json").read_text())["counts"]
    assert (counts["items"], counts["items_without_metadata"], counts["items_without_text"]) == (
        5,
        1,
        1,
    )
    assert "1 of 5 items have no metadata" in caplog.text
    assert "the raw files stay in" in caplog.text


def test_broken_lines_are_counted_on_the_card(server, tmp_path):
    server.files.update(served_2014())
    rows = [(f"{user}{copy}", item, day) for copy in range(4) for user, item, day in ROWS]
    server.files["/amazon-2014/reviews_Beauty_5.json.gz"] = packed(
        [*reviews_2014(rows), '{"reviewerID": "u']
    )
    target = prepare("amazon-beauty-2014", tmp_path, server.url, False)
    counts = json.loads((target / "data_card.json").read_text())["counts"]
    assert (counts["review_lines_skipped"], counts["users"], counts["interactions"]) == (1, 20, 100)


@pytest.mark.parametrize("counts", [(24772, 9922, 206153), (6, 5, 25), (5, 6, 25), (5, 5, 26)])
def test_other_numbers_than_the_published_are_a_warning_with_both(
    prepared, monkeypatch, caplog, counts
):
    find = named.find_dump
    monkeypatch.setattr(
        named, "find_dump", lambda name, mirror: find(name, mirror)._replace(counts=counts)
    )
    with caplog.at_level(logging.WARNING):
        prepared("amazon-instruments-2018")
    assert "5 users, 5 items, 25 interactions" in caplog.text
    assert "published are {:,} users, {:,} items, {:,} interactions".format(*counts) in caplog.text


@pytest.mark.parametrize(
    "counts, sentence",
    [((5, 5, 25), "25 interactions, as published"), (None, "no published numbers")],
)
def test_published_or_unknown_numbers_are_no_warning(
    prepared, monkeypatch, caplog, counts, sentence
):
    find = named.find_dump
    monkeypatch.setattr(
        named, "find_dump", lambda name, mirror: find(name, mirror)._replace(counts=counts)
    )
    with caplog.at_level(logging.INFO):
        target = prepared("amazon-beauty-2014")
    assert sentence in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    published = json.loads((target / "data_card.json").read_text())["published_counts"]
    assert published == (counts and dict(zip(("users", "items", "interactions"), counts)))


def test_a_second_call_does_nothing(prepared, server):
    target = prepared("amazon-instruments")
    before = {file.name: file.stat().st_mtime_ns for file in target.iterdir()}
    server.requests.clear()
    server.files.clear()
    assert prepare("amazon-instruments", target.parent, server.url, False) == target
    assert server.requests == []
    assert {file.name: file.stat().st_mtime_ns for file in target.iterdir()} == before


def test_a_folder_that_is_no_whole_data_set_is_refused_before_the_download(server, tmp_path):
    (tmp_path / "amazon-instruments").mkdir()
    (tmp_path / "amazon-instruments" / "amazon-instruments.inter").write_text("half")
    with pytest.raises(UserError, match="exists already: remove that folder"):
        prepare("amazon-instruments", tmp_path, server.url, False)
    assert server.requests == []


@pytest.mark.parametrize("step", ["read_metadata", "_interactions", "write_data_set"])
def test_an_interrupted_preparation_is_run_again_without_another_download(
    server, tmp_path, monkeypatch, step
):
    server.files.update(served_2023())

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(named, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare("amazon-instruments", tmp_path, server.url, False)
    assert os.listdir(tmp_path) == [".raw"]
    server.requests.clear()
    assert folder.is_complete(prepare("amazon-instruments", tmp_path, server.url, False))
    assert server.requests == []


def test_a_disk_that_fills_leaves_no_data_set(server, tmp_path, monkeypatch):
    server.files.update(served_2023())
    written = []

    def fill(file, *arguments):
        written.append(file)
        if len(written) == 2:  # the .inter file is there already
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_write_table", fill)
    with pytest.raises(UserError, match="the disk is full"):
        prepare("amazon-instruments", tmp_path, server.url, False)
    assert os.listdir(tmp_path) == [".raw"]


def test_an_empty_core_is_an_error(server, tmp_path):
    server.files.update(served_2023())
    server.files["/amazon-2023/Musical_Instruments.csv.gz"] = packed(reviews_2023(ROWS[:-1]))
    with pytest.raises(UserError, match=r"the 5-core of 'Musical_Instruments\.csv\.gz' is empty"):
        prepare("amazon-instruments", tmp_path, server.url, False)
    assert os.listdir(tmp_path) == [".raw"]


def test_names():
    assert is_known("amazon-beauty-2014")
    assert not is_known("ml-100k")


def test_an_unknown_name_is_refused_with_a_suggestion(tmp_path):
    with pytest.raises(
        UserError,
        match=r"no public data set 'amazon-instrument'.*did you mean 'amazon-instruments'.*--help",
    ):
        prepare("amazon-instrument", tmp_path, None, False)
    assert os.listdir(tmp_path) == []
