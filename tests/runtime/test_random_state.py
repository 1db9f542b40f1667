from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from recbole_genrec.runtime.random_state import own_random_state


def state() -> tuple:
    cudnn = torch.backends.cudnn
    return (
        random.getstate(),
        repr(np.random.get_state()),
        torch.get_rng_state().tolist(),
        (cudnn.benchmark, cudnn.deterministic),
    )


def draw() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), float(torch.rand(()))


@pytest.mark.parametrize("fails", [False, True])
def test_the_caller_draws_on_as_if_nothing_had_happened(fails):
    before = state()
    try:
        with own_random_state("cpu", seed=5):
            draw()
            torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert state() == before


def test_the_numbers_inside_depend_on_the_seed_alone():
    drawn = []
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)
        with own_random_state(torch.device("cpu"), seed):
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(first != second for first, second in zip(drawn[1], drawn[2]))
