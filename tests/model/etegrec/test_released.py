"""ETEGRec with the released code's residuals, distributions, schedule and choice of weights."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_genrec.model.etegrec.released import ReleasedETEGRec, ReleasedRQVAE
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.trainer.trainer import GenRecTrainer

RELEASED = {"model_class": "recbole_genrec.model.etegrec.released:ReleasedETEGRec"}
SIZES = dict(
    n_features=6,
    hidden_sizes=[8],
    code_dim=4,
    n_levels=3,
    codebook_size=5,
    commitment_weight=0.25,
    reduction="mean",
    restart_every=0,
    kmeans_iterations=10,
)


@pytest.fixture
def tokenizer() -> ReleasedRQVAE:
    torch.manual_seed(0)
    return ReleasedRQVAE(**SIZES)


def test_residuals_are_the_papers_with_gradient_at_the_first_level_only(tokenizer):
    latent = torch.randn(7, 4, requires_grad=True)
    plain = RQVAE(**SIZES)
    plain.load_state_dict(tokenizer.state_dict())
    for found, expected in zip(tokenizer.follow(latent), plain.follow(latent)):
        assert torch.equal(found, expected)
    residuals, _ = tokenizer.follow(latent)
    (of_all,) = torch.autograd.grad(residuals.sum(), latent)
    assert torch.equal(of_all, torch.ones_like(of_all)), "one level of three"


def test_distributions_favor_the_farthest_codeword(tokenizer):
    tokenizer.codebooks.data = torch.zeros(3, 5, 4)
    tokenizer.codebooks.data[0, 3, 0] = 2.0  # squared distance 4 from the origin, the others 0
    found = tokenizer.closeness(torch.zeros(1, 3, 4)).softmax(-1)[0, 0]
    expected = [1.0, 1.0, 1.0, math.e**4, 1.0]
    assert found.tolist() == pytest.approx([value / (4 + math.e**4) for value in expected])


def test_the_recommenders_schedule_counts_the_tokenizers_epochs(make_experiment):
    model = make_experiment("ETEGRec", epochs=12, cycle_epochs=4, **RELEASED).model
    assert type(model) is ReleasedETEGRec
    assert [phase.epochs for phase in model.stages()[1].phases] == [3, 12]


def test_the_best_fine_tuned_weights_are_tested_even_if_worse(make_experiment):
    experiment = make_experiment("ETEGRec", **RELEASED)
    trainer, scores = GenRecTrainer(experiment.config, experiment.model), [0.1, 0.9, 0.3, 0.2]
    states: list[dict[str, torch.Tensor]] = []

    def validate(*given, **named):
        states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return scores[len(states) - 1], {"ndcg@5": 0.0}

    trainer._valid_epoch = validate
    assert trainer.fit(experiment.train, experiment.valid)[0] == 0.3
    final = experiment.model.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in states[2].items())
