from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.errors import UserError
from recbole_genrec.model.letter import letter_rqvae
from recbole_genrec.model.letter.letter_rqvae import (
    LetterRQVAE,
    collaborative_loss,
    diversity_losses,
    draw_siblings,
)
from recbole_genrec.tokenizer.rqvae import RQVAE


def make_tokenizer(**settings) -> LetterRQVAE:
    torch.manual_seed(0)
    defaults = dict(
        collaborative_weight=0.1, diversity_weight=0.2, n_groups=3, group_sizes=[2, 6],
        regroup_every=2, has_unique_codes=True, n_features=6, hidden_sizes=[8], code_dim=4,
        n_levels=3, codebook_size=12, commitment_weight=0.25, reduction="mean",
        restart_every=0, kmeans_iterations=10,
    )  # fmt: skip
    return LetterRQVAE(**{**defaults, **settings})


@pytest.fixture
def features():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def vectors():
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(6))


def test_collaborative_loss_by_hand():
    assert collaborative_loss(torch.eye(2), 2 * torch.eye(2)).item() == pytest.approx(
        0.126928, abs=1e-6
    )
    assert collaborative_loss(torch.zeros(1024, 32), torch.randn(1024, 32)).item() == pytest.approx(
        math.log(1024), abs=1e-5
    )


def test_rows_compete_and_columns_do_not():
    """The softmax runs over the vectors of all items, not over their codewords."""
    quantized, vectors = (
        torch.tensor([[1.0, 0.0], [3.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [2.0, 0.0]]),
    )
    expected = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(-3))) / 2
    assert collaborative_loss(quantized, vectors).item() == pytest.approx(expected, abs=1e-6)


def test_unknown_items_do_not_count():
    quantized, vectors = torch.randn(5, 3), torch.randn(5, 3)
    vectors[[1, 4]] = 0
    quantized.requires_grad_()
    loss = collaborative_loss(quantized, vectors)
    assert loss.item() == pytest.approx(
        collaborative_loss(quantized[[0, 2, 3]], vectors[[0, 2, 3]]).item(), abs=1e-6
    )
    loss.backward()
    assert (quantized.grad[[1, 4]] == 0).all() and (quantized.grad[[0, 2, 3]] != 0).any(1).all()
    nothing = collaborative_loss(quantized, torch.zeros(5, 3))
    quantized.grad = None
    nothing.backward()
    assert nothing.item() == 0 and torch.isfinite(quantized.grad).all()


@pytest.mark.slow
def test_alignment_is_learned():
    """Vectors that are a linear map of the features are easier to find than shuffled ones."""
    torch.manual_seed(1)
    features = torch.randn(200, 6)
    vectors = features @ torch.randn(6, 4)
    found = []
    for order in (torch.arange(200), torch.randperm(200)):
        tokenizer = make_tokenizer(
            codebook_size=64, hidden_sizes=[64], collaborative_weight=1.0, diversity_weight=0.0
        )
        tokenizer.start(features, 0)
        optimizer = torch.optim.Adam(tokenizer.parameters(), 0.01)
        for _ in range(200):
            losses = tokenizer.regularized_losses(features, vectors[order])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        scores = tokenizer.autoencode(features).quantized @ vectors[order].T
        found.append(
            (
                losses["collaborative"].item(),
                (scores.argmax(1) == torch.arange(200)).float().mean().item(),
            )
        )
    assert found[0][0] < 0.75 * found[1][0] and found[0][1] > found[1][1]


def naive_diversity(codebook, groups, codes, siblings) -> float:
    terms = []
    for code, sibling in zip(codes, siblings):
        assert groups[code] == groups[sibling] and code != sibling
        others = [j for j in range(len(codebook)) if j != code]
        logits = torch.stack([codebook[code] @ codebook[j] for j in others])
        terms.append(logits.logsumexp(0) - codebook[code] @ codebook[sibling])
    return torch.stack(terms).mean().item()


def test_diversity_against_a_loop(monkeypatch):
    codebooks, groups = (
        torch.randn(2, 9, 4),
        torch.stack((torch.arange(9) % 3, torch.arange(9) // 3)),
    )
    codes = torch.randint(9, (20, 2))
    siblings = draw_siblings(groups, codes, 3)
    monkeypatch.setattr(letter_rqvae, "draw_siblings", lambda *given: siblings)
    found = diversity_losses(codebooks, groups, codes, 3)
    for level in range(2):
        expected = naive_diversity(
            codebooks[level],
            groups[level],
            codes[:, level].tolist(),
            siblings[0][:, level].tolist(),
        )
        assert found[level].item() == pytest.approx(expected, abs=1e-5)


def test_diversity_of_equal_codewords_and_of_tight_groups():
    groups, codes = (torch.arange(256) % 10).unsqueeze(0), torch.randint(256, (500, 1))
    assert diversity_losses(torch.zeros(1, 256, 32), groups, codes, 10).item() == pytest.approx(
        math.log(255), abs=1e-5
    )
    centers = F.pad(torch.eye(10), (0, 22)) * 30
    tight = diversity_losses(centers[groups[0]].unsqueeze(0), groups, codes, 10).item()
    assert tight == pytest.approx(math.log(25), abs=0.05), "a sibling among some 25 equal ones"


def test_siblings_are_drawn_uniformly_and_never_the_code_itself():
    torch.manual_seed(0)
    groups = torch.tensor([[2, 0, 1, 0, 0, 2, 0, 0, 2, 1]])
    codes = torch.full((100_000, 1), 4)
    siblings, has_sibling = draw_siblings(groups, codes, 3)
    counts = torch.bincount(siblings.flatten(), minlength=10).double()
    assert has_sibling.all()
    assert counts.nonzero().flatten().tolist() == [1, 3, 6, 7]
    assert (
        (counts[[1, 3, 6, 7]] - 25_000).square() / 25_000
    ).sum() < 11.34  # chi squared, 3 degrees of freedom, p = 0.01


def test_a_code_without_siblings_does_not_count():
    torch.manual_seed(0)
    groups, codebooks = torch.tensor([[0, 1, 1, 1]]), torch.randn(1, 4, 3)
    assert draw_siblings(groups, torch.tensor([[0], [2]]), 2)[1].tolist() == [[False], [True]]
    torch.manual_seed(2)
    alone = diversity_losses(codebooks, groups, torch.tensor([[2], [0]]), 2)
    torch.manual_seed(2)
    assert alone.item() == pytest.approx(
        diversity_losses(codebooks, groups, torch.tensor([[2]]), 2).item(), abs=1e-6
    )
    assert diversity_losses(codebooks, groups, torch.tensor([[0], [0]]), 2).item() == 0


def test_terms_and_their_weights(features, vectors):
    tokenizer = make_tokenizer(reduction="mean")
    tokenizer.start(features, 0)
    tokenizer.regroup(0, 0)
    batch = tokenizer.autoencode(features)
    torch.manual_seed(4)
    losses = tokenizer.regularized_losses(features, vectors)
    torch.manual_seed(4)
    levels = diversity_losses(tokenizer.codebooks, tokenizer.groups, batch.codes, 3)
    assert list(losses) == [
        "reconstruction",
        "codebook",
        "commitment",
        "collaborative",
        "diversity",
    ]
    assert {name: losses[name].item() for name in batch.losses} == {
        name: loss.item() for name, loss in batch.losses.items()
    }
    quantized = sum(
        F.embedding(code, codebook) for code, codebook in zip(batch.codes.T, tokenizer.codebooks)
    )
    assert losses["collaborative"].item() == pytest.approx(
        0.1 * collaborative_loss(quantized, vectors).item(), rel=1e-5
    )
    assert losses["diversity"].item() == pytest.approx(0.2 * levels.mean().item(), rel=1e-6)
    tokenizer.reduction = "sum"
    torch.manual_seed(4)
    assert tokenizer.regularized_losses(features, vectors)["diversity"].item() == pytest.approx(
        0.2 * levels.sum().item(), rel=1e-6
    )


def test_without_weights_it_is_the_rqvae(features, vectors):
    tokenizer = make_tokenizer(collaborative_weight=0.0, diversity_weight=0.0, n_groups=99)
    plain = RQVAE(
        n_features=6, hidden_sizes=[8], code_dim=4, n_levels=3, codebook_size=12,
        commitment_weight=0.25, reduction="mean", restart_every=0,
        kmeans_iterations=10,
    )  # fmt: skip
    plain.load_state_dict(
        {name: value for name, value in tokenizer.state_dict().items() if name != "groups"}
    )
    for each in (tokenizer, plain):
        each.start(features, 3)
    tokenizer.regroup(0, 0)
    assert (tokenizer.groups == -1).all()
    state = torch.get_rng_state()
    assert tokenizer.regularized_losses(features, vectors) == plain.losses(features)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "term, encoder, decoder, codebooks",
    [("collaborative", True, False, False), ("diversity", False, False, True)],
)
def test_terms_reach_the_right_parameters(features, vectors, term, encoder, decoder, codebooks):
    tokenizer = make_tokenizer()
    tokenizer.start(features, 0)
    tokenizer.regroup(0, 0)
    vectors.requires_grad_()
    tokenizer.regularized_losses(features, vectors.detach())[term].backward()

    def reached(parameters) -> bool:
        return any(
            weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in parameters
        )

    assert reached(tokenizer.encoder.parameters()) == encoder
    assert reached(tokenizer.decoder.parameters()) == decoder
    assert reached([tokenizer.codebooks]) == codebooks


def test_diversity_moves_both_codeword_and_sibling():
    codebooks = torch.randn(1, 4, 3, requires_grad=True)
    diversity_losses(
        codebooks, torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0]]), 2
    ).sum().backward()
    assert (codebooks.grad[0, [0, 1]] != 0).any(1).all()
    direction = -codebooks.grad[0, 1] @ codebooks[0, 0]
    assert direction > 0, "the sibling moves towards the codeword"
    assert -codebooks.grad[0, 2] @ codebooks[0, 0] < 0, "the others away from it"


def test_codewords_are_clustered_every_few_epochs(features):
    tokenizer = make_tokenizer(regroup_every=2)
    tokenizer.start(features, 0)
    tokenizer.regroup(1, 0)
    assert (tokenizer.groups == -1).all()
    tokenizer.regroup(0, 0)
    first = tokenizer.groups.clone()
    sizes = torch.stack([torch.bincount(level, minlength=3) for level in first])
    assert (sizes.sum(1) == 12).all() and sizes.min() >= 2 and sizes.max() <= 6
    with torch.no_grad():
        tokenizer.codebooks.normal_(generator=torch.Generator().manual_seed(3))
    tokenizer.regroup(1, 0)
    assert torch.equal(tokenizer.groups, first)
    tokenizer.regroup(2, 0)
    assert not torch.equal(tokenizer.groups, first)


def test_a_clustering_starts_from_the_last_one(features):
    tokenizer = make_tokenizer(regroup_every=1)
    tokenizer.start(features, 0)
    for epoch in range(20):
        tokenizer.regroup(epoch, 0)
    renamed = (tokenizer.groups + 1) % 3
    tokenizer.groups.copy_(renamed)
    tokenizer.regroup(20, 0)
    assert torch.equal(tokenizer.groups, renamed), "a new start would give them their old numbers"


def test_groups_are_saved_with_the_weights(features):
    tokenizer, other = make_tokenizer(), make_tokenizer()
    tokenizer.start(features, 0)
    tokenizer.regroup(0, 0)
    other.load_state_dict(tokenizer.state_dict())
    assert torch.equal(other.groups, tokenizer.groups) and (other.groups >= 0).all()


def test_impossible_group_sizes_are_refused():
    with pytest.raises(
        UserError,
        match="3 groups of 5 to 6 codewords hold 15 to 18, but there are 12: change n_groups",
    ):
        make_tokenizer(group_sizes=[5, 6])


def test_items_with_equal_codes_get_the_nearest_free_ones(features):
    features = torch.cat((features, features[:1].expand(4, 6)))
    tokenizer = make_tokenizer()
    tokenizer.start(features, 0)
    codes, plain = tokenizer.encode(features), RQVAE.encode(tokenizer, features)
    equal = [0, 40, 41, 42, 43]
    assert len(codes.unique(dim=0)) == 44 > len(plain.unique(dim=0))
    assert len(codes[equal, :2].unique(dim=0)) == 1
    latent = tokenizer.encoder(features[:1])
    residual = latent - sum(
        codebook[code] for codebook, code in zip(tokenizer.codebooks[:2], codes[0, :2])
    )
    distances = (residual - tokenizer.codebooks[2]).square().sum(1)
    bucket = (plain[:, :2] == plain[0, :2]).all(1).sum()
    assert bucket > 5 or sorted(codes[equal, 2].tolist()) == sorted(
        distances.argsort()[:5].tolist()
    )
    alone = [row for row in range(44) if ((plain[:, :2] == plain[row, :2]).all(1).sum() == 1)]
    assert alone and torch.equal(codes[alone], plain[alone])


def test_equal_codes_stay_if_a_counter_tells_them_apart(features):
    features = torch.cat((features, features[:1]))
    tokenizer = make_tokenizer(has_unique_codes=False)
    tokenizer.start(features, 0)
    codes = tokenizer.encode(features)
    assert torch.equal(codes, RQVAE.encode(tokenizer, features)) and torch.equal(
        codes[0], codes[-1]
    )
