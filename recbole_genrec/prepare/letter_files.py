"""Make a data set folder from files of the LC-Rec and LETTER family.

The family is NAME.inter.json ({user: [item ids in order]}) and, where they exist, NAME.item.json
({item id: {title, description, ...}}), NAME.index.json ({item id: ["<a_12>", "<b_3>", ...]}) and
NAME.emb-<encoder>.npy (row i = item id i). Source: the repositories zhengbw0324/LC-Rec and
HonghuiBao2000/LETTER.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.prepare.cell_values import ids
from recbole_genrec.prepare.folder import file_entry
from recbole_genrec.prepare.own_files import check_target, filter_and_write, item_texts
from recbole_genrec.prepare.table_files import as_text

logger = logging.getLogger(__name__)

_INTERACTIONS = ".inter.json"


def is_letter_source(source: Path) -> bool:
    """Return True for a NAME.inter.json or a folder that holds one."""
    return source.name.endswith(_INTERACTIONS) or (
        source.is_dir() and any(source.glob(f"*{_INTERACTIONS}"))
    )


def prepare_letter_files(source: Path, target: Path, k_core: int | None) -> None:
    """Make a data set from a NAME.inter.json and the files beside it.

    Timestamps are positions in the user's sequence. NAME.index.json and the embeddings are copied
    unchanged under the name of the data set. Beside each NAME.emb-<encoder>.npy a .tokens file
    names the item of every row, as item_features reads it.

    Args:
        source: the file, or a folder with one such file.
        target: folder to write; its name is the name of the data set.
        k_core: keep only users and items with this many interactions or more; None for all.

    Raises:
        MissingFileError: there is no such file.
        UserError: a file does not have the family's form, embeddings do not match the items, or the
            target cannot be written.
    """
    check_target(target)
    path = _interactions_file(source)
    name = path.name[: -len(_INTERACTIONS)]
    interactions = _read_interactions(path)
    item_path, index_path = (path.with_name(f"{name}.{kind}.json") for kind in ("item", "index"))
    items = _read_items(item_path) if item_path.is_file() else None
    index = _read_mapping(index_path, list, "a list of codes") if index_path.is_file() else {}
    # Rows of embeddings follow the ids of the whole catalogue, which may have more items than the
    # interactions.
    tokens = interactions["item_id"].cat.categories
    catalogue = {*tokens, *(() if items is None else items["item_id"]), *index}
    matrices = sorted(path.parent.glob(f"{name}.emb-*.npy"))
    for matrix in matrices:
        _check_rows(matrix, catalogue)
    if index_path.is_file():
        _report_missing_ids(index_path, index, tokens)

    def add_files(folder: Path) -> None:
        if index_path.is_file():
            shutil.copyfile(index_path, folder / f"{target.name}.index.json")
        for matrix in matrices:
            copy = folder / f"{target.name}{matrix.name[len(name) :]}"
            shutil.copyfile(matrix, copy)
            rows = "".join(f"{row}\n" for row in range(len(catalogue)))
            copy.with_suffix(".tokens").write_text(rows, encoding="utf-8")

    used = [path, *(file for file in (item_path, index_path) if file.is_file()), *matrices]
    logger.info("LC-Rec and LETTER files: %s", ", ".join(file.name for file in used))
    card = {
        "source": "files of the LC-Rec and LETTER family",
        "files": [file_entry(file) for file in used],
        "timestamp": "position in the user's sequence",
    }
    filter_and_write(target, interactions, items, card, k_core, add_files)


def _interactions_file(source: Path) -> Path:
    found = sorted(source.glob(f"*{_INTERACTIONS}")) if source.is_dir() else [source]
    if len(found) > 1:
        raise UserError(
            f"the folder {str(source)!r} has {len(found)} files *{_INTERACTIONS}: give one, "
            f"such as {str(found[0])!r}"
        )
    path = found[0] if found else source / f"NAME{_INTERACTIONS}"
    if not path.is_file():
        raise MissingFileError(f"there is no file {str(path)!r}: check the path")
    return path


def _read_interactions(path: Path) -> pd.DataFrame:
    sequences = _read_mapping(path, list, "the list of the user's item ids")
    names = list(sequences)
    lengths = np.array([len(sequence) for sequence in sequences.values()], dtype=np.int64)
    if lengths.sum() == 0:
        raise UserError(
            f"{str(path)!r} holds no interaction: give a file of the form "
            "{user: [item ids in order]}"
        )
    users = np.repeat(np.arange(len(sequences)), lengths)

    def describe_row(row: int) -> str:
        return f"the sequence of user {names[users[row]]!r} of {str(path)!r}"

    texts = [as_text(item) for sequence in sequences.values() for item in sequence]
    items = ids(pd.Series(texts, dtype=object), "item", describe_row)
    if items.isna().any():
        row = int(items.isna().argmax())
        raise UserError(f"an item id in {describe_row(row)} is empty: remove it")
    n_empty = int((lengths == 0).sum())
    if n_empty:
        logger.warning("%d of %d users have no interactions and are left out", n_empty, len(names))
    starts = np.cumsum(lengths) - lengths
    return pd.DataFrame(
        {
            "user_id": pd.Categorical.from_codes(users, names),
            "item_id": items,
            "timestamp": np.arange(len(users)) - starts[users],
        }
    )


def _read_items(path: Path) -> pd.DataFrame:
    texts = _read_mapping(path, dict, "its texts by name")
    if not texts:
        raise UserError(
            f"{str(path)!r} holds no item: remove it, or give a file of the form "
            "{item id: {title: ...}}"
        )
    fields = list(dict.fromkeys(field for record in texts.values() for field in record))
    rows = pd.DataFrame(
        {field: [as_text(record.get(field)) for record in texts.values()] for field in fields},
        dtype=object,
    )
    keys = pd.Series(list(texts), dtype=object)
    rows.insert(0, "", ids(keys, "item", lambda row: repr(str(path))))
    return item_texts(rows, "", str(path))


def _read_mapping(path: Path, value_type: type, expected: str) -> dict[str, Any]:
    try:
        # Ids stay as they are written.
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=str, parse_float=str)
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is no JSON in UTF-8 ({error}): fetch or write it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{str(path)!r} holds a {type(content).__name__}, but must be a JSON object: "
            "give a file of the LC-Rec family"
        )
    for key, value in content.items():
        if not isinstance(value, value_type):
            raise UserError(
                f"{str(path)!r} gives {key!r} a {type(value).__name__}, but must give {expected}: "
                "correct it"
            )
    return content


def _check_rows(path: Path, catalogue: set[str]) -> None:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{str(path)!r} is not a plain numpy array ({error}): fetch or write it again"
        ) from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise UserError(
            f"{str(path)!r} has the shape {list(matrix.shape)} and type {matrix.dtype}: "
            "it must be a matrix of numbers"
        )
    without_row = catalogue - {str(row) for row in range(len(matrix))}
    if without_row or len(matrix) != len(catalogue):
        example = f", and none for item {min(without_row)!r}" if without_row else ""
        raise UserError(
            f"{str(path)!r} has {len(matrix)} rows for {len(catalogue)} items{example}, but row i "
            "belongs to item id i: remove it, or write one row for each of the ids from 0 on"
        )


def _report_missing_ids(path: Path, index: dict[str, Any], items: pd.Index) -> None:
    missing = [token for token in items if token not in index]
    if missing:
        logger.warning(
            "%s has no codes for %d of %d items, such as %r",
            path,
            len(missing),
            len(items),
            missing[0],
        )
