from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_genrec.model.letter.sinkhorn import sinkhorn_codes, sinkhorn_plan


def released(distances: np.ndarray, temperature: float, dtype) -> np.ndarray:
    """The released code of LETTER, line by line, in numpy."""
    largest, smallest = distances.max(), distances.min()
    middle = (largest + smallest) / 2
    q = np.exp(
        -((distances - middle) / (largest - middle + 1e-5)).astype(dtype) / dtype(temperature)
    )
    n_rows, n_codes = q.shape
    q /= q.sum()
    for _ in range(50):
        q /= q.sum(axis=1, keepdims=True)
        q /= n_rows
        q /= q.sum(axis=0, keepdims=True)
        q /= n_codes
    return q * n_rows


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_codes_are_used_equally_often(temperature):
    distances = torch.tensor([[0.0, 1.0], [0.2, 1.0], [0.5, 1.0], [0.9, 1.0]])
    assert distances.argmin(1).tolist() == [0, 0, 0, 0]
    assert sinkhorn_codes(distances, temperature).tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(
        sinkhorn_plan(distances, temperature).sum(0), torch.tensor([2.0, 2.0])
    )


def test_plan_equals_the_released_code():
    distances = np.random.default_rng(0).random((6, 4))
    plan = sinkhorn_plan(torch.from_numpy(distances), 0.1)
    np.testing.assert_allclose(plan.numpy(), released(distances, 0.1, np.float64), rtol=1e-9)


def test_float32_is_enough():
    """Without logarithms it overflows."""
    distances = np.random.default_rng(1).random((1024, 256)).astype(np.float32)
    codes = sinkhorn_codes(torch.from_numpy(distances), 0.003).numpy()
    expected = released(distances.astype(np.float64), 0.003, np.float64).argmax(1)
    assert (codes == expected).mean() >= 0.995
    with np.errstate(all="ignore"):
        assert not np.isfinite(released(distances, 0.003, np.float32)).all()
