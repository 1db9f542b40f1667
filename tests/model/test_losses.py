"""The shared losses, against their formulas and literal values."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_genrec.model.losses import contrastive, symmetric_kl, symmetric_kl_of_logits


def random_probabilities(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_symmetric_kl_of_equal_distributions_is_zero():
    probabilities = random_probabilities(4, 3, 7, seed=0)
    assert symmetric_kl(probabilities, probabilities.clone()).item() == 0.0


def test_symmetric_kl_literal():
    first, second = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    expected = (
        0.5 * math.log(0.5 / 0.75)
        + 0.5 * math.log(0.5 / 0.25)
        + 0.75 * math.log(0.75 / 0.5)
        + 0.25 * math.log(0.25 / 0.5)
    )
    assert expected == pytest.approx(math.log(3) / 4)
    assert symmetric_kl(first, second).item() == pytest.approx(expected, abs=1e-6)


def test_symmetric_kl_is_the_mean_of_both_divergences():
    first, second = random_probabilities(5, 3, 7, seed=1), random_probabilities(5, 3, 7, seed=2)
    divergences = [
        sum(
            p * math.log(p / q) + q * math.log(q / p)
            for p, q in zip(first[row, level].tolist(), second[row, level].tolist())
        )
        for row in range(5)
        for level in range(3)
    ]
    assert symmetric_kl(first, second).item() == pytest.approx(sum(divergences) / 15, rel=1e-5)
    assert symmetric_kl(second, first).item() == pytest.approx(sum(divergences) / 15, rel=1e-5)
    assert symmetric_kl(first, second).ndim == 0


def test_symmetric_kl_is_finite_where_a_probability_is_zero():
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    second = torch.tensor([[0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    divergence = symmetric_kl(first, second)
    divergence.backward()
    assert divergence.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny), rel=1e-6)
    assert first.grad.isfinite().all() and second.grad.isfinite().all()


def test_symmetric_kl_trains_both_sides():
    logits = [
        torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        for seed in (0, 1)
    ]
    divergence = symmetric_kl(*(each.softmax(-1) for each in logits))
    divergence.backward()
    assert all(each.grad.abs().max() > 1e-3 for each in logits)
    moved = [(each - 0.1 * each.grad).softmax(-1) for each in logits]
    assert symmetric_kl(*moved) < divergence


def test_symmetric_kl_of_logits_literal():
    """Squared distances 0, 1, 4 and 1, 0, 4, with minus (paper) and plus (released code)."""
    first, second = torch.tensor([[0.0, 1.0, 4.0]]), torch.tensor([[1.0, 0.0, 4.0]])
    assert symmetric_kl_of_logits(-first, -second).item() == pytest.approx(0.91202, abs=1e-5)
    assert symmetric_kl_of_logits(first, second).item() == pytest.approx(0.05893, abs=1e-5)
    assert (
        symmetric_kl_of_logits(second, first).item() == symmetric_kl_of_logits(first, second).item()
    )
    assert symmetric_kl_of_logits(first, first + 7).item() == pytest.approx(0, abs=1e-6)


def test_symmetric_kl_of_logits_is_the_mean_over_rows_and_levels():
    first, second = torch.randn(4, 3, 7), torch.randn(4, 3, 7)
    expected = symmetric_kl(first.softmax(-1), second.softmax(-1))
    torch.testing.assert_close(symmetric_kl_of_logits(first, second), expected)
    twice = [torch.cat((each, each)).repeat(1, 2, 1) for each in (first, second)]
    torch.testing.assert_close(symmetric_kl_of_logits(*twice), expected)


def test_symmetric_kl_of_logits_knows_the_smallest_probabilities():
    """Logits that differ by d cost about 2 d, also where the smaller probability underflows."""
    logits = torch.tensor([300.0, -300.0], requires_grad=True)
    divergence = symmetric_kl_of_logits(logits, logits.detach().flip(0))
    assert divergence.item() == pytest.approx(1200)
    divergence.backward()
    assert logits.grad.tolist() == pytest.approx([1, -1])


def naive_contrastive(students, teachers, item_ids, temperature):
    """Sum both directions, one row at a time."""
    n_rows = len(item_ids)

    def cosine(a, b):
        return (
            torch.dot(students[a], teachers[b]).item()
            / (students[a].norm() * teachers[b].norm()).item()
            / temperature
        )

    total = 0.0
    for row in range(n_rows):
        others = [other for other in range(n_rows) if item_ids[other] != item_ids[row]]
        own = math.exp(cosine(row, row))
        total -= math.log(own / (own + sum(math.exp(cosine(row, other)) for other in others)))
        total -= math.log(own / (own + sum(math.exp(cosine(other, row)) for other in others)))
    return total / n_rows


def random_vectors(n_rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("item_ids", [[1, 2, 3, 4, 5, 6], [1, 2, 1, 3, 3, 3], [4, 4, 4, 4, 4, 9]])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_contrastive_equals_a_plain_loop(item_ids, temperature):
    students, teachers = random_vectors(6, 5, seed=0), random_vectors(6, 5, seed=1)
    loss = contrastive(students, teachers, torch.tensor(item_ids), temperature)
    assert loss.ndim == 0
    assert loss.item() == pytest.approx(
        naive_contrastive(students, teachers, item_ids, temperature), rel=1e-5
    )


def test_contrastive_of_equal_vectors():
    loss = contrastive(torch.ones(8, 3), torch.ones(8, 3), torch.arange(8), 0.07)
    assert loss.item() == pytest.approx(2 * math.log(8), rel=1e-6)


def test_contrastive_of_orthogonal_teachers_that_the_students_equal():
    loss = contrastive(torch.eye(6), torch.eye(6), torch.arange(6), 0.07)
    assert loss.item() == pytest.approx(2 * math.log(1 + 5 * math.exp(-1 / 0.07)), abs=1e-6)
    assert loss.item() < 1e-5


def test_equal_items_are_no_negatives_of_each_other():
    students, teachers = random_vectors(4, 5, seed=0), random_vectors(4, 5, seed=1)
    assert contrastive(students, teachers, torch.tensor([7, 7, 7, 7]), 0.07).item() == 0.0
    once = contrastive(students[:2], teachers[:2], torch.tensor([1, 2]), 0.5)
    twice = contrastive(
        students[[0, 1, 0, 1]], teachers[[0, 1, 0, 1]], torch.tensor([1, 2, 1, 2]), 0.5
    )
    assert naive_contrastive(students[:2], teachers[:2], [1, 2], 0.5) == pytest.approx(
        once.item(), rel=1e-5
    )
    # Two negatives instead of one, but never the own item's other row.
    assert twice.item() > once.item()


def test_contrastive_does_not_depend_on_scale():
    students, teachers, items = (
        random_vectors(6, 5, seed=0),
        random_vectors(6, 5, seed=1),
        torch.arange(6),
    )
    scales = torch.tensor([0.1, 3.0, 20.0, 1.0, 7.0, 0.5]).unsqueeze(1)
    expected = contrastive(students, teachers, items, 0.07)
    torch.testing.assert_close(contrastive(students * scales, teachers, items, 0.07), expected)
    torch.testing.assert_close(contrastive(students, teachers * scales, items, 0.07), expected)


def test_contrastive_computes_half_precision_in_single():
    students, teachers, items = (
        random_vectors(6, 5, seed=0).bfloat16(),
        random_vectors(6, 5, seed=1).bfloat16(),
        torch.arange(6),
    )
    loss = contrastive(students, teachers, items, 0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, contrastive(students.float(), teachers.float(), items, 0.07))


def test_contrastive_has_finite_gradients_with_equal_items():
    students = random_vectors(4, 5, seed=0).requires_grad_()
    contrastive(students, random_vectors(4, 5, seed=1), torch.tensor([1, 1, 2, 3]), 0.07).backward()
    assert students.grad.isfinite().all() and students.grad.abs().max() > 0
