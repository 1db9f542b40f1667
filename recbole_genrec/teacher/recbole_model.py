"""Any general or sequential recommender of RecBole as a teacher: trained by RecBole's own trainer, kept as item embeddings.

The teacher learns from the training part of the run's own leave-one-out split. Its data set is made
anew from the same files by
the same rules; before it trains, users, sequences and split are compared with the run's, and items
are joined by token.
"""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import recbole.data.dataset
import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_trainer, init_seed
from recbole.utils.argument_list import dataset_arguments
from torch.utils.tensorboard import SummaryWriter

from recbole_genrec.compat import (
    PlainCheckpoints,
    PlainCollector,
    tensorboard_writer,
    without_anomaly_detection,
)
from recbole_genrec.config.settings import GenRecConfig, find_model
from recbole_genrec.data.dataset import GeneralDataset, GenRecDataset
from recbole_genrec.data.loaders import make_loaders
from recbole_genrec.errors import UserError
from recbole_genrec.storage import to_plain
from recbole_genrec.teacher.cache import Teacher, load_or_train

logger = logging.getLogger(__name__)

# Where and how a teacher is computed, not what it is.
_PLACE_KEYS = ("data_path", "gpu_id", "use_gpu", "state", "show_progress")
# Taken over from the run. A teacher with other values would not be a teacher of this run, or writes
# where it should not.
_RUN_KEYS = ("seed", "reproducibility", "eval_args", "benchmark_filename", "encoding", *_PLACE_KEYS)
# Taken over as well, but a teacher may have its own.
_RANKING_KEYS = ("metrics", "topk", "valid_metric", "metric_decimal_place", "repeatable")
_UNHASHED_KEYS = (*_PLACE_KEYS, "checkpoint_dir", "eval_batch_size")
# RecBole's names of item tables; the tables of a group lie side by side.
_ITEM_TABLES = (
    ("item_embedding",),
    ("item_embeddings",),
    ("i_embedding",),
    ("item_emb",),
    ("item_matrix",),
    ("IU_emb", "IL_emb", "LI_emb"),
    ("item_mf_embedding", "item_mlp_embedding"),
    ("item_src_embedding", "item_dst_embedding"),
)


def train_recbole_teacher(config: GenRecConfig, dataset: GenRecDataset, model_name: str) -> Teacher:
    """Train a model of RecBole on the training part of dataset, or load it from teacher_cache_dir when nothing has changed.

    teacher_settings has the model's settings; data, split, metrics and seed are those of the run,
    all else RecBole's defaults. The
    epoch with the best validation metric is kept. The caller's random state is not touched. Models
    that propagate embeddings over
    the graph of users and items (LightGCN, NGCF, ...) give the propagated embeddings, with which
    they rank, not the table that
    they start from; FPMC, NeuMF, FISM and NAIS give their two or three tables side by side.

    Raises:
        ValueError: no such model, a model without item embeddings or with data of its own, or
            teacher_settings that it does not
            know or that are the run's to decide.
    """
    _check_model(model_name)
    with tempfile.TemporaryDirectory() as folder:
        teacher_config = _teacher_config(config, dataset, model_name, folder)
        settings = {
            key: value
            for key, value in teacher_config.settings().items()
            if key not in _UNHASHED_KEYS
        }
        meta = {
            "format": 2,
            "model": model_name,
            "dataset": dataset.fingerprint(),
            "settings": settings,
        }

        def train() -> dict:
            with _own_random_state(teacher_config), without_anomaly_detection():
                return _train(teacher_config, dataset, folder)

        saved, path = load_or_train(
            config["teacher_cache_dir"], model_name, dataset.dataset_name, meta, train
        )
    return Teacher(saved["item_embeddings"], saved["metrics"], path)


def _check_model(model_name: str) -> None:
    module = find_model(model_name).__module__.split(".")
    is_plain = module[0] == "recbole" and module[2] in (
        "general_recommender",
        "sequential_recommender",
    )
    if not is_plain or hasattr(recbole.data.dataset, f"{model_name}Dataset"):
        raise UserError(
            f"{model_name} cannot be a teacher, because a teacher learns from interactions alone: use a general or sequential "
            "recommender of RecBole, such as SASRec, BPR or LightGCN"
        )


def _teacher_config(
    config: GenRecConfig, dataset: GenRecDataset, model_name: str, folder: str
) -> GenRecConfig:
    own = config["teacher_settings"]
    if own is not None and not isinstance(own, Mapping):
        raise UserError(
            f"teacher_settings is {own!r}, but has to be a mapping: write for example {{embedding_size: 32, epochs: 50}}"
        )
    own = dict(own or {})
    refused = [key for key in own if key in (*_RUN_KEYS, "model", "dataset", "checkpoint_dir")]
    if refused:
        raise UserError(
            f"teacher_settings has {refused[0]!r}, but a teacher shares it with its run: set it outside of teacher_settings"
        )
    settings = config.settings()
    given: dict[str, Any] = {
        key: settings[key]
        for key in (*dataset_arguments, *_RUN_KEYS, *_RANKING_KEYS)
        if key in settings
    }
    # RecBole counts histories for its sequential models, and scores (history times item) for its
    # general ones.
    is_general = find_model(model_name).__module__.split(".")[2] == "general_recommender"
    given["eval_batch_size"] = settings["eval_batch_size"] * (dataset.item_num if is_general else 1)
    return GenRecConfig(
        model_name, settings["dataset"], config_dict={**given, **own, "checkpoint_dir": folder}
    )


def _train(config: GenRecConfig, dataset: GenRecDataset, folder: str) -> dict:
    init_seed(config["seed"], config["reproducibility"])
    is_general = config.model_class.__module__.split(".")[2] == "general_recommender"
    data = (GeneralDataset if is_general else GenRecDataset)(config)
    item_ids = _item_ids(config["model"], dataset, data)
    train_data, valid_data, test_data = make_loaders(config, data)
    model = config.model_class(config, train_data.dataset).to(config["device"])
    _item_table(model)  # a model without one is refused before it is trained
    trainer = _create_trainer(config, model, folder)
    epochs: dict[str, int] = {}

    def log_epoch(epoch: int, valid_score: float) -> None:
        epochs.update(n_epochs=epoch + 1, **({} if trainer.cur_step else {"best_epoch": epoch}))
        loss, metric = trainer.train_loss_dict[epoch], config["valid_metric"]
        logger.info(
            "Teacher %s epoch %d: loss %.4f, valid %s %.4f",
            config["model"],
            epoch,
            loss,
            metric,
            valid_score,
        )

    _, valid = trainer.fit(
        train_data,
        valid_data,
        verbose=False,
        show_progress=config["show_progress"],
        callback_fn=log_epoch,
    )
    if valid is None:
        raise UserError(
            f"eval_step of the teacher {config['model']} is {config['eval_step']}, but the epoch with the best validation is kept: set it "
            "to 1 or more in teacher_settings"
        )
    test = trainer.evaluate(test_data, show_progress=config["show_progress"])
    trainer.tensorboard.close()
    item_embeddings = _item_table(model)[item_ids].float()
    item_embeddings[0] = 0
    return {
        "item_embeddings": item_embeddings,
        "metrics": {"valid": to_plain(dict(valid)), "test": to_plain(dict(test)), **epochs},
    }


def _item_ids(model_name: str, dataset: GenRecDataset, data: GenRecDataset) -> torch.Tensor:
    """The teacher's id of every item, LongTensor [n_items]; refuses a teacher that would learn from other interactions than the run's."""
    id_of = data.field2token_id[data.iid_field]
    item_ids = torch.tensor(
        [id_of.get(token, 0) for token in dataset.field2id_token[dataset.iid_field]]
    )
    users, ours = (list(of.field2id_token[of.uid_field]) for of in (data, dataset))
    starts, items = data.sequences.starts, data.sequences.items
    is_same = (
        users == ours
        and torch.equal(starts, dataset.sequences.starts)
        and torch.equal(items, item_ids[dataset.sequences.items])
    )
    if not is_same or not bool(item_ids[1:].all()):
        raise UserError(
            f"the teacher {model_name} would see other users, items or interactions than its run: remove the settings of the data from "
            "teacher_settings, and leave the files of the data set as they are during a run"
        )
    return item_ids


def _create_trainer(config: GenRecConfig, model: torch.nn.Module, folder: str):
    """RecBole's trainer of this model; its TensorBoard files go to folder, not among those of the run that it is part of."""
    base = get_trainer(config["MODEL_TYPE"], config["model"])
    with tensorboard_writer(SummaryWriter(folder)):
        trainer = type(f"Plain{base.__name__}", (PlainCheckpoints, base), {})(config, model)
    collector = type(trainer.eval_collector)
    trainer.eval_collector = type(f"Plain{collector.__name__}", (PlainCollector, collector), {})(
        config
    )
    return trainer


@torch.no_grad()
def _item_table(model: torch.nn.Module) -> torch.Tensor:
    """Item embeddings of a model of RecBole, FloatTensor [n_items, D] (CPU), in the model's own item ids.

    Raises:
        ValueError: RecBole's names of item embeddings do not occur in the model.
    """
    name = type(model).__name__
    if hasattr(model, "restore_item_e"):
        model.eval()
        model.restore_user_e = model.restore_item_e = None
        model.full_sort_predict(Interaction({model.USER_ID: torch.tensor([1])}).to(model.device))
        return model.restore_item_e[: model.n_items].cpu()
    for group in _ITEM_TABLES:
        tables = [
            module
            for module in (getattr(model, table, None) for table in group)
            if isinstance(module, torch.nn.Embedding)
        ]
        # BERT4Rec has a row more, for its mask.
        if len(tables) == len(group) and all(
            table.num_embeddings >= model.n_items for table in tables
        ):
            return torch.cat([table.weight[: model.n_items] for table in tables], dim=1).cpu()
    raise UserError(
        f"{name} has the modules {sorted(dict(model.named_children()))}, but a teacher needs item embeddings: use a model with a table of "
        "items, such as SASRec, BPR, LightGCN or GRU4Rec"
    )


@contextmanager
def _own_random_state(config: GenRecConfig) -> Iterator[None]:
    """Give every random generator that RecBole uses, and cuDNN's switches, back as they were."""
    before = random.getstate(), np.random.get_state()
    cudnn = torch.backends.cudnn
    switches = cudnn.benchmark, cudnn.deterministic
    device = torch.device(config["device"])
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        cudnn.benchmark, cudnn.deterministic = switches
