from __future__ import annotations

from benchmarks import evaluation
from benchmarks.plan import Result


def test_all_users_are_evaluated(quick):
    case = evaluation.cases(quick)[0]
    facts, measure = evaluation.prepare("ours", case, quick)
    assert facts["users"] == 943
    row = evaluation.rows([Result(case, {"ours": facts}, {"ours": [measure(0)]})])[0]
    assert row.what.endswith("ml-100k (943)") and row.ours > 0
