"""One experiment from its settings to its metrics: `run`, `compare` several models, `load` one."""

from __future__ import annotations

import importlib
import json
import logging
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from recbole.data import create_dataset as create_recbole_dataset
from recbole.data.dataset import Dataset
from recbole.utils import ModelType, init_seed

from recbole_genrec.compat import (
    PlainCheckpoints,
    own_log_file,
    plain_settings,
    plain_trainer,
    recbole_errors,
    without_anomaly_detection,
)
from recbole_genrec.config.models import is_generative
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GeneralDataset, GenRecDataset
from recbole_genrec.data.files import InteractionFile, ensure_folder
from recbole_genrec.data.loaders import make_evaluation_loaders, make_loaders
from recbole_genrec.errors import DiskError, UserError, disk_errors
from recbole_genrec.results.record import (
    find_record,
    generative_figures,
    log_summary,
    write_record,
    write_table,
    write_test_outcomes,
)
from recbole_genrec.runtime import distributed
from recbole_genrec.runtime.memory import keep_freed_memory
from recbole_genrec.storage import load_plain
from recbole_genrec.teacher.teacher import teacher_table
from recbole_genrec.trainer.checkpoint import load_checkpoint, new_checkpoint_path, resume_files
from recbole_genrec.trainer.collector import TopKCollector
from recbole_genrec.trainer.progress import changed_settings, check_same_settings
from recbole_genrec.trainer.trainer import GenRecTrainer

logger = logging.getLogger(__name__)

# RecBole's trainer keeps the best epoch, so a run may also continue for longer than planned.
_MAY_GROW = frozenset({"epochs", "eval_step", "stopping_step"})


@distributed.process_group()
def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    command_line: list[str] | None = None,
) -> dict[str, Any]:
    """Train a model, keep its best epoch on the validation part, and test it.

    Args:
        model: name or class; see GenRecConfig for this and the other arguments.
        dataset: name of the data set.
        config_file_list: YAML files of settings.
        config_dict: settings by name.
        command_line: arguments such as ["--epochs=3"].

    Returns:
        best_valid_score, valid_score_bigger, best_valid_result and test_result, as RecBole's
        run_recbole returns them; `checkpoint`, the path of the best weights; n_parameters,
        stage_seconds and test_users_per_second; and for generative models `semantic_ids` and
        `proven_share`. The same and more is in a .json file beside the checkpoint.

    Raises:
        UserError: the settings, the data or the disk do not allow a run.
    """
    config = GenRecConfig(model, dataset, config_file_list, config_dict, command_line)
    _check_processes(config)
    return _run(config)


@recbole_errors()
@disk_errors()
def _run(config: GenRecConfig) -> dict[str, Any]:
    with distributed.on_main_process(own_log_file(config)), without_anomaly_detection():
        started = time.time()
        keep_freed_memory()
        init_seed(config["seed"], config["reproducibility"])
        logger.info("%s", config)
        dataset = create_dataset(config)
        logger.info("%s", dataset)
        n_interactions = dataset.inter_num  # before they are replaced by training rows
        make = make_evaluation_loaders if is_generative(config.model_class) else make_loaders
        loaders = make(config, dataset)

        init_seed(config["seed"], config["reproducibility"])
        model = create_model(config, loaders)
        logger.info("%s", model)
        trainer = create_trainer(config, model)
        _resume(config, trainer)
        result = _train_and_test(trainer, *loaders)
        result.update(generative_figures(model, trainer))

        seconds = time.time() - started
        if distributed.is_main():
            write_test_outcomes(trainer.eval_collector, dataset, result["checkpoint"])
            write_record(config, dataset, n_interactions, result, seconds)
        log_summary(config, dataset, n_interactions, result, seconds)
        distributed.barrier()
        return result


def _check_processes(config: GenRecConfig) -> None:
    if distributed.size() > 1 and not is_generative(config.model_class):
        raise UserError(
            f"{config['model']} is a model of RecBole, and those are trained by one process here: "
            "start it without torchrun"
        )


def _train_and_test(trainer, train_data, valid_data, test_data) -> dict[str, Any]:
    config, model = trainer.config, trainer.model
    started = time.time()
    best_valid_score, best_valid_result = trainer.fit(
        train_data, valid_data, show_progress=config["show_progress"]
    )
    trained = time.time()
    test_result = trainer.evaluate(test_data, show_progress=config["show_progress"])
    tested = time.time()
    trainer.tensorboard.close()
    users = test_data.dataset.inter_feat[test_data.dataset.uid_field]
    return {
        "best_valid_score": best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_valid_result,
        "test_result": test_result,
        "checkpoint": str(trainer.saved_model_file),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "stage_seconds": {"training": trained - started},
        "test_users_per_second": users.unique().numel() / (tested - trained),
    }


@distributed.process_group()
def compare(
    models: list[str],
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    command_line: list[str] | None = None,
) -> tuple[list[dict[str, Any]], Path]:
    """Run several models one after another on one split, and write their figures into one table.

    All settings are checked before the first model runs. A setting goes to the models that know
    it. A model that was run with these settings, data and versions before is not run again. A
    model that cannot run does not stop the others.

    Args:
        models: names of models of this package or of RecBole.
        dataset: see GenRecConfig for this and the other arguments.
        config_file_list: YAML files of settings.
        config_dict: settings by name.
        command_line: arguments such as ["--epochs=3"].

    Returns:
        the record of every model, as written beside its checkpoint, or {"model", "refusal"}; and
        the path of the table in Markdown, comparison-<data set>-<time>.md in checkpoint_dir, with
        a .csv file beside it.

    Raises:
        UserError: the settings do not allow a run.
    """
    given = (dataset, config_file_list, config_dict, command_line)
    configs = [GenRecConfig(model, *given, is_shared=True) for model in models]
    if set.intersection(*(config.left_out for config in configs)):
        GenRecConfig(models[0], *given)  # refuses a setting that no model knows
    for config in configs:
        _check_processes(config)
    records = []
    for config in configs:
        record = distributed.broadcast(find_record(config))
        if record is not None:
            logger.info("%s is done already: %s", config["model"], record["checkpoint"])
        records.append(record or _try(config))
    path = write_table(records, configs[0]) if distributed.is_main() else None
    return records, distributed.broadcast(path)


def _try(config: GenRecConfig) -> dict[str, Any]:
    """Return the record of a run, or the sentence that refuses it."""
    try:
        record = Path(_run(config)["checkpoint"]).with_suffix(".json")
    except UserError as error:
        if distributed.size() > 1:  # the other processes may be waiting for this one
            raise
        return {"model": config["model"], "refusal": str(error)}
    return json.loads(record.read_text(encoding="utf-8"))


@recbole_errors()
@disk_errors()
def load(
    path: str, config_dict: dict[str, Any] | None = None, model: str | type | None = None
) -> tuple:
    """Restore the model of a checkpoint, ready to evaluate, and its data.

    Args:
        path: the .pth file that a run of a generative model has written.
        config_dict: settings that differ here, such as data_path.
        model: the class of a model outside this package, or its path module:Class. A checkpoint
            only stores the path, so that no file decides which code is imported; its metrics from
            outside this package are left out unless `metrics` of config_dict names them.

    Returns:
        config, model, dataset, train_data, valid_data, test_data, as RecBole's
        load_data_and_model.

    Raises:
        UserError: the file is missing or no checkpoint, the data set is another one, or a class
            outside this package is not named.
    """
    named = (config_dict or {}).get("model") if model is None else model
    class_name = named.rpartition(":")[2] if isinstance(named, str) else None
    saved = load_checkpoint(path, "cpu", class_name)
    if "metrics" not in (config_dict or {}):
        _leave_own_metrics_out(saved["settings"])
    # The GPU of the training machine; here CUDA_VISIBLE_DEVICES and config_dict choose.
    saved["settings"].pop("gpu_id")
    saved_model = saved["settings"]["model"]
    if ":" in saved_model and named is None:
        raise UserError(
            f"{str(path)!r} is a checkpoint of the class {saved_model!r}, which is imported only "
            f"if you name it: give model={saved_model}"
        )
    config = GenRecConfig(named, config_dict={**saved["settings"], **(config_dict or {})})
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train_data, valid_data, test_data = make_evaluation_loaders(config, dataset)
    load_checkpoint(path, "cpu", config["model"], train_data.dataset.fingerprint())
    restored = config.model_class(config, train_data.dataset, saved["state_dict"])
    restored.load_state_dict(saved["state_dict"])
    restored.to(config["device"]).eval()
    return config, restored, dataset, train_data, valid_data, test_data


def _leave_own_metrics_out(saved: dict[str, Any]) -> None:
    """Take the metrics that are paths of classes out of saved settings."""
    paths = [name for name in saved["metrics"] if ":" in name]
    if paths:
        logger.warning(
            "the checkpoint's metrics %s are left out, because config_dict does not name them",
            ", ".join(paths),
        )
        saved["metrics"] = [name for name in saved["metrics"] if name not in paths]


def _resume(config: GenRecConfig, trainer) -> None:
    """Continue where the setting `resume` says.

    `auto` finds the newest run with these settings, and starts from scratch if there is none.
    """
    path = config["resume"]
    if path == "auto":
        path = distributed.broadcast(_newest_alike(config) if distributed.is_main() else None)
    if path is None:
        return
    if not isinstance(trainer, GenRecTrainer):  # GenRecTrainer checks the settings itself
        saved = config.with_defaults(load_plain(path, "cpu")["config"])
        check_same_settings(saved, plain_settings(config), path, _MAY_GROW)
    trainer.resume_checkpoint(path)


def _newest_alike(config: GenRecConfig) -> str | None:
    """Return the newest file of a run of this model on this data set with these settings."""
    is_ours = is_generative(config.model_class)
    given = config.settings() if is_ours else plain_settings(config)
    may_change: frozenset[str] = frozenset() if is_ours else _MAY_GROW
    for file in resume_files(config, ".resume.pth" if is_ours else ".pth"):
        try:
            if is_ours:
                saved = load_checkpoint(file, "cpu")["settings"]
            else:
                saved = load_plain(file, "cpu")["config"]
            names = changed_settings(config.with_defaults(saved), given, may_change)
        except (ValueError, TypeError, KeyError):
            names = ["contents than a file of this package has"]
        if not names:
            return file
        logger.info("%s has other %s", file, ", ".join(names))
    logger.info(
        "resume is auto, but %s holds no run of %s with these settings: starting from scratch",
        config["checkpoint_dir"],
        config["model"],
    )
    return None


def create_dataset(config: GenRecConfig) -> Dataset:
    """Create the data set of a run, with exact time order for every model.

    It is a GenRecDataset for every model that reads users, items and times only.

    Raises:
        MissingFileError: the folder or its .inter file is missing and cannot be downloaded.
        UserError: the file lacks something that a run needs.
    """
    # Models such as DIEN bring a data set of their own.
    own = getattr(
        importlib.import_module("recbole.data.dataset"), f"{config['model']}Dataset", None
    )
    kind = config["MODEL_TYPE"]
    if kind == ModelType.SEQUENTIAL:
        combined = GenRecDataset if own is None else type(own.__name__, (own, GenRecDataset), {})
        return combined(config)
    is_ordered = config["eval_args"]["order"] == "TO" and config["benchmark_filename"] is None
    if kind in (ModelType.GENERAL, ModelType.TRADITIONAL) and own is None and is_ordered:
        return GeneralDataset(config)
    ensure_folder(config)
    if is_ordered:
        path = os.path.join(config["data_path"], f"{config['dataset']}.inter")
        InteractionFile(path, config).close()  # checks the header
    dataset = create_recbole_dataset(config)
    if is_ordered:
        # RecBole sorts by time in float32. Its sort is stable, so this exact order survives among
        # times that become equal.
        dataset.inter_feat = dataset.inter_feat.sort_values(
            [dataset.uid_field, dataset.time_field], kind="stable", ignore_index=True
        )
    return dataset


def create_model(config: GenRecConfig, loaders: tuple) -> torch.nn.Module:
    """Create the model of a run on its device; with several processes the main one goes first.

    `loaders` are the loaders of training, validation and test (data/loaders.py).

    A generative model is given its teachers' item tables. It asks for them last, when all settings
    and files are checked; then they are trained, or read from teacher_cache_dir.
    """
    given = {}
    if is_generative(config.model_class):
        given = {"teacher_table": partial(teacher_table, config, loaders)}
    with distributed.main_first():
        return config.model_class(config, loaders[0].dataset, **given).to(config["device"])


def create_trainer(config: GenRecConfig, model: torch.nn.Module):
    """Create a GenRecTrainer for a generative model.

    A model of RecBole gets its own trainer, with checkpoints that a current torch reads.

    Raises:
        DiskError: no file can be written to checkpoint_dir.
    """
    _check_writable(config["checkpoint_dir"])
    if is_generative(config.model_class):
        return GenRecTrainer(config, model)
    trainer = plain_trainer(config, model)
    if isinstance(trainer, PlainCheckpoints):
        trainer.eval_collector = TopKCollector(config)
        trainer.saved_model_file = str(new_checkpoint_path(config))
    return trainer


def _check_writable(folder: str) -> None:
    """Refuse a folder of checkpoints before the training, not at its first checkpoint."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DiskError(
            f"checkpoint_dir is {folder!r}, where no file can be written ({error.strerror}): "
            "choose another folder, as with --checkpoint_dir=saved"
        ) from error
