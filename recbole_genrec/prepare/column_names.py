"""Roles of the columns of a user's table: guessed from common names, or given."""

from __future__ import annotations

import re
from typing import NamedTuple

from recbole_genrec.errors import UserError

# Names without case, spaces and punctuation.
_KNOWN = {
    "user": """
        user userid uid username reviewer reviewerid customer customerid visitor visitorid session
        sessionid member memberid buyer buyerid client clientid account accountid author authorid
        profile profileid
        """,
    "item": """
        item itemid iid product productid sku skuid asin parentasin movie movieid book bookid isbn
        song songid track trackid artist artistid article articleid news newsid video videoid game
        gameid business businessid recipe recipeid content contentid goods goodsid stockcode
        """,
    "time": """
        timestamp time ts unixtime unixreviewtime date datetime createdat eventtime reviewdate
        orderdate invoicedate purchasedate
        """,
    "rating": "rating ratings stars overall score",
}


class ColumnNames(NamedTuple):
    """Names of columns as the user gives them; None where they are guessed.

    Attributes:
        user: column of users in the table of interactions.
        item: column of items in the table of interactions.
        time: column of times in the table of interactions.
        rating: column of ratings in the table of interactions.
        item_id: column of the item table that holds the values of `item`.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    item_id: str | None = None


def find_interaction_columns(columns: list[str], given: ColumnNames, path: str) -> ColumnNames:
    """Find the columns of user, item and, where there are such columns, time and rating.

    Names are compared without case, spaces and punctuation: "User ID", "userId" and "user_id" are
    the same.

    Args:
        columns: names of the columns of a table of interactions.
        given: names that the user gives.
        path: file of the table, for messages.

    Raises:
        UserError: a given column is missing, user or item has no candidate, one of the four has
            several, or one column would have two roles.
    """
    found = {
        role: _find(role, columns, getattr(given, role), path, f"--{role}_column")
        for role in _KNOWN
    }
    for role in ("user", "item"):
        if found[role] is None:
            raise UserError(
                f"{path!r} has the columns {columns}, none of which is known to hold the {role}: "
                f"name it with --{role}_column"
            )
    chosen = [name for name in found.values() if name is not None]
    twice = [name for name in chosen if chosen.count(name) > 1]
    if twice:
        raise UserError(
            f"the column {twice[0]!r} of {path!r} is to be two things at once: name different "
            "columns with --..._column"
        )
    return ColumnNames(**found)


def find_item_id_column(
    columns: list[str], given: str | None, item_column: str | None, path: str
) -> str:
    """Find the column of an item table that holds the item ids.

    Args:
        columns: names of the columns of the item table.
        given: name that the user gives; it comes first.
        item_column: name of the item column of the interactions; it comes second, a guess third.
        path: file of the table, for messages.

    Raises:
        UserError: the given column is missing, or the guess finds none or several.
    """
    if given is None and item_column is not None and item_column in columns:
        return item_column
    found = _find("item", columns, given, path, "--item_id_column")
    if found is None:
        candidates = [name for name in columns if _plain(name) == "id"]
        found = candidates[0] if len(candidates) == 1 else None
    if found is None:
        raise UserError(
            f"{path!r} has the columns {columns}, none of which is known to hold the item ids: "
            "name it with --item_id_column"
        )
    return found


def text_field_names(columns: list[str], path: str) -> list[str]:
    """Return the names of the fields of an .item file, one for each column.

    They have letters, digits and underscores only and differ from the fields of an .inter file.

    Raises:
        UserError: two columns get one name.
    """
    names = [re.sub(r"\W+", "_", column.strip()).strip("_") or "text" for column in columns]
    names = [
        f"item_{name}" if name in ("user_id", "item_id", "timestamp", "rating") else name
        for name in names
    ]
    for position, name in enumerate(names):
        if name in names[:position]:
            first, second = columns[names.index(name)], columns[position]
            raise UserError(
                f"the columns {first!r} and {second!r} of {path!r} would both be the field "
                f"{name!r}: rename one"
            )
    return names


def _find(role: str, columns: list[str], given: str | None, path: str, flag: str) -> str | None:
    if given is not None:
        if given not in columns:
            raise UserError(
                f"{flag} is {given!r}, but {path!r} has the columns {columns}: choose one of these"
            )
        return given
    candidates = [name for name in columns if _plain(name) in _KNOWN[role].split()]
    if len(candidates) > 1:
        raise UserError(
            f"{path!r} has several columns that could be the {role}, {candidates}: "
            f"choose one with {flag}"
        )
    return candidates[0] if candidates else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
