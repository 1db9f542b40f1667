"""Everything that works around a version of RecBole, torch or numpy; nothing elsewhere in the package does.

This module imports nothing of the package, and RecBole only inside functions.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.storage import from_plain, load_plain, replacing, to_plain

logger = logging.getLogger(__name__)

_NUMPY_ALIASES = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
}


def require_recbole() -> None:
    """Raise ImportError with the command that installs RecBole, if it is missing.

    RecBole 1.2.1 requires ray<=2.6.3, which pip cannot install on Python 3.12 and later; RecBole
    itself runs there without ray.
    """
    if importlib.util.find_spec("recbole") is not None:
        return
    command = (
        "pip install recbole==1.2.1"
        if sys.version_info < (3, 12)
        else "pip install --no-deps recbole==1.2.1"
    )
    raise ImportError(
        f"RecBole 1.2.1 is not installed in this Python {sys.version_info[0]}.{sys.version_info[1]}: run `{command}`"
    )


def add_numpy_aliases() -> None:
    """Give numpy the old type names that RecBole's code uses (np.float and so on) where this numpy has dropped them.

    RecBole's own version of this reads np.float_ and np.unicode_, which numpy 2 no longer has.
    """
    for name, numpy_type in _NUMPY_ALIASES.items():
        if name not in np.__dict__:
            setattr(np, name, numpy_type)


class PlainCheckpoints:
    """Mixin in front of a RecBole trainer class: checkpoints of tensors and plain Python values.

    RecBole pickles its Config object into every checkpoint, at a pickle protocol that torch's safe
    unpickler does not read; from
    torch 2.6 on each run therefore fails when it loads its best model for the test. Here the
    settings are a plain dict, files are
    read with weights_only=True, and the best validation result survives a resume.
    """

    _last_result: dict | None = None

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs) -> None:
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.get("saved_model_file", self.saved_model_file)
        # RecBole writes "epoch -1" over a checkpoint that has no epochs left to train: it would be
        # resumed from the start.
        if epoch < 0 and os.path.exists(path):
            return
        state = self._plain_state(epoch)
        state.update(
            cur_step=self.cur_step,
            best_valid_score=float(self.best_valid_score),
            # RecBole saves an improvement before it stores the result that belongs to it.
            best_valid_result=to_plain(dict(self._last_result or self.best_valid_result or {})),
        )
        with replacing(path) as temporary:
            torch.save(state, temporary)
        if verbose:
            self.logger.info(f"Saving current: {path}")

    def _plain_state(self, epoch: int) -> dict[str, Any]:
        # Modules among a model's "other parameters" are in its state_dict already.
        other = {
            name: value
            for name, value in self.model.other_parameter().items()
            if not isinstance(value, torch.nn.Module)
        }
        return {
            "config": plain_settings(self.config),
            "epoch": epoch,
            "state_dict": self.model.state_dict(),
            "other_parameter": to_plain(other),
            "optimizer": self.optimizer.state_dict(),
        }

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)
        self._last_result = result
        return score, result

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        with replacing(saved_model_file) as temporary:
            torch.save(self._plain_state(epoch), temporary)
        self.saved_model_file = saved_model_file

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        if eval_data and load_best_model:
            path = model_file or self.saved_model_file
            self._load_weights(load_plain(path, self.device))
            self.logger.info(f"Loading model structure and parameters from {path}")
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def resume_checkpoint(self, resume_file) -> None:
        """Go on after the epoch of a checkpoint: weights, optimizer and early stopping; RecBole keeps no random state."""
        checkpoint = load_plain(resume_file, self.device)
        model = checkpoint["config"]["model"]
        if model != self.config["model"]:
            raise UserError(
                f"{str(resume_file)!r} is a checkpoint of {model}, not of {self.config['model']}: resume with --model={model}"
            )
        self.saved_model_file = str(resume_file)
        self.start_epoch = checkpoint["epoch"] + 1
        self.cur_step = checkpoint["cur_step"]
        self.best_valid_score = checkpoint["best_valid_score"]
        self.best_valid_result = checkpoint["best_valid_result"] or None
        self._load_weights(checkpoint)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _load_weights(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint["state_dict"])
        self.model.load_other_parameter(from_plain(checkpoint["other_parameter"]))


def plain_settings(config) -> dict[str, Any]:
    """The settings of a RecBole Config that are plain values; its classes, devices and enumerations are left out."""
    settings = {}
    for key, value in config.final_config_dict.items():
        try:
            settings[key] = to_plain(value)
        except TypeError:
            logger.debug("the setting %s is not a plain value and is not saved", key)
    return settings


class PlainCollector:
    """Mixin in front of RecBole's Collector: hands over everything that was collected, not only tensors.

    RecBole calls .cpu() on the number of items and on the item counter, so that ItemCoverage,
    GiniIndex, AveragePopularity and
    TailPercentage end in an AttributeError.
    """

    _RESET = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")

    def get_data_struct(self):
        returned = copy.deepcopy(self.data_struct)
        for name, value in list(returned._data_dict.items()):
            if isinstance(value, torch.Tensor):
                returned.set(name, value.cpu())
        for name in self._RESET:
            if name in self.data_struct:
                del self.data_struct[name]
        return returned


def without_anomaly_detection() -> torch.autograd.set_detect_anomaly:
    """A context in which backward passes are not watched for NaN.

    RecBole's SINE switches torch's anomaly detection on for the whole process when it is imported,
    and every import of RecBole's
    sequential models imports it: each training step of any model is slower for it.
    """
    return torch.autograd.set_detect_anomaly(False)


@contextmanager
def own_log_file(config) -> Iterator[None]:
    """Log one run to its own file below ./log, and to the console if nothing else does; afterwards all is as before.

    RecBole's init_logger does nothing where a handler exists, so a second run of a process went to
    the first run's file and a run
    inside a program that logs got no file; it also wraps the standard streams anew each time.
    """
    import colorama
    from recbole.utils import init_logger

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        init_logger(config)
        opened = root.handlers[:]
        if handlers:
            root.handlers = handlers + [
                handler for handler in opened if isinstance(handler, logging.FileHandler)
            ]
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers = handlers
        root.setLevel(level)
        colorama.deinit()


def count_every_interaction(pop_class: type) -> type:
    """RecBole's Pop with true counts.

    Its own adds 1 per batch however often an item is in it (an indexed assignment keeps one of
    several values), and it counts the
    sampled negatives of a batch as well.
    """

    def calculate_loss(self, interaction):
        items = interaction[self.ITEM_ID]
        self.item_cnt.index_add_(
            0, items, torch.ones(len(items), 1, dtype=self.item_cnt.dtype, device=items.device)
        )
        self.max_cnt = self.item_cnt.max(dim=0).values
        return torch.nn.Parameter(torch.zeros(1, device=items.device))

    return type(
        pop_class.__name__,
        (pop_class,),
        {"calculate_loss": calculate_loss, "__module__": pop_class.__module__},
    )
