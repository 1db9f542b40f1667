"""Make a public data set by its name: download, read, filter, write."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_genrec.data.interactions import k_core
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.prepare.amazon import (
    TEXT_FIELDS,
    Metadata,
    Reviews,
    read_metadata,
    read_reviews,
)
from recbole_genrec.prepare.catalog import Dump, RawFile, find_dump, suggest_dump
from recbole_genrec.prepare.download import fetch
from recbole_genrec.prepare.filters import earliest_of_each_pair, history_order
from recbole_genrec.prepare.folder import file_entry, is_complete, require_free, write_data_set
from recbole_genrec.prepare.lock import one_at_a_time

logger = logging.getLogger(__name__)

_CORE = 5
_TIME_UNITS = {"amazon-2014": "seconds", "amazon-2018": "seconds", "amazon-2023": "milliseconds"}


def is_known(name: str) -> bool:
    """Return True if `prepare` knows a public data set of this name."""
    return find_dump(name, None) is not None


def prepare(name: str, data_path: str | Path, mirror: str | None, show_progress: bool) -> Path:
    """Make the data set `name` in data_path from its public dump, unless it is there already.

    The raw files stay in <data_path>/.raw/<name>, so that another attempt need not download them
    again. A second process that wants the same data set waits for the first.

    Args:
        name: name of the data set, one of catalog.dump_names().
        data_path: folder that holds the folders of data sets.
        mirror: an address to try before the known ones; None for none.
        show_progress: show progress bars.

    Returns:
        the folder <data_path>/<name> with NAME.inter, NAME.item and data_card.json.

    Raises:
        MissingFileError: a file cannot be fetched.
        UserError: the name is unknown, a file cannot be read, or the folder cannot be written.
    """
    dump = find_dump(name, mirror)
    if dump is None:
        raise UserError(
            f"there is no public data set {name!r}{suggest_dump(name)}: `recbole-genrec prepare "
            "--help` lists all names (RecBole's own, such as ml-1m, need no preparation: "
            "--dataset=ml-1m downloads them)"
        )
    target = Path(data_path) / name
    raw = Path(data_path) / ".raw" / name
    if not is_complete(target):
        require_free(target)
        with one_at_a_time(raw / ".lock"):
            if not is_complete(target):
                _make(dump, target, raw, show_progress)
                return target
    logger.info("Data set %s: %s is there already", name, target)
    return target


def _make(dump: Dump, target: Path, raw: Path, show_progress: bool) -> None:
    reviews_path, metadata_path = _fetch_all((dump.reviews, dump.metadata), raw, show_progress)
    reviews = read_reviews(reviews_path, dump.format, show_progress)
    metadata = read_metadata(metadata_path, dump.format, reviews.item_tokens, show_progress)
    interactions = _interactions(reviews, _kept_rows(reviews, metadata, dump))
    counts = _counts(interactions)
    _compare(dump.name, counts, dump.counts)
    items = _items(interactions, metadata)
    reading = _reading_counts(reviews, metadata, items)
    logger.info(
        "Data set %s: %d of %d items have no metadata, so no text",
        dump.name,
        reading["items_without_metadata"],
        len(items),
    )
    files = [
        _file_card(file, path)
        for file, path in ((dump.reviews, reviews_path), (dump.metadata, metadata_path))
    ]
    write_data_set(target, interactions, items, _card(dump, files, counts, reading))
    logger.info(
        "Data set %s: the raw files stay in %s; remove them if you need the room", dump.name, raw
    )


def _fetch_all(files: tuple[RawFile, ...], folder: Path, show_progress: bool) -> list[Path]:
    """Return the paths of the files; an error about one names the others that are missing too."""
    paths = []
    for number, file in enumerate(files):
        try:
            paths.append(fetch(file, folder, show_progress))
        except FileNotFoundError as error:
            missing = [
                other for other in files[number + 1 :] if not (folder / other.name).is_file()
            ]
            also = "".join(
                f"; {other.name} is needed beside it, from {' or '.join(other.urls)}"
                for other in missing
            )
            raise MissingFileError(f"{error}{also}") from error
    return paths


def _kept_rows(reviews: Reviews, metadata: Metadata, dump: Dump) -> np.ndarray:
    """Return the rows of reviews that become interactions, in the order of the written file.

    The module docstring of filters.py explains the rules.
    """
    rows = earliest_of_each_pair(reviews.users, reviews.items, reviews.times)
    n_pairs = len(rows)
    if _drops_items_without_metadata(dump):
        has_metadata = np.array([token in metadata.texts for token in reviews.item_tokens])
        rows = rows[has_metadata[reviews.items[rows]]]
    n_with_metadata = len(rows)
    rows = rows[k_core(reviews.users[rows], reviews.items[rows], _CORE)]
    logger.info(
        "Data set %s: %d reviews, less %d repeated, %d of items without metadata and %d outside "
        "the %d-core: %d interactions",
        dump.name,
        len(reviews.users),
        len(reviews.users) - n_pairs,
        n_pairs - n_with_metadata,
        n_with_metadata - len(rows),
        _CORE,
        len(rows),
    )
    if len(rows) == 0:
        raise UserError(
            f"the {_CORE}-core of {dump.reviews.name!r} is empty, but a data set needs "
            f"interactions: check that the file is the one of {dump.page}"
        )
    return rows[history_order(reviews.users[rows], reviews.times[rows])]


def _drops_items_without_metadata(dump: Dump) -> bool:
    return dump.format == "amazon-2018"


def _interactions(reviews: Reviews, rows: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": pd.Categorical.from_codes(reviews.users[rows], reviews.user_tokens),
            "item_id": pd.Categorical.from_codes(reviews.items[rows], reviews.item_tokens),
            "rating": reviews.ratings[rows],
            "timestamp": reviews.times[rows],
        }
    )


def _counts(interactions: pd.DataFrame) -> tuple[int, int, int]:
    return interactions["user_id"].nunique(), interactions["item_id"].nunique(), len(interactions)


def _compare(
    name: str, counts: tuple[int, int, int], published: tuple[int, int, int] | None
) -> None:
    found = "{:,} users, {:,} items, {:,} interactions".format(*counts)
    if published is None:
        logger.info("Data set %s: %s; no published numbers to compare with", name, found)
    elif tuple(published) == counts:
        logger.info("Data set %s: %s, as published", name, found)
    else:
        expected = "{:,} users, {:,} items, {:,} interactions".format(*published)
        logger.warning(
            "Data set %s: %s, but published are %s: results on it may not compare with published "
            "ones",
            name,
            found,
            expected,
        )


def _items(interactions: pd.DataFrame, metadata: Metadata) -> pd.DataFrame:
    """Return one row per item in order of first appearance; texts without metadata are empty."""
    tokens = interactions["item_id"].unique().tolist()
    empty = ("",) * len(TEXT_FIELDS)
    items = pd.DataFrame(
        [metadata.texts.get(token, empty) for token in tokens], columns=list(TEXT_FIELDS)
    )
    items.insert(0, "item_id", tokens)
    return items


def _reading_counts(reviews: Reviews, metadata: Metadata, items: pd.DataFrame) -> dict[str, int]:
    return {
        "items_without_metadata": int((~items["item_id"].isin(list(metadata.texts))).sum()),
        "items_without_text": int((items[list(TEXT_FIELDS)] == "").all(axis=1).sum()),
        "reviews_read": len(reviews.users),
        "review_lines_skipped": reviews.n_skipped,
        "metadata_lines_skipped": metadata.n_skipped,
    }


def _file_card(file: RawFile, path: Path) -> dict[str, Any]:
    return {**file_entry(path), "addresses": list(file.urls)}


def _card(
    dump: Dump, files: list[dict], counts: tuple[int, int, int], reading: dict[str, int]
) -> dict[str, Any]:
    names = ("users", "items", "interactions")
    return {
        "name": dump.name,
        "source": dump.page,
        "release": dump.format,
        "category": dump.category,
        "files": files,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "filter": {
            "core": f"users and items with at least {_CORE} interactions, repeated until stable",
            "repeated_reviews": "of a user's reviews of one item the earliest is kept",
            "items_without_metadata": "dropped before the core"
            if _drops_items_without_metadata(dump)
            else "kept, with empty text",
            "order": "user by user, in time order; equal times in the order of the file",
        },
        "timestamp": f"{_TIME_UNITS[dump.format]} since 1970",
        "counts": {**dict(zip(names, counts)), **reading},
        "published_counts": None if dump.counts is None else dict(zip(names, dump.counts)),
        "citation": dump.citation,
        "terms": dump.terms,
    }
