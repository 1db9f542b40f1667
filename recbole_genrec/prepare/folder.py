"""A data set folder of RecBole's atomic files and a data card, written whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from recbole_genrec.errors import UserError
from recbole_genrec.storage import sha256

logger = logging.getLogger(__name__)

CARD_NAME = "data_card.json"
_CHUNK_ROWS = 200_000
# Seconds after which an unfinished folder is taken for one that a killed run has left.
_STALE_AFTER = 86_400
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
# RecBole reads .inter files with pandas' defaults, which take these tokens for missing values.
_MISSING_TOKENS = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip


def one_line(text: str) -> str:
    """Return text as one field of an atomic file: control characters and white space as one space.

    A leading quotation mark becomes a curly one, since RecBole's reader would take everything up to
    the next mark for one field. Lone surrogates, which UTF-8 cannot hold, are dropped.
    """
    text = _BREAKS.sub(" ", text.encode("utf-8", "ignore").decode("utf-8")).strip()
    return f"\u201c{text[1:]}" if text.startswith('"') else text


def is_complete(target: Path) -> bool:
    """Return True if write_data_set wrote this folder: it has NAME.inter and the data card."""
    return (target / f"{target.name}.inter").is_file() and (target / CARD_NAME).is_file()


def require_free(target: Path) -> None:
    """Refuse early a target that write_data_set would refuse, before the work that leads up to it.

    Raises:
        UserError: the path exists and is not an empty folder.
    """
    if target.is_symlink() or (target.exists() and not _is_empty_folder(target)):
        raise UserError(
            f"the data set {str(target)!r} exists already: remove that folder, or choose another "
            "name or data_path"
        )


def file_entry(path: Path) -> dict[str, Any]:
    """Return a file's entry of the data card: name, sha256 and bytes."""
    return {"name": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}


def write_data_set(
    target: Path,
    interactions: pd.DataFrame,
    items: pd.DataFrame | None,
    card: dict[str, Any],
    add_files: Callable[[Path], None] | None = None,
) -> None:
    """Write the folder `target` with NAME.inter, NAME.item and data_card.json.

    NAME is the folder's name. All files are written into a hidden folder beside the target, which
    is renamed at the end, so an interruption never leaves a partial data set. Hidden folders of
    this target that are older than a day are removed: killed runs left them.

    Args:
        target: folder to write; must not exist or be empty.
        interactions: columns user_id, item_id (tokens), timestamp (numbers, written so that float64
            reads them back exactly) and optionally rating; one row per interaction, kept in order.
        items: column item_id, one row per item, and text columns, each written as token_seq;
            missing text is empty. None: no NAME.item.
        card: content of data_card.json.
        add_files: called with the hidden folder, to put more files there; none by default.

    Raises:
        UserError: the target exists, a table cannot be written as RecBole would read it, or the
            disk refuses or is full.
    """
    target = Path(os.path.abspath(target))
    require_free(target)
    users, tokens, times = _checked_columns(interactions)
    columns: dict[str, Any] = {"user_id:token": users, "item_id:token": tokens}
    if "rating" in interactions:
        columns["rating:float"] = _require_numbers(interactions["rating"])
    columns["timestamp:float"] = times
    with _folder_that_becomes(target) as unfinished:
        with _synced(unfinished / f"{target.name}.inter") as file:
            _write_table(file, columns, _number_text)
        if items is not None:
            with _synced(unfinished / f"{target.name}.item") as file:
                _write_table(file, _item_columns(items), _text)
        if add_files is not None:
            add_files(unfinished)
        with _synced(unfinished / CARD_NAME) as file:
            file.write(json.dumps(card, indent=2) + "\n")
    logger.info("Data set: wrote %d interactions to %s", len(interactions), target)


def _checked_columns(
    interactions: pd.DataFrame,
) -> tuple[pd.Categorical, pd.Categorical, np.ndarray]:
    if len(interactions) == 0:
        raise UserError(
            "the table of interactions has 0 rows, but a data set needs at least one: "
            "check the source and the filters"
        )
    times = _require_numbers(interactions["timestamp"])
    if times.dtype.kind == "f" and not np.isfinite(times).all():
        raise UserError(
            f"{int((~np.isfinite(times)).sum())} of {len(times)} interactions have no finite "
            "timestamp, but histories are ordered by it: fill or remove them"
        )
    return _tokens(interactions["user_id"]), _tokens(interactions["item_id"]), times


def _require_numbers(column: pd.Series) -> np.ndarray:
    values = column.to_numpy()
    if values.dtype.kind not in "iuf":
        raise UserError(
            f"the column {column.name!r} holds {values.dtype}, but it must hold numbers: convert it"
        )
    return values


def _tokens(column: pd.Series) -> pd.Categorical:
    """Return the column with the texts to write as categories, each checked once."""
    tokens = column.astype("category").cat.remove_unused_categories().array
    texts = [one_line(str(token)) for token in tokens.categories]
    missing = sorted(_MISSING_TOKENS.intersection(texts))
    if missing or (tokens.codes < 0).any():
        shown = repr(missing[0]) if missing else "missing values"
        raise UserError(
            f"the column {column.name!r} holds {shown}, which RecBole reads as no id: "
            "remove or rename these rows"
        )
    if len(set(texts)) < len(texts):
        raise UserError(
            f"the column {column.name!r} has {len(texts) - len(set(texts))} ids that differ from "
            "others only in white space, control characters or a quotation mark: rename them"
        )
    return tokens.rename_categories(texts)


def _item_columns(items: pd.DataFrame) -> dict[str, Any]:
    tokens = _tokens(items["item_id"])
    n_repeated = len(tokens) - len(tokens.categories)
    if n_repeated:
        raise UserError(
            f"the table of items has {n_repeated} rows with an item_id of another row: "
            "keep one row per item"
        )
    texts = {
        f"{name}:token_seq": items[name].to_numpy(dtype=object)
        for name in items.columns
        if name != "item_id"
    }
    return {"item_id:token": tokens, **texts}


def _write_table(
    file: TextIO, columns: dict[str, Any], as_text: Callable[[np.ndarray], Any]
) -> None:
    n_rows = len(next(iter(columns.values())))
    file.write("\t".join(columns) + "\n")
    for start in range(0, n_rows, _CHUNK_ROWS):
        parts = {name: values[start : start + _CHUNK_ROWS] for name, values in columns.items()}
        table = pd.DataFrame(
            {
                name: part if isinstance(part, pd.Categorical) else as_text(part)
                for name, part in parts.items()
            }
        )
        # QUOTE_NONE: readers of atomic files do not all know quotation marks.
        table.to_csv(
            file, sep="\t", header=False, index=False, quoting=csv.QUOTE_NONE, lineterminator="\n"
        )


def _number_text(values: np.ndarray) -> Any:
    """Return whole numbers as integers, others as text that reads back as the same float64."""
    if values.dtype.kind in "iu":
        return values
    values = values.astype(np.float64)
    if (np.abs(values) < 2**53).all() and (values == np.trunc(values)).all():
        return values.astype(np.int64)
    return pd.Series(values).map(repr, na_action="ignore").str.replace(r"\.0$", "", regex=True)


def _text(values: np.ndarray) -> list[str]:
    return ["" if pd.isna(value) else one_line(str(value)) for value in values]


@contextmanager
def _synced(path: Path) -> Iterator[TextIO]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        # A rename can reach the disk before the bytes that it names.
        os.fsync(file.fileno())


@contextmanager
def _folder_that_becomes(target: Path) -> Iterator[Path]:
    prefix = f".{target.name}-writing-"
    unfinished = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_folders(target.parent, prefix)
        unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        unfinished.chmod(0o755)
        yield unfinished
        os.replace(unfinished, target)  # fails if another process has filled the target meanwhile
    except OSError as error:
        raise UserError(_refusal(target, error)) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def _remove_stale_folders(parent: Path, prefix: str) -> None:
    for path in parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        with suppress(FileNotFoundError):  # its own process may be removing it
            if time.time() - path.stat().st_mtime > _STALE_AFTER:
                logger.info("Removing %s, which an interrupted run has left", path)
                shutil.rmtree(path, ignore_errors=True)


def _refusal(target: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full, and the data set {str(target)!r} is not written: make room, "
            "or set data_path to another disk"
        )
    return (
        f"the data set {str(target)!r} cannot be written ({error}): set data_path to a folder "
        "that can"
    )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
