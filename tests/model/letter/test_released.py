"""The quirks of LETTER's released code; test_letter_run.py has its golden losses."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.model.letter.letter_rqvae import LetterRQVAE
from recbole_genrec.model.letter.released import ReleasedLetterRQVAE, repair_by_sinkhorn
from recbole_genrec.model.letter.sinkhorn import sinkhorn_codes
from recbole_genrec.quick_start import run
from recbole_genrec.tokenizer.rqvae import RQVAE

RELEASED = "recbole_genrec.model.letter.released:ReleasedLETTER"


@pytest.fixture
def features():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def make_tokenizer(features):
    """make_tokenizer(cls): a tokenizer of this class, started on the features."""

    def make(cls) -> LetterRQVAE:
        torch.manual_seed(0)
        tokenizer = cls(
            collaborative_weight=0.1, diversity_weight=0.2, n_groups=3, group_sizes=[2, 6],
            regroup_every=2, has_unique_codes=False, n_features=6, hidden_sizes=[8], code_dim=4,
            n_levels=3, codebook_size=12, commitment_weight=0.25, reduction="mean",
            restart_every=0, kmeans_iterations=10,
        )  # fmt: skip
        tokenizer.start(features, 0)
        return tokenizer

    return make


def test_sinkhorn_chooses_the_last_codes_in_training_only(features, make_tokenizer):
    released, ours = make_tokenizer(ReleasedLetterRQVAE), make_tokenizer(LetterRQVAE)
    for tokenizer in (released, ours):
        with torch.no_grad():
            tokenizer.codebooks[-1, 6:] += 3  # far from all items
    codes, nearest = (each.autoencode(features).codes for each in (released, ours))
    assert torch.equal(codes[:, :2], nearest[:, :2])
    assert len(nearest[:, 2].unique()) <= 6 < len(codes[:, 2].unique())
    assert torch.equal(RQVAE.encode(released, features), ours.encode(features))


@pytest.mark.parametrize("cls, n_levels", [(ReleasedLetterRQVAE, 1), (LetterRQVAE, 3)])
def test_only_the_first_residual_has_a_gradient(features, make_tokenizer, cls, n_levels):
    tokenizer = make_tokenizer(cls)
    residuals, _ = tokenizer.follow(tokenizer.encoder(features))
    for level in range(3):
        loss = residuals[:, level].square().sum()
        (gradient,) = torch.autograd.grad(loss, residuals, retain_graph=True)
        assert gradient[:, level].any()
        (reached,) = torch.autograd.grad(loss, tokenizer.encoder[0].weight, retain_graph=True)
        assert reached.any() == (level < n_levels)


def test_repair_separates_items_that_differ_and_no_others():
    torch.manual_seed(0)
    codebooks = torch.stack((torch.randn(16, 4) * 5, torch.randn(16, 4)))
    latent = codebooks[0, [0, 0, 0, 1, 1, 1]] + torch.randn(6, 4)
    latent[4] = latent[3]
    codes = torch.tensor([[0, 7], [0, 7], [0, 7], [1, 3], [1, 3], [1, 4]])
    repaired = repair_by_sinkhorn(latent, codes, codebooks)
    assert torch.equal(repaired[:, 0], codes[:, 0])
    assert repaired[5].tolist() == [1, 4], "its code was unique"
    assert len(repaired[:3].unique(dim=0)) == 3
    distances = torch.cdist(latent[:3] - codebooks[0, 0], codebooks[1]).square()
    assert torch.equal(repaired[:3, 1], sinkhorn_codes(distances, 0.003))
    assert torch.equal(repaired[3], repaired[4]), "equal items stay together"
    assert codes[0].tolist() == [0, 7], "the given codes are left alone"


def test_encode_repairs_the_nearest_codes(make_tokenizer):
    tokenizer, features = make_tokenizer(ReleasedLetterRQVAE), torch.randn(60, 6)
    nearest, found = RQVAE.encode(tokenizer, features), tokenizer.encode(features)
    assert len(found.unique(dim=0)) > len(nearest.unique(dim=0))
    expected = repair_by_sinkhorn(tokenizer.encoder(features), nearest, tokenizer.codebooks)
    assert torch.equal(found, expected)


def test_a_run_needs_a_counter_for_items_that_share_their_codes(small_settings):
    settings = {**small_settings("LETTER"), "model_class": RELEASED, "epochs": 1}
    result = run("LETTER", config_dict={**settings, "counter_size": 10})
    assert result["semantic_ids"]["collisions_after"] == 0
    with pytest.raises(UserError, match="counter_size is 0, but the tokenizer may leave items"):
        run("LETTER", config_dict=settings)
