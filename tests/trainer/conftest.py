"""Experiments on tiny data are made here as in the tests of the models."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("model_test_fixtures", Path(__file__).parents[1] / "model" / "conftest.py")
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

make_experiment = _fixtures.make_experiment
make_batch = _fixtures.make_batch
