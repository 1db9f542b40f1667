from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer import base
from recbole_genrec.tokenizer.base import mlp
from recbole_genrec.tokenizer.residual_kmeans import ResidualKMeans


def started(features: torch.Tensor, codebook_size: int = 4) -> ResidualKMeans:
    model = ResidualKMeans(
        n_features=features.shape[1], n_levels=2, codebook_size=codebook_size, kmeans_iterations=20
    )
    model.start(features, seed=0)
    return model


def test_mlp_has_relu_between_layers_only():
    network = mlp([3, 5, 4, 2])
    assert [type(layer) for layer in network] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.weight.shape for layer in network[::2]] == [(5, 3), (4, 5), (2, 4)]


def test_mlp_weights_are_xavier_normal_and_biases_zero():
    torch.manual_seed(0)
    layer = mlp([300, 500])[0]
    assert layer.bias.abs().max() == 0
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / 800), rel=0.02)
    assert float(layer.weight.detach().abs().max()) > 3 * math.sqrt(2 / 800)


def test_chunked_encode_and_report_equal_whole(monkeypatch):
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    model = started(features)
    codes, report = model.encode(features), model.report(features)
    monkeypatch.setattr(base, "CHUNK_ROWS", 7)
    assert torch.equal(model.encode(features), codes)
    assert model.report(features) == pytest.approx(report)
    assert codes.dtype == torch.int64
    assert codes.shape == (50, 2)


def test_explained_variance_against_numpy():
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) + 5
    model = started(features)
    codes = model.encode(features)
    error = features - model.codebooks[0][codes[:, 0]] - model.codebooks[1][codes[:, 1]]
    expected = 1 - (error.numpy() ** 2).mean() / features.numpy().var(axis=0).mean()
    assert model.report(features)["explained_variance"] == pytest.approx(expected, abs=1e-5)


def test_constant_features_explain_nothing():
    features = torch.ones(10, 3)
    assert started(features).report(features)["explained_variance"] == 0.0


def test_wrong_width_is_an_error():
    model = started(torch.randn(10, 3))
    with pytest.raises(UserError, match=r"shape \[10, 4\], but the tokenizer takes \[items, 3\]"):
        model.encode(torch.randn(10, 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_an_error(bad):
    features = torch.randn(10, 3)
    features[2, 1] = bad
    with pytest.raises(UserError, match="1 of 10 rows of the item features hold NaN or infinity"):
        started(features)
