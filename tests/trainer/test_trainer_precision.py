from __future__ import annotations

import dataclasses

import pytest
import torch

from recbole_genrec.quick_start import run
from recbole_genrec.trainer.trainer import GenRecTrainer


@pytest.mark.parametrize("enabled, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_mixed_precision_shortens_products_of_training_only(make_experiment, enabled, dtype):
    """And neither weights, gradients, softmax nor ranking."""
    experiment = make_experiment("TIGER", enable_amp=enabled)
    model = experiment.name_items()
    stage = dataclasses.replace(model.stages()[1], stopping_step=None)
    model.stages = lambda: (stage,)
    trainer = GenRecTrainer(experiment.config, model)
    layer, seen = model.seq2seq.encoder[0].widen, set()
    layer.register_forward_hook(
        lambda module, inputs, output: seen.add((module.training, output.dtype))
    )
    log_probs = model.target_log_probs
    model.target_log_probs = lambda *given: (
        seen.add(("softmax", log_probs(*given).dtype)) or log_probs(*given)
    )
    trainer.fit(experiment.train)
    trainer.evaluate(experiment.valid, load_best_model=False)
    assert seen == {(True, dtype), (False, torch.float32), ("softmax", torch.float32)}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TIGER", "LETTER", "UniGRec", "ETEGRec", "UNGER"])
def test_every_model_runs_in_mixed_precision(small_settings, model):
    result = run(model, config_dict={**small_settings(model), "enable_amp": True})
    assert 0 < result["test_result"]["recall@5"] <= 1
