from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import exact
from benchmarks.plan import Case, Result
from recbole_genrec.quick_start import run


@pytest.fixture
def trained(small_settings, quick):
    """Return options with the checkpoint of a tiny TIGER."""
    settings = small_settings("TIGER")
    result = run("TIGER", config_dict=settings)
    return replace(quick, checkpoint=result["checkpoint"], data_path=settings.get("data_path"))


def test_both_rank_the_same_users_and_one_proves_all(trained, monkeypatch):
    monkeypatch.setattr(exact, "N_BEAMS", 5)
    case = replace(exact.cases(trained)[0], details={"k": 5})
    prepared = {name: exact.prepare(name, case, trained) for name in case.contenders}
    facts = [facts for facts, _ in prepared.values()]
    assert facts[0] == facts[1] and facts[0]["users"] > 0
    whole, beams = (measure(0) for _, measure in prepared.values())
    assert whole["proven_share"] == 1.0 and 0 <= beams["proven_share"] <= 1
    assert whole["users_per_second"] > 0


def test_nothing_without_a_checkpoint(quick):
    assert exact.cases(quick) == []


def test_cost_of_exactness():
    measured = {
        "ours, exact": [{"users_per_second": 30.0, "proven_share": 1.0}],
        "ours, beams": [{"users_per_second": 50.0, "proven_share": 0.25}],
    }
    cost, share = exact.rows(
        [Result(Case("exact", "exact top 10", tuple(measured), {"k": 10}), {}, measured)]
    )
    assert (cost.ratio, cost.met, share.ours) == (0.6, True, 25.0)
