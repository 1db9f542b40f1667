"""What a test gave user by user: the file from which two runs can be compared."""

# Shapes: N users, K length of the ranked lists

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.storage import replacing

HEADER = "user\tn_positives\tranks of hits"


@dataclass(frozen=True)
class Outcomes:
    """Where the positives of every user stand in its ranked list.

    Attributes:
        users: RecBole's tokens of the users, N.
        hits: whether a place of the list, best first, holds a positive; bool [N, K].
        n_positives: positives of every user, those that the list misses included; int64 [N].
    """

    users: Sequence[str]
    hits: Tensor
    n_positives: Tensor


def outcomes_path(checkpoint: str | Path) -> Path:
    """The file beside a checkpoint or record (saved/run.pth, saved/run.json) that holds its outcomes: saved/run.users.tsv."""
    return Path(checkpoint).with_suffix(".users.tsv")


def write_outcomes(outcomes: Outcomes, path: Path) -> None:
    """One line per user: its token, how many positives it has, and the places (from 1) at which they stand."""
    lines = [f"{HEADER}\t(of {outcomes.hits.shape[1]})"]
    for user, hits, n_positives in zip(
        outcomes.users, outcomes.hits.tolist(), outcomes.n_positives.tolist()
    ):
        ranks = " ".join(str(place) for place, is_hit in enumerate(hits, start=1) if is_hit)
        lines.append(f"{user}\t{n_positives}\t{ranks}")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_outcomes(path: Path) -> Outcomes:
    """What write_outcomes wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these files.
    """
    if not path.is_file():
        raise MissingFileError(
            f"there is no {str(path)!r}, which a run writes beside its checkpoint: run the model again"
        )
    header, *lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    if not header.startswith(HEADER):
        raise UserError(
            f"{str(path)!r} begins with {header[:40]!r}, but the outcomes of a run begin with {HEADER!r}: name another file"
        )
    rows = [line.split("\t") for line in lines]
    hits = torch.zeros(len(rows), int(header.split("(of ")[1].rstrip(")")), dtype=torch.bool)
    places = [
        (row, int(place) - 1) for row, (_, _, ranks) in enumerate(rows) for place in ranks.split()
    ]
    if places:
        hits[tuple(torch.tensor(places).T)] = True
    return Outcomes(
        [user for user, _, _ in rows], hits, torch.tensor([int(count) for _, count, _ in rows])
    )
