"""UNGER's stages in the trainer: what they change, what they hand over, and that a killed run goes on as if nothing had been."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.quick_start import create_trainer, run
from recbole_genrec.trainer.checkpoint import load_checkpoint
from recbole_genrec.trainer.trainer import GenRecTrainer

GENERATOR = {"token_table", "seq2seq", "item_table", "distillation"}
CHANGES = [{"integration"}, {"tokenizer", "integrated", "semantic_ids"}, GENERATOR]


class Killed(Exception):
    pass


def state(model) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def test_a_stage_changes_what_it_names_and_nothing_else(make_experiment, monkeypatch):
    """Bit by bit, batch statistics and codes included; and of what it trains nothing stays as it was."""
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


def test_the_best_epoch_of_the_first_stage_is_what_codes_are_made_of(make_experiment, monkeypatch):
    """Its recall, here given, is the largest in the second of four epochs; then two worse ones end it."""
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


@pytest.mark.parametrize("n_saves", [1, 3, 5])
def test_a_killed_run_goes_on(small_settings, monkeypatch, n_saves):
    """Within the first stage, after it, and within the generator's."""
    settings = {**small_settings("UNGER"), "hidden_dropout_prob": 0.2, "din_scorer": "mlp"}
    undisturbed = run("UNGER", config_dict={**settings, "checkpoint_dir": "elsewhere"})
    saves, save = [], GenRecTrainer._save_progress

    def save_and_count(trainer, *given):
        save(trainer, *given)
        saves.append(trainer.resume_file)
        if len(saves) == n_saves:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(GenRecTrainer, "_save_progress", save_and_count)
        with pytest.raises(Killed):
            run("UNGER", config_dict=settings)
    resumed = run("UNGER", config_dict=settings, command_line=["--resume=auto"])
    assert resumed["checkpoint"] == saves[0].replace(".resume.pth", ".pth")
    for part in ("test_result", "best_valid_result", "best_valid_score", "semantic_ids"):
        assert resumed[part] == undisturbed[part]
    first, second = (
        load_checkpoint(result["checkpoint"], "cpu")["state_dict"]
        for result in (resumed, undisturbed)
    )
    assert all(torch.equal(first[name], second[name]) for name in second)
