from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.model.unger.integration import Integration
from recbole_genrec.model.unger.sampled_losses import alignment

SETTINGS = dict(
    embedding_size=4, din_attention_hidden_sizes=[6], din_scorer="mlp", din_scorer_hidden_sizes=[5],
    din_windows=[2, 1], din_dropout_prob=0.0, adaption_hidden_size=7, adaption_norm="adaptive",
    din_negatives=60, alignment_extra_items=0, alignment_weight=1.0, alignment_similarity="cosine",
    alignment_temperature=1.0,
)  # fmt: skip
HISTORIES = torch.tensor([[3, 1, 4], [9, 2, 0], [6, 0, 0]])
TARGETS = torch.tensor([7, 7, 9])


@pytest.fixture
def make_integration():
    def make(n_features: int = 5, **settings) -> Integration:
        torch.manual_seed(0)
        module = Integration({**SETTINGS, **settings}, 12, n_features)
        torch.nn.init.normal_(module.table)
        return module

    return make


def test_next_item_loss_of_equal_scores_is_that_of_the_catalogue(make_integration):
    """With 11 items and 60 draws, most rows draw their target among the negatives."""
    module = make_integration()
    for weight in module.din.score[-1].parameters():
        torch.nn.init.zeros_(weight)
    assert module.losses(HISTORIES, TARGETS, torch.randn(12, 5))[
        "next_item"
    ].item() == pytest.approx(math.log(11), abs=1e-5)


def test_alignment_sees_an_item_once(make_integration):
    module, features = make_integration(), torch.randn(12, 5)
    expected = alignment(module.table[[7, 9]], module.adaption(features[[7, 9]]), "cosine", 1.0)
    losses = module.losses(HISTORIES, TARGETS, features)
    assert list(losses) == ["next_item", "alignment"]
    torch.testing.assert_close(losses["alignment"], expected)
    assert make_integration(alignment_weight=0.3).losses(HISTORIES, TARGETS, features)[
        "alignment"
    ].item() == pytest.approx(0.3 * expected.item(), rel=1e-5)


def test_repeated_targets_with_equal_vectors_leave_log_two(make_integration):
    """Three rows with two items make two anchors and no false negative."""
    module = make_integration()
    torch.nn.init.ones_(module.table)
    assert module.losses(HISTORIES, TARGETS, torch.ones(12, 5))[
        "alignment"
    ].item() == pytest.approx(math.log(2), abs=1e-6)


def test_extra_items_are_aligned_too(make_integration):
    module, features = make_integration(alignment_extra_items=200), torch.randn(12, 5)
    module.losses(HISTORIES, TARGETS, features)["alignment"].backward()
    moved = module.table.grad.abs().sum(1) > 0
    assert moved.tolist() == [False] + [True] * 11, "all items, never padding"


@pytest.mark.parametrize(
    "setting, change",
    [("alignment_similarity", "dot"), ("alignment_temperature", 0.1), ("adaption_norm", "none")],
)
def test_settings_of_the_alignment_are_read(make_integration, setting, change):
    features = torch.randn(12, 5)
    first, second = make_integration(), make_integration(**{setting: change})
    values = [
        module.losses(HISTORIES, TARGETS, features)["alignment"].item()
        for module in (first, second)
    ]
    assert abs(values[0] - values[1]) > 1e-3


def test_terms_reach_the_right_parameters(make_integration):
    """Features get no gradient, and the adaption only from the alignment."""
    features = torch.randn(12, 5, requires_grad=True)
    module = make_integration()
    losses = module.losses(HISTORIES, TARGETS, features.detach())
    losses["next_item"].backward(retain_graph=True)
    assert all(weight.grad is None for weight in module.adaption.parameters())
    losses["alignment"].backward()
    assert all(weight.grad is not None for weight in module.adaption.parameters())
    assert list(make_integration(alignment_weight=0).losses(HISTORIES, TARGETS, features)) == [
        "next_item"
    ]
    plain = make_integration(n_features=0)
    assert plain.adaption is None and list(plain.losses(HISTORIES, TARGETS, features)) == [
        "next_item"
    ]


def test_mean_and_concatenation(make_integration):
    module, features = make_integration(n_features=3).eval(), torch.randn(12, 3)
    features[0] = 0
    mean = (F.normalize(module.table, dim=1) + F.normalize(module.adaption(features), dim=1)) / 2
    torch.testing.assert_close(module.mean(features), mean)
    joined = module.concatenated(features, 2)
    assert joined.shape == (12, 6)
    torch.testing.assert_close(joined[:, 2:], F.normalize(module.table, dim=1))
    torch.testing.assert_close(joined[1:, :2].norm(dim=1), torch.ones(11))
    centered = features[1:] - features[1:].mean(0)
    left, sizes, _ = torch.linalg.svd(centered, full_matrices=False)
    components = F.normalize(left[:, :2] * sizes[:2], dim=1)
    torch.testing.assert_close(
        joined[1:, :2] @ joined[1:, :2].T, components @ components.T, atol=1e-4, rtol=0
    )
