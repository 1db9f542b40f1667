"""TIGER as a whole: golden losses, and its variants by the settings that its page names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_genrec.quick_start import run
from recbole_genrec.seq2seq.beam_search import Beams
from recbole_genrec.trainer.trainer import GenRecTrainer

PAGE = Path(__file__).parents[2] / "docs" / "models" / "tiger.md"
HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7], [3, 2], [10, 9, 8]]
TARGETS = [4, 5, 8, 5, 9, 1]
PRESETS = {
    "ours": {},
    "others": {  # every option that changes the mathematics
        "quantization_reduction": "mean",
        "commitment_weight": 0.5,
        "softmax_scope": "full",
        "n_user_tokens": 3,
        "separator_token": True,
    },
}
# The terms of steps 0, 4 and 9 of the tokenizer, then of the recommender; then the codes.
GOLDEN = {
    "ours": [
        [9.7548986, 7.1566066, 1.7891516],
        [7.6720979, 3.5899058, 0.8974764],
        [4.3883291, 0.4191765, 0.1047941],
        [1.7138049],
        [1.4397916],
        [1.325684],
    ],
    "others": [
        [1.6258164, 0.5963839, 0.2981919],
        [1.2786956, 0.2991732, 0.1495866],
        [0.731561, 0.0349636, 0.0174818],
        [3.4496134],
        [2.9420971],
        [2.8149805],
    ],
}
GOLDEN_CODES = {
    "ours": ["3330", "3110", "3331", "3332", "3111", "3333", "3210", "3334", "3130", "3112"],
    "others": ["3330", "3110", "3331", "3332", "3111", "3333", "3210", "3334", "3130", "3112"],
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_golden_losses(fixed_model, five_steps_an_epoch, make_batch, preset):
    """Twenty steps on fixed data, ten of each stage."""
    model = fixed_model("TIGER", warmup_epochs=0.5, **PRESETS[preset])
    tokenizer, recommender = model.stages()
    found = five_steps_an_epoch(model, tokenizer, torch.arange(1, 11), 2)
    model.refresh_semantic_ids()
    found += five_steps_an_epoch(model, recommender, make_batch(HISTORIES, TARGETS), 2)
    codes = ["".join(map(str, row)) for row in model.semantic_ids.codes[1:].tolist()]
    assert [tuple(row) for row in found] == [("reconstruction", "codebook", "commitment")] * 3 + [
        ("generation",)
    ] * 3
    for row, expected in zip(found, GOLDEN[preset]):
        np.testing.assert_allclose(list(row.values()), expected, rtol=0, atol=1e-5)
    assert codes == GOLDEN_CODES[preset]


# Expected state of a finished run of a variant. Without any: 23 tokens, six text features, an
# auto-encoder. PPMI has a column per item, of which there are ten.
VARIANTS = {
    "--train_mode=prefixes": {"features": 6, "tokens": 23, "autoencodes": True},
    "--item_features={text: tfidf}": {"features": 6, "tokens": 23, "autoencodes": True},
    "--item_features={cf: SASRec}": {"features": 8, "tokens": 23, "autoencodes": True},
    "--item_features={text: tfidf, cf: ppmi}": {"features": 16, "tokens": 23, "autoencodes": True},
    "--tokenizer=random": {"features": 1, "tokens": 23, "autoencodes": False},
    "--tokenizer=residual_kmeans": {"features": 6, "tokens": 23, "autoencodes": False},
    "--n_user_tokens=2000": {"features": 6, "tokens": 2023, "autoencodes": True},
    "--separator_token=True": {"features": 6, "tokens": 24, "autoencodes": True},
    "--constrained=False": {"features": 6, "tokens": 23, "autoencodes": True},
    "--softmax_scope=full": {"features": 6, "tokens": 23, "autoencodes": True},
}


@pytest.mark.parametrize("argument", VARIANTS)
def test_a_variant_runs_by_its_setting(small_settings, argument):
    teacher = {
        "teacher_hidden_size": 8,
        "teacher_inner_size": 16,
        "teacher_n_layers": 1,
        "teacher_n_heads": 1,
        "teacher_epochs": 1,
    }
    settings = {**small_settings("TIGER"), **teacher, "epochs": 1}
    result = run("TIGER", config_dict=settings, command_line=[argument])
    state = torch.load(result["checkpoint"], weights_only=True)["state_dict"]
    found = {
        "features": state["item_features"].shape[1],
        "tokens": len(state["token_table.weight"]),
        "autoencodes": "tokenizer.encoder.0.weight" in state,
    }
    assert found == VARIANTS[argument]
    assert result["semantic_ids"]["collisions_after"] == 0


def test_the_page_names_every_variant_as_it_runs():
    named = re.findall(r"(?m)^\|[^|]+\| `(--[^`]+)` \|$", PAGE.read_text(encoding="utf-8"))
    arguments = [shlex.split(text)[0] for text in named]
    assert set(arguments) == {*VARIANTS, "--semantic_ids_file=ids.json"}


@pytest.mark.parametrize(
    "rank, ndcg", [(1, 1.0), (2, 0.63093), (5, 0.38685), (10, 0.28906), (None, 0.0)]
)
def test_what_a_rank_is_worth(make_experiment, rank, ndcg):
    """Every target has this rank, or its twin in all codes but the counter has it: no hit."""
    experiment = make_experiment(
        "TIGER", topk=[10], n_beams=10, metrics=["NDCG"], valid_metric="NDCG@10"
    )
    model = experiment.name_items()
    model.semantic_ids.assign(torch.zeros(10, 3, dtype=torch.long))

    def search(interaction, k: int) -> Beams:
        targets, lists = interaction["item_id"].tolist(), []
        for target in targets:
            others = [item for item in range(1, 11) if item != target]
            lists.append(
                [*others[: rank - 1], target, *others[rank - 1 :]] if rank else [*others, 0]
            )
        ranked = torch.tensor(lists)
        return Beams(ranked, torch.zeros(ranked.shape), torch.zeros(len(ranked)))

    model.search = search
    result = GenRecTrainer(experiment.config, model).evaluate(
        experiment.test, load_best_model=False
    )
    assert dict(result) == {"ndcg@10": pytest.approx(ndcg, abs=1e-5)}
