from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction, cat_interactions

from recbole_genrec.data import prefixes
from recbole_genrec.data.prefixes import Prefixes, all_prefixes

WIDTH = 3
NAMES = {"item": "item_list", "time": "time_list", "vector": "vector_list"}


@pytest.fixture
def flat():
    """Users 1, 2, 4 and 7 with 5, 1, 3 and 2 interactions; one column is a vector."""
    generator = torch.Generator().manual_seed(0)
    return {
        "user": torch.tensor([1, 1, 1, 1, 1, 2, 4, 4, 4, 7, 7]),
        "item": torch.tensor([9, 8, 9, 7, 6, 5, 3, 2, 3, 1, 4]),
        "time": torch.rand(11, generator=generator),
        "vector": torch.rand(11, 2, generator=generator),
    }


@pytest.fixture
def rows(flat):
    return all_prefixes(flat, "user", NAMES, "n", WIDTH)


@pytest.fixture
def expected(flat):
    """The same, row by row."""
    columns = {name: [] for name in [*flat, "n", *NAMES.values()]}
    for target in range(1, 11):
        if flat["user"][target] != flat["user"][target - 1]:
            continue
        before = [i for i in range(target) if flat["user"][i] == flat["user"][target]][-WIDTH:]
        for name, values in flat.items():
            columns[name].append(values[target])
        columns["n"].append(torch.tensor(len(before)))
        for name, list_name in NAMES.items():
            padding = torch.zeros(
                WIDTH - len(before), *flat[name].shape[1:], dtype=flat[name].dtype
            )
            columns[list_name].append(torch.cat([flat[name][before], padding]))
    return Interaction({name: torch.stack(column) for name, column in columns.items()})


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    assert list(ours) == ours.columns == list(theirs)
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture
def no_cutting(monkeypatch):
    def refuse(*given):
        raise AssertionError("a history was cut")

    monkeypatch.setattr(prefixes, "cut_histories", refuse)
    return monkeypatch


def test_rows_of_a_literal_user(rows):
    assert rows["item_list"][:4].tolist() == [[9, 0, 0], [9, 8, 0], [9, 8, 9], [8, 9, 7]]
    assert rows["item"].tolist() == [8, 9, 7, 6, 2, 3, 4]
    assert rows["n"].tolist() == [1, 2, 3, 3, 1, 2, 1]
    assert rows["user"].tolist() == [1, 1, 1, 1, 4, 4, 7]


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 65536])
def test_all_columns_equal_those_made_row_by_row(rows, expected, monkeypatch, rows_at_once):
    monkeypatch.setattr(prefixes, "_ROWS_AT_ONCE", rows_at_once)
    assert_equal(rows, expected)
    cut = rows.cut()
    assert type(cut) is Interaction
    assert_equal(cut, expected)


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 5),
        slice(None, None, 2),
        range(2, 6),
        [4, 0, 0],
        [],
        np.array([6, 1]),
        torch.tensor([3, 2], dtype=torch.int32),
        torch.tensor([True, False, False, True, True, False, False]),
    ],
    ids=str,
)
def test_choosing_rows_is_that_of_interactions_and_cuts_nothing(rows, expected, index, no_cutting):
    chosen = rows[index]
    assert type(chosen) is Prefixes
    again = chosen[::2]
    no_cutting.undo()
    theirs = expected[index]
    assert_equal(chosen, theirs)
    assert_equal(again, theirs[::2])
    assert_equal(chosen.cut(), theirs)


@pytest.mark.parametrize("index", [0, 5, np.int64(2), -1, -3])
def test_one_row(rows, expected, index):
    ours, theirs = rows[index], expected[int(index)]
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(IndexError):
        rows[7]


def test_moving_rows_is_that_of_interactions_and_cuts_nothing(rows, expected, no_cutting):
    rows.sort(by=["n", "item"])
    expected.sort(by=["n", "item"])
    torch.manual_seed(3)
    rows.shuffle()
    torch.manual_seed(3)
    expected.shuffle()
    twice, thrice = rows.repeat(2), rows.repeat_interleave(3)
    no_cutting.undo()
    assert_equal(rows, expected)
    assert_equal(twice, expected.repeat(2))
    assert_equal(thrice, expected.repeat_interleave(3))


def test_columns_are_dropped_set_and_updated(rows, expected):
    for some in (rows, expected):
        some.drop("time_list")
        del some["vector"]
        some["item"] = torch.arange(7) + 20
        some.update(Interaction({"label": torch.arange(7.0)}))
    assert_equal(rows[[6, 2]], expected[[6, 2]])
    assert "time_list" not in rows and "label" in rows
    with pytest.raises(KeyError):
        rows["time_list"]


def test_a_history_column_asked_for_by_name_is_made_once_and_follows_the_rows(rows, expected):
    assert rows["item_list"] is rows["item_list"]
    rows.sort(by="item")
    expected.sort(by="item")
    assert torch.equal(rows["item_list"], expected["item_list"])
    rows["item_list"] = torch.zeros(7, 1)
    assert rows["item_list"].shape == (7, 1)


def test_narrow_cuts_of_some_columns(rows, expected):
    short = torch.nonzero(expected["n"] <= 2).squeeze(1)
    cut = rows[short].cut(["item_list", "user"], 2)
    assert list(cut) == ["item_list", "user"]
    assert torch.equal(cut["item_list"], expected["item_list"][short][:, :2])
    assert torch.equal(cut["user"], expected["user"][short])


def test_the_flat_columns_are_held_once(flat, rows):
    sources = rows[[1, 2]][:1].interaction.sources
    assert sources["item"].values is flat["item"] and sources["item_list"].values is flat["item"]


def test_copies_pickles_and_concatenation(rows, expected):
    assert_equal(copy.deepcopy(rows), expected)
    assert_equal(pickle.loads(pickle.dumps(rows)), expected)
    joined = cat_interactions([rows[:2], rows[2:]])
    assert all(torch.equal(joined[name], expected[name]) for name in expected)
    assert_equal(rows.to("cpu"), expected)
    assert list(rows.numpy()) == list(expected)


def test_describing_rows_cuts_nothing(rows, no_cutting):
    assert str(rows) == f"7 rows (history, next item) with the columns {rows.columns}"


def test_no_rows_at_all():
    flat = {"user": torch.tensor([1, 2, 3]), "item": torch.tensor([4, 5, 6])}
    rows = all_prefixes(flat, "user", {"item": "item_list"}, "n", 4)
    assert len(rows) == 0
    assert rows.cut()["item_list"].shape == rows["item_list"].shape == (0, 4)
