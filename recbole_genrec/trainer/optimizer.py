"""The optimizer of a stage and the schedule of its learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from recbole_genrec.config.shared import SCHEDULERS
from recbole_genrec.errors import UserError
from recbole_genrec.model.stage import Group, Phase, Stage
from recbole_genrec.runtime import distributed

LEARNERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "fused_adam": partial(torch.optim.Adam, fused=True),
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


class StageOptimizer:
    """Train exactly the parameters that a stage or phase names.

    Learning rates follow the schedule, gradients are clipped.

    Args:
        model: the model that the groups' names refer to.
        stage: the stage, or a phase of one.
        learner: one of LEARNERS.
        max_norm: largest joint gradient norm of all groups; None: no clipping.
        steps_per_epoch: optimizer steps in an epoch.

    Raises:
        UserError: learner or scheduler is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: Stage | Phase,
        learner: str,
        max_norm: float | None,
        steps_per_epoch: int,
    ) -> None:
        if learner not in LEARNERS:
            raise UserError(
                f"learner '{learner}' is unknown for a generative model; "
                f"choose one of {', '.join(LEARNERS)}."
            )
        if stage.scheduler not in SCHEDULERS:
            raise UserError(
                f"scheduler '{stage.scheduler}' is unknown; choose one of {', '.join(SCHEDULERS)}."
            )
        groups: list[dict[str, Any]] = [
            {
                "params": named_parameters(model, group),
                "lr": group.learning_rate,
                "weight_decay": group.weight_decay,
            }
            for group in stage.groups
        ]
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.base_rates = [group["lr"] for group in groups]
        self.optimizer = LEARNERS[learner](groups)
        self.scheduler, self.max_norm = stage.scheduler, max_norm
        self.warmup_steps = round(stage.warmup_epochs * steps_per_epoch)
        self.total_steps = stage.epochs * steps_per_epoch

    def step(self, loss: torch.Tensor, step: int) -> None:
        """Descend along the gradient of `loss`.

        Args:
            loss: a scalar.
            step: number of the step, from 0, over the whole stage or all turns of the phase.
        """
        factor = learning_rate_factor(self.scheduler, step, self.warmup_steps, self.total_steps)
        for group, base_rate in zip(self.optimizer.param_groups, self.base_rates):
            group["lr"] = base_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(self.parameters)
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.optimizer.step()


def named_parameters(model: nn.Module, group: Group) -> list[nn.Parameter]:
    """Return the parameters of a group, in the order of its names."""
    return [
        parameter for name in group.names for parameter in model.get_submodule(name).parameters()
    ]


@contextmanager
def training_only(model: nn.Module, groups: tuple[Group, ...]) -> Iterator[None]:
    """Let only the groups' parameters require gradients while active.

    A child of the model without any of these parameters is in evaluation mode, unless it has no
    parameters at all.
    """
    trained = {id(parameter) for group in groups for parameter in named_parameters(model, group)}
    frozen = [
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and id(parameter) not in trained
    ]
    model.train()
    for part in model.children():
        parameters = {id(parameter) for parameter in part.parameters()}
        part.train(not parameters or not parameters.isdisjoint(trained))
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def learning_rate_factor(scheduler: str, step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the factor of the learning rate at a step counted from 0.

    Returns:
        0 to 1: rising linearly over the warm-up; then constant, falling to 0 (linear, cosine) or
        falling like sqrt(warmup_steps / step) (inverse_sqrt).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if scheduler == "linear":
        return max(0.0, 1 - progress)
    if scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if scheduler == "inverse_sqrt":
        return math.sqrt(max(1, warmup_steps) / (step + 1))
    return 1.0
