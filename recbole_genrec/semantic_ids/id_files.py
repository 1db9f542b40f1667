"""Semantic ids as files: this package's format, and the index.json of LC-Rec and LETTER.

This package's format is JSON: {"format", "dataset", "level_sizes", "ids": {item token: [code,
...]}}. An index.json maps an item token to ["<a_12>", "<b_3>", ...], one letter per level. Lists of
plain numbers are read as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.semantic_ids.collisions import counter_level
from recbole_genrec.storage import replacing

logger = logging.getLogger(__name__)

FORMAT = "recbole_genrec.semantic_ids 1"
STYLES = ("own", "letter")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ENTRY = re.compile(r"<([a-z])_(\d+)>")


def write_semantic_ids(
    path: str,
    item_tokens: Sequence[str],
    codes: Tensor,
    level_sizes: Sequence[int],
    dataset: str,
    style: str,
) -> None:
    """Write the codes of items, all at once or not at all.

    Args:
        path: The JSON file.
        item_tokens: Item token of every row.
        codes: int64 [items, levels], including the counter if there is one.
        level_sizes: Number of codes of every level.
        dataset: Name of the data set, for the reader.
        style: "own" or "letter" (index.json).

    Raises:
        UserError: The style is unknown, or there are more levels than letters.
    """
    if style not in STYLES:
        raise UserError(
            f"the style of semantic ids is {style!r}, but it must be one of {', '.join(STYLES)}: "
            "choose one"
        )
    if style == "letter" and codes.shape[1] > len(_LETTERS):
        raise UserError(
            f"the ids have {codes.shape[1]} levels, but an index.json has letters for "
            f"{len(_LETTERS)}: use the style own"
        )
    rows = zip(map(str, item_tokens), codes.tolist())
    content: dict[str, object]
    if style == "letter":
        content = {
            item_token: [f"<{letter}_{code}>" for letter, code in zip(_LETTERS, row)]
            for item_token, row in rows
        }
    else:
        content = {
            "format": FORMAT,
            "dataset": dataset,
            "level_sizes": list(level_sizes),
            "ids": dict(rows),
        }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_semantic_ids(
    path: str, item_tokens: Sequence[str], n_levels: int, codebook_size: int, counter_size: int
) -> Tensor:
    """Read the codes of items.

    If the ids of a file have one more level, and that level numbers items with equal codes from 0,
    it is a counter. It is left out, because the counter of these items is computed again.

    Args:
        path: The JSON file.
        item_tokens: Item tokens in the order of the rows to return.
        n_levels: Length of an id without its counter.
        codebook_size: Number of codes of every level.
        counter_size: Number of items that may share all their codes; 0 for unique codes.

    Returns:
        int64 [items, n_levels].

    Raises:
        MissingFileError: There is no such file.
        UserError: The file has another format, lacks an item, or has an id of another length, a
            code out of range, or more items with equal codes than the counter can number.
    """
    ids = _read(path)
    codes = torch.tensor(_rows(path, ids, item_tokens, n_levels, has_counter=counter_size > 0))
    smallest, largest = int(codes.min()), int(codes.max())
    if smallest < 0 or largest >= codebook_size:
        raise UserError(
            f"{path!r} has codes from {smallest} to {largest}, but codebook_size is "
            f"{codebook_size}, which allows 0 to {codebook_size - 1}: raise codebook_size or "
            "correct the file"
        )
    _check_unique(path, codes, counter_size)
    logger.info(
        "semantic ids: read %d items from %s, which has %d items", len(codes), path, len(ids)
    )
    return codes


def _rows(
    path: str,
    ids: dict[str, list[int]],
    item_tokens: Sequence[str],
    n_levels: int,
    has_counter: bool,
) -> list[list[int]]:
    """Return the first n_levels codes of every item; refuse missing items and other lengths."""
    missing = [item_token for item_token in item_tokens if item_token not in ids]
    if missing:
        raise UserError(
            f"{path!r} has no id for {len(missing)} of {len(item_tokens)} items (such as "
            f"{', '.join(missing[:3])}): write the file for this data set, or filter these items "
            "out"
        )
    lengths = {len(ids[item_token]) for item_token in item_tokens}
    if lengths != {n_levels} and not (
        lengths == {n_levels + 1} and has_counter and _ends_in_counter(ids, n_levels + 1)
    ):
        raise UserError(
            f"{path!r} has ids of {sorted(lengths)} codes, but n_levels is {n_levels}: set "
            "n_levels to the length of the ids (less one if their last code numbers items that "
            "have all others in common)"
        )
    return [ids[item_token][:n_levels] for item_token in item_tokens]


def _ends_in_counter(ids: dict[str, list[int]], length: int) -> bool:
    """Return True if the last codes number the ids that are equal before them, in any order.

    Ids of other lengths do not count.
    """
    rows = torch.tensor([row for row in ids.values() if len(row) == length]).unique(dim=0)
    return torch.equal(rows[:, -1], counter_level(rows[:, :-1]))


def _check_unique(path: str, codes: Tensor, counter_size: int) -> None:
    counter = counter_level(codes)
    if int(counter.max()) >= max(counter_size, 1):
        raise UserError(
            f"in {path!r} {int((counter > 0).sum())} items have the id of another item, up to "
            f"{int(counter.max()) + 1} the same one, but counter_size is {counter_size}: raise "
            "counter_size, which adds a level that numbers them, or write unique ids"
        )


def _read(path: str) -> dict[str, list[int]]:
    if not os.path.isfile(path):
        raise MissingFileError(
            f"there is no file {path!r}, but semantic_ids_file names it: correct the path"
        )
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        entries = content["ids"] if content.get("format") == FORMAT else content
        return {
            str(item_token): [_code(entry, level) for level, entry in enumerate(row)]
            for item_token, row in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path!r} is not a file of semantic ids ({error}): it needs "
            '{item token: [code, ...]}, the codes whole numbers or "<a_12>"'
        ) from error


def _code(entry: int | str, level: int) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry
    found = _ENTRY.fullmatch(entry)  # type: ignore[arg-type]  # of another type: a TypeError
    if found is None or found[1] != _LETTERS[level]:
        raise UserError(f"the entry {entry!r} at level {level} is no code")
    return int(found[2])
