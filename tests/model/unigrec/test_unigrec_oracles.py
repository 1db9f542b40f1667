"""UniGRec as a whole: it can overfit, and its codes do not see mixed precision."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.trainer.optimizer import StageOptimizer

HISTORIES = [
    [1, 2],
    [2, 1],
    [3],
    [4, 5, 6],
    [6, 5, 4],
    [7, 8],
    [9],
    [10, 1, 1],
    [8],
    [2, 2],
    [5],
    [3, 9],
    [7, 1],
    [6],
]
TARGETS = [5, 3, 8, 8, 1, 2, 10, 4, 9, 6, 7, 1, 10, 4]


@pytest.mark.slow
def test_overfits_a_few_sequences(make_experiment, make_batch):
    """Train on all five terms; every item has its own code, so hard inputs equal soft ones."""
    settings = dict(
        temperature_max=1e-5,
        temperature_min=1e-5,
        scheduler="constant",
        warmup_epochs=0,
        weight_decay=0.0,
    )
    settings.update(
        n_levels=1, codebook_size=10, uniformity_weight=0.001, joint_tokenizer_learning_rate=1e-6
    )
    model = make_experiment("UniGRec", **settings).name_items().train()
    stage, batch = model.stages()[1], make_batch(HISTORIES, TARGETS)
    model.distills = True
    optimizer = StageOptimizer(model, stage, "adamw", 1.0, 1)
    for step in range(120):
        losses = stage.losses(batch)
        assert len(losses) == 5
        optimizer.step(sum(losses.values()), step)
    model.eval()
    assert len(model.semantic_ids.codes[1:, 0].unique()) == 10
    assert model.refresh_semantic_ids() == 0
    assert model.calculate_loss(batch).item() < 0.1
    assert model.search(batch, 1).item_ids[:, :1].flatten().tolist() == TARGETS
    soft = model.predict(batch)
    model.tokenizer.temperature.fill_(1e-7)
    model.forget_item_embeddings()
    assert model.search(batch, 1).item_ids[:, :1].flatten().tolist() == TARGETS
    torch.testing.assert_close(model.predict(batch), soft, atol=0.05, rtol=0)


def test_codes_and_probabilities_do_not_see_autocast(make_experiment, make_batch):
    """The T5 does, so autocast is on."""
    model, batch = make_experiment("UniGRec").name_items(), make_batch(HISTORIES, TARGETS)
    codes, hidden = model.semantic_ids.codes.clone(), model.encode_history(batch)[0]
    soft, latent = model.tokenizer.soft_codes(model.item_features), torch.randn(9, 4)
    quantized = model.tokenizer.quantize(latent)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, requantized = (
            model.tokenizer.soft_codes(model.item_features),
            model.tokenizer.quantize(latent),
        )
        assert model.refresh_semantic_ids() == 0
        lower = model.encode_history(batch)[0]
    assert soft.probabilities.dtype == again.probabilities.dtype == torch.float32
    for first, second in ((soft, again), (quantized, requantized)):
        assert torch.equal(first.codes, second.codes)
        assert torch.equal(first.probabilities, second.probabilities)
        assert torch.equal(first.quantized, second.quantized)
    assert torch.equal(model.semantic_ids.codes, codes)
    assert not torch.allclose(hidden, lower.float(), atol=1e-5)


def test_joint_training_does_not_see_autocast_in_its_codes(make_experiment, make_batch):
    """The same inside the joint loss, whose other parts may have a lower precision."""
    model, batch, seen = (
        make_experiment("UniGRec").name_items().train(),
        make_batch(HISTORIES, TARGETS),
        [],
    )
    soft_codes = model.tokenizer.soft_codes
    model.tokenizer.soft_codes = lambda features: seen.append(soft_codes(features)) or seen[-1]
    model.joint_losses(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.joint_losses(batch)
    assert torch.equal(seen[0].probabilities, seen[1].probabilities)
    assert torch.equal(seen[0].codes, seen[1].codes)
