"""Mixed precision: what runs in bfloat16 and what always stays in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mixed_precision(device: torch.device, enabled: bool) -> torch.autocast:
    """Return a context that runs matrix products in bfloat16 if `enabled`; weights stay float32."""
    return torch.autocast(device_type=device.type, dtype=torch.bfloat16, enabled=enabled)


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context without mixed precision on the tensor's device.

    Distances, and everything else that decides on a code, need float32: a temperature of 0.001
    turns an absolute error e of a distance into an error of 1000 e in a logit.
    """
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def in_full_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a function of tensors so that it computes in float32 or wider in any context."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Tensor:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        with full_precision(tensors[0]):
            return function(*(_upcast(argument) for argument in arguments), **named)

    return wrapped


def _upcast(argument: Any) -> Any:
    is_short = isinstance(argument, Tensor) and argument.dtype in (torch.bfloat16, torch.float16)
    return argument.float() if is_short else argument
