from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from recbole.data import data_preparation

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import Sequences
from recbole_genrec.model.markov import count_transitions
from recbole_genrec.quick_start import create_dataset, run


def literal_counts(sequences) -> tuple[Counter, Counter]:
    """Count the items, and the pairs that follow, in all but the last two items."""
    training = [sequence[:-2] for sequence in sequences]
    popularity = Counter(item for sequence in training for item in sequence)
    pairs = Counter(pair for sequence in training for pair in itertools.pairwise(sequence))
    return popularity, pairs


def test_counts_are_those_of_the_training_part():
    sequences = Sequences(
        torch.tensor([1, 2, 3, 1, 2, 9, 9, 2, 3, 9, 9, 4, 5]), torch.tensor([0, 0, 7, 11, 13])
    )
    popularity, starts, followers, counts = count_transitions(sequences, 10)
    assert popularity.tolist() == [0, 2, 3, 2, 0, 0, 0, 0, 0, 0]
    found = {
        item: dict(zip(followers[a:b].tolist(), counts[a:b].tolist()))
        for item, (a, b) in enumerate(zip(starts.tolist(), starts[1:].tolist()))
    }
    assert {item: after for item, after in found.items() if after} == {
        1: {2: 2},
        2: {3: 2},
        3: {1: 1},
    }


@pytest.fixture
def markov(tiny_settings):
    """A fitted model on the data set `tiny` and the number n of the token "in" of every item id."""
    config = GenRecConfig("Markov", config_dict=tiny_settings)
    dataset = create_dataset(config)
    train = data_preparation(config, dataset)[0].dataset
    numbers = [int(token[1:]) for token in train.field2id_token["item_id"][1:]]
    return config.model_class(config, train), numbers


def test_scores_follow_counts_then_popularity(markov, make_batch, tiny_sequences):
    model, numbers = markov
    popularity, pairs = literal_counts(tiny_sequences)
    histories = [[1], [1, 2], [5, 3], [10, 9, 8]]
    scores = model.full_sort_predict(make_batch(histories, [1, 1, 1, 1], width=5))
    share = max(popularity.values()) + 1
    for row, history in zip(scores, histories):
        last = numbers[history[-1] - 1]
        assert row[0] == -torch.inf
        expected = [pairs[last, item] + popularity[item] / share for item in numbers]
        assert row[1:].tolist() == pytest.approx(expected)


def test_predict_gives_the_scores_of_given_items(markov, make_batch):
    model, _ = markov
    batch = make_batch([[1, 2], [3]], [4, 5])
    scores = model.full_sort_predict(batch)
    assert model.predict(batch).tolist() == [scores[0, 4].item(), scores[1, 5].item()]


def test_a_run_gives_the_metrics_of_its_counts(tiny_settings, tiny_sequences):
    """Recall@5 by hand: a hit is a test target among the five best after all items before it."""
    result = run("Markov", config_dict={**tiny_settings, "epochs": 1})
    popularity, pairs = literal_counts(tiny_sequences)
    sure, possible = [], []
    for sequence in tiny_sequences:
        last, target = sequence[-2:]
        score = {item: (pairs[last, item], popularity[item]) for item in range(1, 11)}
        sure.append(sum(score[item] >= score[target] for item in score) <= 5)
        possible.append(sum(score[item] > score[target] for item in score) < 5)
    low, high = sum(sure) / len(sure), sum(possible) / len(possible)
    assert low - 1e-6 <= result["test_result"]["recall@5"] <= high + 1e-6
    assert result["n_parameters"] == 1
