"""A model that is no generative recommender, trained and evaluated by the same trainer."""

from __future__ import annotations

import pytest
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.trainer.trainer import GenRecTrainer


class NextItemTable(SequentialRecommender):
    """Score items by the last item of the history alone: a table of logits."""

    def __init__(self, config, dataset, validate=None) -> None:
        super().__init__(config, dataset)
        self.dataset_fingerprint = dataset.fingerprint()
        self.table = nn.Embedding(self.n_items, self.n_items)
        nn.init.normal_(self.table.weight, std=0.01)
        self.validate = validate

    def losses(self, batch) -> dict[str, torch.Tensor]:
        """Cross-entropy of the last next item of every window."""
        rows = torch.arange(len(batch))
        last = batch[self.ITEM_SEQ][rows, batch[self.ITEM_SEQ_LEN] - 1]
        targets = batch[self.ITEM_ID]
        target = targets[rows, (targets > 0).sum(1) - 1]
        return {"next": nn.functional.cross_entropy(self.table(last), target)}

    def full_sort_predict(self, batch) -> torch.Tensor:
        """Logits of all items, float [B, n_items]."""
        rows = torch.arange(len(batch[self.ITEM_SEQ_LEN]))
        return self.table(batch[self.ITEM_SEQ][rows, batch[self.ITEM_SEQ_LEN] - 1])

    def stages(self) -> tuple[Stage, ...]:
        """One stage over sequences."""
        return (
            Stage(
                name="table",
                rows="sequences",
                groups=(Group(("",), 0.5, 0.0),),
                losses=self.losses,
                epochs=3,
                batch_size=16,
                scheduler="constant",
                warmup_epochs=0,
                stopping_step=5,
                validate=self.validate,
            ),
        )


def trainer_of(experiment, validate=None) -> GenRecTrainer:
    model = NextItemTable(experiment.config, experiment.train.dataset, validate)
    return GenRecTrainer(experiment.config, model)


def test_dense_scores_are_evaluated(make_experiment, tiny_sequences):
    """Recall against a loop over the literal sequences, by the rank of every target."""
    experiment = make_experiment("TIGER")
    trainer, data = trainer_of(experiment), experiment.train.dataset
    best, _ = trainer.fit(experiment.train, experiment.valid)
    result = trainer.evaluate(experiment.test)
    assert best > 0 and trainer.proven_share is None
    weight, n_hits = trainer.model.table.weight, 0
    for items in tiny_sequences:
        *_, last, target = (int(data.token2id("item_id", f"i{item}")) for item in items)
        n_hits += target in (weight[last][1:].topk(5).indices + 1)
    assert result["recall@5"] == pytest.approx(n_hits / 12, abs=1e-4)


def test_a_stage_may_validate_by_its_own_score(make_experiment):
    scores = iter([0.1, 0.9, 0.4])
    experiment, seen = make_experiment("TIGER"), []
    trainer = trainer_of(experiment, validate=lambda valid_data: next(scores))
    trainer._save_weights = lambda: seen.append(trainer.model.table.weight.detach().clone())
    trainer._load_weights = lambda path: None
    assert trainer.fit(experiment.train, experiment.valid) == (0.9, {"table": 0.9})
    assert len(seen) == 2 and not torch.equal(seen[0], seen[1])


def test_it_resumes(make_experiment):
    experiment = make_experiment("TIGER")
    trainer = trainer_of(experiment)
    trainer.fit(experiment.train, experiment.valid)
    again = trainer_of(experiment)
    again.resume_checkpoint(trainer.resume_file)
    assert again.fit(experiment.train, experiment.valid)[0] == trainer.progress.best_score
    assert torch.equal(again.model.table.weight, trainer.model.table.weight)
