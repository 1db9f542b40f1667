from __future__ import annotations

import torch

from benchmarks.plain_tokenizers import HardLevel, PlainLoop, PlainTokenizer, SoftLevel
from recbole_genrec.model.unigrec.soft_rqvae import SoftRQVAE
from recbole_genrec.tokenizer.rqvae import RQVAE

SIZES = dict(
    n_features=6, hidden_sizes=[5], code_dim=4, n_levels=3, codebook_size=8, kmeans_iterations=1
)


def plain_twin(ours, make_level) -> PlainTokenizer:
    """A plain tokenizer with the weights of ours."""
    twin = PlainTokenizer([6, 5, 4], [make_level() for _ in range(3)])
    twin.encoder.load_state_dict(ours.encoder.state_dict())
    twin.decoder.load_state_dict(ours.decoder.state_dict())
    for level, codebook in zip(twin.levels, ours.codebooks.detach()):
        level.embedding.weight.data.copy_(codebook)
    return twin


def assert_same_loss_and_gradient(ours, twin, features):
    loss, expected = twin(features), sum(ours.losses(features).values())
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    loss.backward()
    expected.backward()
    for level, gradient in zip(twin.levels, ours.codebooks.grad):
        torch.testing.assert_close(level.embedding.weight.grad, gradient, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        twin.decoder[0].weight.grad, ours.decoder[0].weight.grad, atol=1e-6, rtol=1e-4
    )


def test_hard_codes_cost_the_same_as_ours():
    torch.manual_seed(0)
    ours = RQVAE(
        **SIZES,
        commitment_weight=0.25,
        reduction="mean",
        restart_every=0,
    )
    assert_same_loss_and_gradient(
        ours, plain_twin(ours, lambda: HardLevel(8, 4, 0.25)), torch.randn(20, 6)
    )


def test_soft_codes_cost_the_same_as_ours():
    torch.manual_seed(0)
    temperature = dict(
        temperature_max=0.5, temperature_min=0.1, temperature_unit="absolute", annealing_epochs=1
    )
    ours = SoftRQVAE(**SIZES, uniformity_weight=0.1, **temperature)
    assert_same_loss_and_gradient(
        ours, plain_twin(ours, lambda: SoftLevel(8, 4, 0.5, 0.1)), torch.randn(20, 6)
    )


def test_the_plain_loop_learns():
    torch.manual_seed(0)
    model = PlainTokenizer([6, 5, 4], [HardLevel(8, 4, 0.25)])
    loop = PlainLoop(model, torch.randn(30, 6), batch_size=8, learning_rate=0.01, weight_decay=0.0)
    losses = [loop.epoch(torch.device("cpu")) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    assert len(loop.loader) == 4
