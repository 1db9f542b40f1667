"""What a trainer counts besides metrics: seconds of stages and places without an item."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from recbole_genrec.results.record import generative_figures
from recbole_genrec.trainer import trainer as module
from recbole_genrec.trainer.trainer import GenRecTrainer


class Killed(Exception):
    pass


@pytest.fixture
def make_trainer(make_experiment, monkeypatch):
    """A trainer of TIGER by whose clock an epoch takes 10 s and all else nothing; 4 tokenizer epochs, 2 of the recommender."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0]))

    def make(n_epochs: int | None = None):
        experiment = make_experiment("TIGER")
        trainer, done = GenRecTrainer(experiment.config, experiment.model), []
        train = trainer._train

        def train_slowly(*given):
            losses = train(*given)
            now[0] += 10
            done.append(1)
            if len(done) == n_epochs:
                raise Killed
            return losses

        trainer._train = train_slowly
        return trainer, experiment

    make.wait = lambda seconds: now.__setitem__(0, now[0] + seconds)
    return make


def test_seconds_of_stages(make_trainer):
    trainer, experiment = make_trainer()
    trainer.fit(experiment.train, experiment.valid)
    assert trainer.progress.seconds == {"tokenizer": 40.0, "recommender": 20.0}


@pytest.mark.parametrize("n_epochs", [2, 3, 4, 5, 6])
def test_seconds_before_a_kill_count(make_trainer, n_epochs):
    """Not those of the epoch that was lost, which are spent again, nor those between the processes."""
    trainer, experiment = make_trainer(n_epochs)
    with pytest.raises(Killed):
        trainer.fit(experiment.train, experiment.valid)
    again, experiment = make_trainer()
    make_trainer.wait(5000)
    again.resume_checkpoint(trainer.resume_file)
    make_trainer.wait(300)
    again.fit(experiment.train, experiment.valid)
    assert again.progress.seconds == {"tokenizer": 40.0, "recommender": 20.0}


def test_places_without_an_item_are_logged(make_experiment, caplog):
    """As many as a count over all test users, however they are batched."""
    lines = []
    for batch_size in (5, 64):
        experiment = make_experiment(
            "TIGER", constrained=False, n_levels=1, eval_batch_size=batch_size
        )
        trainer = GenRecTrainer(experiment.config, experiment.name_items())
        n_empty = sum(
            int((trainer.model.recommend_topk(batch[0], 5) == 0).sum()) for batch in experiment.test
        )
        for _ in range(2):
            caplog.clear()
            with caplog.at_level("INFO"):
                trainer.evaluate(experiment.test, load_best_model=False)
            lines.append([line for line in caplog.messages if "hold codes of no item" in line])
    assert 0 < n_empty < 12 * 5
    assert (
        lines
        == [[f"{n_empty} places of the ranked lists hold codes of no item; they count as misses"]]
        * 4
    )


def test_nothing_is_logged_where_every_place_has_an_item(make_experiment, caplog):
    experiment = make_experiment("TIGER")
    trainer = GenRecTrainer(experiment.config, experiment.name_items())
    with caplog.at_level("INFO"):
        trainer.evaluate(experiment.test, load_best_model=False)
    assert torch.equal(trainer.n_empty, torch.tensor(0))
    assert "of no item" not in caplog.text


@pytest.mark.parametrize("batch_size", [5, 64])
def test_the_share_of_proven_lists_is_logged_and_kept_for_the_record(
    make_experiment, caplog, batch_size
):
    """Those of users 3, 6, 9 and 12 are made to be proven."""
    experiment = make_experiment("TIGER", eval_batch_size=batch_size)
    trainer, search = (
        GenRecTrainer(experiment.config, experiment.name_items()),
        experiment.model.search,
    )
    bounds = torch.tensor([0.0, 0.0, float("-inf")])
    trainer.model.search = lambda batch, k: search(batch, k)._replace(
        bound=bounds[(batch["user_id"] - 1) % 3]
    )
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("INFO"):
            trainer.evaluate(experiment.test, load_best_model=False)
        assert generative_figures(trainer.model, trainer)["proven_share"] == pytest.approx(4 / 12)
        assert "ranked lists proven exact: 33.33% of 12" in caplog.messages


def test_exact_scoring_proves_every_list(make_experiment):
    shares = {}
    for scoring in ("beam", "exact"):
        experiment = make_experiment("TIGER", scoring=scoring)
        trainer = GenRecTrainer(experiment.config, experiment.name_items())
        trainer.evaluate(experiment.test, load_best_model=False)
        shares[scoring] = trainer.proven_share
    assert shares == {"beam": 0.0, "exact": 1.0}


@pytest.mark.parametrize("name", ["TIGER", "UNGER"])
def test_exact_scoring_of_a_trained_model_is_the_order_of_all_items_by_their_scores(
    make_experiment, name
):
    experiment = make_experiment(name, topk=[3], n_beams=3, valid_metric="NDCG@3", scoring="exact")
    trainer = GenRecTrainer(experiment.config, experiment.model)
    trainer.fit(experiment.train, experiment.valid)
    model = trainer.model.eval()
    for batch, *_ in experiment.test:
        scores = []
        for item in range(1, 11):
            batch.interaction["item_id"] = torch.full((len(batch),), item)
            scores.append(model.predict(batch))
        best = torch.stack(scores, dim=1).topk(3)
        assert torch.equal(model.recommend_topk(batch, 3), best.indices + 1)
        torch.testing.assert_close(
            model.search(batch, 3).log_probs, best.values, atol=1e-5, rtol=1e-5
        )
        assert (model.full_sort_predict(batch).isfinite().sum(1) == 3).all()
