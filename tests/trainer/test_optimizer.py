from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recbole_genrec.errors import UserError
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.trainer.optimizer import (
    StageOptimizer,
    learning_rate_factor,
    named_parameters,
    training_only,
)


def make_stage(
    *groups: Group, epochs: int = 5, scheduler: str = "constant", warmup_epochs: float = 0
) -> Stage:
    return Stage(
        name="test",
        rows="items",
        groups=groups,
        losses=lambda batch: {},
        epochs=epochs,
        batch_size=1,
        scheduler=scheduler,
        warmup_epochs=warmup_epochs,
    )


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"first": nn.Linear(3, 2), "second": nn.Linear(2, 1), "rest": nn.Linear(1, 1)}
    )


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine", "inverse_sqrt"])
def test_warm_up_is_linear_and_ends_at_the_full_rate(scheduler):
    assert [learning_rate_factor(scheduler, step, 4, 20) for step in range(4)] == [
        0.25,
        0.5,
        0.75,
        1.0,
    ]


def test_closed_forms_after_the_warm_up():
    """10 warm-up steps of 30: step 20 is half way down, step 30 would be the end."""
    assert [learning_rate_factor("constant", step, 10, 30) for step in (10, 20, 29)] == [1, 1, 1]
    assert [
        learning_rate_factor("linear", step, 10, 30) for step in (10, 15, 20, 30, 40)
    ] == pytest.approx([1, 0.75, 0.5, 0, 0])
    half = math.sqrt(0.5)
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2, 0, 0]
    assert [
        learning_rate_factor("cosine", step, 10, 30) for step in (10, 15, 20, 25, 30, 40)
    ] == pytest.approx(expected)
    assert [
        learning_rate_factor("inverse_sqrt", step, 10, 30) for step in (39, 159)
    ] == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine", "inverse_sqrt"])
def test_without_warm_up_the_first_step_has_the_full_rate(scheduler):
    assert learning_rate_factor(scheduler, 0, 0, 10) == 1
    assert learning_rate_factor(scheduler, 0, 0, 0) == 1, "a stage without steps divides by nothing"
    factors = [learning_rate_factor(scheduler, step, 0, 10) for step in range(10)]
    assert factors == sorted(factors, reverse=True)
    assert min(factors) > 0


def test_a_long_warm_up_never_ends():
    assert [learning_rate_factor("linear", step, 100, 10) for step in (0, 9)] == [0.01, 0.1]


def test_unknown_names_are_refused():
    group = Group(("first",), 0.1, 0.0)
    with pytest.raises(UserError, match=r"learner 'lion' is unknown.*adam, adamw, sgd"):
        StageOptimizer(make_model(), make_stage(group), "lion", None, 1)
    with pytest.raises(
        UserError, match=r"scheduler 'step' is unknown.*constant, linear, cosine, inverse_sqrt"
    ):
        StageOptimizer(make_model(), make_stage(group, scheduler="step"), "adam", None, 1)


def test_groups_have_their_own_rates_and_share_the_schedule():
    model = make_model()
    stage = make_stage(
        Group(("first",), 0.5, 0.0),
        Group(("second",), 0.25, 0.0),
        epochs=2,
        scheduler="linear",
        warmup_epochs=0.5,
    )
    optimizer = StageOptimizer(model, stage, "sgd", None, steps_per_epoch=4)
    # 2 warm-up steps, then 6 steps down: 0.5, 1, 1, 5/6, 4/6, ...
    for step, factor in enumerate([0.5, 1, 1, 5 / 6, 4 / 6]):
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        optimizer.step(sum(weight.sum() for weight in model.parameters()), step)
        for name, weight in model.named_parameters():
            rate = {"first": 0.5, "second": 0.25, "rest": 0.0}[name.split(".")[0]]
            torch.testing.assert_close(
                before[name] - weight.detach(), torch.full_like(weight, rate * factor)
            )


@pytest.mark.parametrize(
    "learner, reference",
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_learners_are_torchs(learner, reference):
    ours, theirs = make_model(), make_model()
    optimizer = StageOptimizer(
        ours, make_stage(Group(("first", "second", "rest"), 0.1, 0.2)), learner, None, 1
    )
    expected = reference(theirs.parameters(), lr=0.1, weight_decay=0.2)
    states = torch.randn(4, 3)
    for step in range(3):
        optimizer.step(ours["rest"](ours["second"](ours["first"](states))).square().sum(), step)
        expected.zero_grad()
        theirs["rest"](theirs["second"](theirs["first"](states))).square().sum().backward()
        expected.step()
    for one, other in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(one, other)


def test_clipping_bounds_the_joint_norm_of_the_stages_gradients():
    model = make_model()
    before = [weight.detach().clone() for weight in model.parameters()]
    stage = make_stage(Group(("first",), 1.0, 0.0), Group(("second",), 1.0, 0.0))
    optimizer = StageOptimizer(model, stage, "sgd", 0.5, 1)
    # `rest` has a huge gradient, which is no business of this stage.
    optimizer.step(
        sum(weight.sum() for weight in model.parameters()) + 1e6 * model["rest"].weight.sum(), 0
    )
    moves = [(old - new).detach() for old, new in zip(before, model.parameters())]
    norm = torch.cat([move.flatten() for move in moves]).norm().item()
    assert norm == pytest.approx(0.5, rel=1e-4)
    # 11 equal gradients: every weight moves by 0.5 / sqrt(11).
    torch.testing.assert_close(moves[0], torch.full((2, 3), 0.5 / math.sqrt(11)), rtol=1e-4, atol=0)


def test_small_gradients_are_not_clipped_and_not_carried_over():
    model = make_model()
    optimizer = StageOptimizer(model, make_stage(Group(("first",), 1.0, 0.0)), "sgd", 100.0, 1)
    for step in range(2):
        before = model["first"].bias.detach().clone()
        optimizer.step(model["first"].bias.sum(), step)
        torch.testing.assert_close(before - model["first"].bias.detach(), torch.ones(2))


def test_named_parameters_of_nested_modules():
    model = nn.ModuleDict(
        {"outer": nn.ModuleDict({"inner": nn.Linear(2, 2), "other": nn.Linear(2, 2)})}
    )
    found = named_parameters(model, Group(("outer.other", "outer.inner"), 0.1, 0.0))
    inner, other = model["outer"]["inner"], model["outer"]["other"]
    assert [id(weight) for weight in found] == [
        id(weight) for weight in (other.weight, other.bias, inner.weight, inner.bias)
    ]
    with pytest.raises(AttributeError):
        named_parameters(model, Group(("nobody",), 0.1, 0.0))


def test_within_training_only_the_rest_neither_asks_for_gradients_nor_drops_out():
    model = make_model().eval()
    model["rest"].bias.requires_grad_(False)
    with training_only(model, (Group(("first", "second"), 0.1, 0.0),)):
        assert [part.training for part in model.values()] == [True, True, False]
        assert [parameter.requires_grad for parameter in model.parameters()] == [True] * 4 + [
            False
        ] * 2
    assert [parameter.requires_grad for parameter in model.parameters()] == [True] * 5 + [False], (
        "as it was before"
    )


def test_a_child_without_parameters_trains_with_the_model():
    """A dropout directly below the model drops, though it holds nothing that is trained."""
    model = nn.ModuleDict({"table": nn.Linear(2, 2), "dropout": nn.Dropout(0.5)}).eval()
    with training_only(model, (Group(("",), 0.1, 0.0),)):
        assert model["table"].training and model["dropout"].training


def test_training_only_gives_gradients_back_after_an_error():
    model = make_model()
    with pytest.raises(RuntimeError), training_only(model, (Group(("first",), 0.1, 0.0),)):
        raise RuntimeError
    assert all(parameter.requires_grad for parameter in model.parameters())
