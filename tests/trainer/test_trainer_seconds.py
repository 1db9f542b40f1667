"""The wall time of stages that a trainer counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recbole_genrec.trainer import trainer as module
from recbole_genrec.trainer.trainer import GenRecTrainer


class Killed(Exception):
    pass


@pytest.fixture
def make_trainer(make_experiment, monkeypatch):
    """make(n_epochs): a trainer of TIGER for which an epoch takes 10 s and all else no time.

    There are 4 epochs of the tokenizer and 2 of the recommender; after n_epochs it is killed.
    """
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0]))

    def make(n_epochs: int | None = None):
        experiment = make_experiment("TIGER")
        trainer, done = GenRecTrainer(experiment.config, experiment.model), []
        train = trainer._train

        def train_slowly(*given):
            losses = train(*given)
            now[0] += 10
            done.append(1)
            if len(done) == n_epochs:
                raise Killed
            return losses

        trainer._train = train_slowly
        return trainer, experiment

    make.wait = lambda seconds: now.__setitem__(0, now[0] + seconds)
    return make


def test_seconds_of_stages(make_trainer):
    trainer, experiment = make_trainer()
    trainer.fit(experiment.train, experiment.valid)
    assert trainer.progress.seconds == {"tokenizer": 40.0, "recommender": 20.0}


@pytest.mark.parametrize("n_epochs", [2, 3, 4, 5, 6])
def test_seconds_before_a_kill_count(make_trainer, n_epochs):
    """Neither the lost epoch nor the time between the processes counts."""
    trainer, experiment = make_trainer(n_epochs)
    with pytest.raises(Killed):
        trainer.fit(experiment.train, experiment.valid)
    again, experiment = make_trainer()
    make_trainer.wait(5000)
    again.resume_checkpoint(trainer.resume_file)
    make_trainer.wait(300)
    again.fit(experiment.train, experiment.valid)
    assert again.progress.seconds == {"tokenizer": 40.0, "recommender": 20.0}
