"""The share of the features' variance that soft and hard codes explain."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE

TEMPERATURE = dict(
    temperature_max=0.4, temperature_min=0.1, temperature_unit="absolute", annealing_epochs=10
)
SETTINGS = dict(**TEMPERATURE, uniformity_weight=0.0, kmeans_iterations=20)


def test_explained_variance_by_hand():
    """All in scalars: identity encoder, decoder y = 2x + 0.5, two levels of two codewords."""
    codebooks, values = ((0.0, 1.0), (-0.1, 0.2)), (0.2, 0.45, 1.1)
    model = SoftRQVAE(
        n_features=1, hidden_sizes=[], n_levels=2, codebook_size=2, code_dim=1, **SETTINGS
    )
    model.codebooks.data = torch.tensor(codebooks).unsqueeze(-1)
    for layer, weight, bias in ((model.encoder[0], 1.0, 0.0), (model.decoder[0], 2.0, 0.5)):
        layer.weight.data.fill_(weight)
        layer.bias.data.fill_(bias)
    soft_errors, hard_errors = [], []
    for value in values:
        residual, hard = value, 0.0
        for first, second in codebooks:
            share = 1 / (1 + math.exp(((residual - first) ** 2 - (residual - second) ** 2) / 0.4))
            hard += first if share > 0.5 else second
            residual -= share * first + (1 - share) * second
        soft_errors.append((2 * (value - residual) + 0.5 - value) ** 2)
        hard_errors.append((2 * hard + 0.5 - value) ** 2)
    mean = sum(values) / 3
    squares = sum((value - mean) ** 2 for value in values)
    report = model.report(torch.tensor(values).unsqueeze(-1))
    assert report["explained_variance"] == pytest.approx(1 - sum(soft_errors) / squares, abs=1e-4)
    assert report["hard_explained_variance"] == pytest.approx(
        1 - sum(hard_errors) / squares, abs=1e-4
    )
    assert abs(report["hard_explained_variance"] - report["explained_variance"]) > 0.1


def test_hard_and_soft_codes_explain_the_same_at_a_tiny_temperature():
    torch.manual_seed(0)
    model = SoftRQVAE(
        n_features=6, hidden_sizes=[8], n_levels=3, codebook_size=5, code_dim=4, **SETTINGS
    )
    features = torch.randn(50, 6)
    model.start(features, seed=0)
    hot = model.report(features)
    model.temperature.fill_(1e-7)
    cold = model.report(features)
    assert cold["hard_explained_variance"] == pytest.approx(cold["explained_variance"], abs=1e-4)
    assert abs(hot["hard_explained_variance"] - hot["explained_variance"]) > 1e-3
