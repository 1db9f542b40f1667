from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The benchmarks belong to the checkout and are not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.plan import Options
from benchmarks.product import make_tiger, t5_settings


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Return options of --quick, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Options(data_path=None, threads=1, rounds=1, quick=True)


@pytest.fixture
def tiger(quick):
    """Return a function of settings that makes TIGER on ml-100k with a tiny T5."""

    def make(**settings):
        return make_tiger(
            "ml-100k", {**t5_settings("small", quick), "train_batch_size": 8, **settings}, quick
        )

    return make
