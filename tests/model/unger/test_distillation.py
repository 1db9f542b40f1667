from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.model.unger.distillation import Distillation

TARGETS = torch.tensor([4, 5, 7])


def make_distillation(n_negatives: int, temperature: float = 1.0, weight=1.0) -> Distillation:
    torch.manual_seed(0)
    settings = {
        "hidden_size": 8,
        "distillation_weight": weight,
        "distillation_negatives": n_negatives,
        "distillation_temperature": temperature,
    }
    return Distillation(settings, 5)


def test_loss_against_a_loop_over_the_catalogue():
    """All ten items are drawn; a row's own target does not count twice."""
    module, states = make_distillation(99, 0.7, weight=0.3), torch.randn(3, 8)
    vectors = torch.randn(11, 5)
    terms = []
    for state, target in zip(states, TARGETS.tolist()):
        query = F.normalize(module.map(F.normalize(state, dim=0)), dim=0)
        logits = F.normalize(vectors[1:], dim=1) @ query / 0.7
        terms.append(logits.logsumexp(0) - logits[target - 1])
    expected = 0.3 * torch.stack(terms).mean().item()
    assert module.loss(states, vectors, TARGETS).item() == pytest.approx(expected, abs=1e-5)


def test_padding_is_never_drawn_and_draws_differ():
    module, states = make_distillation(3), torch.randn(3, 8)
    vectors = torch.randn(11, 5)
    vectors[0] = float("nan")
    losses = {module.loss(states, vectors, TARGETS).item() for _ in range(20)}
    assert len(losses) > 1 and all(map(math.isfinite, losses))


def test_only_the_direction_of_a_state_counts():
    module, states, vectors = make_distillation(99), torch.randn(3, 8), torch.randn(11, 5)
    losses = [module.loss(factor * states, vectors, TARGETS).item() for factor in (1.0, 7.0)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
