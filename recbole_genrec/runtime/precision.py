"""Which numbers are short (bfloat16) and which never are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mixed_precision(device: torch.device, enabled: bool) -> torch.autocast:
    """Context in which matrix products are made in bfloat16, on any kind of device, if it is `enabled`; weights stay float32."""
    return torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=enabled)


def full_precision(tensor: Tensor) -> torch.autocast:
    """Context in which mixed precision is off: distances, and all that decides on a code, need float32.

    A temperature of 0.001 turns an absolute error e of a distance into an error of 1000 e in a
    logit.
    """
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def in_full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of tensors that computes in float32 at least, whatever the context and its arguments are."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Tensor:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        with full_precision(tensors[0]):
            return function(*(_lengthened(argument) for argument in arguments), **named)

    return wrapped


def _lengthened(argument: Any) -> Any:
    is_short = isinstance(argument, Tensor) and argument.dtype in (torch.bfloat16, torch.float16)
    return argument.float() if is_short else argument
