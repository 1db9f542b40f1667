"""Semantic ids as files: this package's format, and the index.json of LC-Rec and LETTER.

This package's format is JSON: {"format", "dataset", "level_sizes", "ids": {item token: [code,
...]}}. An index.json maps an item
token to ["<a_12>", "<b_3>", ...], one letter per level; plain lists of numbers are read too.
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
    tokens: Sequence[str],
    codes: Tensor,
    level_sizes: Sequence[int],
    dataset: str,
    style: str,
) -> None:
    """Write the codes of items, all at once or not at all.

    Args:
        path: the JSON file.
        tokens: the item token of every row.
        codes: int64 [items, levels], a counter among them if there is one.
        level_sizes: number of codes of every level.
        dataset: name of the data set, for the reader.
        style: "own" or "letter" (index.json).

    Raises:
        ValueError: an unknown style, or more levels than there are letters.
    """
    if style not in STYLES:
        raise UserError(
            f"the style of semantic ids is {style!r}, but it must be one of {', '.join(STYLES)}: choose one"
        )
    if style == "letter" and codes.shape[1] > len(_LETTERS):
        raise UserError(
            f"the ids have {codes.shape[1]} levels, but an index.json has letters for {len(_LETTERS)}: use the style own"
        )
    rows = zip(map(str, tokens), codes.tolist())
    if style == "letter":
        content = {
            token: [f"<{letter}_{code}>" for letter, code in zip(_LETTERS, row)]
            for token, row in rows
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
    path: str, tokens: Sequence[str], n_levels: int, codebook_size: int, counter_size: int
) -> Tensor:
    """The codes of items, int64 [items, n_levels], row by row those of `tokens`.

    A file with one more level than n_levels brings its counter, if that level counts items with
    equal codes from 0: it is left out and
    numbered anew.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, lacks an item, has an id of another length or a code out of
            range, or more items share their
            codes than a counter of counter_size (0: none) can tell apart.
    """
    ids = _read(path)
    missing = [token for token in tokens if token not in ids]
    if missing:
        raise UserError(
            f"{path!r} has no id for {len(missing)} of {len(tokens)} items (such as {', '.join(missing[:3])}): write the file for this "
            "data set, or filter these items out"
        )
    lengths = {len(ids[token]) for token in tokens}
    if lengths != {n_levels} and not (
        lengths == {n_levels + 1} and counter_size and _ends_in_counter(ids, n_levels + 1)
    ):
        raise UserError(
            f"{path!r} has ids of {sorted(lengths)} codes, but n_levels is {n_levels}: set n_levels to the length of the ids (less one if "
            "their last code numbers items that have all others in common)"
        )
    codes = torch.tensor([ids[token][:n_levels] for token in tokens])
    largest, least = int(codes.max()), int(codes.min())
    if least < 0 or largest >= codebook_size:
        raise UserError(
            f"{path!r} has codes from {least} to {largest}, but codebook_size is {codebook_size}, which allows 0 to {codebook_size - 1}: "
            "raise codebook_size or write the file anew"
        )
    _check_unique(path, codes, counter_size)
    logger.info(
        "semantic ids: read those of %d items from %s; it names %d items",
        len(tokens),
        path,
        len(ids),
    )
    return codes


def _ends_in_counter(ids: dict[str, list[int]], length: int) -> bool:
    """Whether the last codes of ids of this length number those with equal other codes 0, 1, 2, ..., in any order."""
    rows = torch.tensor([row for row in ids.values() if len(row) == length]).unique(dim=0)
    return torch.equal(rows[:, -1], counter_level(rows[:, :-1]))


def _check_unique(path: str, codes: Tensor, counter_size: int) -> None:
    counter = counter_level(codes)
    if int(counter.max()) >= max(counter_size, 1):
        raise UserError(
            f"in {path!r} {int((counter > 0).sum())} items have the id of another item, up to {int(counter.max()) + 1} the same one, but "
            f"counter_size is {counter_size}: raise counter_size, which adds a level that numbers them, or write unique ids"
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
            str(token): [_code(entry, level) for level, entry in enumerate(row)]
            for token, row in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f'{path!r} is not a file of semantic ids ({error}): it needs {{item token: [code, ...]}}, the codes whole numbers or "<a_12>"'
        ) from error


def _code(entry: int | str, level: int) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry
    found = _ENTRY.fullmatch(entry)
    if found is None or found[1] != _LETTERS[level]:
        raise UserError(f"the entry {entry!r} at level {level} is no code")
    return int(found[2])
