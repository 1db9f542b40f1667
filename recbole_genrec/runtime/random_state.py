"""Random numbers for a computation inside a run that must not change the run's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def own_random_state(device: torch.device | str, seed: int) -> Iterator[None]:
    """Seed all random generators that RecBole uses, and restore them at the end.

    These are Python's, numpy's and torch's on the CPU and on `device`. cuDNN's switches, which
    RecBole sets with the seed, are restored, too.
    """
    device = torch.device(device)
    states = random.getstate(), np.random.get_state()
    cudnn = torch.backends.cudnn
    switches = cudnn.benchmark, cudnn.deterministic
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            cudnn.benchmark, cudnn.deterministic = switches
