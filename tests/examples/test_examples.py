from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHORT = [
    "--epochs=1",
    "--tokenizer_epochs=1",
    "--tokenizer_warmup_epochs=0",
    "--counter_size=1024",
    "--show_progress=False",
    "--MAX_ITEM_LIST_LENGTH=5",
    "--train_batch_size=1024",
    "--hidden_size=16",
]


def run_example(name: str, folder: Path, *settings: str) -> str:
    """Run a script of examples/ from an empty folder and return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *settings],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quick_start.py", "own_vectors.py"])
def test_ml_100k(name, tmp_path):
    printed = run_example(name, tmp_path, *SHORT)
    assert "test: {'recall@5': 0." in printed


@pytest.mark.slow
def test_own_data(tmp_path):
    printed = run_example("own_data/run.py", tmp_path, *SHORT)
    assert "test: {'recall@5': 0." in printed
    assert (tmp_path / "dataset" / "shop" / "shop.inter").is_file()


@pytest.mark.slow
def test_compare_with_sasrec(tmp_path):
    printed = run_example("compare_with_sasrec.py", tmp_path, *SHORT)
    lines = [line for line in printed.splitlines() if "test NDCG@10:" in line]
    assert [line.split()[0] for line in lines] == ["TIGER", "SASRec"]
    assert all(0 < float(line.split()[-1]) < 1 for line in lines)


def test_every_example_is_run():
    scripts = {file.name for file in (ROOT / "examples").rglob("*.py")}
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert not {name for name in scripts if name not in tests}
