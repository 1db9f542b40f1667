from __future__ import annotations

import pytest

from benchmarks import tokenizer
from benchmarks.plan import Case, Result


@pytest.mark.parametrize("number", range(3))
@pytest.mark.slow
def test_contenders_measure_epochs(quick, number):
    case = tokenizer.cases(quick)[number]
    measured = {name: tokenizer.prepare(name, case, quick) for name in case.contenders}
    assert all(
        facts == {"items": 200, "features": 16, "batch_size": 64} for facts, _ in measured.values()
    )
    figures = {name: measure(0) for name, (_, measure) in measured.items()}
    assert all(figure["seconds_per_epoch"] > 0 for figure in figures.values())
    ours = figures["ours"]
    assert 0 <= ours["seconds_before_epoch"] < ours["seconds_per_epoch"]


def test_the_stopwatch_calls_the_stage_function():
    epochs = []
    watch = tokenizer.Stopwatch(epochs.append)
    watch(4)
    assert epochs == [4] and watch.seconds > 0
    tokenizer.Stopwatch(None)(4)


def test_share_of_the_clustering():
    facts = {"ours": {"items": 200, "features": 16}}
    rounds = {"ours": [{"seconds_per_epoch": 2.0, "seconds_before_epoch": 0.5}]}
    epoch, share = tokenizer.rows([Result(Case("tokenizer", "LETTER's", ("ours",)), facts, rounds)])
    assert (epoch.ours, share.ours, share.met) == (2.0, 25.0, False)


def test_bfloat16_has_its_own_row():
    seconds = {
        "ours": 0.6,
        tokenizer.BFLOAT16: 0.2,
        "plain loop": 0.7,
        tokenizer.PLAIN_BFLOAT16: 0.65,
    }
    rounds = {name: [{"seconds_per_epoch": value}] for name, value in seconds.items()}
    facts = {"ours": {"items": 200, "features": 16}}
    whole, mixed = tokenizer.rows(
        [Result(Case("tokenizer", "RQ-VAE", tuple(seconds)), facts, rounds)]
    )
    assert (whole.met, mixed.met) == (False, True) and mixed.ratio == pytest.approx(3.25)


@pytest.mark.slow
def test_only_bfloat16_contenders_are_mixed(quick, monkeypatch):
    make_config, enabled = tokenizer.make_config, []
    monkeypatch.setattr(
        tokenizer,
        "make_config",
        lambda *given: enabled.append(given[2]["enable_amp"]) or make_config(*given),
    )
    case = tokenizer.cases(quick)[0]
    for name in case.contenders:
        tokenizer.prepare(name, case, quick)
    expected = {
        "ours": False,
        tokenizer.BFLOAT16: True,
        "plain loop": False,
        tokenizer.PLAIN_BFLOAT16: True,
    }
    assert dict(zip(case.contenders, enabled)) == expected
