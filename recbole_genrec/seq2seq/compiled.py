"""What beam search calls most, as kernels that torch.compile makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recbole_genrec.errors import UserError


class SearchParts(NamedTuple):
    """Encoder and decoding step of a generator, as beam search calls them."""

    encode: Callable[..., Tensor]
    step: Callable[..., Tensor]


def compiled(seq2seq: nn.Module) -> SearchParts:
    """The methods `encode` and `step`, compiled when they are first called; batches and histories of any size share the kernels."""
    return SearchParts(
        torch.compile(seq2seq.encode, dynamic=True), torch.compile(seq2seq.step, dynamic=True)
    )


def check_compiler(device: torch.device) -> None:
    """Compile something small, because the first search may come only after hours of training.

    Raises:
        ValueError: torch.compile does not work here.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # of torch, of its compiler, of the operating system: what is lacking differs by machine
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"compile_search is True, but torch.compile does not work here ({reason[0]}): it needs torch 2 and a C++ compiler such as g++; "
            "install them or set compile_search to False."
        ) from error
