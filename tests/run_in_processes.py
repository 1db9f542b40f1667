"""Run every entry of a file of settings and write the results.

tests/runtime/test_distributed.py starts this script with torchrun.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch

from recbole_genrec import quick_start
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import create_trainer, run
from recbole_genrec.runtime import distributed
from recbole_genrec.trainer.trainer import GenRecTrainer

torch.set_num_threads(1)


def run_and_stop(settings: dict, n_epochs: int) -> None:
    """Run and stop after n_epochs epochs, counted over all stages."""
    save, n_saved = GenRecTrainer._save_progress, itertools.count(1)

    def save_and_stop(trainer, states):
        save(trainer, states)
        if next(n_saved) == n_epochs:
            raise KeyboardInterrupt

    GenRecTrainer._save_progress = save_and_stop
    try:
        run(config_dict=settings)
    except KeyboardInterrupt:
        distributed.barrier()
    GenRecTrainer._save_progress = save


def main(path: Path) -> None:
    """Run all settings of the file and write their results beside it."""
    results = []
    quick_start.create_trainer = create_disturbed_trainer
    for settings in json.loads(path.read_text()):
        n_epochs = settings.pop("stop_after", None)
        if n_epochs:
            run_and_stop(settings, n_epochs)
            settings["resume"] = "auto"
        try:
            result = run(config_dict=settings)
        except UserError as error:
            result = {"refusal": str(error)}
        results.append(result)
        path.with_name(f"rank-{distributed.rank()}-of-{distributed.size()}.json").write_text(
            json.dumps(results, default=str)
        )


@torch.no_grad()
def create_disturbed_trainer(config, network):
    """Create a trainer after changing weights and random state on all ranks but the first."""
    if distributed.rank():
        torch.rand(distributed.rank())
        for weight in network.parameters():
            weight.add_(1)
    return create_trainer(config, network)


main(Path(sys.argv[1]))
