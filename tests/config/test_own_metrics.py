"""Metrics outside the package, given by the path of their class."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
from recbole.evaluator import register

from recbole_genrec.config.own_metrics import import_metric
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import compare, load
from recbole_genrec.results.record import run_digest

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
MORE = """
from recbole.evaluator.base_metric import AbstractMetric

class Blandness(Novelty):
    smaller = True

class Recall(TopkMetric):
    pass

class Bare(AbstractMetric):
    pass
"""
TABLES = ("metrics_dict", "metric_information", "metric_types")


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """The page's example and more in the module `own_figures`; RecBole's tables are put back."""
    before = {name: dict(getattr(register, name)) for name in TABLES}
    smaller = list(register.smaller_metrics)
    (example,) = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"))
    (tmp_path / "own_figures.py").write_text(example + MORE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, table in before.items():
        getattr(register, name).clear()
        getattr(register, name).update(table)
    register.smaller_metrics[:] = smaller
    sys.modules.pop("own_figures", None)


def test_an_own_metric_is_in_the_record_of_every_model(small_settings, tiny_sequences):
    """Pop recommends the same items to everyone, so its novelty follows from their counts."""
    own = {"metrics": ["NDCG", "own_figures:Novelty"], "topk": [1], "valid_metric": "novelty@1"}
    settings = {**small_settings("TIGER"), **own, "epochs": 1, "tokenizer_epochs": 1}
    records, table = compare(["TIGER", "Pop"], config_dict=settings)
    assert all(record["test_result"].keys() == {"ndcg@1", "novelty@1"} for record in records), (
        "named by the class"
    )
    assert "| novelty@1 |" in table.read_text(encoding="utf-8")
    trained = [item for sequence in tiny_sequences for item in sequence[:-2]]
    share = max(map(trained.count, trained)) / len(trained)
    assert records[1]["test_result"]["novelty@1"] == pytest.approx(-math.log2(share), abs=1e-5)

    with pytest.raises(UserError, match="valid_metric is 'novelty@1', but"):
        load(records[0]["checkpoint"])  # imports nothing that only the file names
    changes = {"valid_metric": "NDCG@1"}
    assert load(records[0]["checkpoint"], changes)[0]["metrics"] == ["NDCG"]
    config = load(records[0]["checkpoint"], {**changes, "metrics": own["metrics"]})[0]
    assert config["metrics"] == own["metrics"]


def test_another_code_of_a_metric_is_another_run(tiny_settings):
    given = {**tiny_settings, "metrics": ["NDCG", "own_figures:Novelty"]}
    digests = []
    for text in ("", "", "# changed"):
        Path("own_figures.py").write_text(Path("own_figures.py").read_text() + text)
        digests.append(run_digest(GenRecConfig("Pop", config_dict=given)))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("name", "is_bigger"), [("Novelty", True), ("Blandness", False)])
def test_smaller_is_better_where_the_class_says_so(tiny_settings, name, is_bigger):
    given = {**tiny_settings, "metrics": f"own_figures:{name}", "valid_metric": f"{name}@3"}
    for _ in range(2):
        assert GenRecConfig("SASRec", config_dict=given)["valid_metric_bigger"] is is_bigger
    assert register.smaller_metrics.count("blandness") == (not is_bigger)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("own_figures:Recall", "has the name of a metric of RecBole: rename the class"),
        ("own_figures:Bare", "is no metric of ranked lists or scores: derive the class"),
        ("own_figures:TABLES", "own_figures has no class 'TABLES'"),
        ("own_figurs:Novelty", "the metric 'own_figurs:Novelty' does not exist, because the modul"),
        ("own figures:Novelty", "the metric 'own figures:Novelty' is not a path"),
    ],
)
def test_what_is_no_metric_is_refused(tiny_settings, path, sentence):
    with pytest.raises(UserError, match=sentence):
        import_metric(path)
    with pytest.raises(UserError, match=sentence):
        GenRecConfig("SASRec", config_dict={**tiny_settings, "metrics": ["NDCG", path]})
