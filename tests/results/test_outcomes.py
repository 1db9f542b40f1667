from __future__ import annotations

import pytest
import torch

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.results.outcomes import Outcomes, outcomes_path, read_outcomes, write_outcomes

HITS = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
OUTCOMES = Outcomes(["u1", "u 2", "ü3"], HITS, torch.tensor([2, 1, 3]))


def test_file_stands_beside_the_checkpoint():
    assert str(outcomes_path("saved/TIGER-ml-Nov.pth")) == "saved/TIGER-ml-Nov.users.tsv"
    assert outcomes_path("saved/a.pth") == outcomes_path("saved/a.json")


def test_file_is_one_readable_line_per_user(tmp_path):
    write_outcomes(OUTCOMES, tmp_path / "run.users.tsv")
    lines = (tmp_path / "run.users.tsv").read_text(encoding="utf-8").split("\n")
    assert lines == [
        "user\tn_positives\tranks of hits\t(of 3)",
        "u1\t2\t1 3",
        "u 2\t1\t",
        "ü3\t3\t2",
        "",
    ]


@pytest.mark.parametrize("hits", [HITS, torch.zeros(3, 3, dtype=torch.bool)])
def test_round_trip(tmp_path, hits):
    write_outcomes(Outcomes(OUTCOMES.users, hits, OUTCOMES.n_positives), tmp_path / "run.users.tsv")
    found = read_outcomes(tmp_path / "run.users.tsv")
    assert found.users == OUTCOMES.users
    assert torch.equal(found.hits, hits) and torch.equal(found.n_positives, OUTCOMES.n_positives)


def test_missing_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "run.users.tsv"
    with pytest.raises(MissingFileError, match="which a run writes beside its checkpoint"):
        read_outcomes(path)
    path.write_text("user_id:token\n1\n")
    with pytest.raises(UserError, match="begins with 'user_id:token', but the outcomes of a run"):
        read_outcomes(path)
    write_outcomes(OUTCOMES, path)
    for damage in ("u1\t2\n", "u1\t2\t9\n", "u1\ttwo\t1\n"):
        header = path.read_text(encoding="utf-8").split("\n")[0]
        path.write_text(f"{header}\n{damage}", encoding="utf-8")
        with pytest.raises(UserError, match="is damaged"):
            read_outcomes(path)
