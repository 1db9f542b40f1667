"""Test results user by user: the file from which two runs can be compared."""

# Shapes: N users, K length of the ranked lists

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recbole_genrec.errors import MissingFileError, UserError, disk_errors
from recbole_genrec.storage import replacing

HEADER = "user\tn_positives\tranks of hits"


@dataclass(frozen=True)
class Outcomes:
    """Ranks of every user's positives in its ranked list.

    Attributes:
        users: RecBole's user tokens, N.
        hits: True where a list, best first, holds a positive; bool [N, K].
        n_positives: number of positives of every user, also of those that the list misses;
            int64 [N].
    """

    users: Sequence[str]
    hits: Tensor
    n_positives: Tensor


def outcomes_path(checkpoint: str | Path) -> Path:
    """Return the path of the outcomes of a checkpoint or record: saved/run.users.tsv."""
    return Path(checkpoint).with_suffix(".users.tsv")


def write_outcomes(outcomes: Outcomes, path: Path) -> None:
    """Write one line per user: its token, its number of positives, and the ranks (from 1) of hits.

    Raises:
        DiskError: the file cannot be written.
    """
    lines = [f"{HEADER}\t(of {outcomes.hits.shape[1]})"]
    for user, hits, n_positives in zip(
        outcomes.users, outcomes.hits.tolist(), outcomes.n_positives.tolist()
    ):
        ranks = " ".join(str(rank) for rank, is_hit in enumerate(hits, start=1) if is_hit)
        lines.append(f"{user}\t{n_positives}\t{ranks}")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_outcomes(path: Path) -> Outcomes:
    """Read a file of write_outcomes.

    Raises:
        MissingFileError: there is no such file.
        UserError: the file has other contents.
    """
    if not path.is_file():
        raise MissingFileError(
            f"there is no {str(path)!r}, which a run writes beside its checkpoint: "
            "run the model again"
        )
    with disk_errors(path):
        # read_text would change a carriage return in a user token into a line feed.
        content = path.read_bytes().decode("utf-8", errors="replace")
    header, *lines = content.removesuffix("\n").split("\n")
    if not header.startswith(HEADER):
        raise UserError(
            f"{str(path)!r} begins with {header[:40]!r}, but the outcomes of a run begin with "
            f"{HEADER!r}: name another file"
        )
    try:
        return _parse(header, lines)
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}): restore the file, or run the model again"
        ) from error


def _parse(header: str, lines: list[str]) -> Outcomes:
    rows = [line.split("\t") for line in lines]
    hits = torch.zeros(len(rows), int(header.split("(of ")[1].rstrip(")")), dtype=torch.bool)
    indices = [
        (row, int(rank) - 1) for row, (_, _, ranks) in enumerate(rows) for rank in ranks.split()
    ]
    if indices:
        hits[tuple(torch.tensor(indices).T)] = True
    n_positives = torch.tensor([int(count) for _, count, _ in rows])
    return Outcomes([user for user, _, _ in rows], hits, n_positives)
