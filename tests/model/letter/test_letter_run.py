"""LETTER as a whole: golden losses, runs, resumed runs, ablations, semantic ids out and in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_genrec.cli import main
from recbole_genrec.quick_start import create_trainer, load, run

HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7], [3, 2], [10, 9, 8]]
TARGETS = [4, 5, 8, 5, 9, 1]
TERMS = ("reconstruction", "codebook", "commitment", "collaborative", "diversity")
# The terms of steps 0, 4 and 9 of the tokenizer, then of the recommender; then the codes.
GOLDEN = {
    "ours": [
        [1.6258164, 0.5963839, 0.149096, 0.2417465, 0.104168],
        [1.2787361, 0.3022574, 0.0755644, 0.2379648, 0.1042139],
        [0.725584, 0.0474662, 0.0118665, 0.2368354, 0.1015144],
        [1.5318661],
        [1.1362742],
        [1.0208148],
    ],
    "released": [
        [1.6242944, 0.5966793, 0.1491698, 0.2385306, 0.1045774],
        [1.2805655, 0.3237023, 0.0809256, 0.2386325, 0.1044412],
        [0.7088486, 0.1261432, 0.0315358, 0.2513527, 0.1013188],
        [1.7442066],
        [1.3510909],
        [1.2025333],
    ],
}
GOLDEN_CODES = {
    "ours": ["332", "313", "323", "330", "310", "331", "322", "333", "312", "311"],
    "released": ["1010", "3020", "3021", "3030", "3000", "3010", "3001", "1030", "3031", "3022"],
}


@pytest.mark.parametrize("preset", ["ours", "released"])
def test_golden_losses(fixed_model, five_steps_an_epoch, make_batch, preset):
    """Ten steps of each stage on fixed data, of the paper's and of the released method."""
    quirks = {
        "model_class": "recbole_genrec.model.letter.released:ReleasedLETTER",
        "counter_size": 10,
    }
    settings = {
        "generation_temperature": 0.7,
        "warmup_epochs": 0.5,
        "regroup_every": 1,
        **(quirks if preset == "released" else {}),
    }
    model = fixed_model("LETTER", {"text": (0.3, 6), "cf": (1.1, 4)}, cf_length=None, **settings)
    torch.manual_seed(1)
    tokenizer, recommender = model.stages()
    found = five_steps_an_epoch(model, tokenizer, torch.arange(1, 11), 2)
    model.refresh_semantic_ids()
    found += five_steps_an_epoch(model, recommender, make_batch(HISTORIES, TARGETS), 2)
    codes = ["".join(map(str, row)) for row in model.semantic_ids.codes[1:].tolist()]
    assert [tuple(row) for row in found] == [TERMS] * 3 + [("generation",)] * 3
    for row, expected in zip(found, GOLDEN[preset]):
        np.testing.assert_allclose(list(row.values()), expected, rtol=0, atol=1e-5)
    assert codes == GOLDEN_CODES[preset]


def test_a_whole_run(small_settings, caplog):
    with caplog.at_level("INFO"):
        result = run("LETTER", config_dict=small_settings("LETTER"))
    assert result["stage_seconds"].keys() == {"tokenizer", "recommender"}
    assert result["semantic_ids"]["collisions_after"] == 0
    assert "cf: vectors of 10 of 10 items, mean length" in caplog.text
    losses = [line for line in caplog.messages if line.startswith("stage tokenizer epoch")]
    assert len(losses) == 4 and all(f"{term} " in line for line in losses for term in TERMS)
    assert any(
        line.startswith("codes: ") and "shared their codes;" in line for line in caplog.messages
    )


@pytest.mark.parametrize("left_out", ["collaborative", "diversity"])
def test_ablations_run(small_settings, caplog, left_out):
    ablation = {f"{left_out}_weight": 0, "epochs": 1}
    with caplog.at_level("INFO"):
        run("LETTER", config_dict={**small_settings("LETTER"), **ablation})
    losses = [line for line in caplog.messages if line.startswith("stage tokenizer epoch")]
    terms = [term for term in TERMS if term != left_out]
    assert losses and all(
        [f"{term} " in line for term in TERMS] == [term in terms for term in TERMS]
        for line in losses
    )


@pytest.mark.slow
def test_resumed_runs_end_like_the_undisturbed_one(small_settings, run_and_copy):
    """Resume after one and three epochs of the tokenizer, and in the recommender's stage.

    The groups of the tokenizer's third epoch were made before the second.
    """
    settings = {**small_settings("LETTER"), "hidden_dropout_prob": 0.2}
    undisturbed, resume_files = run_and_copy("LETTER", settings)
    for number in (0, 2, 5):
        result = run("LETTER", config_dict={**settings, "resume": resume_files[number]})
        for part in ("test_result", "best_valid_result", "semantic_ids"):
            assert result[part] == undisturbed[part]
        assert result["checkpoint"] != undisturbed["checkpoint"]
        first, second = (
            torch.load(each["checkpoint"], weights_only=True)["state_dict"]
            for each in (result, undisturbed)
        )
        assert all(torch.equal(first[name], second[name]) for name in second)


@pytest.mark.slow
def test_a_loaded_model_needs_neither_teacher_nor_file(small_settings, tmp_path, monkeypatch):
    result = run("LETTER", config_dict=small_settings("LETTER"))
    shutil.rmtree("saved/teacher")
    monkeypatch.setattr(
        "recbole_genrec.model.letter.letter.read_feature",
        lambda *given: pytest.fail("features were made"),
    )
    config, network, *_, test_data = load(result["checkpoint"])
    assert dict(create_trainer(config, network).evaluate(test_data, load_best_model=False)) == dict(
        result["test_result"]
    )
    assert main(["ids", result["checkpoint"], "--out", "ids.json"]) == 0
    given = {
        **small_settings("LETTER"),
        "semantic_ids_file": "ids.json",
        "item_features": {"text": "lost.npy"},
    }
    second = run("LETTER", config_dict=given)
    Path("ids.json").unlink()
    config, again, *_, test_data = load(second["checkpoint"])
    assert torch.equal(again.semantic_ids.codes, network.semantic_ids.codes)
    assert dict(create_trainer(config, again).evaluate(test_data, load_best_model=False)) == dict(
        second["test_result"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, counter_size, style", [("LETTER", 0, "own"), ("TIGER", 10, "letter")]
)
def test_exported_ids_can_be_imported(small_settings, capsys, model, counter_size, style):
    result = run(model, config_dict={**small_settings(model), "counter_size": counter_size})
    assert main(["ids", result["checkpoint"], "--out", "out/ids.json", "--style", style]) == 0
    told = capsys.readouterr().out.splitlines()
    counter = " and a counter of 10" if counter_size else ""
    assert told == [
        f"out/ids.json: 10 items of tiny, 3 levels of 4 codes{counter}",
        "next: --semantic_ids_file=out/ids.json --n_levels=3 --codebook_size=4 "
        f"--counter_size={counter_size}",
    ]
    content = json.loads(Path("out/ids.json").read_text())
    rows = content["ids"] if style == "own" else content
    assert sorted(rows) == sorted(f"i{item}" for item in range(1, 11))
    assert all(len(row) == (4 if counter_size else 3) for row in rows.values())
    arguments = [
        f"--{key}={value}" for key, value in small_settings(model).items() if key != "counter_size"
    ]
    assert main(["run", f"--model={model}", *arguments, *told[1].split()[1:]]) == 0
    newest = max(
        Path("saved").glob(f"{model}-tiny-*[0-9].pth"), key=lambda file: file.stat().st_mtime_ns
    )
    assert str(newest) != result["checkpoint"]
    first, second = (
        torch.load(file, weights_only=True)["state_dict"]["semantic_ids.codes"]
        for file in (result["checkpoint"], newest)
    )
    assert torch.equal(first, second)


def test_missing_and_unfinished_checkpoints_have_no_ids(small_settings, capsys, run_and_copy):
    assert main(["ids", "lost.pth", "--out", "ids.json"]) == 2
    assert "'lost.pth' does not exist" in capsys.readouterr().err
    assert main(["ids", "lost.pth"]) == 2
    assert (
        capsys.readouterr().err
        == "the following arguments are required: --out: see recbole-genrec ids --help\n"
    )
    _, (unfinished, *_) = run_and_copy("TIGER", small_settings("TIGER"))
    assert main(["ids", unfinished, "--out", "ids.json"]) == 2
    assert f"{unfinished!r} was written before its items had ids" in capsys.readouterr().err
    assert not Path("ids.json").exists()
