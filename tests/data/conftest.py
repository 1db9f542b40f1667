from __future__ import annotations

import pytest
import torch

from recbole_genrec.data.sequences import Sequences


@pytest.fixture
def make_sequences():
    """make_sequences(n_users, longest): users with 1 to `longest` random items below 50."""

    def make(n_users: int, longest: int, seed: int = 0) -> Sequences:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, longest + 1, (n_users,), generator=generator)
        starts = torch.cat((torch.zeros(2, dtype=torch.long), lengths.cumsum(0)))
        return Sequences(torch.randint(1, 50, (int(starts[-1]),), generator=generator), starts)

    return make
