from __future__ import annotations

import pytest
import torch

from benchmarks import teacher


@pytest.mark.slow
def test_both_train_the_same_targets(quick):
    case = teacher.cases(quick)[0]
    (ours, measure), (theirs, measure_theirs) = (
        teacher.prepare(name, case, quick) for name in case.contenders
    )
    assert ours["targets"] == theirs["targets"] > 500
    watched = torch.is_anomaly_enabled()
    assert measure(0)["seconds"] > 0 and measure_theirs(0)["seconds"] > 0
    assert torch.is_anomaly_enabled() == watched
