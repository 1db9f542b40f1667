"""UNGER's stages in the trainer: their changes, their order and resumed runs."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.quick_start import create_trainer, run
from recbole_genrec.trainer.checkpoint import load_checkpoint
from recbole_genrec.trainer.trainer import GenRecTrainer

GENERATOR = {"token_table", "seq2seq", "item_table", "distillation"}
CHANGES = [{"integration"}, {"tokenizer", "integrated", "semantic_ids"}, GENERATOR]


def state(model) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def test_a_stage_changes_the_parts_that_it_names_and_no_others(make_experiment, monkeypatch):
    """Compare bit by bit, with batch statistics and codes; all trained weights change."""
    config, model, train, valid, _ = make_experiment("UNGER", alignment_extra_items=50)
    states, run_stage = [], GenRecTrainer._finish
    monkeypatch.setattr(
        GenRecTrainer,
        "_finish",
        lambda trainer, stage: (run_stage(trainer, stage), states.append(state(model))),
    )
    states.append(state(model))
    create_trainer(config, model).fit(train, valid)
    for before, after, expected in zip(states, states[1:], CHANGES):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert {name.split(".")[0] for name in changed} == expected
        if expected == GENERATOR:
            names = {
                name for name, _ in model.named_parameters() if name.split(".")[0] in GENERATOR
            }
            assert names == changed
    assert not states[0]["integrated"].any() and states[-1]["integrated"][1:].any()


def test_codes_are_made_of_the_first_stages_best_epoch(make_experiment, monkeypatch):
    """The given recall is best in the second epoch; two worse ones end the stage."""
    config, model, train, valid, _ = make_experiment(
        "UNGER", integration_epochs=9, integration_stopping_step=1
    )
    scores, tables = iter([0.1, 0.3, 0.2, 0.1, 0.9]), []

    def recall(valid_data) -> float:
        assert not model.training and valid_data is valid
        tables.append(model.integration.table.detach().clone())
        return next(scores)

    monkeypatch.setattr(model, "integration_recall", recall)
    trainer = create_trainer(config, model)
    best_score, best_result = trainer.fit(train, valid)
    assert len(tables) == 4
    assert torch.equal(model.integrated[1:], tables[1][1:])
    assert best_score == best_result["ndcg@5"], "the first stage's score is forgotten"


def test_the_first_stage_is_validated_by_recall_of_the_same_users(make_experiment):
    _config, model, _, valid, _ = make_experiment("UNGER", topk=[3, 5])
    model.eval()
    assert model.integration_recall(valid) == model.integration_recall(valid)
    rows = valid.dataset.inter_feat
    every = make_experiment("UNGER", integration_valid_users=99).model.eval()
    ranked = every.integration.din.rank(rows["item_id_list"], 5)
    assert every.integration_recall(valid) == pytest.approx(
        (ranked == rows["item_id"][:, None]).any(1).float().mean().item()
    )


@pytest.mark.slow
def test_resumed_runs_end_like_the_undisturbed_one(small_settings, run_and_copy):
    """Resume within the first stage, after it and within the generator's."""
    settings = {**small_settings("UNGER"), "hidden_dropout_prob": 0.2, "din_scorer": "mlp"}
    undisturbed, resume_files = run_and_copy("UNGER", settings)
    for number in (0, 2, 4):
        path = resume_files[number]
        resumed = run("UNGER", config_dict={**settings, "resume": path})
        assert resumed["checkpoint"] == path.replace(".resume.pth", ".pth")
        for part in ("test_result", "best_valid_result", "best_valid_score", "semantic_ids"):
            assert resumed[part] == undisturbed[part]
        first, second = (
            load_checkpoint(result["checkpoint"], "cpu")["state_dict"]
            for result in (resumed, undisturbed)
        )
        assert all(torch.equal(first[name], second[name]) for name in second)
