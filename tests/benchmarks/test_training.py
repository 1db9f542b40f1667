from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks import training
from benchmarks.flops import training_flops
from benchmarks.plan import Case, Result
from benchmarks.twin import t5_size


class Lengths:
    """The attributes of training batches that evenly_spaced_rows reads."""

    batch_size, seed, n_pool = 2, 0, 100
    rows = SimpleNamespace(length=torch.tensor([1, 9, 1, 2, 2, 9, 3, 3, 7]))


def test_rows_are_whole_batches_evenly_spaced_by_length():
    """By length the rows are the batches 1 1, 2 2, 3 3, 7 9 and one row; two of four are taken."""
    rows = training.evenly_spaced_rows(Lengths(), 2)
    assert sorted(Lengths.rows.length[rows].tolist()) == [2, 2, 7, 9]
    assert len(training.evenly_spaced_rows(Lengths(), 100).unique()) == 8


@pytest.mark.slow
def test_ours_trains_every_row_once(tiger):
    experiment = tiger()
    rows = training.evenly_spaced_rows(training.batches_of(experiment, slice(None)), 3)
    before = experiment.model.token_table.weight.clone()
    facts, measure = training.prepare_ours(experiment, rows)
    assert facts["examples"] == 24 and measure(1)["examples_per_second"] > 0
    assert not torch.equal(before, experiment.model.token_table.weight)
    lengths = experiment.train.dataset.inter_feat["item_length"][rows]
    expected = training_flops(t5_size(experiment.model), 4 * lengths, (256,) * 4) / 24
    assert facts["flops_per_example"] == expected


@pytest.mark.slow
def test_all_positions_trains_whole_sequences(tiger):
    """Two batches are taken: at a quarter and at three quarters of an epoch, by size."""
    experiment = tiger(train_mode="all_positions")
    batches = experiment.trainer._batches(experiment.model.stages()[-1], experiment.train)
    chosen = training.ChosenBatches(batches, 2)
    sizes = sorted(batch["item_id_list"].numel() for batch in batches.epoch(0))
    assert [batch["item_id_list"].numel() for batch in chosen.epoch(1)] == [
        sizes[len(sizes) // 4],
        sizes[3 * len(sizes) // 4],
    ]
    assert chosen.n_targets == sum(
        int(batch["item_id"].count_nonzero()) for batch in chosen.epoch(0)
    )
    before = experiment.model.token_table.weight.clone()
    facts, measure = training.prepare_all_positions(experiment, 2)
    assert facts["examples"] == chosen.n_targets and measure(1)["examples_per_second"] > 0
    assert not torch.equal(before, experiment.model.token_table.weight)


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.slow
def test_the_plain_loop_does_the_same_work(tiger, is_mixed):
    pytest.importorskip("transformers")
    experiment = tiger(softmax_scope="full")
    rows = training.evenly_spaced_rows(training.batches_of(experiment, slice(None)), 2)
    facts, measure = training.prepare_plain_loop(experiment, rows, is_mixed)
    assert facts["loss"] == pytest.approx(facts["loss_of_our_model"], abs=1e-5)
    assert measure(0)["examples_per_second"] > 0


def test_other_work_is_refused(tiger):
    pytest.importorskip("transformers")
    experiment = tiger()  # a softmax over the codes of a level, not over all tokens
    with pytest.raises(ValueError, match="the loss of 8 rows is"):
        training.prepare_plain_loop(experiment, torch.arange(8), False)


def test_share_of_the_peak():
    rounds = {
        "matmul": [{"flops_per_second": 2e9}],
        "ours": [{"examples_per_second": 50.0}],
        "ours, bfloat16": [{"examples_per_second": 90.0}],
        "ours, all positions": [{"examples_per_second": 80.0}],
        "transformers": [{"examples_per_second": 10.0}],
        "transformers, bfloat16": [{"examples_per_second": 9.0}],
    }
    result = Result(
        Case("training", "small", tuple(rounds), {"size": "small"}),
        {"ours": {"flops_per_example": 1e7}},
        rounds,
    )
    speed, short, whole, share = training.rows([result])
    assert (speed.ratio, speed.met) == (5.0, False)
    assert (short.ratio, short.met) == (10.0, True)
    assert (whole.ratio, whole.met) == (8.0, None)
    assert (share.ours, share.unit, share.met) == (25.0, "%", False)
