"""Work around faults of RecBole, torch and numpy versions, each with its reason.

No other module of the package does. This one imports RecBole only inside functions.
"""

from __future__ import annotations

import copy
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recbole_genrec.errors import MissingPackageError, UserError, disk_errors
from recbole_genrec.storage import from_plain, load_plain, save_plain, to_plain

if TYPE_CHECKING:
    from recbole.data.dataset import SequentialDataset as _SequentialDataset
    from recbole.evaluator import Collector as _Collector
    from recbole.trainer import Trainer as _Trainer
else:  # the mixins below stand in front of these
    _Collector = _SequentialDataset = _Trainer = object

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


@contextmanager
def recbole_errors() -> Iterator[None]:
    """Translate RecBole's refusals of settings and data into UserError.

    RecBole refuses with ValueError and its like. Only an error from a function of RecBole is
    translated: one from a function of this package or another library is a bug and passes. A
    decorator as well as a context manager.

    Raises:
        MissingPackageError: a model of RecBole needs a package that is not installed.
        UserError: RecBole refuses a setting or the data.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        if not _is_from_recbole(error) or (error.name or "recbole").startswith("recbole"):
            raise
        raise MissingPackageError(
            f"this run needs the package {error.name}, which is not installed: install it, or "
            "choose another model or setting"
        ) from error
    except (ValueError, NotImplementedError, AssertionError) as error:
        if not _is_from_recbole(error) or not error.args:
            raise
        logger.debug("refused by RecBole", exc_info=True)
        raise UserError(
            f"RecBole refuses this run ({str(error).rstrip('.!')}): correct the setting or file"
        ) from error


def _is_from_recbole(error: Exception) -> bool:
    """Return True if the function that raised `error` is RecBole's."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").split(".")[0] == "recbole"


def add_numpy_aliases() -> None:
    """Give numpy the type names that RecBole uses (np.float and others), where it dropped them.

    RecBole's own function for this reads np.float_ and np.unicode_, which numpy 2 lacks.
    """
    for name, numpy_type in _NUMPY_ALIASES.items():
        if name not in np.__dict__:
            setattr(np, name, numpy_type)


class PlainCheckpoints(_Trainer):
    """Mixin for a RecBole trainer class: checkpoints of tensors and plain Python values.

    RecBole pickles its Config object into every checkpoint, with a protocol that torch's safe
    unpickler does not read. From torch 2.6 on, every run therefore fails when it loads its best
    model for the test. Here the settings are a plain dict, files are read with weights_only=True,
    and the best validation result survives a resume.
    """

    _last_result: dict[str, float] | None = None

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs) -> None:
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.get("saved_model_file", self.saved_model_file)
        # RecBole writes "epoch -1" over a checkpoint without epochs left to train, which a resume
        # would then start from the beginning.
        if epoch < 0 and os.path.exists(path):
            return
        state = self._plain_state(epoch)
        state.update(
            cur_step=self.cur_step,
            best_valid_score=float(self.best_valid_score),
            # RecBole saves an improvement before it stores the result of that validation.
            best_valid_result=dict(self._last_result or self.best_valid_result or {}),
        )
        save_plain(path, state)
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
            "other_parameter": other,
            "optimizer": self.optimizer.state_dict(),
        }

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)
        self._last_result = result
        return score, result

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """Write the weights of S3Rec's pre-training, as RecBole's method of this name does."""
        save_plain(saved_model_file, self._plain_state(epoch))
        self.saved_model_file = saved_model_file

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Evaluate as RecBole's Trainer does, with the weights of a plain checkpoint."""
        if eval_data and load_best_model:
            path = model_file or self.saved_model_file
            self._load_weights(load_plain(path, self.device))
            self.logger.info(f"Loading model structure and parameters from {path}")
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)

    def resume_checkpoint(self, resume_file) -> None:
        """Restore weights, optimizer and early stopping; RecBole keeps no random state.

        Raises:
            UserError: the file holds no checkpoint, or one of another model.
        """
        checkpoint = load_plain(resume_file, self.device)
        model = checkpoint["config"]["model"]
        if model != self.config["model"]:
            raise UserError(
                f"{str(resume_file)!r} is a checkpoint of {model}, not of {self.config['model']}: "
                f"resume with --model={model}"
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
    """Return the settings that are plain values, without classes, devices and enumerations."""
    settings = {}
    for key, value in config.final_config_dict.items():
        try:
            settings[key] = to_plain(value)
        except TypeError:
            logger.debug("the setting %s is not a plain value and is not saved", key)
    return settings


class MendedDataset(_SequentialDataset):
    """Mixin for RecBole's SequentialDataset, whose filters drop wrong rows or lose their order."""

    def _from_scratch(self):
        with warnings.catch_warnings():
            # RecBole fills missing values in a way that pandas 3 changes: a page of warnings.
            warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
            super()._from_scratch()

    def _filter_nan_user_or_item(self):
        # RecBole takes labels of rows for positions: once rows are gone, it removes wrong ones.
        fields = {
            "user_feat": [self.uid_field],
            "item_feat": [self.iid_field],
            "inter_feat": [self.uid_field, self.iid_field],
        }
        for name, ids in fields.items():
            feat = getattr(self, name)
            if feat is None:
                continue
            is_missing = feat[ids].isna().any(axis=1).to_numpy()
            if is_missing.any():
                logger.warning(
                    "%d rows of %s have no %s: they are left out",
                    is_missing.sum(),
                    name,
                    " or ".join(ids),
                )
                setattr(self, name, feat.take(np.flatnonzero(~is_missing)))

    def _remove_duplication(self):
        super()._remove_duplication()
        # RecBole's sort by time is unstable; the index still has the order of the file.
        self.inter_feat.sort_index(inplace=True)


def true_negatives(train_loader, config) -> None:
    """Draw a general model's training negatives from the items that the user has not had.

    `repeatable` leaves the history among the candidates of a ranking. RecBole also draws training
    negatives by it, so they would hold positives of the user's other rows. Sequential models have
    histories and keep RecBole's negatives.
    """
    from recbole.sampler import Sampler
    from recbole.utils import ModelType

    drawn = config["train_neg_sample_args"]
    is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if is_sequential or not config["repeatable"] or drawn["distribution"] == "none":
        return
    # A model with a knowledge graph has two loaders in one.
    loader = getattr(train_loader, "general_dataloader", train_loader)
    sampler = Sampler("train", loader._dataset, drawn["distribution"], drawn["alpha"])
    loader._sampler = sampler.set_phase("train")


class PlainCollector(_Collector):
    """Mixin for RecBole's Collector, which hands over all collected values, not only tensors.

    RecBole calls .cpu() on the number of items and on the item counter, so that ItemCoverage,
    GiniIndex, AveragePopularity and TailPercentage end in an AttributeError.
    """

    _RESET = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")

    def get_data_struct(self):
        """Return all collected values on the CPU, and drop the values of this evaluation."""
        returned = copy.deepcopy(self.data_struct)
        for name, value in list(returned._data_dict.items()):
            if isinstance(value, torch.Tensor):
                returned.set(name, value.cpu())
        for name in self._RESET:
            if name in self.data_struct:
                del self.data_struct[name]
        return returned


def plain_trainer(config, model: torch.nn.Module) -> Any:
    """Return RecBole's trainer of a model, with checkpoints and a collector that work.

    See PlainCheckpoints and PlainCollector. A trainer that is no subclass of RecBole's Trainer
    (for gradient-boosted trees) is returned as it is.
    """
    from recbole.trainer import Trainer
    from recbole.utils import get_trainer

    base = get_trainer(config["MODEL_TYPE"], config["model"])
    if not issubclass(base, Trainer):
        return base(config, model)
    trainer = type(f"Plain{base.__name__}", (PlainCheckpoints, base), {})(config, model)
    collector = type(trainer.eval_collector)
    plain = type(f"Plain{collector.__name__}", (PlainCollector, collector), {})
    trainer.eval_collector = plain(config)
    return trainer


def without_anomaly_detection() -> torch.autograd.set_detect_anomaly:
    """Return a context in which torch does not watch backward passes for NaN.

    RecBole's SINE switches torch's anomaly detection on for the whole process when it is imported,
    and importing any sequential model of RecBole imports it. It slows every training step.
    """
    return torch.autograd.set_detect_anomaly(False)


def add_metric(name: str, metric: Any) -> None:
    """Give RecBole's evaluator a metric by the name that the setting `metrics` has for it.

    RecBole fills its tables from one module of its own, and has no way to add to them. It names
    results by the class, and looks there for whether smaller is better.
    """
    from recbole.evaluator import register

    register.metrics_dict[name.lower()] = metric
    register.metric_information[name.lower()] = metric.metric_need
    register.metric_types[name.lower()] = metric.metric_type
    if metric.smaller and metric.__name__.lower() not in register.smaller_metrics:
        register.smaller_metrics.append(metric.__name__.lower())


@contextmanager
def own_log_file(config) -> Iterator[None]:
    """Log one run to a file of its own below ./log, and to the console if nothing else does.

    RecBole's init_logger does nothing if there is a handler already: a second run in one process
    would log to the first run's file, and a run in a program that logs would have no file. It also
    wraps the standard streams on every call. On exit the loggers are as before.

    Raises:
        DiskError: the file cannot be written.
    """
    import colorama
    from recbole.utils import init_logger

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        with disk_errors("log"):
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


class NullWriter:
    """A TensorBoard writer that writes nothing."""

    def add_scalar(self, *arguments: Any) -> None:
        """Ignore a value."""

    def add_hparams(self, *arguments: Any) -> None:
        """Ignore the settings."""

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def tensorboard_writer(writer: Any | None) -> Iterator[None]:
    """Give `writer` to RecBole's trainers that are made inside; None leaves RecBole's own.

    A trainer of RecBole opens a folder below ./log_tensorboard in its constructor, which neither a
    teacher nor a second process of a run should write to.
    """
    from recbole.trainer import trainer

    original = trainer.get_tensorboard
    if writer is not None:
        trainer.get_tensorboard = lambda logger: writer
    try:
        yield
    finally:
        trainer.get_tensorboard = original


def count_every_interaction(pop_class: type) -> type:
    """Return RecBole's Pop with correct counts.

    RecBole adds 1 per batch no matter how often an item occurs in it (an indexed assignment keeps
    one of several values), and also counts a batch's sampled negatives.
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
