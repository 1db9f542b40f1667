"""One experiment from its settings to its metrics, in Python (`run`) and on the command line (`main`)."""

from __future__ import annotations

import errno
import importlib
import json
import linecache
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from recbole.data import create_dataset as create_recbole_dataset
from recbole.trainer import Trainer
from recbole.utils import ModelType, get_trainer, init_seed

from recbole_genrec.compat import (
    PlainCheckpoints,
    own_log_file,
    plain_settings,
    without_anomaly_detection,
)
from recbole_genrec.config.settings import GenRecConfig, parse_command_line
from recbole_genrec.data.dataset import GeneralDataset, GenRecDataset
from recbole_genrec.data.files import check_inter_file, ensure_folder
from recbole_genrec.data.loaders import make_loaders
from recbole_genrec.errors import UserError
from recbole_genrec.model.abstract import GenerativeRecommender
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
from recbole_genrec.trainer.checkpoint import load_checkpoint, new_checkpoint_path, resume_files
from recbole_genrec.trainer.collector import TopKCollector
from recbole_genrec.trainer.progress import changed_settings, check_same_settings
from recbole_genrec.trainer.trainer import GenRecTrainer

logger = logging.getLogger(__name__)

# RecBole's trainer keeps the best epoch, from which a run may also go on for longer than it was
# meant to.
_MAY_GROW = frozenset({"epochs", "eval_step", "stopping_step"})
_OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)

USAGE = """usage: python run_recbole_genrec.py [--model=NAME[,NAME...]] [--dataset=NAME] [--config_files "a.yaml b.yaml"]
                                   [--any_setting=value ...]

Trains and evaluates models of this package or of RecBole; of several, one table is made. Settings
and their defaults: properties/*.yaml.
"""


@distributed.process_group()
def run(
    model=None, dataset=None, config_file_list=None, config_dict=None, command_line=None
) -> dict[str, Any]:
    """Train a model, keep its best epoch on the validation part, and test it.

    Args: those of GenRecConfig.

    Returns:
        best_valid_score, valid_score_bigger, best_valid_result and test_result as RecBole's
        run_recbole returns them, and
        `checkpoint`, the path of the best weights; the same and more stands beside it in a .json
        file.

    Raises:
        FileNotFoundError, ValueError: the settings or the data do not allow a run.
    """
    config = GenRecConfig(model, dataset, config_file_list, config_dict, command_line)
    _check_processes(config)
    return _run(config)


def _run(config: GenRecConfig) -> dict[str, Any]:
    with distributed.on_main_process(own_log_file(config)), without_anomaly_detection():
        started = time.time()
        keep_freed_memory()
        init_seed(config["seed"], config["reproducibility"])
        logger.info("%s", config)
        data = create_dataset(config)
        n_interactions = (
            data.inter_num
        )  # RecBole replaces the interactions by training rows when it prepares them
        logger.info("%s", data)
        train_data, valid_data, test_data = make_loaders(config, data)

        init_seed(config["seed"], config["reproducibility"])
        with distributed.main_first():
            network = config.model_class(config, train_data.dataset).to(config["device"])
        logger.info("%s", network)
        trainer = create_trainer(config, network)
        _resume(config, trainer)
        began = time.time()
        best_valid_score, best_valid_result = trainer.fit(
            train_data, valid_data, show_progress=config["show_progress"]
        )
        trained = time.time()
        test_result = trainer.evaluate(test_data, show_progress=config["show_progress"])
        n_test_users, test_seconds = (
            test_data.dataset.inter_feat[test_data.dataset.uid_field].unique().numel(),
            time.time() - trained,
        )
        trainer.tensorboard.close()

        result = {
            "best_valid_score": best_valid_score,
            "valid_score_bigger": config["valid_metric_bigger"],
            "best_valid_result": best_valid_result,
            "test_result": test_result,
            "checkpoint": str(trainer.saved_model_file),
            "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
            "stage_seconds": {"training": trained - began},
            "test_users_per_second": n_test_users / test_seconds,
            **generative_figures(network, trainer),
        }
        if distributed.is_main():
            write_test_outcomes(trainer.eval_collector, data, result["checkpoint"])
            write_record(config, data, n_interactions, result, time.time() - started)
        log_summary(config, data, n_interactions, result, time.time() - started)
        distributed.barrier()
        return result


def _check_processes(config: GenRecConfig) -> None:
    if distributed.size() > 1 and not issubclass(config.model_class, GenerativeRecommender):
        raise UserError(
            f"{config['model']} is a model of RecBole, and those are trained by one process here: start it without torchrun"
        )


@distributed.process_group()
def compare(
    models: list[str], dataset=None, config_file_list=None, config_dict=None, command_line=None
) -> list[dict[str, Any]]:
    """Run several models one after another on one split, and put their figures into one table.

    All settings are checked before the first model runs. A setting goes to the models that know it.
    A model that has been run
    already with these settings, data and versions is not run again. One that cannot run does not
    keep the others from it.

    Args:
        models: names of models of this package or of RecBole.
        the others: those of GenRecConfig.

    Returns:
        the record of every model, as it stands beside its checkpoint, or {"model", "refusal"}; the
        table stands in checkpoint_dir as
        comparison-<data set>-<time>.md and .csv.

    Raises:
        FileNotFoundError, ValueError: the settings do not allow a run.
    """
    given = (dataset, config_file_list, config_dict, command_line)
    configs = [GenRecConfig(model, *given, is_shared=True) for model in models]
    unknown = set.intersection(*(config.left_out for config in configs))
    if unknown:
        GenRecConfig(models[0], *given)  # refuses the first of them with a suggestion
    records = []
    for config in configs:
        _check_processes(config)
    for config in configs:
        record = distributed.broadcast(find_record(config))
        if record is not None:
            logger.info("%s is done already: %s", config["model"], record["checkpoint"])
        records.append(record or _try(config))
    if distributed.is_main():
        path = write_table(records, configs[0])
        sys.stdout.write(f"{path.read_text(encoding='utf-8')}\n{path} (and .csv)\n")
    return records


def _try(config: GenRecConfig) -> dict[str, Any]:
    try:
        return json.loads(
            Path(_run(config)["checkpoint"]).with_suffix(".json").read_text(encoding="utf-8")
        )
    except (ValueError, KeyError, ImportError, OSError) as error:
        sentence = refusal(error)
        if sentence is None or distributed.size() > 1:  # the others may be waiting for this process
            raise
        return {"model": config["model"], "refusal": sentence}


def load(path: str, config_dict: dict[str, Any] | None = None) -> tuple:
    """The model of a checkpoint, ready to evaluate, and its data.

    Args:
        path: the .pth file that a run of a generative model has written.
        config_dict: settings that are different here, such as data_path.

    Returns:
        config, model, dataset, train_data, valid_data, test_data, as RecBole's load_data_and_model.

    Raises:
        FileNotFoundError, ValueError: if the file is missing or no checkpoint, or the data set is
            another one.
    """
    saved = load_checkpoint(path, "cpu")
    saved["settings"].pop(
        "gpu_id"
    )  # of the machine that trained; here CUDA_VISIBLE_DEVICES and config_dict choose
    config = GenRecConfig(config_dict={**saved["settings"], **(config_dict or {})})
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    train_data, valid_data, test_data = make_loaders(config, data)
    load_checkpoint(path, "cpu", config["model"], train_data.dataset.fingerprint())
    network = config.model_class(config, train_data.dataset, saved["state_dict"]).to(
        config["device"]
    )
    network.load_state_dict(saved["state_dict"])
    return config, network.eval(), data, train_data, valid_data, test_data


def _resume(config: GenRecConfig, trainer) -> None:
    """Go on where the setting `resume` says; with `auto` from the newest run with these settings, or anew if there is none."""
    path, is_generative = config["resume"], isinstance(trainer, GenRecTrainer)
    suffix, key, may_change = (
        (".resume.pth", "settings", frozenset()) if is_generative else (".pth", "config", _MAY_GROW)
    )
    given = config.settings() if is_generative else plain_settings(config)
    if path == "auto":
        path = distributed.broadcast(
            _newest_alike(config, suffix, key, given, may_change) if distributed.is_main() else None
        )
    if path is not None:
        if not is_generative:  # whose trainer checks more than the settings
            check_same_settings(
                config.with_defaults(load_plain(path, "cpu")[key]), given, path, may_change
            )
        trainer.resume_checkpoint(path)


def _newest_alike(
    config: GenRecConfig, suffix: str, key: str, given: dict[str, Any], may_change: frozenset[str]
) -> str | None:
    """The newest file ending with `suffix` of a run of this model on this data whose settings (its `key`) are the given ones."""
    for file in resume_files(config, suffix):
        try:
            names = changed_settings(
                config.with_defaults(load_plain(file, "cpu")[key]), given, may_change
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            names = ["contents than a file of this package has"]
        if not names:
            return file
        logger.info("%s has other %s", file, ", ".join(names))
    text = (
        "resume is auto, but %s holds no run of %s with these settings to go on from: starting anew"
    )
    logger.info(text, config["checkpoint_dir"], config["model"])
    return None


def create_dataset(config: GenRecConfig):
    """The data set of a run: exact time order for every model, GenRecDataset for every one that reads users, items and times.

    Raises:
        FileNotFoundError: the folder or its .inter file is missing and cannot be had.
        ValueError: the file does not hold what a run needs.
    """
    # Models such as DIEN bring a data set of their own.
    own = getattr(
        importlib.import_module("recbole.data.dataset"), f"{config['model']}Dataset", None
    )
    if config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return (GenRecDataset if own is None else type(own.__name__, (own, GenRecDataset), {}))(
            config
        )
    is_ready_made, is_ordered = (
        config["benchmark_filename"] is not None,
        config["eval_args"]["order"] == "TO",
    )
    if (
        config["MODEL_TYPE"] in (ModelType.GENERAL, ModelType.TRADITIONAL)
        and own is None
        and is_ordered
        and not is_ready_made
    ):
        return GeneralDataset(config)
    ensure_folder(config)
    if is_ordered and not is_ready_made:
        check_inter_file(os.path.join(config["data_path"], f"{config['dataset']}.inter"), config)
    data = create_recbole_dataset(config)
    if is_ordered and not is_ready_made:
        # RecBole sorts by time in float32; its sort is stable and so keeps this exact order among
        # times that become equal.
        data.inter_feat = data.inter_feat.sort_values(
            [data.uid_field, data.time_field], kind="stable", ignore_index=True
        )
    return data


def create_trainer(config: GenRecConfig, network: torch.nn.Module):
    """GenRecTrainer for a generative model; for RecBole's models their own trainer, with checkpoints that today's torch reads."""
    if issubclass(config.model_class, GenerativeRecommender):
        return GenRecTrainer(config, network)
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    if not issubclass(base, Trainer):
        return base(config, network)
    trainer = type(f"Plain{base.__name__}", (PlainCheckpoints, base), {})(config, network)
    trainer.eval_collector = TopKCollector(config)
    trainer.saved_model_file = str(new_checkpoint_path(config))
    return trainer


def main(argv: list[str]) -> int:
    """Run one experiment with command line arguments.

    Returns:
        0, or 2 after one sentence on stderr if the input does not allow a run (of several models:
        of any of them).
    """
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(USAGE)
        return 0
    try:
        models = parse_command_line(argv).get("model", "").split(",")
        if len(models) > 1:
            records = compare(models, command_line=argv)
            return 2 if any("refusal" in record for record in records) else 0
        run(command_line=argv)
    except (ValueError, KeyError, ImportError, OSError) as error:
        sentence = refusal(error)
        if sentence is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        return 2
    return 0


def refusal(error: Exception) -> str | None:
    """The sentence for the user if input, installation or disk made the error; None for a bug that happens to have its type.

    The former come from a `raise` statement of this package or of RecBole, or from a disk that is
    full or may not be written or read.
    """
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        place = "a file" if error.filename is None else repr(str(error.filename))
        return (
            f"{place} cannot be read or written ({error.strerror}): make room or change its permissions, or choose another folder, as "
            "with --checkpoint_dir or --data_path"
        )
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "").split(".")[0]
    line = linecache.getline(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
    is_raised = module in ("recbole", "recbole_genrec") and line.lstrip().startswith("raise ")
    return str(error.args[0]) if is_raised and error.args else None
