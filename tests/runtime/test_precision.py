from __future__ import annotations

import pytest
import torch

from recbole_genrec.runtime.precision import full_precision, in_full_precision, mixed_precision

LEFT, RIGHT = torch.full((2, 64), 1 / 3), torch.full((64, 2), 1 / 3)


@pytest.mark.parametrize(("enabled", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_matrix_products_run_in_bfloat16_only_if_enabled(enabled, dtype):
    with mixed_precision(torch.device("cpu"), enabled):
        assert (LEFT @ RIGHT).dtype == dtype
    assert (LEFT @ RIGHT).dtype == torch.float32


def test_full_precision_switches_bfloat16_off():
    with mixed_precision(torch.device("cpu"), True), full_precision(LEFT):
        assert (LEFT @ RIGHT).dtype == torch.float32


def test_a_function_in_full_precision_upcasts_its_arguments_and_products():
    exact = LEFT.bfloat16().float() @ RIGHT
    seen = []

    @in_full_precision
    def product(left, right, power):
        seen.append((left.dtype, right.dtype))
        return (left @ right) ** power

    with mixed_precision(torch.device("cpu"), True):
        found = product(LEFT.bfloat16(), RIGHT, power=1)
    assert seen == [(torch.float32, torch.float32)]
    assert torch.equal(found, exact)


def test_integers_and_wider_floats_keep_their_type():
    @in_full_precision
    def types(*tensors):
        return [tensor.dtype for tensor in tensors]

    assert types(LEFT.double(), torch.tensor([1]), torch.tensor([True])) == [
        torch.float64,
        torch.int64,
        torch.bool,
    ]


def test_methods_keep_their_object_and_name():
    class Scale:
        factor = 2.0

        @in_full_precision
        def apply_to(self, states):
            return self.factor * states

    assert Scale().apply_to(LEFT.bfloat16()).dtype == torch.float32
    assert Scale.apply_to.__name__ == "apply_to"
