"""The distributions by which distillation compares latent vectors."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE


@pytest.fixture
def tokenizer() -> SoftRQVAE:
    torch.manual_seed(0)
    return SoftRQVAE(
        n_features=6,
        hidden_sizes=[8],
        code_dim=4,
        n_levels=3,
        codebook_size=5,
        uniformity_weight=0.0,
        temperature_max=0.4,
        temperature_min=0.1,
        temperature_unit="absolute",
        annealing_epochs=10,
        kmeans_iterations=20,
    )


def test_equal_a_softmax_of_minus_the_distances_along_soft_codewords(tokenizer):
    residual = torch.randn(7, 4, dtype=torch.float64)
    found = tokenizer.double().distributions(residual, 0.3)
    for level, codebook in enumerate(tokenizer.codebooks):
        distances = (residual[:, None] - codebook).square().sum(-1)
        expected = (-distances / 0.3).softmax(-1)
        torch.testing.assert_close(found[:, level], expected)
        residual = residual - expected @ codebook


def test_train_the_vector_and_every_codebook(tokenizer):
    latent = torch.randn(7, 4, requires_grad=True)
    (tokenizer.distributions(latent, 0.3) * torch.randn(5)).sum().backward()
    assert latent.grad.abs().sum() > 0
    assert (tokenizer.codebooks.grad.abs().sum(dim=(1, 2)) > 0).all()


def test_do_not_see_autocast(tokenizer):
    latent = torch.randn(7, 4).bfloat16().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tokenizer.distributions(latent, 0.003)
    assert torch.equal(found, tokenizer.distributions(latent, 0.003))
