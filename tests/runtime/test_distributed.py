from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import run
from recbole_genrec.runtime import distributed
from recbole_genrec.seq2seq.t5 import T5, T5Size
from recbole_genrec.storage import load_plain

HERE = Path(__file__).parents[1]
# 27 training rows in batches of 13: the last has fewer rows than there are processes.
PLAIN = {
    "learner": "sgd",
    "n_beams": 8,
    "train_batch_size": 13,
    "learning_rate": 0.05,
    "metrics": ["Recall", "NDCG", "ItemCoverage"],
}
CASES = {
    "TIGER": {"model": "TIGER"},
    "TIGER, all positions": {"model": "TIGER", "train_mode": "all_positions"},
    "LETTER": {"model": "LETTER"},
    "UniGRec": {"model": "UniGRec", "distillation_warmup_epochs": 0, "uniformity_weight": 0.1},
    "ETEGRec": {"model": "ETEGRec", "alignment_warmup_epochs": 0, "ablation": "end_to_end"},
    "UNGER": {"model": "UNGER"},
}
DROPOUT = {"model": "TIGER", "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2}


@pytest.fixture(scope="module")
def launched():
    """Hold the results of the two processes; the first test that needs them fills it."""
    return {}


@pytest.fixture
def two_processes(launched, small_settings, tmp_path_factory):
    """Run all CASES, dropout, dropout stopped and resumed, and SASRec on two processes."""
    if launched:
        return launched
    folder = tmp_path_factory.mktemp("two_processes")
    runs = settings_of_runs(folder, small_settings)
    output = launch(folder, list(runs.values()))
    ranks = [json.loads((folder / f"rank-{rank}-of-2.json").read_text()) for rank in range(2)]
    launched.update(
        folder=folder, output=output, ranks=[dict(zip(runs, results)) for results in ranks]
    )
    return launched


def settings_of_runs(folder: Path, small_settings) -> dict[str, dict]:
    saved = {"checkpoint_dir": str(folder / "saved")}
    runs = {
        name: {**small_settings(case["model"]), **PLAIN, **case, **saved}
        for name, case in CASES.items()
    }
    runs["dropout"] = {**small_settings("TIGER"), **DROPOUT, **saved}
    runs["resumed"] = {
        **runs["dropout"],
        "stop_after": 6,
        "checkpoint_dir": str(folder / "resumed"),
    }
    shared = ("dataset", "data_path", "checkpoint_dir")
    runs["SASRec"] = {"model": "SASRec", **{key: runs["TIGER"][key] for key in shared}}
    return runs


def launch(folder: Path, runs: list[dict]) -> str:
    """Run all settings by torchrun on two processes; return what they print."""
    file = folder / "runs.json"
    file.write_text(json.dumps(runs))
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(HERE / "run_in_processes.py"),
        str(file),
    ]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_match_one(name, two_processes, small_settings):
    alone = run(config_dict={**small_settings(CASES[name]["model"]), **PLAIN, **CASES[name]})
    first, second = (results[name] for results in two_processes["ranks"])
    for part in (
        "best_valid_score",
        "best_valid_result",
        "test_result",
        "semantic_ids",
        "proven_share",
    ):
        assert first[part] == second[part] == alone[part], part
    assert first["checkpoint"] == second["checkpoint"]
    weights, expected = (
        load_plain(result["checkpoint"], "cpu")["state_dict"] for result in (first, alone)
    )
    assert weights.keys() == expected.keys()
    for key, weight in weights.items():
        torch.testing.assert_close(weight, expected[key], atol=1e-5, rtol=1e-5, msg=key)
    outcomes = [
        Path(result["checkpoint"]).with_suffix(".users.tsv").read_text()
        for result in (first, alone)
    ]
    assert outcomes[0] == outcomes[1]
    record, expected = (
        json.loads(Path(result["checkpoint"]).with_suffix(".json").read_text())
        for result in (first, alone)
    )
    measured = (
        "checkpoint",
        "seconds",
        "stage_seconds",
        "test_users_per_second",
        "given_settings",
        "run_digest",
    )
    assert {key: record[key] for key in record if key not in measured} == {
        key: expected[key] for key in expected if key not in measured
    }


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_run(two_processes):
    undisturbed, resumed = (
        two_processes["ranks"][0][name]["checkpoint"] for name in ("dropout", "resumed")
    )
    weights = [load_plain(path, "cpu")["state_dict"] for path in (undisturbed, resumed)]
    assert undisturbed != resumed
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_only_the_main_process_writes(two_processes):
    folder = two_processes["folder"]
    n_runs = len(CASES) + 3  # undisturbed, stopped and resumed with dropout
    assert len(list((folder / "saved").glob("*.users.tsv"))) == len(CASES) + 1
    assert len(list((folder / "log").rglob("*.log"))) == n_runs
    # The teachers of UniGRec and LETTER, trained by the main process alone, write theirs as well.
    assert len(list((folder / "log_tensorboard").rglob("events*"))) == n_runs + 2
    assert two_processes["output"].count("stage recommender: done") == 6


def test_a_process_that_acts_alone_is_the_main_one_of_one(monkeypatch):
    monkeypatch.setattr(distributed.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.distributed, "get_rank", lambda: 1)
    with distributed.alone():
        assert (distributed.size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
        with distributed.alone():
            pass
        assert distributed.size() == 1
    assert (distributed.size(), distributed.rank(), distributed.is_main()) == (2, 1, False)


@pytest.mark.slow
def test_recbole_models_are_refused(two_processes):
    sentences = {results["SASRec"]["refusal"] for results in two_processes["ranks"]}
    assert sentences == {
        "SASRec is a model of RecBole, and those are trained by one process here: start it "
        "without torchrun"
    }


def test_nothing_changes_in_a_single_process(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    layer = nn.Linear(2, 2)
    layer.encode = kept = layer.forward
    layer.weight.grad = gradient = torch.ones(2, 2)
    state = torch.get_rng_state()
    with (
        distributed.process_group(),
        distributed.main_first(),
        distributed.machine_first(0) as is_first,
        distributed.split_rows(layer, 0, 0),
    ):
        assert (distributed.size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
        assert is_first
        assert layer.encode is kept
        distributed.average_gradients(layer.parameters())
        distributed.broadcast_state(layer)
        distributed.synchronize(layer)
        distributed.barrier()
    assert layer.weight.grad is gradient and gradient.eq(1).all()
    assert torch.equal(torch.get_rng_state(), state)
    assert distributed.broadcast(layer) is layer
    assert distributed.all_reduce_sum(1, 2) == (1, 2)
    assert distributed.on_main_process(context := distributed.process_group()) is context
    assert not distributed.rank_in_parallel([1], lambda batch: None, 3, torch.device("cpu"))


@pytest.mark.parametrize("local_rank", [0, 1])
def test_all_processes_of_a_machine_wait_at_the_end_even_after_an_error(local_rank, monkeypatch):
    events = []
    monkeypatch.setattr(distributed, "barrier", lambda: events.append("barrier"))
    with pytest.raises(KeyError), distributed.machine_first(local_rank) as is_first:
        events.append(is_first)
        raise KeyError
    assert events == [local_rank == 0, "barrier"]


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, ["block", "barrier"]), (1, ["barrier", "block"])]
)
def test_the_main_process_runs_a_block_before_the_others(rank, expected, monkeypatch):
    events = []
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "barrier", lambda: events.append("barrier"))
    with distributed.main_first():
        events.append("block")
    assert events == expected


@pytest.fixture
def chosen_gpus(monkeypatch):
    """Pretend that the machine has two GPUs; return the list of those that are chosen."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_each_process_gets_its_gpu(chosen_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    settings = {"use_gpu": True, "gpu_id": "0", "show_progress": True}
    distributed.set_device(settings)
    assert chosen_gpus == [1]
    assert (
        settings["device"] == torch.device("cuda", 1)
        and settings["local_rank"] == 1
        and settings["single_spec"]
    )
    settings = {"use_gpu": True, "gpu_id": ""}
    distributed.set_device(settings)
    assert settings["device"] == torch.device("cpu") and not settings["use_gpu"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        UserError, match="process 2 of this machine, but it has 2 GPUs: lower --nproc_per_node"
    ):
        distributed.set_device({"use_gpu": True, "gpu_id": "0"})


@pytest.mark.parametrize("number", [0, 1])
def test_each_rank_draws_its_own_numbers_and_the_shared_ones_stay(number, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    of_rank_0 = distributed._RankGenerator(torch.device("cpu"), 7, 3)
    main_numbers = [of_rank_0.run(torch.rand, 4) for _ in range(2)]
    monkeypatch.setattr(distributed, "rank", lambda: number)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    draws = distributed._RankGenerator(torch.device("cpu"), 7, 3)
    numbers = [draws.run(torch.rand, 4) for _ in range(2)]
    assert torch.equal(torch.rand(4), expected)
    assert not torch.equal(*numbers)
    assert all(
        torch.equal(own, of_rank_0) == (number == 0)
        for own, of_rank_0 in zip(numbers, main_numbers)
    )
    assert not torch.equal(
        distributed._RankGenerator(torch.device("cpu"), 7, 4).run(torch.rand, 4), numbers[0]
    )


def test_dropout_of_split_rows_differs_by_rank(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed.distributed, "all_reduce", lambda tensor: None)
    seq2seq = T5(T5Size(8, 8, 1, 1, 8, 0.5, 0.5))
    alike, mask = torch.ones(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
    encoded, decoded, state = [], [], torch.get_rng_state()
    for number in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        with distributed.split_rows(seq2seq, 1, 2):
            encoded.append(seq2seq.encode(alike, mask))
            decoded.append(seq2seq.decode(alike, alike, mask))
    for states in (encoded, decoded):
        assert states[0][1].eq(0).all() and states[1][0].eq(0).all()  # each rank has one row
        assert not torch.equal(states[0][0], states[1][1])
    assert torch.equal(torch.get_rng_state(), state)
    assert seq2seq.encode == T5.encode.__get__(seq2seq)
