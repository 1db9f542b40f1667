"""One run on several processes, as torchrun starts them: what each of them computes, and how they come to the same.

All processes hold the whole model, see the same batches and draw the same numbers. In training each
encodes and decodes its share of a
batch's rows; the states are then exchanged, so that every loss, also one that compares rows with
each other, is that of the whole batch.
In evaluation each ranks its share of the batches. Without such processes nothing here does
anything.
"""

# Shapes: B batch, S source tokens, T target tokens, D hidden size, K length of the ranked lists

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

PATIENCE = timedelta(
    days=7
)  # one process may train a teacher while the others wait; torchrun ends them all if one fails

# --- who is there
# ---------------------------------------------------------------------------------------------


@contextmanager
def joined() -> Iterator[None]:
    """The processes that torchrun has started know each other from now on; nothing in any other launch, or of a single process."""
    started = (
        distributed.is_available()
        and distributed.is_torchelastic_launched()
        and int(os.environ["WORLD_SIZE"]) > 1
    )
    if not started or distributed.is_initialized():
        yield
        return
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE
    )
    # Not before the end: who leaves and joins again may meet the address that another process has
    # just left.
    atexit.register(distributed.destroy_process_group)
    try:
        yield
    except BaseException:  # the others may be waiting for this one, and it for them
        atexit.unregister(distributed.destroy_process_group)
        raise


def size() -> int:
    """Number of processes."""
    return (
        distributed.get_world_size()
        if distributed.is_available() and distributed.is_initialized()
        else 1
    )


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def is_main() -> bool:
    """Whether this process writes files, logs and shows progress."""
    return rank() == 0


def place(settings: dict[str, Any]) -> None:
    """Give this process its device, and keep it quiet unless it is the main one: changes settings of RecBole in place.

    Each process of a machine gets the GPU of its number there; CUDA_VISIBLE_DEVICES says which
    there are.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
    """
    number = int(os.environ.get("LOCAL_RANK", rank()))
    n_gpus = torch.cuda.device_count() if settings["use_gpu"] and str(settings["gpu_id"]) else 0
    if n_gpus:
        if number >= n_gpus:
            raise UserError(
                f"torchrun has started process {number} of this machine, but it has {n_gpus} GPUs: lower --nproc_per_node"
            )
        torch.cuda.set_device(number)
    device = torch.device("cuda", number) if n_gpus else torch.device("cpu")
    settings.update(device=device, use_gpu=bool(n_gpus), local_rank=number, single_spec=True)
    if not is_main():
        settings.update(show_progress=False, log_wandb=False)


def of_main(context: AbstractContextManager) -> AbstractContextManager:
    """The context, such as a log file; of the other processes one in which only errors are logged."""
    return context if is_main() else _silent()


@contextmanager
def _silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Nowhere:
    """Takes what is written for TensorBoard."""

    def add_scalar(self, *arguments: Any) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def one_tensorboard() -> Iterator[None]:
    """RecBole's trainers open a file as they are made; within it only that of the main process does."""
    from recbole.trainer import trainer

    opened = trainer.get_tensorboard
    if not is_main():
        trainer.get_tensorboard = lambda logger: _Nowhere()
    try:
        yield
    finally:
        trainer.get_tensorboard = opened


# --- waiting and agreeing
# -------------------------------------------------------------------------------------


def wait() -> None:
    """Go on when all processes are here."""
    if size() > 1:
        distributed.all_reduce(torch.zeros(1))


@contextmanager
def main_first() -> Iterator[None]:
    """Within it the main process does alone what leaves files; the others follow when it is done, and find them."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def from_main(value: Any) -> Any:
    """The main process's value of anything that can be pickled."""
    if size() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def copy_state(model: nn.Module) -> None:
    """Give all processes the parameters and buffers of the main one, and what follows from them."""
    if size() == 1:
        return
    state = model.state_dict()
    for tensor in state.values():
        if tensor.numel():
            distributed.broadcast(tensor, src=0)
    model.load_state_dict(state)


def start_alike(model: nn.Module) -> None:
    """Let all processes begin with the model and the random state of the main one, which may have trained a teacher before."""
    copy_state(model)
    if size() > 1:
        torch.set_rng_state(from_main(torch.get_rng_state()))


def summed(*counts: Tensor | int) -> tuple[Tensor | int, ...]:
    """The sums of all processes' counts."""
    if size() == 1:
        return counts
    totals = torch.tensor([int(count) for count in counts])
    distributed.all_reduce(totals)
    return tuple(totals.tolist())


# --- training
# -------------------------------------------------------------------------------------------------


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their means over the processes, so that all of them take the same step."""
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
def split_rows(seq2seq: nn.Module, seed: int, epoch: int) -> Iterator[None]:
    """Within it `encode` and `decode` of a seq2seq compute this process's rows, and give those of the whole batch.

    What is dropped follows from (seed, epoch, process) and takes nothing from the numbers that all
    processes draw alike. A batch of
    fewer rows than processes is not split.
    """
    if size() == 1:
        yield
        return
    encode, decode, draws = (
        seq2seq.encode,
        seq2seq.decode,
        _OwnDraws(next(seq2seq.parameters()).device, seed, epoch),
    )

    def encode_share(embeddings: Tensor, mask: Tensor) -> Tensor:
        if len(embeddings) < size():
            return draws.within(encode, embeddings, mask)
        own = _share(len(embeddings))
        states = draws.within(
            encode, embeddings[own], mask[own] if len(mask) == len(embeddings) else mask
        )
        return _Gather.apply(states, len(embeddings))

    def decode_share(embeddings: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        if len(memory) < size():
            return draws.within(decode, embeddings, memory, mask)
        own, n_targets = _share(len(memory)), len(embeddings) // len(memory)
        states = draws.within(
            decode,
            embeddings.unflatten(0, (-1, n_targets))[own].flatten(0, 1),
            memory[own],
            mask[own],
        )
        return _Gather.apply(states.unflatten(0, (-1, n_targets)), len(memory)).flatten(0, 1)

    seq2seq.encode, seq2seq.decode = encode_share, decode_share
    try:
        yield
    finally:
        del seq2seq.encode, seq2seq.decode


def _share(n_rows: int) -> slice:
    """This process's part of as many rows; the parts differ by at most one row."""
    return slice(rank() * n_rows // size(), (rank() + 1) * n_rows // size())


class _Gather(torch.autograd.Function):
    """Rows of all processes from each one's share; the gradient of a share is the sum of all processes' gradients of it."""

    @staticmethod
    def forward(ctx, share: Tensor, n_rows: int) -> Tensor:
        ctx.n_rows = n_rows
        rows = torch.zeros(
            n_rows, *share.shape[1:], dtype=_long_enough(share.dtype), device=share.device
        )
        rows[_share(n_rows)] = share
        distributed.all_reduce(rows)
        return rows.to(share.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.to(_long_enough(gradient.dtype), copy=True).contiguous()
        distributed.all_reduce(total)
        return total[_share(ctx.n_rows)].to(gradient.dtype), None


def _long_enough(dtype: torch.dtype) -> torch.dtype:
    """A type to add in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class _OwnDraws:
    """Random numbers of this process alone."""

    def __init__(self, device: torch.device, seed: int, epoch: int) -> None:
        self.shared = (
            torch.default_generator
            if device.type == "cpu"
            else torch.cuda.default_generators[device.index]
        )
        state = np.random.SeedSequence((seed, epoch, rank())).generate_state(1, np.uint64)[0]
        self.state = torch.Generator(device).manual_seed(int(state >> np.uint64(1))).get_state()

    def within(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """The function's result, with its random numbers from here."""
        shared_state = self.shared.get_state()
        self.shared.set_state(self.state)
        try:
            return function(*arguments)
        finally:
            self.state = self.shared.get_state()
            self.shared.set_state(shared_state)


# --- evaluation
# -----------------------------------------------------------------------------------------------


def in_shares(
    batches: Iterable, ranked: Callable[[Any], Tensor], width: int, device: torch.device
) -> deque[Tensor]:
    """The ranked lists of all batches, each made by one of the processes.

    Args:
        batches: of an evaluation: tuples that begin with an interaction; the same in all processes.
        ranked: interaction -> int64 [B, at most K].
        width: K.
        device: where the lists are.

    Returns:
        int64 [B, K] of every batch, 0 on the right where there is no item; nothing if there is a
        single process.
    """
    if size() == 1:
        return deque()
    lists = []
    for number, (interaction, *_) in enumerate(batches):
        rows = torch.zeros(len(interaction), width, dtype=torch.long, device=device)
        if number % size() == rank():
            own = ranked(interaction)
            rows[:, : own.shape[1]] = own
        lists.append(rows)
    if not lists:
        return deque()
    whole = torch.cat(lists)
    distributed.all_reduce(whole)
    return deque(whole.split([len(rows) for rows in lists]))
