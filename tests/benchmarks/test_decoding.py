from __future__ import annotations

import pytest
import torch

from benchmarks import decoding


@pytest.mark.slow
def test_ours_and_transformers_find_the_same_items(tiger, quick):
    pytest.importorskip("transformers")
    experiment = tiger(softmax_scope="full", n_beams=20)
    experiment.model.eval()
    facts, measure = decoding.prepare_generate(experiment, quick)
    assert facts["same_items"] >= 0.99
    assert measure(0)["users_per_second"] > 0
    assert decoding.prepare_ours(experiment, quick)[1](0)["users_per_second"] > 0


def test_searches_with_other_results_are_refused():
    items, scores = torch.arange(8).view(2, 4), -torch.arange(8.0).view(2, 4)
    assert decoding.check_items((items, scores), (items, scores + 1e-5)) == 1.0
    with pytest.raises(ValueError, match=r"75\.0% of the beams"):
        decoding.check_items((items, scores), (items % 6, scores))
    with pytest.raises(ValueError, match=r"differ by up to 0\.01"):
        decoding.check_items((items, scores), (items, scores + 0.01))


def test_users_from_short_to_long_histories(tiger):
    experiment = tiger()
    users = decoding.evenly_spaced_users(experiment, 10)
    lengths = users["item_length"].tolist()
    everyone = experiment.test.dataset.inter_feat["item_length"]
    assert len(lengths) == 10 and lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (int(everyone.min()), int(everyone.max()))
