"""Make a data set folder from a user's own tables: read, check, filter, write."""

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
from pandas.api.types import union_categoricals

from recbole_genrec.data.interactions import k_core as rows_of_k_core
from recbole_genrec.errors import UserError
from recbole_genrec.prepare.cell_values import ids, is_iso_date, ratings, times
from recbole_genrec.prepare.column_names import (
    ColumnNames,
    find_interaction_columns,
    find_item_id_column,
    text_field_names,
)
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
    """Make a data set from a table of interactions and optionally a table of items.

    Ids are the text of the file without surrounding white space. Rows with an empty user or item
    are left out and counted; repeated interactions stay. Times are numbers or ISO dates (seconds
    since 1970; UTC where the date names no zone); without a time column the order of the file
    counts. The first row of an item in the item table counts and items without interactions are
    left out, both counted in the log; its other columns become text.

    Args:
        interactions: file that TableFile reads.
        items: file that TableFile reads, or None.
        target: folder to write; its name is the name of the data set.
        given: names of columns; None where a name is guessed.
        k_core: keep only users and items with this many interactions or more; None for all.
        separator: column separator of CSV and TSV files; None for comma and tab.

    Raises:
        MissingFileError: a file is missing.
        UserError: a file, a column, an id, a time or a rating is malformed, or the target cannot be
            written.
    """
    check_target(target)
    table = TableFile(interactions, separator)
    columns = find_interaction_columns(table.columns, given, str(interactions))
    named = {role: name for role, name in columns._asdict().items() if name is not None}
    shown = ", ".join(f"{role} = {name!r}" for role, name in named.items())
    logger.info("Columns of %s: %s", interactions, shown)
    rows, n_left_out, is_date = _read_interactions(table, columns)
    card: dict[str, Any] = {
        "source": "files of the user's own",
        "files": [file_entry(interactions)],
        "columns": named,
        "timestamp": _time_words(columns.time, is_date),
        "rows_left_out_for_an_empty_id": n_left_out,
    }
    texts = None
    if items is not None:
        are_alike = _extension(items) == _extension(interactions)
        item_table = TableFile(items, separator if are_alike else None)
        column = find_item_id_column(item_table.columns, given.item_id, columns.item, str(items))
        logger.info("Columns of %s: item = %r, all others are text", items, column)
        texts = _read_items(item_table, column)
        card["files"].append(file_entry(items))
        card["columns"]["item_id"] = column
    filter_and_write(target, rows, texts, card, k_core)


def check_target(target: Path) -> None:
    """Refuse a folder that cannot become a user's data set, before anything is read.

    Raises:
        UserError: its name is no plain name or belongs to a public data set, or it exists already.
    """
    name = target.name
    if not re.fullmatch(r"[^\W_][\w.-]*", name):
        raise UserError(
            f"the name {name!r} is no name of a folder: use letters, digits, '-', '_' and '.', "
            "a letter or digit first"
        )
    if is_known(name) or name in _recboles_data_sets():
        raise UserError(
            f"the name {name!r} belongs to a public data set, which a run would use instead: "
            "choose another --name"
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
    """Filter, match interactions and items, and write the data set with its card.

    Args:
        target: folder to write.
        interactions: user_id and item_id as categories, timestamp, optionally rating.
        items: item_id and text columns, one row per item; None if there is no text.
        card: description of the source, to which the filter and the counts are added.
        k_core: keep only users and items with this many interactions or more; None for all.
        add_files: as in write_data_set.

    Raises:
        UserError: k_core < 1, the filter leaves nothing, no item of the interactions is among the
            items, or the target cannot be written.
    """
    words = "none"
    if k_core is not None:
        interactions = _core(interactions, k_core)
        words = f"users and items with at least {k_core} interactions, repeated until stable"
    users, tokens = (
        interactions[name].cat.remove_unused_categories().cat.categories
        for name in ("user_id", "item_id")
    )
    if items is not None:
        items = _matched(items, tokens)
    card = {
        "name": target.name,
        **card,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "filter": words if k_core is None else {"core": words},
        "counts": {"users": len(users), "items": len(tokens), "interactions": len(interactions)},
    }
    write_data_set(target, interactions, items, card, add_files)


def _core(interactions: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return the interactions of the k-core."""
    if k < 1:
        raise UserError(
            f"k_core is {k}, but users and items are kept for at least 1 interaction: raise it or "
            "leave it out"
        )
    users, items = (interactions[name].cat.codes.to_numpy() for name in ("user_id", "item_id"))
    kept = rows_of_k_core(users, items, k)
    if not len(kept):
        raise UserError(
            f"the {k}-core of {len(interactions)} interactions is empty: lower --k_core"
        )
    logger.info("%d-core: %d of %d interactions stay", k, len(kept), len(interactions))
    return interactions.iloc[kept].reset_index(drop=True)


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
    """Read the rows that have a user and an item.

    Returns:
        the rows, the number of rows left out, and True if times are dates (None without times).
    """
    parts: list[dict[str, Any]] = []
    n_rows, is_date = 0, None
    for piece in table.pieces([name for name in columns if name is not None]):
        n_rows += len(piece)
        users = ids(piece[columns.user], "user", table.describe_row)
        items = ids(piece[columns.item], "item", table.describe_row)
        is_whole = ~(users.isna() | items.isna())
        piece = piece[is_whole]
        if not len(piece):
            continue
        part = {"user_id": users[is_whole], "item_id": items[is_whole]}
        if columns.rating is not None:
            part["rating"] = ratings(piece[columns.rating], table.describe_row)
        if columns.time is None:
            part["timestamp"] = piece.index.to_numpy()
        else:
            texts = piece[columns.time]
            is_date = is_iso_date(texts.iloc[0]) if is_date is None else is_date
            part["timestamp"] = times(texts, is_date, table.describe_row)
        parts.append(part)
    n_left_out = n_rows - sum(len(part["timestamp"]) for part in parts)
    _report_rows(table, n_rows, n_left_out, columns.time)
    rows = pd.DataFrame(
        {
            name: (union_categoricals if name.endswith("_id") else np.concatenate)(
                [part.pop(name) for part in parts]
            )
            for name in list(parts[0])
        }
    )
    return rows, n_left_out, is_date


def _report_rows(table: TableFile, n_rows: int, n_left_out: int, time_column: str | None) -> None:
    """Refuse a table without usable rows; warn about rows without ids and a missing time column."""
    path = str(table.path)
    if n_rows == 0:
        raise UserError(f"{path!r} has a header and no rows: a data set needs interactions")
    if n_left_out == n_rows:
        raise UserError(
            f"none of the {n_rows} rows of {path!r} has both a user and an item: "
            "check the chosen columns"
        )
    if n_left_out:
        logger.warning("%d of %d rows have no user or no item and are left out", n_left_out, n_rows)
    if time_column is None:
        logger.warning("%s has no time column: the order of its rows is taken for time order", path)


def _read_items(table: TableFile, column: str) -> pd.DataFrame:
    pieces = list(table.pieces())
    if not pieces or not sum(map(len, pieces)):
        raise UserError(
            f"{str(table.path)!r} has a header and no rows: leave --items out, or give a table "
            "with items"
        )
    rows = pd.concat(pieces).fillna("")
    rows[column] = ids(rows[column], "item", table.describe_row)
    return item_texts(rows, column, str(table.path))


def item_texts(rows: pd.DataFrame, column: str, path: str) -> pd.DataFrame:
    """Return a table of item_id and text fields, one row per item.

    The first row of a repeated id counts, rows without an id are left out; the log has both counts.

    Args:
        rows: text columns and the column of ids.
        column: name of the column of ids.
        path: file that the rows come from, for messages.

    Raises:
        UserError: no row has an id, or two columns would be one field.
    """
    named = rows[rows[column].notna()]
    texts = named.drop_duplicates(column)
    if len(texts) < len(rows):
        logger.warning(
            "%s: %d rows without an item id and %d rows that repeat one are left out",
            path,
            len(rows) - len(named),
            len(named) - len(texts),
        )
    if len(texts) == 0:
        raise UserError(
            f"no row of {path!r} has an item id in its column {column!r}: name another with "
            "--item_id_column"
        )
    # A column without a name holds the row numbers that pandas writes.
    fields = [
        name
        for name in rows.columns
        if name != column and name.strip() and not name.startswith("Unnamed:")
    ]
    if not fields:
        raise UserError(
            f"{path!r} has no named column beside {column!r}: leave it out, or give a table with "
            "titles or other text"
        )
    table = texts[[column, *fields]].reset_index(drop=True)
    return table.set_axis(["item_id", *text_field_names(fields, path)], axis=1)


def _matched(items: pd.DataFrame, present: pd.Index) -> pd.DataFrame:
    """Return the rows of `items` whose ids are in `present`, the ids with interactions."""
    is_present = items["item_id"].isin(present).to_numpy()
    n_matched = int(is_present.sum())
    if n_matched == 0:
        raise UserError(
            f"no item of the interactions (such as {', '.join(map(repr, present[:3]))}) is in the "
            f"item table (which has {', '.join(map(repr, items['item_id'].iloc[:3]))}): "
            "name the column of ids with --item_column or --item_id_column"
        )
    n_without = len(present) - n_matched
    if n_without:
        logger.warning(
            "%d of %d items have no row in the item table, so no text", n_without, len(present)
        )
    if n_matched < len(items):
        logger.info(
            "%d of %d items of the item table have no interactions and are left out",
            len(items) - n_matched,
            len(items),
        )
    return items[is_present].reset_index(drop=True)


def _extension(path: Path) -> str:
    return path.name.lower().removesuffix(".gz")[-4:]


def _recboles_data_sets() -> set[str]:
    """Return names that RecBole downloads, or for which it has settings or a folder of its own."""
    recbole = importlib.util.find_spec("recbole")
    assert recbole is not None and recbole.submodule_search_locations is not None
    folder = Path(recbole.submodule_search_locations[0]) / "properties" / "dataset"
    return {
        *yaml.safe_load((folder / "url.yaml").read_text(encoding="utf-8")),
        *(file.stem for file in folder.glob("*.yaml")),
    }
