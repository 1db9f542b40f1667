"""One run on several processes, as torchrun starts them.

All processes hold the whole model, see the same batches and draw the same random numbers. While
training, each rank encodes and decodes its share of a batch's rows. The states are then exchanged,
so every loss covers the whole batch, also a loss that compares rows with each other. While
evaluating, each rank ranks its share of the batches. In a single process nothing here has any
effect.
"""

# Shapes: B batch, T target tokens, D hidden size, K length of the ranked lists

from __future__ import annotations

import atexit
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from recbole_genrec.errors import UserError

# The other ranks may wait while the main process trains a teacher; torchrun ends all if one fails.
TIMEOUT = timedelta(days=7)

_is_alone = False


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun has started; without torchrun, do nothing."""
    is_launched = (
        distributed.is_available()
        and distributed.is_torchelastic_launched()
        and int(os.environ["WORLD_SIZE"]) > 1
    )
    if not is_launched or distributed.is_initialized():
        yield
        return
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT
    )
    # The group lasts until the process ends: a second group of this process could connect to the
    # address that another process has just left.
    atexit.register(distributed.destroy_process_group)
    try:
        yield
    except BaseException:
        # Destroying the group would wait for the other ranks, which may be waiting for this one.
        atexit.unregister(distributed.destroy_process_group)
        raise


@contextmanager
def alone() -> Iterator[None]:
    """Let this process act as the only one inside, such as while it trains a teacher."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def size() -> int:
    """Return the number of processes; 1 inside of `alone`."""
    if _is_alone:
        return 1
    is_initialized = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_initialized else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def is_main() -> bool:
    """Return True in the one process that writes files, logs and shows progress."""
    return rank() == 0


def set_device(settings: dict[str, Any]) -> None:
    """Choose this process's device and silence all processes but the main one.

    The process with local rank r gets GPU r of those that CUDA_VISIBLE_DEVICES lists. RecBole's
    settings are changed in place.

    Raises:
        UserError: The machine has fewer GPUs than processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", rank()))
    n_gpus = torch.cuda.device_count() if settings["use_gpu"] and str(settings["gpu_id"]) else 0
    if n_gpus:
        if local_rank >= n_gpus:
            raise UserError(
                f"torchrun has started process {local_rank} of this machine, "
                f"but it has {n_gpus} GPUs: lower --nproc_per_node"
            )
        torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank) if n_gpus else torch.device("cpu")
    settings.update(device=device, use_gpu=bool(n_gpus), local_rank=local_rank, single_spec=True)
    if not is_main():
        settings.update(show_progress=False, log_wandb=False)


def on_main_process(context: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    """Return the context on the main process; elsewhere, one in which only errors are logged."""
    return context if is_main() else _only_errors_logged()


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def barrier() -> None:
    """Wait until every process has reached this call."""
    if size() > 1:
        distributed.all_reduce(torch.zeros(1))


@contextmanager
def machine_first(local_rank: int) -> Iterator[bool]:
    """Yield whether this process is the first of its machine; all processes wait at the end."""
    try:
        yield local_rank == 0
    finally:
        barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process run the block alone; the others run it afterwards and find its files."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def broadcast(value: Any) -> Any:
    """Return the main process's value, which may be anything that can be pickled."""
    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def broadcast_state(model: nn.Module) -> None:
    """Copy the main process's parameters and buffers to all processes."""
    if size() == 1:
        return
    state = model.state_dict()
    for tensor in state.values():
        if tensor.numel():
            distributed.broadcast(tensor, src=0)
    model.load_state_dict(state)  # its hooks derive what a model computes from its buffers


def synchronize(model: nn.Module) -> None:
    """Copy the main process's model and random state to all processes.

    A teacher trained by the main process alone may have advanced its random state.
    """
    broadcast_state(model)
    if size() > 1:
        torch.set_rng_state(broadcast(torch.get_rng_state()))


def all_reduce_sum(*counts: Tensor | int) -> tuple[int, ...]:
    """Return the sum of each count over all processes."""
    totals = torch.tensor([int(count) for count in counts])
    if size() > 1:
        distributed.all_reduce(totals)
    return tuple(totals.tolist())


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their means over the processes, so that all take the same step."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = (flat / size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def split_rows(seq2seq: Any, seed: int, epoch: int) -> Iterator[None]:
    """Let each rank encode and decode its own rows of a batch, and all-gather the states.

    While active, `encode` and `decode` of the model are replaced. They take and return the whole
    batch. Dropout uses a generator per rank, seeded by (seed, epoch, rank), so the shared generator
    stays in step on all ranks. A batch with fewer rows than processes is not split.
    """
    if size() == 1:
        yield
        return
    encode, decode = seq2seq.encode, seq2seq.decode
    generator = _RankGenerator(next(seq2seq.parameters()).device, seed, epoch)

    def encode_own(embeddings: Tensor, mask: Tensor) -> Tensor:
        n_rows = len(embeddings)
        if n_rows < size():
            return generator.run(encode, embeddings, mask)
        own = _own_rows(n_rows)
        own_mask = mask[own] if len(mask) == n_rows else mask
        return _AllGather.apply(generator.run(encode, embeddings[own], own_mask), n_rows)

    def decode_own(embeddings: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        n_rows = len(memory)
        if n_rows < size():
            return generator.run(decode, embeddings, memory, mask)
        own, n_targets = _own_rows(n_rows), len(embeddings) // n_rows
        own_embeddings = embeddings.unflatten(0, (n_rows, n_targets))[own].flatten(0, 1)
        states = generator.run(decode, own_embeddings, memory[own], mask[own])
        return _AllGather.apply(states.unflatten(0, (-1, n_targets)), n_rows).flatten(0, 1)

    seq2seq.encode, seq2seq.decode = encode_own, decode_own
    try:
        yield
    finally:
        del seq2seq.encode, seq2seq.decode  # the class's methods show again


def _own_rows(n_rows: int) -> slice:
    """Return this rank's share of a batch's rows; the shares differ by at most one row."""
    return slice(rank() * n_rows // size(), (rank() + 1) * n_rows // size())


class _AllGather(torch.autograd.Function):
    """Join the rows of all ranks; the gradient of a share is summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, n_rows: int) -> Tensor:
        ctx.n_rows = n_rows
        dtype = _accumulation_dtype(share.dtype)
        rows = torch.zeros(n_rows, *share.shape[1:], dtype=dtype, device=share.device)
        rows[_own_rows(n_rows)] = share
        distributed.all_reduce(rows)
        return rows.to(share.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.to(_accumulation_dtype(gradient.dtype), copy=True).contiguous()
        distributed.all_reduce(total)
        return total[_own_rows(ctx.n_rows)].to(gradient.dtype), None


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class _RankGenerator:
    """Random numbers of this rank alone, seeded by (seed, epoch, rank)."""

    def __init__(self, device: torch.device, seed: int, epoch: int) -> None:
        self.shared = (
            torch.default_generator
            if device.type == "cpu"
            else torch.cuda.default_generators[device.index]
        )
        state = np.random.SeedSequence((seed, epoch, rank())).generate_state(1, np.uint64)[0]
        self.state = torch.Generator(device).manual_seed(int(state >> np.uint64(1))).get_state()

    def run(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """Call the function with this rank's random numbers; the shared ones do not advance."""
        shared_state = self.shared.get_state()
        self.shared.set_state(self.state)
        try:
            return function(*arguments)
        finally:
            self.state = self.shared.get_state()
            self.shared.set_state(shared_state)


def rank_in_parallel(
    batches: Iterable[tuple[Any, ...]],
    rank_batch: Callable[[Any], Tensor],
    width: int,
    device: torch.device,
) -> deque[Tensor]:
    """Rank the batches of an evaluation, each on one of the processes, and share the lists.

    Args:
        batches: Tuples that begin with an interaction; the same on all processes.
        rank_batch: Function from an interaction to item ids, int64 [B, at most K].
        width: K.
        device: Device of the lists.

    Returns:
        Item ids of every batch, int64 [B, K], filled up with 0 on the right; nothing in a single
        process.
    """
    if size() == 1:
        return deque()
    lists = []
    for number, (interaction, *_) in enumerate(batches):
        rows = torch.zeros(len(interaction), width, dtype=torch.long, device=device)
        if number % size() == rank():
            own = rank_batch(interaction)
            rows[:, : own.shape[1]] = own
        lists.append(rows)
    if not lists:
        return deque()
    all_rows = torch.cat(lists)
    distributed.all_reduce(all_rows)
    return deque(all_rows.split([len(rows) for rows in lists]))
