"""A stage of training, as data: which parameters, which losses, how long, when it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Modules of the model (attribute names) that are trained with one learning rate."""

    names: tuple[str, ...]
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Phase:
    """What some epochs in a row of a stage's cycle train, with an optimizer and a schedule that go on in the next cycle.

    Attributes:
        name: what the log calls it.
        turns: epochs in a row.
        groups: those of the stage's groups that are trained; everything else stays bit-identical,
            in evaluation mode.
        losses: as those of a stage.
        epochs: over so many of its own epochs, of all cycles, the learning rate falls.
        scheduler, warmup_epochs: as those of a stage; the phase's own epochs are counted.
    """

    name: str
    turns: int
    groups: tuple[Group, ...]
    losses: Callable[[Any], dict[str, Tensor]]
    epochs: int
    scheduler: str
    warmup_epochs: float


@dataclass(frozen=True)
class Stage:
    """One stage of a model's training.

    Attributes:
        name: what log, checkpoint and result call it.
        rows: "items" (batches of item ids), "interactions" (histories with their next item) or
            "sequences" (with all next items).
        groups: what is trained; everything else stays bit-identical.
        losses: batch -> named, weighted terms; their sum is optimized.
        epochs: at most this many; 0 runs only `start` and `finish`.
        batch_size: rows per step; of sequences about so many next items.
        scheduler: how the learning rate falls (trainer/optimizer.py), after a linear warm-up of
            `warmup_epochs`.
        stopping_step: more validations without improvement than this end the stage, the best one's
            weights kept;
            None: no validation, the last epoch's weights stand.
        validate: gives the validation's score from the validation part, the larger the better;
            None: `valid_metric` of the
            ranked lists. The next stage with a validation must not keep the best of a score of
            another kind.
        phases: where there are any, the epochs go through their turns in cycles, with the phases'
            groups, losses and schedules in
            place of the stage's; validations then come at the ends of cycles.
        keeps_best: whether the best weights of the stages before compete with this one's.
        report_every: epochs between two log lines (and resumable checkpoints).
        start, finish: called before the first and after the last epoch.
        before_epoch, after_epoch: called with the epoch's number, from 0.
    """

    name: str
    rows: str
    groups: tuple[Group, ...]
    losses: Callable[[Any], dict[str, Tensor]]
    epochs: int
    batch_size: int
    scheduler: str
    warmup_epochs: float
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
        """Epochs until all phases have had their turns; 1 without phases."""
        return sum(phase.turns for phase in self.phases) or 1

    def turn(self, epoch: int) -> tuple[int, int]:
        """The number of the phase that an epoch (from 0) belongs to, and how many epochs that phase has had before; (0, epoch) without."""
        cycle, place = divmod(epoch, self.cycle_epochs())
        for number, phase in enumerate(self.phases):
            if place < phase.turns:
                return number, cycle * phase.turns + place
            place -= phase.turns
        return 0, epoch
