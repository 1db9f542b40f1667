from __future__ import annotations

from collections import Counter

import pytest
import torch
from recbole.evaluator import Collector, Evaluator

from recbole_genrec.compat import add_numpy_aliases
from recbole_genrec.errors import UserError
from recbole_genrec.trainer.collector import Ranking, TopKCollector

RANKING = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP"]
DIVERSITY = ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage", "ShannonEntropy"]


@pytest.fixture(autouse=True)
def old_numpy_names():
    """RecBole's evaluator reads np.float, which a Config provides and this file makes none."""
    add_numpy_aliases()


class Settings(dict):
    def __getitem__(self, key):
        return self.get(key)


def settings(metrics, topk=(2, 5)):
    return Settings(
        metrics=metrics,
        USER_ID_FIELD="user_id",
        topk=list(topk),
        eval_args={"mode": {"valid": "full"}},
        device=torch.device("cpu"),
        metric_decimal_place=10,
    )


def users(n_rows):
    return {"user_id": torch.arange(n_rows) + 1}


def batches(n_batches=3, n_rows=40, n_items=30, n_positives=1):
    """Yield distinct scores and distinct positives of every row, as RecBole's evaluation does."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(n_batches):
        scores = torch.rand(n_rows, n_items, generator=generator)
        scores[:, 0] = -torch.inf
        items = torch.stack(
            [
                torch.randperm(n_items - 1, generator=generator)[:n_positives] + 1
                for _ in range(n_rows)
            ]
        )
        yield scores, torch.arange(n_rows).repeat_interleave(n_positives), items.flatten()


def collect(collector, n_positives, ranked_items=None):
    for scores, rows, items in batches(n_positives=n_positives):
        given = scores if ranked_items is None else Ranking(scores.topk(ranked_items).indices)
        collector.eval_batch_collect(given, users(len(scores)), rows, items)
    return collector.get_data_struct()


@pytest.mark.parametrize("n_positives", [1, 3])
@pytest.mark.parametrize("ranked_items", [5, 9])
def test_rankings_give_the_metrics_of_dense_scores(n_positives, ranked_items):
    config = settings(RANKING)
    dense = Evaluator(config).evaluate(collect(Collector(config), n_positives))
    ranked = Evaluator(config).evaluate(collect(TopKCollector(config), n_positives, ranked_items))
    assert ranked == dense
    assert 0 < ranked["ndcg@5"] < 1


def test_dense_scores_are_collected_as_recbole_does():
    config = settings(RANKING)
    assert torch.equal(
        collect(TopKCollector(config), 1)["rec.topk"], collect(Collector(config), 1)["rec.topk"]
    )


def test_empty_positions_are_never_hits():
    config = settings(["Recall", "MRR"], topk=(3,))
    collector = TopKCollector(config)
    ranked = torch.tensor([[4, 0, 0], [5, 2, 0]])
    collector.eval_batch_collect(
        Ranking(ranked[:, :2]), users(len(ranked)), torch.tensor([0, 1]), torch.tensor([9, 2])
    )
    struct = collector.get_data_struct()
    assert struct["rec.topk"].tolist() == [[0, 0, 0, 1], [0, 1, 0, 1]]
    assert Evaluator(config).evaluate(struct) == {"recall@3": 0.5, "mrr@3": 0.25}


def test_a_positive_that_is_named_twice_counts_once():
    collector = TopKCollector(settings(["Recall"], topk=(2,)))
    collector.eval_batch_collect(
        Ranking(torch.tensor([[4, 5]])), users(1), torch.tensor([0, 0]), torch.tensor([5, 5])
    )
    assert collector.get_data_struct()["rec.topk"].tolist() == [[0, 1, 1]]


def test_metrics_beyond_accuracy_by_hand():
    """3 lists over the items 1..4 and the padding: 1 twice, 2 three times, 3 once."""
    config = settings(DIVERSITY, topk=(2,))
    collector = TopKCollector(config)
    collector.data_struct.set("data.num_items", 5)
    collector.data_struct.set("data.count_items", Counter({1: 10, 2: 4, 3: 1, 4: 7}))
    for _ in range(2):  # A second evaluation finds the counts again.
        collector.eval_batch_collect(
            Ranking(torch.tensor([[1, 2], [2, 1], [2, 3]])),
            users(3),
            torch.arange(3),
            torch.tensor([1, 4, 4]),
        )
        result = Evaluator(config).evaluate(collector.get_data_struct())
        assert result["itemcoverage@2"] == pytest.approx(3 / 5)
        assert result["averagepopularity@2"] == pytest.approx((14 / 2 + 14 / 2 + 5 / 2) / 3)
        assert result["tailpercentage@2"] == pytest.approx(1 / 6), (
            "the tail is the least popular tenth, at least one item: item 3"
        )
        # Gini of the counts 0, 0, 1, 2, 3: sum of (2 i - 6) P(i) over 5 * 6.
        assert result["giniindex@2"] == pytest.approx((0 * 1 + 2 * 2 + 4 * 3) / 30)


@pytest.mark.parametrize("metric", ["GAUC", "AUC"])
def test_metrics_that_need_every_score_are_refused(metric):
    collector = TopKCollector(settings([metric]))
    with pytest.raises(UserError, match=f"{metric}.*need the rank or score of every item"):
        collector.eval_batch_collect(
            Ranking(torch.tensor([[1, 2]])), users(1), torch.tensor([0]), torch.tensor([1])
        )


@pytest.mark.parametrize("is_ranking", [True, False])
def test_users_and_hits_of_the_last_evaluation_stay(is_ranking):
    collector = TopKCollector(settings(["NDCG"], topk=[2]))
    scores = torch.tensor([[-1.0, 0.1, 0.3, 0.2], [-1.0, 0.3, 0.2, 0.1], [-1.0, 0.1, 0.2, 0.3]])
    for _ in range(2):
        for rows in (slice(0, 2), slice(2, 3)):
            interaction = {"user_id": torch.tensor([7, 5, 9])[rows]}
            n_rows, given = len(scores[rows]), scores[rows]
            if is_ranking:
                given = Ranking(given.topk(2).indices)
            collector.eval_batch_collect(
                given, interaction, torch.arange(n_rows), torch.tensor([3, 3, 3])[rows]
            )
        collector.get_data_struct()
        assert collector.users.tolist() == [7, 5, 9]
        assert collector.hits.tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 1]]
