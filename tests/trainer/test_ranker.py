"""Ranked lists of an evaluation: their width, and the counts of empty and proven ones."""

from __future__ import annotations

import pytest
import torch

from recbole_genrec.results.record import generative_figures
from recbole_genrec.trainer.trainer import GenRecTrainer


def test_histories_are_cut_to_the_longest_of_the_batch(make_experiment, monkeypatch):
    experiment, widths = make_experiment("TIGER", eval_batch_size=1), []
    trainer = GenRecTrainer(experiment.config, experiment.name_items())
    search, batches = trainer.model.search, list(experiment.test)

    def record(batch, k):
        widths.append(batch["item_id_list"].shape[1])
        return search(batch, k)

    monkeypatch.setattr(trainer.model, "search", record)
    monkeypatch.setattr(type(experiment.test), "__iter__", lambda loader: iter(batches))
    trainer.evaluate(experiment.test, load_best_model=False)
    assert sorted(widths) == [4] * 9 + [5] * 2 + [6]
    assert {batch["item_id_list"].shape[1] for batch, *_ in batches} == {20}, "as they were"


def test_positions_without_an_item_are_logged(make_experiment, caplog):
    """The number equals a count over all test users, in batches of any size."""
    lines = []
    for batch_size in (5, 64):
        experiment = make_experiment(
            "TIGER", constrained=False, n_levels=1, eval_batch_size=batch_size
        )
        trainer = GenRecTrainer(experiment.config, experiment.name_items())
        n_empty = sum(
            int((trainer.model.search(batch[0], 5).item_ids == 0).sum())
            for batch in experiment.test
        )
        for _ in range(2):
            caplog.clear()
            with caplog.at_level("INFO"):
                trainer.evaluate(experiment.test, load_best_model=False)
            lines.append([line for line in caplog.messages if "hold codes of no item" in line])
    assert 0 < n_empty < 12 * 5
    assert (
        lines
        == [
            [f"{n_empty} positions of the ranked lists hold codes of no item; they count as misses"]
        ]
        * 4
    )


def test_nothing_is_logged_where_every_position_has_an_item(make_experiment, caplog):
    experiment = make_experiment("TIGER")
    trainer = GenRecTrainer(experiment.config, experiment.name_items())
    with caplog.at_level("INFO"):
        trainer.evaluate(experiment.test, load_best_model=False)
    assert "of no item" not in caplog.text


@pytest.mark.parametrize("batch_size", [5, 64])
def test_the_share_of_proven_lists_is_logged_and_kept_for_the_record(
    make_experiment, caplog, batch_size
):
    """The lists of users 3, 6, 9 and 12 are made proven."""
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


@pytest.mark.slow
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
        assert torch.equal(model.search(batch, 3).item_ids, best.indices + 1)
        torch.testing.assert_close(
            model.search(batch, 3).log_probs, best.values, atol=1e-5, rtol=1e-5
        )
        assert (model.full_sort_predict(batch).isfinite().sum(1) == 3).all()
