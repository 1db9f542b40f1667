from __future__ import annotations

import json
from math import log2

import numpy as np
import pytest
import torch

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.results.outcomes import Outcomes, outcomes_path, write_outcomes
from recbole_genrec.results.significance import compare_records, paired_differences, user_values


def outcomes_of(ranks, k=5, users=None) -> Outcomes:
    """Make outcomes with one positive per user at these ranks (from 1); 0 is not in the list."""
    hits = torch.zeros(len(ranks), k, dtype=torch.bool)
    for row, rank in enumerate(ranks):
        if rank:
            hits[row, rank - 1] = True
    return Outcomes(
        users or [f"u{row}" for row in range(len(ranks))],
        hits,
        torch.ones(len(ranks), dtype=torch.long),
    )


def test_values_of_one_positive_are_the_closed_forms():
    values = user_values(outcomes_of([1, 3, 0, 5]), ["ndcg@5", "recall@3", "mrr@5", "ndcg@3"])
    expected = [
        [1, 1 / log2(4), 0, 1 / log2(6)],
        [1, 1, 0, 0],
        [1, 1 / 3, 0, 1 / 5],
        [1, 1 / log2(4), 0, 0],
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_values_of_several_positives():
    outcomes = Outcomes(["u"], torch.tensor([[True, False, True]]), torch.tensor([3]))
    values = user_values(outcomes, ["recall@3", "ndcg@3", "precision@3"])
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    np.testing.assert_allclose(values[:, 0], [2 / 3, (1 + 1 / log2(4)) / ideal, 2 / 3], rtol=1e-6)


@pytest.mark.parametrize("metric", ["ndcg@6", "ndcg", "itemcoverage@5", "moon@5", "ndcg@0"])
def test_metrics_without_a_value_for_a_user_are_refused(metric):
    with pytest.raises(
        UserError, match=f"the metric '{metric}' has no value for a single user in lists of 5"
    ):
        user_values(outcomes_of([1]), [metric])


def test_users_are_joined_by_their_tokens():
    first = outcomes_of([1, 2, 0], users=["a", "b", "c"])
    second = outcomes_of([0, 2, 1], users=["c", "b", "a"])
    (found,) = paired_differences(first, second, ["ndcg@5"])
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert found.first == found.second == pytest.approx((1 + 1 / log2(3)) / 3)


def test_interval_covers_the_mean_of_paired_differences():
    """Of 900 users a third gains 1 and a sixth loses 1; the width is the normal one."""
    first = outcomes_of([0] * 300 + [1] * 150 + [1] * 450)
    second = outcomes_of([1] * 300 + [0] * 150 + [1] * 450)
    (found,) = paired_differences(first, second, ["recall@1"])
    assert (
        found.first == pytest.approx(2 / 3)
        and found.second == pytest.approx(5 / 6)
        and found.difference == pytest.approx(1 / 6)
    )
    half = 1.959964 * ((1 / 2 - 1 / 36) / 900) ** 0.5
    assert found.low == pytest.approx(1 / 6 - half, abs=0.1 * half)
    assert found.high == pytest.approx(1 / 6 + half, abs=0.1 * half)


def test_pairing_shrinks_the_interval():
    """Both runs hit the same half of the users: each mean varies, their difference does not."""
    (found,) = paired_differences(outcomes_of([1, 0] * 50), outcomes_of([1, 0] * 50), ["recall@1"])
    assert (found.low, found.high) == (0, 0)


@pytest.mark.parametrize("users", [["u0", "u2"], ["u0", "u1", "u2"], ["u0", "u0"]])
def test_other_users_are_refused(users):
    other = outcomes_of([1] * len(users), users=users)
    with pytest.raises(UserError, match=f"on 2 and {len(users)} users that are not the same"):
        paired_differences(outcomes_of([1, 2]), other, ["ndcg@5"])


def write_run(path, model, ranks, **changes):
    record = {
        "model": model,
        "dataset": "tiny",
        "dataset_fingerprint": "f",
        "test_result": {"ndcg@5": 0, "itemcoverage@5": 0},
    }
    path.write_text(json.dumps({**record, **changes}))
    write_outcomes(outcomes_of(ranks), outcomes_path(path))
    return path


def test_table_of_two_records(tmp_path):
    first, second = (
        write_run(tmp_path / "a.json", "TIGER", [1, 0]),
        write_run(tmp_path / "b.json", "LETTER", [1, 1]),
    )
    lines = compare_records(first, second).splitlines()
    assert lines[0] == "| metric | TIGER, a | LETTER, b | difference | 95 % interval |"
    assert lines[2:] == ["| ndcg@5 | 0.5000 | 1.0000 | +0.5000 | +0.0000 to +1.0000 |"]
    assert "| recall@1 | 0.5000 | 1.0000 | +0.5000 |" in compare_records(
        first, second, ["recall@1"]
    )


def test_other_data_missing_and_foreign_files_are_refused(tmp_path):
    first = write_run(tmp_path / "a.json", "TIGER", [1, 0])
    other = write_run(tmp_path / "b.json", "TIGER", [1, 0], dataset_fingerprint="g")
    with pytest.raises(UserError, match="the runs are of different data"):
        compare_records(first, other)
    with pytest.raises(MissingFileError, match=r"there is no .*c\.json"):
        compare_records(first, tmp_path / "c.json")
    (tmp_path / "d.json").write_text('{"model": "TIGER"}')
    with pytest.raises(UserError, match=r"d\.json' is not a record of a run"):
        compare_records(first, tmp_path / "d.json")
