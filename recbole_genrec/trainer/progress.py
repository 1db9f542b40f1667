"""How far a run has come, and whether another run may go on from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recbole_genrec.errors import UserError

# Where things are and what is shown: no result depends on it.
OF_THE_PLACE = frozenset(
    [
        "checkpoint_dir",
        "data_path",
        "resume",
        "gpu_id",
        "use_gpu",
        "show_progress",
        "state",
        "log_wandb",
        "wandb_project",
        "teacher_cache_dir",
        "feature_cache_dir",
        "mirror",
        "worker",
        "config_file_list",
    ]
)


@dataclass
class Progress:
    """With weights, optimizers and random state all that a killed run needs to go on.

    Attributes:
        stage: number of the stage in progress.
        epoch: epochs of it that are done; 0: it has not started.
        bad_validations: validations of it since the last improvement.
        best_score: best value of the validation metric, over all stages unless a stage does not
            keep the best one before it;
            None before the first validation.
        best_result: all metrics of that validation.
        stopped: whether early stopping has ended the stage.
        seconds: wall time by stage name.
    """

    stage: int = 0
    epoch: int = 0
    bad_validations: int = 0
    best_score: float | None = None
    best_result: dict[str, float] | None = None
    stopped: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


def changed_settings(
    saved: dict[str, Any], given: dict[str, Any], may_change: frozenset[str] = frozenset()
) -> list[str]:
    """Names of the settings that differ, but for those that no result depends on and those that may change."""
    free = OF_THE_PLACE | may_change
    return sorted(
        key
        for key in saved.keys() | given.keys()
        if saved.get(key) != given.get(key) and key not in free
    )


def check_same_settings(
    saved: dict[str, Any],
    given: dict[str, Any],
    resume_file: str,
    may_change: frozenset[str] = frozenset(),
) -> None:
    """A run that goes on with other settings would be neither the old run nor a new one.

    Raises:
        ValueError: if a setting differs that a result depends on, unless it is one of those that
            may change.
    """
    changed = changed_settings(saved, given, may_change)
    if changed:
        key = changed[0]
        raise UserError(
            f"{key} is {given.get(key)!r}, but the run that {str(resume_file)!r} belongs to has {saved.get(key)!r}; "
            f"resume with the same settings (different are: {', '.join(changed)}), or start anew."
        )
