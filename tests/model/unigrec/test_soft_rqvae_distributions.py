"""What the soft RQ-VAE compares two vectors by."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE


@pytest.fixture
def tokenizer() -> SoftRQVAE:
    torch.manual_seed(0)
    settings = dict(
        n_features=6,
        hidden_sizes=[8],
        code_dim=4,
        n_levels=3,
        codebook_size=5,
        uniformity_weight=0.0,
    )
    settings.update(
        temperature_max=0.4, temperature_min=0.1, temperature_unit="absolute", annealing_epochs=10
    )
    return SoftRQVAE(**settings, kmeans_iterations=20)


def test_are_the_quantizers_own_probabilities(tokenizer):
    latent = torch.randn(7, 4)
    expected = tokenizer.quantize(latent, 0.3).probabilities
    torch.testing.assert_close(tokenizer.distributions(latent, 0.3, "minus", "soft"), expected)


@pytest.mark.parametrize("sign, factor", [("minus", -1), ("plus", 1)])
@pytest.mark.parametrize("residual", ["soft", "hard"])
def test_equal_a_softmax_of_squared_distances(tokenizer, sign, factor, residual):
    rest = torch.randn(7, 4, dtype=torch.float64)
    found = tokenizer.double().distributions(rest, 0.3, sign, residual)
    for level, codebook in enumerate(tokenizer.codebooks):
        distances = (rest[:, None] - codebook).square().sum(-1)
        torch.testing.assert_close(found[:, level], (factor * distances / 0.3).softmax(-1))
        rest = rest - (
            codebook[distances.argmin(-1)]
            if residual == "hard"
            else (-distances / 0.3).softmax(-1) @ codebook
        )


def test_the_released_sign_favors_the_farthest_codeword(tokenizer):
    tokenizer.codebooks.data = torch.zeros(3, 5, 4)
    tokenizer.codebooks.data[0, 3, 0] = 2.0  # squared distance 4 from the origin, the others 0
    plus = tokenizer.distributions(torch.zeros(1, 4), 1.0, "plus", "hard")
    assert plus[0, 0].tolist() == pytest.approx(
        [1 / (4 + math.e**4)] * 3 + [math.e**4 / (4 + math.e**4), 1 / (4 + math.e**4)]
    )
    assert tokenizer.distributions(torch.zeros(1, 4), 1.0, "minus", "hard")[0, 0].argmin() == 3


@pytest.mark.parametrize("residual", ["soft", "hard"])
def test_train_the_vector_and_every_codebook(tokenizer, residual):
    latent = torch.randn(7, 4, requires_grad=True)
    found = tokenizer.distributions(latent, 0.3, "plus", residual)
    (found * torch.randn(5)).sum().backward()
    assert latent.grad.abs().sum() > 0
    assert (tokenizer.codebooks.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_do_not_see_autocast(tokenizer):
    latent = torch.randn(7, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tokenizer.distributions(latent.bfloat16().float(), 0.003, "minus", "soft")
    assert torch.equal(
        found, tokenizer.distributions(latent.bfloat16().float(), 0.003, "minus", "soft")
    )
