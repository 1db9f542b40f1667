"""Every model on an accelerator: no tensor elsewhere, no waiting, the results of the CPU."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils import clip_grad

from recbole_genrec.compat import without_anomaly_detection
from recbole_genrec.trainer.optimizer import StageOptimizer
from recbole_genrec.trainer.ranker import Ranker
from recbole_genrec.trainer.trainer import GenRecTrainer

_spec = importlib.util.spec_from_file_location(
    "pretend_device", Path(__file__).with_name("pretend_device.py")
)
pretend = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pretend)

CASES = [
    ("TIGER", {}),
    ("TIGER", {"train_mode": "all_positions"}),
    ("LETTER", {}),
    ("LETTER", {"train_mode": "all_positions"}),
    ("UniGRec", {"distillation_warmup_epochs": 0, "uniformity_weight": 0.1}),
    ("ETEGRec", {"ablation": "alternation", "retokenize_every": "epoch"}),
    ("ETEGRec", {"alignment_warmup_epochs": 0}),
    ("UNGER", {}),
]
# As many as the values say: distinct items, the real ones among them, and the real positions of
# histories that a DIN normalizes over.
INHERENT = {
    "UniGRec": {
        ("embed_history", "_unique2"),
        ("soft_batch", "_unique2"),
        ("joint_losses", "index"),  # uniformity of the real ones
        ("step", "index_put"),  # its gradient
    },
    "ETEGRec": {("first_rows", "_unique2")},
    "UNGER": {("_align", "_unique2"), ("forward", "nonzero")},
}
MEANS = (
    "_train" if sys.version_info >= (3, 12) else "<dictcomp>"
)  # where the trainer divides the losses' sums


@pytest.fixture
def device(monkeypatch):
    """The pretended device, in use."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    # Written in C++, which sees where the tensors really are.
    in_groups = clip_grad._group_tensors_by_device_and_dtype

    def by_device(lists):
        groups = in_groups(lists).items()
        return {(lists[0][0].device, dtype): group for (_, dtype), group in groups}

    monkeypatch.setattr(clip_grad, "_group_tensors_by_device_and_dtype", by_device)
    pretend.noted.clear()
    torch.__future__.set_overwrite_module_params_on_conversion(
        True
    )  # or parameters would keep their own type
    with pretend.PretendDevice():
        yield pretend.DEVICE
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.fixture
def on(make_experiment, monkeypatch):
    """on(device, model, **settings): a trainer there and the experiment it is of."""

    def make(device, model: str, settings):
        experiment = make_experiment(model, **settings)
        monkeypatch.setattr("recbole.trainer.trainer.get_tensorboard", lambda logger: None)
        trainer = GenRecTrainer(experiment.config, experiment.model.to(device))
        trainer.device = device
        return trainer, experiment

    return make


def train(trainer, experiment) -> dict[str, set]:
    """Two epochs of every stage; who waited in the steps of each."""
    waited = {}
    for stage in trainer.model.stages():
        trainer._start(stage)
        batches = trainer._batches(stage, experiment.train)
        optimizers = [
            StageOptimizer(trainer.model, phase, "adamw", 1.0, len(batches))
            for phase in stage.phases or (stage,)
        ]
        for epoch in range(min(2, stage.epochs)):
            if stage.before_epoch is not None:
                stage.before_epoch(epoch)
            pretend.noted.clear()
            with without_anomaly_detection():
                losses = trainer._train(
                    replace(stage, before_epoch=None, after_epoch=None),
                    epoch,
                    batches,
                    optimizers,
                    False,
                )
            # Only the epoch's order of items and its mean losses are waited for.
            once = [("epoch", "to")] * (stage.rows == "items") + [
                (MEANS, "_local_scalar_dense")
            ] * len(losses)
            steps = Counter(pretend.noted)
            steps.subtract(once)
            waited.setdefault(stage.name, set()).update(+steps)
            if stage.after_epoch is not None:
                stage.after_epoch(epoch)
        if stage.finish is not None:
            stage.finish()
        trainer.progress.stage += 1
    return waited


def search(trainer, experiment):
    """The ranked lists of a batch, and who waited for them."""
    trainer.model.eval()
    trainer._ranker = Ranker(trainer.model, max(trainer.config["topk"]), trainer.device)
    batch = next(iter(experiment.test))
    pretend.noted.clear()
    ranked = trainer._full_sort_batch_eval(batch)[1].item_ids
    return ranked, list(pretend.noted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("model, settings", CASES, ids=str)
def test_training_and_search_stay_on_the_device_and_do_not_wait(model, settings, device, on):
    trainer, experiment = on(device, model, settings)
    waited = train(trainer, experiment)
    assert set().union(*waited.values()) == INHERENT.get(model, set()), waited
    ranked, waited = search(trainer, experiment)
    assert not waited
    assert (
        not torch.backends.cuda.matmul.allow_tf32
        and torch.get_float32_matmul_precision() == "highest"
    )
    assert ranked.device == device and ranked.shape == (5, 5)
    trainer.config["scoring"] = "exact"  # as long as it takes, which only values say
    exact, _ = search(trainer, experiment)
    with torch._C.DisableTorchFunction():
        on_host = on(torch.device("cpu"), model, settings)
        train(*on_host)
        weights = on_host[0].model.state_dict()
        assert weights.keys() == trainer.model.state_dict().keys()
        for name, weight in trainer.model.state_dict().items():
            torch.testing.assert_close(weight.held, weights[name], msg=name)
        assert ranked.held.equal(search(*on_host)[0])
        on_host[0].config["scoring"] = "exact"
        assert exact.held.equal(search(*on_host)[0])
