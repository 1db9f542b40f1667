from __future__ import annotations

import pytest

from recbole_genrec.errors import UserError
from recbole_genrec.prepare.column_names import (
    ColumnNames,
    find_interaction_columns,
    find_item_id_column,
    text_field_names,
)


@pytest.mark.parametrize(
    "columns, expected",
    [
        (
            ["user_id", "item_id", "timestamp", "rating"],
            ("user_id", "item_id", "timestamp", "rating"),
        ),
        (
            ["userId", "movieId", "rating", "timestamp"],
            ("userId", "movieId", "timestamp", "rating"),
        ),
        (
            ["reviewerID", "reviewerName", "asin", "overall", "reviewTime", "unixReviewTime"],
            ("reviewerID", "asin", "unixReviewTime", "overall"),
        ),
        (["", "SESSION ID", "sku", "id"], ("SESSION ID", "sku", None, None)),
        (
            ["Customer", "Product", "Date", "stars", "price"],
            ("Customer", "Product", "Date", "stars"),
        ),
    ],
)
def test_guesses(columns, expected):
    assert find_interaction_columns(columns, ColumnNames(), "t.csv") == ColumnNames(*expected)


@pytest.mark.parametrize(
    "columns, given, words",
    [
        (
            ["user", "session_id", "item", "time"],
            {},
            ["user", "['user', 'session_id']", "--user_column"],
        ),
        (["user", "asin", "parent_asin"], {}, ["item", "['asin', 'parent_asin']", "--item_column"]),
        (["user", "item", "date", "time"], {}, ["time", "['date', 'time']", "--time_column"]),
        (
            ["user", "item", "score", "rating"],
            {},
            ["rating", "['score', 'rating']", "--rating_column"],
        ),
        (["who", "item"], {}, ["['who', 'item']", "user", "--user_column"]),
        (["user", "what"], {}, ["['user', 'what']", "item", "--item_column"]),
        (["user", "item"], {"user": "User"}, ["'User'", "['user', 'item']", "--user_column"]),
        (["user", "item"], {"time": "when"}, ["'when'", "--time_column"]),
        (["user", "item"], {"item": "user"}, ["'user'", "two things"]),
        (["user", "item", "time"], {"rating": "time"}, ["'time'", "two things"]),
    ],
)
def test_what_cannot_be_guessed_is_one_sentence(columns, given, words):
    with pytest.raises(UserError) as refusal:
        find_interaction_columns(columns, ColumnNames(**given), "t.csv")
    assert all(word in str(refusal.value) for word in [*words, "'t.csv'"]), refusal.value


def test_given_columns_win():
    columns = ["user", "session_id", "item", "asin", "date", "time", "score", "rating"]
    given = ColumnNames("session_id", "asin", "date", "score")
    assert find_interaction_columns(columns, given, "t.csv") == given


def test_column_of_item_ids():
    assert find_item_id_column(["title", "what", "item"], None, "what", "i.csv") == "what", (
        "the name in the interactions comes first"
    )
    assert find_item_id_column(["title", "movieId"], None, "item", "i.csv") == "movieId"
    assert find_item_id_column(["ID", "title"], None, "item", "i.csv") == "ID"
    assert find_item_id_column(["item", "code"], "code", "item", "i.csv") == "code"
    for columns, given, word in (
        (["title", "price"], None, "--item_id_column"),
        (["asin", "sku"], None, "--item_id_column"),
        (["item", "title"], "Item", "'Item'"),
    ):
        with pytest.raises(UserError, match=word):
            find_item_id_column(columns, given, "product", "i.csv")


def test_names_of_text_fields():
    columns = ["Title", " list price ($)", "a:b", "rating", "timestamp", "%", "größe"]
    names = ["Title", "list_price", "a_b", "item_rating", "item_timestamp", "text", "größe"]
    assert text_field_names(columns, "i.csv") == names
    with pytest.raises(UserError, match="'a b' and 'a:b'"):
        text_field_names(["a b", "a:b"], "i.csv")
