from __future__ import annotations

import subprocess
import sys
import time

import pytest

from benchmarks.rounds import environment
from benchmarks.start import QUICK_SETTINGS


@pytest.mark.slow
def test_a_run_ends_after_its_first_step(tmp_path):
    started = time.time()
    command = [
        sys.executable,
        "-m",
        "benchmarks.start",
        "--model=TIGER",
        "--show_progress=False",
        *QUICK_SETTINGS,
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment(1), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert started < float(done.stdout.splitlines()[-1]) < time.time()
    assert not list((tmp_path / "saved").glob("*.pth"))
