"""A stage of training, as data: its parameters, losses, length and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Modules of the model (attribute names) that are trained with one learning rate."""

    names: tuple[str, ...]
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Phase:
    """A part of a stage's cycle, with an optimizer and a schedule that last over all cycles.

    Attributes:
        name: its name in the log.
        turns: its epochs in a row in every cycle.
        groups: the groups of the stage that are trained; everything else stays bit-identical, in
            evaluation mode.
        losses: as in Stage.
        epochs: length of the schedule, in the phase's own epochs summed over all cycles.
        scheduler: as in Stage.
        warmup_epochs: as in Stage, in the phase's own epochs.
    """

    name: str
    turns: int
    groups: tuple[Group, ...]
    losses: Callable[[Any], dict[str, Tensor]]
    epochs: int
    scheduler: str
    warmup_epochs: float


class Batches(Protocol):
    """The batches of a stage, in an order that depends on the seed and the epoch only."""

    seed: int

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def epoch(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch (>= 0)."""


@dataclass(frozen=True)
class Stage:
    """One stage of a model's training.

    Attributes:
        name: its name in log, checkpoint and result.
        rows: "items" (batches of item ids), "interactions" (histories with their next item) or
            "sequences" (windows with all their next items).
        groups: trained parameters; everything else stays bit-identical.
        losses: batch -> named, weighted terms; their sum is minimized.
        epochs: maximum; 0 runs only `start` and `finish`.
        batches: batches of the model's own, instead of those that `rows` describes.
        batch_size: rows per step; for sequences about as many next items.
        scheduler: schedule of the learning rate (trainer/optimizer.py) after a linear warm-up.
        warmup_epochs: length of the warm-up.
        stopping_step: more validations in a row without improvement end the stage, and the best
            weights are kept. None: no validation, the last weights stand.
        validate: validation part -> score, larger is better. None: `valid_metric` of the ranked
            lists. The next stage with a validation must not keep the best of another kind of score.
        phases: if any, the epochs pass through their turns in cycles, with the phases' groups,
            losses and schedules instead of the stage's; validations come at the ends of cycles.
        keeps_best: whether the best weights of earlier stages compete with this stage's.
        report_every: epochs between two log lines (and resumable checkpoints).
        start: called before the first epoch.
        finish: called after the last epoch.
        before_epoch: called with the number of the epoch, from 0.
        after_epoch: likewise.
    """

    name: str
    rows: str
    groups: tuple[Group, ...]
    losses: Callable[[Any], dict[str, Tensor]]
    epochs: int
    batch_size: int
    scheduler: str
    warmup_epochs: float
    batches: Batches | None = None
    stopping_step: int | None = None
    validate: Callable[[Any], float] | None = None
    phases: tuple[Phase, ...] = ()
    keeps_best: bool = True
    report_every: int = 1
    start: Callable[[], None] | None = None
    finish: Callable[[], None] | None = None
    before_epoch: Callable[[int], None] | None = None
    after_epoch: Callable[[int], None] | None = None

    def cycle_epochs(self) -> int:
        """Return the epochs until all phases have had their turns; 1 without phases."""
        return sum(phase.turns for phase in self.phases) or 1

    def turn(self, epoch: int) -> tuple[int, int]:
        """Return the number of an epoch's phase, and how many epochs that phase has had before.

        Epochs count from 0; without phases it is (0, epoch).
        """
        cycle, turn = divmod(epoch, self.cycle_epochs())
        for number, phase in enumerate(self.phases):
            if turn < phase.turns:
                return number, cycle * phase.turns + turn
            turn -= phase.turns
        return 0, epoch
