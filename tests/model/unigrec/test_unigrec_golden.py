"""Golden losses of UniGRec in all stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7], [3, 2], [10, 9, 8]]
TARGETS = [4, 5, 8, 5, 9, 1]
TERMS = (
    "generation",
    "reconstruction",
    "uniformity",
    "tokenizer_distillation",
    "recommender_distillation",
)
# The terms of steps 0, 4 and 9 of the tokenizer and joint stages and of steps 0 and 4 of
# fine-tuning; then the codes.
GOLDEN = {
    "ours": [
        [1.6280794, -0.1356785],
        [1.2799751, -0.1368719],
        [0.6855155, -0.1339048],
        [1.6859675, 0.3111647, -0.1335706, 0.0219357, 0.753015],
        [1.4529818, 0.2990632, -0.1341136, 0.0108789, 0.3878252],
        [1.379534, 0.2908342, -0.1344351, 0.0032423, 0.3359475],
        [1.377675],
        [1.3634264],
    ],
    "anchored": [
        [1.6280794, -0.1356785],
        [1.2799751, -0.1368719],
        [0.6855155, -0.1339048],
        [1.6859675, 0.3111647, -0.1335706, 0.0551815, 0.7713059],
        [1.4700128, 0.2993495, -0.1342846, 0.0557192, 0.4101108],
        [1.3428421, 0.291318, -0.13452, 0.0411265, 0.3453328],
        [1.3411838],
        [1.3271953],
    ],
    "released": [
        [1.6280794, -0.1356785],
        [1.2799751, -0.1368719],
        [0.6855155, -0.1339048],
        [3.2286647, 0.2379274, -0.1335706, 0.0010642, 0.7225922],
        [2.9420408, 0.2263496, -0.1338959, 0.0029567, 0.3035836],
        [2.8126837, 0.218579, -0.1340276, 0.0013188, 0.234249],
        [2.8351996],
        [2.8120749],
    ],
}
GOLDEN_CODES = {
    "ours": ["0030", "3100", "1030", "0031", "3000", "0032", "3001", "0033", "3030", "3101"],
    "anchored": ["0030", "3100", "0031", "0032", "3000", "0033", "3001", "0034", "3030", "3101"],
    "released": ["0030", "3000", "1030", "0031", "3001", "0032", "3002", "0033", "3030", "3003"],
}


@pytest.mark.parametrize("preset", GOLDEN)
def test_golden_losses(fixed_model, five_steps_an_epoch, make_batch, released_unigrec, preset):
    """Twenty-five steps on fixed data."""
    settings = {
        "uniformity_weight": 0.1,
        "tokenizer_uniformity_weight": 0.1,
        "distillation_warmup_epochs": 0,
        "warmup_epochs": 0.5,
    }
    changes = {
        "ours": {},
        "anchored": {"tokenizer_distillation_target": "item"},
        "released": {**released_unigrec, "softmax_scope": "full"},
    }
    model = fixed_model("UniGRec", **{**settings, "MAX_ITEM_LIST_LENGTH": 6, **changes[preset]})
    tokenizer, joint, finetune = model.stages()
    found = five_steps_an_epoch(model, tokenizer, torch.arange(1, 11), 2)
    model.refresh_semantic_ids()
    batch = make_batch(HISTORIES, TARGETS)
    found += five_steps_an_epoch(model, joint, batch, 2) + five_steps_an_epoch(
        model, finetune, batch, 1
    )
    codes = ["".join(map(str, row)) for row in model.semantic_ids.codes[1:].tolist()]
    terms = [("reconstruction", "uniformity")] * 3 + [TERMS] * 3 + [TERMS[:1]] * 2
    assert [tuple(row) for row in found] == terms
    for row, expected in zip(found, GOLDEN[preset]):
        np.testing.assert_allclose(list(row.values()), expected, rtol=0, atol=1e-5)
    assert codes == GOLDEN_CODES[preset]
