"""The temperature of the soft RQ-VAE and its unit."""

from __future__ import annotations

import itertools

import pytest
import torch

from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE

SIZES = dict(n_features=6, hidden_sizes=[8], code_dim=4, n_levels=3, codebook_size=5)
TEMPERATURE = dict(
    temperature_max=0.4, temperature_min=0.1, temperature_unit="absolute", annealing_epochs=10
)


def tokenizer(**changes) -> SoftRQVAE:
    torch.manual_seed(0)
    return SoftRQVAE(
        **SIZES, uniformity_weight=0.5, kmeans_iterations=20, **{**TEMPERATURE, **changes}
    )


def features() -> torch.Tensor:
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(7))


def annealed(model: SoftRQVAE, epoch: int) -> float:
    """Return the temperature of an epoch."""
    model.anneal(epoch, features())
    return model.temperature.item()


def test_annealing_is_linear_per_epoch_then_constant():
    model = tokenizer(temperature_max=0.01, temperature_min=0.001, annealing_epochs=3000)
    temperatures = [annealed(model, epoch) for epoch in range(3000)]
    assert temperatures[0] == pytest.approx(0.01)
    assert temperatures[1500] == pytest.approx(0.0055)
    assert temperatures[2999] == pytest.approx(0.001003)
    assert all(later < earlier for earlier, later in itertools.pairwise(temperatures))
    assert model.temperature.item() == pytest.approx(0.001003)
    assert annealed(model, 3000) == annealed(model, 9999) == pytest.approx(0.001)


def test_temperature_in_units_of_the_latent_variance():
    """Latent vectors c times as long have c * c times the temperature, so the same soft codes."""
    model, items = tokenizer(temperature_unit="variance"), features()
    latent = model.encoder(items).detach()
    variance = (latent - latent.mean(0)).square().sum(1).mean().item()
    assert annealed(model, 5) == pytest.approx(0.25 * variance, rel=1e-5)
    before = model.soft_codes(items).probabilities
    compared = model.distributions(latent, 0.5)
    torch.testing.assert_close(compared, model.quantize(latent, 0.5 * variance).probabilities)
    model.encoder[-1].weight.data *= 3
    model.encoder[-1].bias.data *= 3
    model.codebooks.data *= 3
    assert annealed(model, 5) == pytest.approx(0.25 * 9 * variance, rel=1e-5)
    torch.testing.assert_close(model.soft_codes(items).probabilities, before, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.distributions(3 * latent, 0.5), compared, rtol=1e-4, atol=1e-6)


def test_a_large_catalogue_is_measured_by_evenly_spaced_items(monkeypatch):
    model, items = tokenizer(temperature_unit="variance"), features()
    monkeypatch.setattr("recbole_genrec.model.unigrec.soft_rqvae.MAX_MEASURED", 20)
    latent = model.encoder(items[[*range(0, 50, 3)]]).detach()
    variance = (latent - latent.mean(0)).square().sum(1).mean().item()
    assert annealed(model, 10) == pytest.approx(0.1 * variance, rel=1e-5)


def test_the_unit_is_saved():
    model = tokenizer(temperature_unit="variance")
    model.anneal(5, features())
    copy = tokenizer(temperature_unit="variance")
    copy.load_state_dict(model.state_dict())
    assert copy.unit.item() == model.unit.item() != 1


def test_temperature_is_saved_and_used():
    model = tokenizer()
    model.anneal(7, features())
    copy = tokenizer()
    copy.load_state_dict(model.state_dict())
    assert copy.temperature.item() == pytest.approx(0.4 - 0.3 * 0.7)
    soft, explicit = (
        copy.soft_codes(features()),
        copy.quantize(copy.encoder(features()), 0.4 - 0.3 * 0.7),
    )
    torch.testing.assert_close(soft.probabilities, explicit.probabilities)
    assert not torch.allclose(soft.probabilities, tokenizer().soft_codes(features()).probabilities)
