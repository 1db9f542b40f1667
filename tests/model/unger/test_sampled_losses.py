from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.model.unger.sampled_losses import (
    alignment,
    contrast_with_drawn,
    sampled_softmax,
)

NONE = torch.zeros(2, 60, dtype=torch.bool)


def test_sampled_softmax_of_equal_scores_is_that_of_the_catalogue():
    """With 60 negatives the correction of each is log(60 / 12100) = -5.307."""
    assert sampled_softmax(torch.zeros(2), torch.zeros(2, 60), NONE, 12101).item() == pytest.approx(
        9.401043, abs=1e-5
    )
    assert math.log(12100 / 60) == pytest.approx(5.307, abs=1e-3)
    hit = NONE.clone()
    hit[:, :7] = True
    scores = torch.zeros(2, 60).masked_fill(hit, 50.0)
    assert sampled_softmax(torch.zeros(2), scores, hit, 12101).item() == pytest.approx(
        9.401043, abs=1e-5
    )


def test_sampled_softmax_with_all_others_is_exact():
    torch.manual_seed(0)
    scores, targets = torch.randn(3, 10), torch.tensor([4, 0, 9])
    others = torch.tensor(
        [[item for item in range(10) if item != target] for target in targets.tolist()]
    )
    loss = sampled_softmax(
        scores.gather(1, targets[:, None]).squeeze(1), scores.gather(1, others), others < 0, 10
    )
    assert loss.item() == pytest.approx(F.cross_entropy(scores, targets).item(), abs=1e-5)


def test_sampled_softmax_without_any_negative_is_zero():
    assert sampled_softmax(torch.ones(2), torch.zeros(2, 60), ~NONE, 100).item() == 0


def test_alignment_closed_forms():
    same, unit = torch.ones(4, 3), torch.eye(4)
    assert alignment(same, same, "cosine", 1.0).item() == pytest.approx(math.log(4), abs=1e-6)
    assert alignment(unit, unit, "cosine", 1.0).item() == pytest.approx(0.743668, abs=1e-6)
    assert alignment(unit, unit, "cosine", 0.1).item() == pytest.approx(1.36191e-4, abs=1e-7)
    assert alignment(3 * unit, 5 * unit, "cosine", 1.0).item() == pytest.approx(0.743668, abs=1e-6)
    assert alignment(2 * unit, unit, "dot", 1.0).item() == pytest.approx(
        math.log(1 + 3 * math.exp(-2)), abs=1e-6
    )


def test_alignment_floor_of_a_simplex():
    """256 keys as far apart as they can be: a plateau near 4.6 is the end, not a defect."""
    simplex = torch.eye(256) - 1 / 256
    assert alignment(simplex, simplex, "cosine", 1.0).item() == pytest.approx(4.548, abs=1e-3)
    assert alignment(simplex, simplex, "cosine", 0.1).item() == pytest.approx(0.011, abs=1e-3)


def test_alignment_has_collaborative_anchors_and_semantic_keys():
    """Against a loop; the other direction gives another value."""
    torch.manual_seed(0)
    anchors, keys = torch.randn(5, 4), torch.randn(5, 4)
    cosine = torch.stack([F.cosine_similarity(anchor[None], keys) for anchor in anchors]) / 0.5
    expected = torch.stack(
        [row.logsumexp(0) - row[index] for index, row in enumerate(cosine)]
    ).mean()
    assert alignment(anchors, keys, "cosine", 0.5).item() == pytest.approx(
        expected.item(), abs=1e-5
    )
    assert abs(alignment(keys, anchors, "cosine", 0.5).item() - expected.item()) > 1e-3


def test_contrast_closed_forms():
    none = torch.zeros(1, 2048, dtype=torch.bool)
    first, second = torch.eye(2)[:1], torch.eye(2)[1:].expand(2048, 2)
    assert contrast_with_drawn(
        first, first, first.expand(2048, 2), none, 1.0
    ).item() == pytest.approx(7.625107, abs=1e-5)
    assert contrast_with_drawn(first, first, second, none, 1.0).item() == pytest.approx(
        6.6259, abs=1e-4
    )
    assert contrast_with_drawn(first, 9 * first, second, none, 0.3).item() == pytest.approx(
        4.3049, abs=1e-4
    )


def test_a_drawn_target_counts_as_if_it_were_not_drawn():
    torch.manual_seed(0)
    queries, positives, drawn = torch.randn(2, 4), torch.randn(2, 4), torch.randn(5, 4)
    is_positive = torch.zeros(2, 5, dtype=torch.bool)
    is_positive[0, 3] = True
    rows = [
        contrast_with_drawn(
            queries[:1], positives[:1], drawn[[0, 1, 2, 4]], is_positive[1:, :4], 0.7
        )
    ]
    rows.append(contrast_with_drawn(queries[1:], positives[1:], drawn, is_positive[1:], 0.7))
    loss = contrast_with_drawn(queries, positives, drawn, is_positive, 0.7)
    assert loss.item() == pytest.approx((sum(rows) / 2).item(), abs=1e-6)
