"""A user's own tables -> a data set folder: read, checked, filtered, written."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recbole_genrec.errors import UserError
from recbole_genrec.prepare.cell_values import Tokens, is_iso_date, ratings, times
from recbole_genrec.prepare.column_names import (
    ColumnNames,
    find_interaction_columns,
    find_item_id_column,
    text_field_names,
)
from recbole_genrec.prepare.filters import k_core as rows_of_k_core
from recbole_genrec.prepare.folder import file_entry, require_free, write_data_set
from recbole_genrec.prepare.named import is_known
from recbole_genrec.prepare.table_files import TableFile

logger = logging.getLogger(__name__)


def prepare_own_files(
    interactions: Path,
    items: Path | None,
    target: Path,
    given: ColumnNames,
    k_core: int | None,
    separator: str | None,
) -> None:
    """Make a data set of a table of interactions and perhaps a table of items.

    Ids are the text of the file without white space around it. Rows with an empty user or item are
    left out and counted; repeated
    interactions stay. Times are numbers or ISO dates (seconds since 1970; UTC where the date names
    no zone); without a time column
    the order of the file counts. Of the item table the first row of an item counts and items
    without interactions are left out,
    both counted in the log; its other columns become text.

    Args:
        interactions, items: files that TableFile reads.
        target: folder to write; its name is the name of the data set.
        given: columns that are not to be guessed.
        k_core: leave only users and items with this many interactions or more; None for all.
        separator: of CSV and TSV files; None for comma and tab.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file, a column, an id, a time or a rating is not as it must be, or the target
            cannot be written.
    """
    check_target(target)
    table = TableFile(interactions, separator)
    columns = find_interaction_columns(table.columns, given, str(interactions))
    shown = ", ".join(
        f"{role} = {name!r}" for role, name in columns._asdict().items() if name is not None
    )
    logger.info("Columns of %s: %s", interactions, shown)
    rows, left_out, is_date = _read_interactions(table, columns)
    card: dict[str, Any] = {
        "source": "files of the user's own",
        "files": [file_entry(interactions)],
        "columns": {role: name for role, name in columns._asdict().items() if name is not None},
        "timestamp": _time_words(columns.time, is_date),
        "rows_left_out_for_an_empty_id": left_out,
    }
    texts = None
    if items is not None:
        item_table = TableFile(
            items, separator if _is_separated_alike(items, interactions) else None
        )
        column = find_item_id_column(item_table.columns, given.item_id, columns.item, str(items))
        logger.info("Columns of %s: item = %r, all others are text", items, column)
        texts = _read_items(item_table, column)
        card["files"].append(file_entry(items))
        card["columns"]["item_id"] = column
    filter_and_write(target, rows, texts, card, k_core)


def check_target(target: Path) -> None:
    """Refuse a folder that cannot become a data set of the user's own, before anything is read.

    Raises:
        ValueError: its name is no plain name or that of a public data set, or it is there already.
    """
    name = target.name
    if not re.fullmatch(r"[^\W_][\w.-]*", name):
        raise UserError(
            f"the name {name!r} is no name of a folder: use letters, digits, '-', '_' and '.', a letter or digit first"
        )
    if is_known(name) or name in _recboles_data_sets():
        raise UserError(
            f"the name {name!r} is that of a public data set, which a run would take yours for: choose another --name"
        )
    require_free(target)


def filter_and_write(
    target: Path,
    interactions: pd.DataFrame,
    items: pd.DataFrame | None,
    card: dict[str, Any],
    k_core: int | None,
    add_files: Callable[[Path], None] | None = None,
) -> None:
    """Filter, match interactions and items, and write the data set with counts and filter in its card.

    Args:
        target: folder to write.
        interactions: user_id and item_id as categories, timestamp, perhaps rating.
        items: item_id and text columns, one row per item; None if there is no text.
        card: what is known of the source.
        k_core: leave only users and items with this many interactions or more; None for all.
        add_files: as in write_data_set.

    Raises:
        ValueError: k_core < 1, the filter leaves nothing, no item of the interactions is among the
            items, or the target cannot be
            written.
    """
    n_rows = len(interactions)
    if k_core is not None:
        if k_core < 1:
            raise UserError(
                f"k_core is {k_core}, but users and items are kept for at least 1 interaction: raise it or leave it out"
            )
        kept = rows_of_k_core(
            *(interactions[name].cat.codes.to_numpy() for name in ("user_id", "item_id")), k_core
        )
        if not len(kept):
            raise UserError(f"the {k_core}-core of {n_rows} interactions is empty: lower --k_core")
        interactions = interactions.iloc[kept].reset_index(drop=True)
        logger.info("%d-core: %d of %d interactions stay", k_core, len(interactions), n_rows)
    present = [
        interactions[name].cat.remove_unused_categories().cat.categories
        for name in ("user_id", "item_id")
    ]
    if items is not None:
        items = _matched(items, present[1])
    card = {
        "name": target.name,
        **card,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "filter": "none"
        if k_core is None
        else {
            "core": f"users and items with at least {k_core} interactions, repeated until stable"
        },
        "counts": {
            "users": len(present[0]),
            "items": len(present[1]),
            "interactions": len(interactions),
        },
    }
    write_data_set(target, interactions, items, card, add_files)


def _time_words(column: str | None, is_date: bool | None) -> str:
    if column is None:
        return "position in the file, which has no column of times"
    return (
        f"seconds since 1970, from the dates of {column!r}"
        if is_date
        else f"the numbers of {column!r}"
    )


def _read_interactions(
    table: TableFile, columns: ColumnNames
) -> tuple[pd.DataFrame, int, bool | None]:
    """The rows that have a user and an item, the number of the others, and whether times are dates (None without such a column)."""
    users, items = Tokens("user", table.place), Tokens("item", table.place)
    parts, n_rows, is_date = [], 0, None
    for piece in table.pieces([name for name in columns if name is not None]):
        n_rows += len(piece)
        part = {
            "user_id": users.numbers(piece[columns.user]),
            "item_id": items.numbers(piece[columns.item]),
        }
        is_whole = (part["user_id"] >= 0) & (part["item_id"] >= 0)
        part, piece = {name: numbers[is_whole] for name, numbers in part.items()}, piece[is_whole]
        if columns.rating is not None:
            part["rating"] = ratings(piece[columns.rating], table.place)
        if columns.time is None:
            part["timestamp"] = piece.index.to_numpy()
        elif len(piece):
            texts = piece[columns.time]
            is_date = is_iso_date(texts.iloc[0]) if is_date is None else is_date
            part["timestamp"] = times(texts, is_date, table.place)
        if len(piece):
            parts.append(part)
    if n_rows == 0:
        raise UserError(
            f"{str(table.path)!r} has a header and no rows: a data set needs interactions"
        )
    if not parts:
        raise UserError(
            f"none of the {n_rows} rows of {str(table.path)!r} has both a user and an item: check the chosen columns"
        )
    rows = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    rows = pd.DataFrame(
        {
            **rows,
            "user_id": users.categories(rows["user_id"]),
            "item_id": items.categories(rows["item_id"]),
        }
    )
    if len(rows) < n_rows:
        logger.warning(
            "%d of %d rows have no user or no item and are left out", n_rows - len(rows), n_rows
        )
    if columns.time is None:
        logger.warning(
            "%s has no column of times: the order of its rows is taken for the order in time",
            table.path,
        )
    return rows, n_rows - len(rows), is_date


def _read_items(table: TableFile, column: str) -> pd.DataFrame:
    pieces = list(table.pieces())
    if not pieces or not sum(map(len, pieces)):
        raise UserError(
            f"{str(table.path)!r} has a header and no rows: leave --items out, or give a table with items"
        )
    rows = pd.concat(pieces).fillna("")
    tokens = Tokens("item", table.place)
    rows[column] = tokens.categories(tokens.numbers(rows[column]))
    return item_texts(rows, column, str(table.path))


def item_texts(rows: pd.DataFrame, column: str, path: str) -> pd.DataFrame:
    """A table of item_id and text fields, one row per item: of repeated ids the first row, of empty ids none, both counted in the log.

    Raises:
        ValueError: no row has an id, or two columns would be one field.
    """
    named = rows[rows[column].notna()]
    texts = named.drop_duplicates(column)
    if len(texts) < len(rows):
        n_empty, n_repeated = len(rows) - len(named), len(named) - len(texts)
        logger.warning(
            "%s: %d rows without an item id and %d rows that repeat one are left out",
            path,
            n_empty,
            n_repeated,
        )
    if len(texts) == 0:
        raise UserError(
            f"no row of {path!r} has an item id in its column {column!r}: name another with --item_id_column"
        )
    # A column without a name is the row numbers that pandas writes.
    fields = [
        name
        for name in rows.columns
        if name != column and name.strip() and not name.startswith("Unnamed:")
    ]
    if not fields:
        raise UserError(
            f"{path!r} has no named column beside {column!r}: leave it out, or give a table with titles or other text"
        )
    return (
        texts[[column, *fields]]
        .set_axis(["item_id", *text_field_names(fields, path)], axis=1)
        .reset_index(drop=True)
    )


def _matched(items: pd.DataFrame, present: pd.Index) -> pd.DataFrame:
    is_present = items["item_id"].isin(present).to_numpy()
    n_matched = int(is_present.sum())
    if n_matched == 0:
        raise UserError(
            f"no item of the interactions (such as {', '.join(map(repr, present[:3]))}) is in the item table (which has "
            f"{', '.join(map(repr, items['item_id'].iloc[:3]))}): name the column of ids with --item_column or --item_id_column"
        )
    if n_matched < len(present):
        logger.warning(
            "%d of %d items have no row in the item table, so no text",
            len(present) - n_matched,
            len(present),
        )
    if n_matched < len(items):
        logger.info(
            "%d of %d items of the item table have no interactions and are left out",
            len(items) - n_matched,
            len(items),
        )
    return items[is_present].reset_index(drop=True)


def _is_separated_alike(one: Path, other: Path) -> bool:
    return one.name.lower().removesuffix(".gz")[-4:] == other.name.lower().removesuffix(".gz")[-4:]


def _recboles_data_sets() -> set[str]:
    """Names that RecBole downloads, or for which it has settings or a folder of its own."""
    folder = (
        Path(importlib.util.find_spec("recbole").submodule_search_locations[0])
        / "properties"
        / "dataset"
    )
    return {
        *yaml.safe_load((folder / "url.yaml").read_text(encoding="utf-8")),
        *(file.stem for file in folder.glob("*.yaml")),
    }
