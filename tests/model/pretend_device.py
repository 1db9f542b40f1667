"""A pretended accelerator: its tensors live on the CPU, refuse host tensors and note every wait.

torch's own FakeTensorMode has no backward pass for CUDA where torch is built without it, and
nothing that depends on values; here results
are the CPU's, so that they can be compared with them.
"""

from __future__ import annotations

import traceback

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
# Operations that need a value of the device, or as much memory as a value says.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "bincount",
    "equal",
}


class OnDevice(torch.Tensor):
    """A tensor of the pretended device; `held` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        layout = {
            "strides": held.stride(),
            "storage_offset": held.storage_offset(),
            "dtype": held.dtype,
            "device": "cpu",
        }
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout)
        made.held = held.detach()
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    def __repr__(self) -> str:
        return f"OnDevice({self.held})"

    def __format__(self, format_spec: str) -> str:
        return format(self.item(), format_spec)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        operands = [
            leaf for leaf in tree_flatten((args, kwargs or {}))[0] if isinstance(leaf, torch.Tensor)
        ]
        of_host = [leaf for leaf in operands if not isinstance(leaf, OnDevice) and leaf.dim() > 0]
        if of_host:
            raise RuntimeError(
                f"{func} of a device tensor got a host tensor of shape {list(of_host[0].shape)}"
            )
        if waits(func, args):
            note(func.overloadpacket.__name__)
        wrappers = {id(leaf.held): leaf for leaf in operands if isinstance(leaf, OnDevice)}
        held = tree_map(
            lambda leaf: leaf.held if isinstance(leaf, OnDevice) else leaf, (args, kwargs or {})
        )
        result = func(*held[0], **held[1])

        def wrapped(leaf):
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return wrappers[id(leaf)] if id(leaf) in wrappers else OnDevice(leaf)

        return tree_map(wrapped, result)


def waits(func, args) -> bool:
    """Return True if an operation makes the host wait on a real device."""
    name = func.overloadpacket.__name__
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
    return name in WAITING or (
        name == "repeat_interleave" and isinstance(args[0], torch.Tensor) and len(args) == 1
    )


noted: list[tuple[str, str]] = []


def note(operation: str) -> None:
    """Remember who in the package waits: its function's name and the operation."""
    frames = [frame for frame in traceback.extract_stack() if "/recbole_genrec/" in frame.filename]
    noted.append((frames[-1].name if frames else "", operation))


class PretendDevice(TorchFunctionMode):
    """Let `device="cuda:0"` and `.to("cuda:0")` give tensors of the pretended device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy):
            return moved(func, args, kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.nn.functional.one_hot and isinstance(args[0], OnDevice):
            return OnDevice(
                func(args[0].held, *args[1:], **kwargs)
            )  # looks at the values of tensors of a CPU only
        if kwargs.get("device") is None or torch.device(kwargs["device"]).type == "cpu":
            return func(*args, **kwargs)
        if func is torch.tensor:
            note("tensor")
        result = func(*args, **{**kwargs, "device": "cpu"})
        return result if isinstance(result, OnDevice) else OnDevice(result)


def moved(func, args, kwargs):
    """A tensor or its numbers on another device, or of another type."""
    tensor, *how = args
    if func is not torch.Tensor.to:
        if isinstance(tensor, OnDevice):
            note(func.__name__)
            tensor = tensor.held
        return func(tensor, *how, **kwargs)
    if how and isinstance(how[0], torch.Tensor):
        device, dtype, non_blocking = how[0].device, how[0].dtype, False
    else:
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*how, **kwargs)
    to_device = isinstance(tensor, OnDevice) if device is None else device.type == DEVICE.type
    if to_device != isinstance(tensor, OnDevice):
        if not (to_device and non_blocking):
            note("to")
        tensor = OnDevice(tensor) if to_device else tensor.held
    return tensor if dtype is None else func(tensor, dtype)
