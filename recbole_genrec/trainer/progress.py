"""The progress of a run, and the check whether another run may continue it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recbole_genrec.errors import UserError

# Folders, devices and display: no result depends on these.
SETTINGS_WITHOUT_EFFECT = frozenset(
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
    """The state that a killed run needs, beside weights, optimizers and random state.

    Attributes:
        stage: number of the stage in progress.
        epoch: number of its epochs that are done; 0 if it has not started.
        bad_validations: validations of it since the last improvement.
        best_score: best value of the validation metric, over all stages since the last one that
            does not keep the best of the stages before it; None before the first validation.
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
    """Return the names of settings that differ and have an effect, without those in may_change."""
    free = SETTINGS_WITHOUT_EFFECT | may_change
    keys = (saved.keys() | given.keys()) - free
    return sorted(key for key in keys if saved.get(key) != given.get(key))


def check_same_settings(
    saved: dict[str, Any],
    given: dict[str, Any],
    resume_file: str,
    may_change: frozenset[str] = frozenset(),
) -> None:
    """Refuse to resume with other settings: that would repeat neither the old run nor a new one.

    Raises:
        UserError: a setting with an effect differs and is not in may_change.
    """
    changed = changed_settings(saved, given, may_change)
    if changed:
        key = changed[0]
        raise UserError(
            f"{key} is {given.get(key)!r}, but the run that {str(resume_file)!r} belongs to has "
            f"{saved.get(key)!r}; resume with the same settings (different are: "
            f"{', '.join(changed)}), or start from scratch."
        )
