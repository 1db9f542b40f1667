"""The number of ETEGRec's weights and their initial values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from recbole_genrec.model.etegrec.etegrec import RECOMMENDER, ETEGRec

RECIPES = Path(__file__).parents[3] / "properties" / "recipe"


@pytest.mark.parametrize("recipe", ["paper", "code"])
def test_parameter_counts_at_the_papers_sizes(make_experiment, tmp_path, monkeypatch, recipe):
    # Ten items fill no codebook of 256.
    monkeypatch.setattr(ETEGRec, "_check_catalogue", lambda model: None, raising=False)
    vectors = np.random.default_rng(0).normal(size=(10, 256)).astype(np.float32)
    np.save(tmp_path / "cf.npy", vectors)
    (tmp_path / "cf.tokens").write_text("\n".join(f"i{item}" for item in range(1, 11)) + "\n")
    sizes = {"tokenizer_hidden_sizes", "code_dim", "hidden_size", "inner_size", "n_layers"}
    settings = yaml.safe_load((RECIPES / f"etegrec_{recipe}.yaml").read_text())
    model = make_experiment(
        "ETEGRec",
        **{key: value for key, value in settings.items() if key in sizes | {"head_size"}},
        # The sizes of generative.yaml; the tests' own are smaller.
        **dict(n_levels=3, codebook_size=256, counter_size=256, n_heads=4),
        item_features={"cf": str(tmp_path / "cf.npy")},
    ).model
    counts = parameter_counts(model)
    adapters = counts["sequence_adapter"] + counts["preference_adapter"]
    assert counts.pop("tokenizer") == 690_048
    assert sum(counts.values()) == 4_117_248
    assert (adapters, counts["token_table"]) == (49_536, 131_072 + 128)
    parts = parameter_counts(model.seq2seq)
    encoder = sum(parts[name] for name in ("encoder", "encoder_positions", "encoder_norm"))
    assert (encoder, counts["seq2seq"] - encoder) == (1_574_656, 2_361_856)


def parameter_counts(module) -> dict[str, int]:
    return {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in module.named_children()
    }


def test_the_recommender_starts_with_one_normal_distribution(make_experiment):
    model = make_experiment(
        "ETEGRec", hidden_size=64, inner_size=256, n_heads=4, head_size=16
    ).model
    assert all(
        not bias.any() for bias in (model.sequence_adapter.bias, model.preference_adapter.bias)
    )
    drawn = [
        weight
        for name in ("token_table", "seq2seq", "sequence_adapter")
        for weight in model.get_submodule(name).parameters()
    ]
    norms = [weight for weight in drawn if weight.dim() == 1 and weight.any()]
    assert all((weight == 1).all() for weight in norms) and len(norms) == 7
    values = torch.cat([weight.flatten() for weight in drawn if weight.dim() == 2])
    assert values.std().item() == pytest.approx(0.02, rel=0.01)
    before = model.token_table.weight.clone()
    model.start_recommender()
    assert not torch.equal(model.token_table.weight, before)


def test_the_recommender_starts_as_t5(make_experiment):
    """Weights have the scale of TIGER's, logits T5's; a restart draws them again."""
    sizes = dict(hidden_size=64, inner_size=256, n_heads=4, head_size=16, codebook_size=8)
    model = make_experiment("ETEGRec", initial_weights="t5", **sizes).model
    other = dict(make_experiment("TIGER", **sizes).model.named_parameters())
    for _ in range(2):
        weights = dict(model.named_parameters())
        for name in (name for name in other if not name.startswith("tokenizer")):
            weight = weights[name]
            if weight.dim() == 1:
                assert (weight == 1).all(), name
            else:
                expected = other[name].std().item()
                assert weight.std().item() == pytest.approx(expected, rel=0.25), name
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        model.start_recommender()
        drawn = {name for name in before if not torch.equal(before[name], weights[name])}
        assert {name.split(".")[0] for name in drawn} == set(RECOMMENDER)
    hidden = torch.randn(3, 64)
    logits = hidden @ model.token_table.weight[1:9].T / 8
    torch.testing.assert_close(model.level_log_probs(hidden, 0), logits.log_softmax(-1))
