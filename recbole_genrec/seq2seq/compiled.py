"""Kernels of torch.compile for the parts of a seq2seq that a search calls most."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.seq2seq.base import Seq2Seq


class SearchParts(NamedTuple):
    """Encoder and decoding step of a seq2seq, as a search calls them."""

    encode: Callable[..., Tensor]
    step: Callable[..., Tensor]


def compiled(seq2seq: Seq2Seq) -> SearchParts:
    """Compile `encode` and `step` at their first call, with kernels for inputs of any size."""
    return SearchParts(
        torch.compile(seq2seq.encode, dynamic=True), torch.compile(seq2seq.step, dynamic=True)
    )


def check_compiler(device: torch.device) -> None:
    """Compile a small function now, because the first search may follow hours of training.

    Raises:
        UserError: torch.compile does not work here.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # its type depends on what this machine lacks
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"compile_search is True, but torch.compile does not work here ({reason[0]}): install "
            "torch 2 and a C++ compiler such as g++, or set compile_search to False."
        ) from error
