from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from recbole_genrec.errors import UserError
from recbole_genrec.prepare import folder
from recbole_genrec.prepare.folder import is_complete, one_line, require_free, write_data_set

CARD = {"name": "shop", "counts": {"users": 2}}


def interactions(**columns):
    return pd.DataFrame(
        {
            "user_id": ["ann", "bob", "ann"],
            "item_id": ["cup", "cup", "jug"],
            "timestamp": [3, 2, 1],
            **columns,
        }
    )


def write(target, table=None, items=None):
    write_data_set(target, interactions() if table is None else table, items, CARD)


def test_files_are_recboles_and_in_the_order_given(tmp_path):
    items = pd.DataFrame(
        {"item_id": ["jug", "cup"], "title": ["Blue jug", None], "brand": [np.nan, "Mug & Co"]}
    )
    write(tmp_path / "shop", interactions(rating=[5.0, 4.5, np.nan]), items)
    assert (tmp_path / "shop" / "shop.inter").read_text() == (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nann\tcup\t5\t3\nbob\tcup\t4.5\t2\nann\tjug\t\t1\n"
    )
    assert (tmp_path / "shop" / "shop.item").read_text() == (
        "item_id:token\ttitle:token_seq\tbrand:token_seq\njug\tBlue jug\t\ncup\t\tMug & Co\n"
    )
    assert json.loads((tmp_path / "shop" / "data_card.json").read_text()) == CARD
    assert os.listdir(tmp_path) == ["shop"]
    assert is_complete(tmp_path / "shop")


def test_without_items_there_is_no_item_file(tmp_path):
    write(tmp_path / "below" / "shop")
    assert sorted(os.listdir(tmp_path / "below" / "shop")) == ["data_card.json", "shop.inter"]


def test_integers_and_categories_are_tokens_too_and_unused_categories_do_not_count(tmp_path):
    users = pd.Categorical.from_codes([1, 0, 1], ["x", "y", "NA"])
    write(
        tmp_path / "shop",
        interactions(user_id=users, item_id=[7, 7, 10]),
        pd.DataFrame({"item_id": [10, 7], "title": ["a", "b"]}),
    )
    assert (tmp_path / "shop" / "shop.inter").read_text().splitlines()[1:] == [
        "y\t7\t3",
        "x\t7\t2",
        "y\t10\t1",
    ]
    assert (tmp_path / "shop" / "shop.item").read_text().splitlines()[1:] == ["10\ta", "7\tb"]


def test_more_rows_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_CHUNK_ROWS", 4)
    table = pd.DataFrame(
        {
            "user_id": [f"u{n % 3}" for n in range(11)],
            "item_id": [f"i{n}" for n in range(11)],
            "timestamp": range(11),
        }
    )
    write(
        tmp_path / "shop",
        table,
        pd.DataFrame({"item_id": table["item_id"], "title": table["user_id"]}),
    )
    read = pd.read_csv(tmp_path / "shop" / "shop.inter", sep="\t")
    assert read.columns.tolist() == ["user_id:token", "item_id:token", "timestamp:float"]
    assert read.to_numpy().tolist() == table.to_numpy().tolist()
    assert len((tmp_path / "shop" / "shop.item").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    "times",
    [
        np.array([1400000000, 1400000001, 1400000002]),
        np.array([1.4e9, 1400000001.0, 0.0]),
        np.array([1452647382123.0, 0.1 + 0.2, 1e-300]),
        np.array([1e300, -2.5, 2.0**60]),
        np.array([1e19, 1.0, 2.0]),
        np.array([1.1, 2.2, 3.3], dtype=np.float32),
    ],
)
def test_times_come_back_bit_by_bit(tmp_path, times):
    write(tmp_path / "shop", interactions(timestamp=times))
    texts = [
        line.split("\t")[2]
        for line in (tmp_path / "shop" / "shop.inter").read_text().splitlines()[1:]
    ]
    assert [float(text) for text in texts] == times.astype(np.float64).tolist()
    assert not [text for text in texts if text.endswith(".0")]


@pytest.mark.parametrize(
    "text, line",
    [
        ("tab\there", "tab here"),
        (" two\r\nlines \u2028 three\x00four\x1b\x85 ", "two lines three four"),
        ('"quoted" 12" pipe', '\u201cquoted" 12" pipe'),
        ("half \ud83d a pair", "half a pair"),
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
        ("", ""),
    ],
)
def test_text_becomes_one_line(text, line):
    assert one_line(text) == line


def test_text_with_breaks_and_quotes_is_read_by_pandas_row_by_row(tmp_path):
    titles = ['"unbalanced', 'a "middle" mark', "a\nb\tc", "x,y;z"]
    write(tmp_path / "shop", items=pd.DataFrame({"item_id": list("abcd"), "title": titles}))
    expected = ["\u201cunbalanced", 'a "middle" mark', "a b c", "x,y;z"]
    read = pd.read_csv(tmp_path / "shop" / "shop.item", sep="\t", engine="python")
    assert read["title:token_seq"].tolist() == expected
    lines = (tmp_path / "shop" / "shop.item").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == expected


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"timestamp": [1.0, np.nan, np.inf]}, ["2 of 3", "timestamp"]),
        ({"timestamp": ["1", "2", "3"]}, ["timestamp", "numbers"]),
        ({"rating": ["good", "bad", "bad"]}, ["rating", "numbers"]),
        ({"user_id": ["ann", None, "ann"]}, ["user_id", "missing"]),
        ({"user_id": ["ann", "NA", "ann"]}, ["user_id", "'NA'"]),
        ({"item_id": ["cup", " ", "jug"]}, ["item_id", "''"]),
        ({"item_id": ["cup", "c\tup", "c up"]}, ["item_id", "1 ids"]),
    ],
)
def test_tables_that_recbole_would_misread_are_refused(tmp_path, columns, words):
    with pytest.raises(UserError) as caught:
        write(tmp_path / "shop", interactions(**columns))
    assert all(word in str(caught.value) for word in words)
    assert os.listdir(tmp_path) == []


def test_no_rows_and_repeated_items_are_refused(tmp_path):
    with pytest.raises(UserError, match="0 rows"):
        write(tmp_path / "shop", interactions().iloc[:0])
    with pytest.raises(UserError, match="1 rows with an item_id of another row"):
        write(
            tmp_path / "shop",
            items=pd.DataFrame({"item_id": ["cup", "jug", "cup"], "title": ["a", "b", "c"]}),
        )
    assert os.listdir(tmp_path) == []


def test_a_taken_target_is_refused_and_kept(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    for refused in (lambda: write(tmp_path / "shop"), lambda: require_free(tmp_path / "shop")):
        with pytest.raises(UserError, match="exists already: remove"):
            refused()
    assert os.listdir(tmp_path / "shop") == ["mine.txt"]
    assert not is_complete(tmp_path / "shop")


def test_a_target_that_is_filled_meanwhile_is_kept(tmp_path):
    def fill(unfinished):
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "theirs.txt").write_text("theirs")

    with pytest.raises(UserError, match="cannot be written"):
        write_data_set(tmp_path / "shop", interactions(), None, CARD, fill)
    assert os.listdir(tmp_path) == ["shop"]
    assert os.listdir(tmp_path / "shop") == ["theirs.txt"]


def test_an_empty_folder_is_no_obstacle(tmp_path):
    (tmp_path / "shop").mkdir()
    write(tmp_path / "shop")
    assert is_complete(tmp_path / "shop")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("stop")])
@pytest.mark.parametrize("step", ["_write_table", "_item_columns"])
def test_an_interruption_leaves_nothing_and_the_next_call_works(tmp_path, monkeypatch, error, step):
    items = pd.DataFrame({"item_id": ["cup", "jug"], "title": ["a", "b"]})

    def interrupt(*arguments):
        assert len(os.listdir(tmp_path)) == 1  # the hidden folder
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(folder, step, interrupt)
        with pytest.raises(type(error)):
            write(tmp_path / "shop", items=items)
    assert os.listdir(tmp_path) == []
    write(tmp_path / "shop", items=items)
    assert is_complete(tmp_path / "shop")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, number):
    def full(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        write(tmp_path / "shop")
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file_is_one_sentence(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written .* set data_path"):
        write(tmp_path / "data" / "shop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match=r"cannot be written .* set data_path"):
            write(tmp_path / "shop")
    finally:
        tmp_path.chmod(0o700)


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import pandas as pd
from recbole_genrec.prepare import folder
folder._item_columns = lambda items: os.kill(os.getpid(), signal.SIGKILL)
table = pd.DataFrame({{"user_id": ["a"], "item_id": ["b"], "timestamp": [1]}})
folder.write_data_set(folder.Path({target!r}), table, table, {{}})
"""


def test_a_folder_that_a_killed_process_left_goes_when_it_is_older_than_a_day(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(folder.__file__))))
    script = KILLED.format(root=root, target=str(tmp_path / "shop"))
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".shop-writing-")
    new, other = f"{left}-new", left.replace(".shop-", ".shop2-")
    for name in (new, other):
        (tmp_path / name).mkdir()
    two_days_ago = time.time() - 2 * 86_400
    for name in (left, other):
        os.utime(tmp_path / name, (two_days_ago, two_days_ago))
    write(tmp_path / "shop")
    assert sorted(os.listdir(tmp_path)) == sorted(["shop", new, other])


def test_added_files_arrive_with_the_rest(tmp_path):
    def add_files(unfinished):
        (unfinished / "more.txt").write_text("more")

    write_data_set(tmp_path / "shop", interactions(), None, CARD, add_files)
    assert (tmp_path / "shop" / "more.txt").read_text() == "more"
    assert is_complete(tmp_path / "shop")
