import logging
from collections import Counter
from itertools import product
from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_genrec.data.sequences import Sequences
from recbole_genrec.errors import UserError
from recbole_genrec.features.ppmi import cooccurrences, ppmi_features, shifted_ppmi

# The last two items of every user are held out: 7 and 8 occur nowhere else, or in users with fewer
# than two items to train on.
USERS = [[1, 2, 3, 2, 8, 8], [3, 4, 4, 1, 2, 5, 8], [5, 6, 5, 6, 4, 7, 7], [7, 6, 6], [6, 6], [6]]
N_ITEMS = 9


def sequences_of(users: list[list[int]]) -> Sequences:
    lengths = torch.tensor([0, *map(len, users)])
    starts = torch.cat((torch.zeros(1, dtype=torch.long), lengths.cumsum(0)))
    return Sequences(torch.tensor([item for user in users for item in user]), starts)


def dataset_of(users: list[list[int]]) -> SimpleNamespace:
    return SimpleNamespace(sequences=sequences_of(users), item_num=N_ITEMS, dataset_name="toy")


def settings(window: int = 2, dim: int = 64, shift: float = 1) -> dict[str, float]:
    return {"ppmi_window": window, "ppmi_dim": dim, "ppmi_shift": shift}


def counted(users: list[list[int]], window: int) -> np.ndarray:
    """Count by loops over pairs of positions."""
    counts = np.zeros((N_ITEMS, N_ITEMS))
    for user in users:
        training = user[:-2]
        for one, other in product(range(len(training)), repeat=2):
            if one != other and abs(one - other) <= window:
                counts[training[one], training[other]] += 1
    return counts


def ppmi_by_hand(counts: np.ndarray, shift: float) -> np.ndarray:
    pairs = {pair: float(counts[pair]) for pair in np.ndindex(counts.shape) if counts[pair]}
    occurrences: Counter = Counter()
    for (item, _), count in pairs.items():
        occurrences[item] += count
    total = sum(pairs.values())
    matrix = np.zeros_like(counts)
    for (one, other), count in pairs.items():
        pmi = log((count / total) / (occurrences[one] / total * occurrences[other] / total))
        matrix[one, other] = max(pmi - log(shift), 0)
    return matrix


@pytest.mark.parametrize("window", [1, 2, 3, 50])
def test_pairs_in_the_window_are_counted_in_both_directions(window):
    counts = cooccurrences(sequences_of(USERS), N_ITEMS, window).toarray()
    assert (counts == counted(USERS, window)).all()
    assert (counts == counts.T).all()


def test_no_pair_crosses_from_one_user_to_the_next():
    counts = cooccurrences(sequences_of([[1, 2, 9, 9], [3, 4, 9, 9]]), 10, window=5).toarray()
    assert {tuple(pair) for pair in np.argwhere(counts)} == {(1, 2), (2, 1), (3, 4), (4, 3)}


def test_ppmi_of_three_items():
    """1 and 2 meet three times, 2 and 3 once: 8 directed pairs, of which 2 has a half."""
    counts = csr_matrix(np.array([[0, 0, 0, 0], [0, 0, 3, 0], [0, 3, 0, 1], [0, 0, 1, 0.0]]))
    # P(1, 2) / (P(1) P(2)) = 3/8 / (3/8 * 4/8) = 2, and as much for 2 and 3.
    expected = np.zeros((4, 4))
    expected[[1, 2, 2, 3], [2, 1, 3, 2]] = log(2)
    np.testing.assert_allclose(shifted_ppmi(counts, 1).toarray(), expected)
    np.testing.assert_allclose(
        shifted_ppmi(counts, 1.5).toarray(), expected - log(1.5) * (expected > 0)
    )
    assert shifted_ppmi(counts, 2).nnz == 0


@pytest.mark.parametrize("shift", [1, 1.5, 2])
def test_ppmi_against_loops(shift):
    counts = counted(USERS, 2)
    expected = ppmi_by_hand(counts, shift)
    assert expected.any()
    assert ((counts > 0) & (expected == 0)).any(), "some pairs meet less often than by chance"
    np.testing.assert_allclose(
        shifted_ppmi(csr_matrix(counts), shift).toarray(), expected, atol=1e-12
    )


@pytest.mark.parametrize("shift", [1, 1.5])
def test_all_components_keep_the_inner_products_of_the_rows(shift, caplog):
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        features = ppmi_features(settings(shift=shift), dataset_of(USERS))
    matrix = ppmi_by_hand(counted(USERS, 2), shift)
    seen = [item for item in range(N_ITEMS) if matrix[item].any()]
    assert features.dtype == torch.float32 and features.shape == (N_ITEMS, len(seen))
    np.testing.assert_allclose((features @ features.T).numpy(), matrix @ matrix.T, atol=1e-5)
    assert caplog.messages == [
        f"PPMI: pairs of items {np.count_nonzero(matrix)}, items without a pair {8 - len(seen)}"
    ]


def test_fewer_components_are_the_best_approximation():
    features = ppmi_features(settings(dim=2), dataset_of(USERS))
    exact = np.linalg.svd(ppmi_by_hand(counted(USERS, 2), 1), compute_uv=False)
    assert features.shape == (N_ITEMS, 2)
    np.testing.assert_allclose(torch.linalg.svdvals(features).numpy(), exact[:2], rtol=1e-5)


def test_items_that_training_lacks_have_zeros():
    features = ppmi_features(settings(), dataset_of(USERS))
    assert not features[[0, 7, 8]].any()
    assert features[1:7].any(dim=1).all()


def test_held_out_items_change_nothing():
    changed = [[*user[:-2], *[1, 6][: len(user)]] for user in USERS]
    assert changed != USERS
    features = ppmi_features(settings(), dataset_of(USERS))
    assert torch.equal(ppmi_features(settings(), dataset_of(changed)), features)
    changed[0][1] = 4
    assert not torch.equal(ppmi_features(settings(), dataset_of(changed)), features)


def test_a_runs_seed_changes_nothing_and_random_states_stay():
    results = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].tolist()
        results.append(ppmi_features(settings(dim=3), dataset_of(USERS)))
        assert np.random.get_state()[1].tolist() == before
    assert torch.equal(*results)


def test_components_beyond_the_rank_are_zeros():
    """1 and 3 meet only 2, hence have the same row."""
    users = [[1, 2, 3, 2, 8, 8]]
    features = ppmi_features(settings(window=1), dataset_of(users))
    matrix = ppmi_by_hand(counted(users, 1), 1)
    rank = np.linalg.matrix_rank(matrix)
    assert rank < features.shape[1]
    assert features[:, :rank].any(dim=0).all()
    assert not features[:, rank:].any()


@pytest.mark.parametrize("users", [[[1, 2, 3]], [[1, 1, 1, 1, 8, 8]]])
def test_no_pair_beyond_chance_is_one_sentence(users):
    with pytest.raises(UserError, match=r"ppmi_window 2 and ppmi_shift 1: raise ppmi_window"):
        ppmi_features(settings(), dataset_of(users))


@pytest.mark.parametrize("model", ["TIGER", "LETTER", "UniGRec", "ETEGRec", "UNGER"])
def test_every_model_takes_ppmi_beside_text(make_experiment, model):
    """Text has 6 columns; LETTER keeps the vectors of cf apart."""
    sources = {"text": "tfidf", "cf": "ppmi"}
    built = make_experiment(model, item_features=sources, ppmi_dim=4).model
    vectors = built.collaborative if model == "LETTER" else built.item_features[:, 6:]
    assert built.item_features.shape[1] == 6 + 4 * (model != "LETTER")
    assert vectors.shape == (11, 4) and vectors.any()
