"""What tests/runtime/test_distributed.py lets torchrun start: runs of a file of settings, one after another, and their results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from recbole_genrec import quick_start
from recbole_genrec.quick_start import create_trainer, run
from recbole_genrec.runtime import distributed
from recbole_genrec.trainer.trainer import GenRecTrainer

torch.set_num_threads(1)


def stopped(settings: dict, n_epochs: int) -> None:
    """A run that is stopped after so many epochs of all its stages."""
    save, left = GenRecTrainer._save_progress, [n_epochs]

    def save_and_stop(trainer, states):
        save(trainer, states)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    GenRecTrainer._save_progress = save_and_stop
    try:
        run(config_dict=settings)
    except KeyboardInterrupt:
        distributed.wait()
    GenRecTrainer._save_progress = save


def main(path: Path) -> None:
    """Run all and write what came out."""
    results = []
    quick_start.create_trainer = disturbed
    for settings in json.loads(path.read_text()):
        n_epochs = settings.pop("stop_after", None)
        if n_epochs:
            stopped(settings, n_epochs)
            settings["resume"] = "auto"
        try:
            result = run(config_dict=settings)
        except ValueError as error:
            result = {"refusal": str(error)}
        results.append(result)
        path.with_name(f"rank-{distributed.rank()}-of-{distributed.size()}.json").write_text(
            json.dumps(results, default=str)
        )


@torch.no_grad()
def disturbed(config, network):
    """The trainer of a model that, in all processes but the first, has other weights and other random numbers before it."""
    if distributed.rank():
        torch.rand(distributed.rank())
        for weight in network.parameters():
            weight.add_(1)
    return create_trainer(config, network)


main(Path(sys.argv[1]))
