from __future__ import annotations

import pytest

from recbole_genrec.config.shared import EVERY_MODEL, GENERATIVE
from recbole_genrec.errors import UserError
from recbole_genrec.trainer.optimizer import LEARNERS


@pytest.mark.parametrize(
    ("key", "value", "plain"),
    [
        ("topk", 5, [5]),
        ("topk", (5, 10), [5, 10]),
        ("metrics", "Recall", ["Recall"]),
        ("metrics", ("recall", "NDCG"), ["recall", "NDCG"]),
        ("gpu_id", 0, "0"),
        ("gpu_id", "", ""),
        ("gpu_id", (0, 1), "0,1"),
        ("clip_grad_norm", None, None),
        ("clip_grad_norm", {"max_norm": 2}, {"max_norm": 2}),
        ("additional_feat_suffix", "ent", "ent"),
        ("additional_feat_suffix", ["ent"], ["ent"]),
        ("alias_of_item_id", [], []),
    ],
)
def test_settings_of_recbole_are_read_in_all_their_forms(key, value, plain):
    assert {**EVERY_MODEL, **GENERATIVE}[key].check(key, value) == plain


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("topk", []),
        ("topk", [0]),
        ("topk", "all"),
        ("metrics", None),
        ("metrics", "Recall,NDCG"),
        ("metrics", 3),
        ("clip_grad_norm", 1.0),
        ("gpu_id", [-1]),
        ("gpu_id", None),
        ("clip_grad_norm", {"max_norm": 0}),
        ("clip_grad_norm", []),
        ("additional_feat_suffix", True),
        ("alias_of_item_id", 5),
        ("preload_weight", "ent_id"),
    ],
)
def test_all_other_forms_are_refused(key, value):
    with pytest.raises(UserError, match=f"^{key} is .*, but has to be .*: (use|write|give) "):
        {**EVERY_MODEL, **GENERATIVE}[key].check(key, value)


@pytest.mark.parametrize("learner", ["adamw", "adam", "sgd"])
def test_every_learner_that_may_be_chosen_is_one_of_the_optimizer(learner):
    assert GENERATIVE["learner"].check("learner", learner) in LEARNERS
    assert learner in GENERATIVE["learner"].wanted
