from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.rqvae import RQVAE

SETTINGS = dict(
    n_features=6,
    hidden_sizes=[8],
    code_dim=2,
    n_levels=2,
    codebook_size=2,
    commitment_weight=0.25,
    reduction="sum",
    restart_every=1,
    kmeans_iterations=20,
)


def tokenizer(**changes) -> RQVAE:
    torch.manual_seed(0)
    return RQVAE(**{**SETTINGS, **changes})


def with_toy_codebooks(**changes) -> RQVAE:
    model = tokenizer(**changes)
    model.codebooks.data = torch.tensor([[[0.8, 0.0], [0.0, 1.0]], [[0.1, 0.0], [0.5, 0.0]]])
    return model


def features(n: int = 300, width: int = 6) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    "reduction, codebook, commitment", [("sum", 0.05, 0.05), ("mean", 0.0125, 0.0125)]
)
def test_quantizer_terms_by_hand(reduction, codebook, commitment):
    terms = with_toy_codebooks(reduction=reduction).quantizer_terms(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(terms.quantized, torch.tensor([[0.9, 0.0]]))
    assert terms.codebook.item() == pytest.approx(codebook)
    assert terms.commitment.item() == pytest.approx(commitment)
    # The whole residual quantization loss with beta 0.25: 0.0625 in the paper's form, 0.015625
    # averaged.
    assert (terms.codebook + 0.25 * terms.commitment).item() == pytest.approx(1.25 * codebook)


@pytest.mark.parametrize("reduction, n_values", [("sum", 1), ("mean", 6)])
def test_losses_are_weighted_and_named(reduction, n_values):
    model, batch = tokenizer(reduction=reduction), features(5)
    losses = model.losses(batch)
    assert list(losses) == ["reconstruction", "codebook", "commitment"]
    latent = model.encoder(batch)
    terms = model.quantizer_terms(latent)
    expected = (model.decoder(terms.quantized) - batch).square().sum(dim=1).mean() / n_values
    torch.testing.assert_close(losses["reconstruction"], expected)
    torch.testing.assert_close(losses["codebook"], terms.codebook)
    torch.testing.assert_close(losses["commitment"], 0.25 * terms.commitment)


def test_commitment_of_deeper_levels_reaches_the_latent():
    model = with_toy_codebooks()
    latent = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(model.quantizer_terms(latent).commitment, latent)
    first_level, second_level = 2 * (1.0 - 0.8), 2 * (0.2 - 0.1)
    torch.testing.assert_close(gradient, torch.tensor([[first_level + second_level, 0.0]]))


def test_codebook_term_moves_each_level_to_its_own_residual_only():
    model = with_toy_codebooks()
    latent = torch.tensor([[1.0, 0.0]], requires_grad=True)
    terms = model.quantizer_terms(latent)
    codebooks, latent_gradient = torch.autograd.grad(
        terms.codebook, [model.codebooks, latent], retain_graph=True, allow_unused=True
    )
    # Level 0: 2 (0.8 - 1.0); level 1: 2 (0.1 - 0.2). A leak of level 1 into level 0 would change
    # the first number.
    expected = torch.tensor([[[-0.4, 0.0], [0.0, 0.0]], [[-0.2, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(codebooks, expected)
    assert latent_gradient is None
    assert torch.autograd.grad(terms.commitment, model.codebooks, allow_unused=True)[0] is None


def test_decoder_gradient_reaches_the_encoder_as_identity_once():
    model, batch = tokenizer(), features(4)
    kept = {}
    model.encoder.register_forward_hook(lambda module, inputs, output: kept.update(latent=output))
    model.decoder.register_forward_pre_hook(lambda module, inputs: kept.update(quantized=inputs[0]))
    reconstruction = model.losses(batch)["reconstruction"]
    latent, quantized = torch.autograd.grad(
        reconstruction, [kept["latent"], kept["quantized"]], retain_graph=True
    )
    torch.testing.assert_close(latent, quantized)
    assert latent.abs().sum() > 0
    assert torch.autograd.grad(reconstruction, model.codebooks, allow_unused=True)[0] is None


def test_start_lowers_the_quantization_error_and_leaves_no_code_empty():
    model, points = tokenizer(codebook_size=16, code_dim=4), features(300)
    before = model.report(points)
    model.start(points, seed=0)
    after = model.report(points)
    assert after["distance_level_0"] < before["distance_level_0"]
    assert after["distance_level_1"] < before["distance_level_1"]
    assert all(len(level.unique()) == 16 for level in model.encode(points).t())


def test_codes_equal_a_brute_force_search():
    model, points = tokenizer(codebook_size=16, code_dim=4), features(50)
    residual = model.encoder(points).detach()
    for level, codes in zip(model.codebooks.detach(), model.encode(points).t()):
        expected = (residual[:, None] - level).square().sum(-1).argmin(1)
        assert torch.equal(codes, expected)
        residual = residual - level[expected]


def test_unused_codes_restart_on_items_and_used_ones_stay():
    model, points = tokenizer(codebook_size=8, code_dim=4), features(300)
    model.start(points, seed=0)
    dead = {(0, 2), (0, 5), (1, 1)}
    for level, code in dead:
        model.codebooks.data[level, code] = 1e4
    before = model.codebooks.detach().clone()
    assert model.end_epoch(points, epoch=0, seed=0) == len(dead)
    moved = {tuple(index) for index in (model.codebooks != before).any(dim=2).nonzero().tolist()}
    assert moved == dead
    assert all(len(level.unique()) == 8 for level in model.encode(points).t())
    latent = model.encoder(points)
    assert torch.cdist(model.codebooks[0, [2, 5]], latent).min(dim=1).values.max() < 1e-3
    assert model.end_epoch(points, epoch=1, seed=0) == 0


def test_restart_is_drawn_from_seed_and_epoch():
    def restarted(epoch: int, seed: int) -> torch.Tensor:
        model = tokenizer(codebook_size=8, code_dim=4)
        model.start(features(), seed=0)
        model.codebooks.data[0, 2] = 1e4
        torch.seed()
        model.end_epoch(features(), epoch=epoch, seed=seed)
        return model.codebooks[0, 2].detach()

    assert torch.equal(restarted(3, 1), restarted(3, 1))
    assert not torch.equal(restarted(3, 1), restarted(4, 1))
    assert not torch.equal(restarted(3, 1), restarted(3, 2))


@pytest.mark.parametrize(
    "restart_every, restarting_epochs", [(0, []), (1, [0, 1, 2, 3]), (2, [1, 3])]
)
def test_restart_happens_after_restart_every_epochs(restart_every, restarting_epochs):
    seen = []
    for epoch in range(4):
        model = tokenizer(codebook_size=8, restart_every=restart_every)
        model.codebooks.data[0, 2] = 1e4
        if model.end_epoch(features(), epoch=epoch, seed=0):
            seen.append(epoch)
    assert seen == restarting_epochs


@pytest.mark.slow
def test_training_lowers_the_reconstruction_error():
    model, points = tokenizer(codebook_size=16, code_dim=4), features(300)
    model.start(points, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    before = model.report(points)["explained_variance"]
    for _ in range(150):
        optimizer.zero_grad()
        sum(model.losses(points).values()).backward()
        optimizer.step()
    after = model.report(points)["explained_variance"]
    assert after > max(before, 0.4)
    assert after <= 1


def test_residuals_follow_the_codes():
    """Subtract the codewords of the chosen codes level by level."""
    model, latent = tokenizer(n_levels=3, codebook_size=8, code_dim=4), torch.randn(20, 4)
    residuals, codes = model.follow(latent)
    terms = model.quantizer_terms(latent)
    assert torch.equal(terms.residuals, residuals) and torch.equal(terms.codes, codes)
    assert torch.equal(residuals[:, 0], latent)
    taken = torch.stack([model.codebooks[level, codes[:, level]] for level in range(3)], dim=1)
    torch.testing.assert_close(latent - terms.quantized, residuals[:, 2] - taken[:, 2])
    torch.testing.assert_close(residuals[:, 1], residuals[:, 0] - taken[:, 0])


def test_closeness_gives_the_distribution_of_codes():
    """Compare with ETEGRec's equation 6 for distances 0, 1 and 4; the nearest code is likeliest."""
    model = tokenizer(n_levels=1, codebook_size=3, code_dim=1)
    model.codebooks.data = torch.tensor([[[0.0], [1.0], [2.0]]])
    shares = model.closeness(torch.zeros(1, 1, 1)).softmax(-1)[0, 0]
    torch.testing.assert_close(shares, torch.tensor([0.72140, 0.26539, 0.01321]), atol=1e-5, rtol=0)
    model, latent = tokenizer(n_levels=3, codebook_size=8, code_dim=4), torch.randn(20, 4)
    residuals, codes = model.follow(latent)
    shares = model.closeness(residuals).softmax(-1)
    torch.testing.assert_close(
        shares, (-(residuals.unsqueeze(2) - model.codebooks).square().sum(-1)).softmax(-1)
    )
    assert torch.equal(shares.argmax(-1), codes)


def test_distances_of_all_levels_reach_the_encoder():
    model = tokenizer(n_levels=3, codebook_size=8, code_dim=4)
    latent = torch.randn(5, 4, requires_grad=True)
    closeness = (
        model.closeness(model.follow(latent)[0])[..., 0]
        - model.closeness(model.follow(latent)[0])[..., 1]
    )
    for level in range(3):
        gradients = torch.autograd.grad(
            closeness[:, level].sum(), (latent, model.codebooks), retain_graph=True
        )
        assert gradients[0].any() and gradients[1][level].any()


def test_reconstruction_goes_straight_through_the_quantizer():
    """Pass the decoder's gradient to the latent vector once, and none to the codebooks."""
    model = tokenizer(n_levels=3, codebook_size=8, code_dim=4)
    latent = torch.randn(9, 4, requires_grad=True)
    model.encoder = model.decoder = nn.Identity()
    outcome = model.autoencode(latent)
    torch.testing.assert_close(outcome.reconstructed, model.quantizer_terms(latent).quantized)
    direction = torch.randn(9, 4)
    (outcome.reconstructed * direction).sum().backward()
    torch.testing.assert_close(latent.grad, direction)
    assert model.codebooks.grad is None or not model.codebooks.grad.any()


def test_paper_sizes():
    model = tokenizer(
        n_features=768, hidden_sizes=[512, 256, 128], code_dim=32, n_levels=3, codebook_size=256
    )
    assert [layer.out_features for layer in model.encoder if isinstance(layer, nn.Linear)] == [
        512,
        256,
        128,
        32,
    ]
    assert [layer.out_features for layer in model.decoder if isinstance(layer, nn.Linear)] == [
        128,
        256,
        512,
        768,
    ]
    assert model.codebooks.shape == (3, 256, 32)
    assert model.codebooks.std().item() == pytest.approx(32**-0.5, rel=0.02)


def test_autocast_runs_only_the_layers_in_bfloat16():
    """Keep the catalogue's codes; in training, choose codes of rounded latents in float32."""
    model, batch, dtypes = tokenizer(codebook_size=16, code_dim=4), features(64), []
    expected, codes = model.losses(batch), model.encode(batch)
    for layer in (model.encoder[-1], model.decoder[-1]):
        layer.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codes, model.encode(batch)) and dtypes == [torch.float32]
        result = model.autoencode(batch)
    assert dtypes[1:] == [torch.bfloat16, torch.bfloat16]
    assert {part.dtype for part in (*result[:3], *result.losses.values())} == {torch.float32}
    distances = (result.residuals.double().unsqueeze(2) - model.codebooks.double()).square().sum(-1)
    assert torch.equal(result.codes, distances.argmin(-1))
    torch.testing.assert_close(result.losses, expected, rtol=0.05, atol=0)


def test_unknown_reduction_is_an_error():
    with pytest.raises(UserError, match="reduction is 'other', but must be one of"):
        tokenizer(reduction="other")


def test_catalogue_smaller_than_codebook_is_an_error():
    with pytest.raises(UserError, match="catalogue of 5 items is smaller than codebook_size 16"):
        tokenizer(codebook_size=16).start(features(5), seed=0)
