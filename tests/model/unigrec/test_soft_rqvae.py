"""The soft RQ-VAE: quantizer, losses, gradients and start."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE, codeword_uniformity

SETTINGS = dict(
    n_features=6,
    hidden_sizes=[8],
    code_dim=4,
    n_levels=3,
    codebook_size=5,
    uniformity_weight=0.5,
    temperature_max=0.4,
    temperature_min=0.1,
    temperature_unit="absolute",
    annealing_epochs=10,
    kmeans_iterations=20,
)


def tokenizer(**changes) -> SoftRQVAE:
    torch.manual_seed(0)
    return SoftRQVAE(**{**SETTINGS, **changes})


def features(n: int = 50, width: int = 6) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(7))


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    return -(probabilities * probabilities.clamp(min=1e-30).log()).sum(-1)


def test_one_level_by_hand():
    model = tokenizer(n_levels=1, codebook_size=2, code_dim=1)
    model.codebooks.data = torch.tensor([[[0.0], [1.0]]])
    # Squared distances 0.0625 and 0.5625; their difference over the temperature is 1.
    soft = model.quantize(torch.tensor([[0.25]]), temperature=0.5)
    near = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(soft.probabilities, torch.tensor([[[near, 1 - near]]]))
    torch.testing.assert_close(soft.quantized, torch.tensor([[1 - near]]))
    assert soft.codes.tolist() == [[0]]


def test_equals_softmax_of_distances_along_the_soft_path():
    model = tokenizer()
    latent = torch.randn(7, 4)
    soft = model.quantize(latent, temperature=0.3)
    residual = latent.double()
    for level, codebook in enumerate(model.codebooks.double()):
        distances = (residual[:, None] - codebook).square().sum(-1)
        expected = (-distances / 0.3).softmax(-1)
        torch.testing.assert_close(
            soft.probabilities[:, level].double(), expected, atol=1e-5, rtol=1e-4
        )
        assert torch.equal(soft.codes[:, level], distances.argmin(-1))
        residual = residual - expected @ codebook
    torch.testing.assert_close(soft.quantized.double(), latent - residual, atol=1e-5, rtol=1e-5)


def test_low_temperature_is_the_hard_quantizer():
    model = tokenizer()
    latent = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    soft = model.quantize(latent, temperature=1e-5)
    residual, clear = latent, torch.ones(200, dtype=torch.bool)
    for level, codebook in enumerate(model.codebooks.detach()):
        distances = torch.cdist(residual, codebook).square()
        two_nearest = distances.topk(2, largest=False).values
        clear &= two_nearest[:, 1] - two_nearest[:, 0] > 1e-3
        hard = F.one_hot(distances.argmin(1), 5).float()
        assert (soft.probabilities[clear, level] - hard[clear]).abs().max() < 1e-6
        residual = residual - hard @ codebook
    assert clear.sum() > 150


def test_high_temperature_is_uniform():
    model = tokenizer()
    soft = model.quantize(torch.randn(7, 4), temperature=1e6)
    torch.testing.assert_close(entropy(soft.probabilities), torch.full((7, 3), math.log(5)))
    expected = model.codebooks.mean(dim=1).sum(dim=0).expand(7, 4)
    torch.testing.assert_close(soft.quantized, expected, atol=1e-4, rtol=0)


def test_entropy_of_the_first_level_grows_with_temperature():
    model, latent = tokenizer(), torch.randn(20, 4)
    entropies = [
        entropy(model.quantize(latent, t).probabilities[:, 0])
        for t in (0.001, 0.01, 0.1, 1.0, 10.0)
    ]
    assert all((hotter >= colder - 1e-6).all() for colder, hotter in itertools.pairwise(entropies))
    assert (entropies[-1] > entropies[0] + 0.1).all()


def test_first_codes_are_nearest_at_any_temperature():
    model, latent = tokenizer(), torch.randn(100, 4)
    nearest = torch.cdist(latent, model.codebooks[0]).argmin(1)
    for temperature in (0.001, 0.1, 10.0):
        assert torch.equal(model.quantize(latent, temperature).codes[:, 0], nearest)


def test_extreme_latents_stay_finite():
    model = tokenizer()
    latent = F.normalize(torch.randn(20, 4), dim=1).mul(100).requires_grad_()
    soft = model.quantize(latent, temperature=1e-3)
    torch.testing.assert_close(soft.probabilities.sum(-1), torch.ones(20, 3))
    assert (soft.probabilities >= 0).all()
    soft.quantized.square().sum().backward()
    assert torch.isfinite(latent.grad).all()
    assert torch.isfinite(model.codebooks.grad).all()


def test_constant_added_to_all_distances_changes_nothing():
    model = tokenizer(n_levels=1, code_dim=4)
    model.codebooks.data[..., 3] = 0
    latent = torch.randn(20, 4)
    # All codewords agree in the last coordinate, so it adds a constant to a row's distances.
    moved = latent + torch.tensor([0.0, 0.0, 0.0, 3.0])
    torch.testing.assert_close(
        model.quantize(latent).probabilities, model.quantize(moved).probabilities
    )


def test_codes_of_encode_are_those_of_training():
    model = tokenizer()
    model.start(features(), seed=0)
    for epoch in (0, 5, 20):
        model.anneal(epoch, features())
        assert torch.equal(model.encode(features()), model.soft_codes(features()).codes)


def test_gradient_of_a_codeword_matches_finite_differences():
    model = tokenizer(temperature_max=0.1).double()
    batch, weights = features(4).double(), torch.randn(4, 3, 5, dtype=torch.float64)

    def loss(codebooks: torch.Tensor) -> torch.Tensor:
        soft = torch.func.functional_call(model, {"codebooks": codebooks}, (batch,))
        return (soft.probabilities * weights).sum() + soft.quantized.square().sum()

    model.forward = model.soft_codes
    codebooks = model.codebooks.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (codebooks,), rtol=1e-4, atol=1e-7)


def test_probabilities_alone_train_encoder_and_codebooks_but_not_the_decoder():
    model = tokenizer()
    soft = model.soft_codes(features())
    (soft.probabilities * torch.randn(5)).sum().backward()
    trained = [parameter.grad for parameter in [*model.encoder.parameters(), model.codebooks]]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in trained)
    assert all(gradient.abs().sum() > 0 for gradient in trained)
    assert (model.codebooks.grad.abs().sum(dim=(1, 2)) > 0).all()
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_losses_by_hand():
    model, batch = tokenizer(), features()
    losses = model.losses(batch)
    soft = model.quantize(model.encoder(batch))
    torch.testing.assert_close(
        losses["reconstruction"], (model.decoder(soft.quantized) - batch).square().mean()
    )
    usage = soft.probabilities.mean(dim=0)
    torch.testing.assert_close(losses["uniformity"], -0.5 * entropy(usage).mean())


def test_uniformity_weight_of_zero_gives_a_zero_tensor():
    losses = tokenizer(uniformity_weight=0).losses(features())
    assert torch.equal(losses["uniformity"], torch.zeros(()))
    sum(losses.values()).backward()


def test_uniformity_values():
    n_codes = 256
    balanced = torch.eye(n_codes)[:, None].expand(-1, 3, -1)
    uniform = torch.full((4, 3, n_codes), 1 / n_codes)
    assert codeword_uniformity(uniform).item() == pytest.approx(-math.log(256), abs=1e-6)
    assert codeword_uniformity(balanced).item() == pytest.approx(-math.log(256), abs=1e-6)
    assert codeword_uniformity(balanced[:1].expand(9, -1, -1)).item() == pytest.approx(0, abs=1e-6)
    # Two items share a code at one level and not at the other: the mean of 0 and -log 2.
    two = torch.tensor([[[1.0, 0, 0, 0], [1.0, 0, 0, 0]], [[1.0, 0, 0, 0], [0, 0, 1.0, 0]]])
    assert codeword_uniformity(two).item() == pytest.approx(-math.log(2) / 2, abs=1e-6)


def test_uniformity_does_not_see_the_order_of_items_or_codewords():
    probabilities = torch.randn(30, 3, 8).softmax(-1)
    value = codeword_uniformity(probabilities)
    torch.testing.assert_close(codeword_uniformity(probabilities[torch.randperm(30)]), value)
    torch.testing.assert_close(codeword_uniformity(probabilities[..., torch.randperm(8)]), value)
    assert -math.log(8) <= value.item() <= 0


def test_uniformity_alone_spreads_a_collapsed_codebook():
    model = tokenizer(temperature_max=1.0)
    model.codebooks.data += torch.tensor([5.0, 0, 0, 0, 0])[None, :, None] * torch.ones(4)
    batch = features(200)
    before = entropy(model.soft_codes(batch).probabilities.mean(0)).mean()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        model.losses(batch)["uniformity"].backward()
        optimizer.step()
    assert entropy(model.soft_codes(batch).probabilities.mean(0)).mean() > before + 1e-3


def test_start_fits_codewords_to_soft_residuals():
    model, points = tokenizer(codebook_size=10), features(200)
    before = model.report(points)
    model.anneal(10, points)
    model.start(points, seed=0)
    assert model.temperature.item() == pytest.approx(0.4)
    after = model.report(points)
    assert after["distance_level_0"] < before["distance_level_0"]
    assert after["distance_level_2"] < before["distance_level_2"]
    assert model.end_epoch(points, epoch=0, seed=0) == 0
    # Each first-level codeword is the mean of its latents: the fixed point of k-means.
    latent = model.encoder(points).detach()
    nearest = torch.cdist(latent, model.codebooks[0].detach()).argmin(1)
    means = torch.stack([latent[nearest == code].mean(0) for code in range(10)])
    torch.testing.assert_close(means, model.codebooks[0].detach(), atol=1e-5, rtol=1e-4)
    residual = latent - model.quantize(latent, 0.4).probabilities[:, 0] @ model.codebooks[0]
    nearest = torch.cdist(residual, model.codebooks[1]).argmin(1)
    means = torch.stack([residual[nearest == code].mean(0) for code in range(10)])
    torch.testing.assert_close(means, model.codebooks[1], atol=1e-5, rtol=1e-4)


def test_report_of_sharpness():
    model = tokenizer()
    soft = model.soft_codes(features())
    report = model.report(features())
    for level in range(3):
        probabilities = soft.probabilities[:, level]
        assert report[f"entropy_level_{level}"] == pytest.approx(
            entropy(probabilities).mean().item(), abs=1e-5
        )
        assert report[f"max_probability_level_{level}"] == pytest.approx(
            probabilities.amax(1).mean().item(), abs=1e-5
        )


def test_parameter_count_of_the_paper():
    model = tokenizer(
        n_features=768, hidden_sizes=[512, 256, 128, 64], code_dim=32, codebook_size=256
    )
    count = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert count == {"encoder": 568_288, "decoder": 569_024}
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_161_888


def test_autocast_changes_nothing():
    model, batch = tokenizer(temperature_max=1e-3, temperature_min=1e-3), features()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        soft, losses = model.soft_codes(batch), model.losses(batch)
        latent = model.quantize(model.encoder(batch).bfloat16())
    expected = model.soft_codes(batch)
    assert torch.equal(soft.probabilities, expected.probabilities)
    assert torch.equal(soft.codes, expected.codes)
    assert torch.equal(losses["reconstruction"], model.losses(batch)["reconstruction"])
    assert latent.probabilities.dtype == torch.float32


def test_catalogue_smaller_than_codebook_is_an_error():
    with pytest.raises(ValueError, match="catalogue of 4 items is smaller than codebook_size 5"):
        tokenizer().start(features(4), seed=0)
