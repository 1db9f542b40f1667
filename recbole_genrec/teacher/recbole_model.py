"""A general or sequential recommender of RecBole as a teacher, trained by RecBole's own trainer.

The teacher learns from the training part of the run's leave-one-out split. Its data set is read
from the same files by the same rules. Before it trains, users, sequences and split are compared
with the run's, and items are joined by token.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import recbole.data.dataset
import torch
from recbole.data.interaction import Interaction
from recbole.utils.argument_list import dataset_arguments

from recbole_genrec.compat import NullWriter, plain_trainer, tensorboard_writer
from recbole_genrec.config.models import find_model
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GeneralDataset, GenRecDataset
from recbole_genrec.data.loaders import make_loaders
from recbole_genrec.errors import UserError
from recbole_genrec.storage import to_plain

# Folders, devices and display: no result depends on these.
_WITHOUT_EFFECT = ("data_path", "gpu_id", "use_gpu", "state", "show_progress")
# A teacher with other values would be no teacher of this run.
RUN_KEYS = (
    "seed",
    "reproducibility",
    "eval_args",
    "benchmark_filename",
    "encoding",
    *_WITHOUT_EFFECT,
)
SETTINGS_WITHOUT_EFFECT = (*_WITHOUT_EFFECT, "checkpoint_dir", "eval_batch_size")
# Taken over from the run, unless teacher_settings has them.
_RANKING_KEYS = ("metrics", "topk", "valid_metric", "metric_decimal_place", "repeatable")
# RecBole's names of item tables; the tables of a group are joined side by side.
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


def settings_of_run(config: GenRecConfig, *further: str) -> dict[str, Any]:
    """Return the settings of the data, split and seed of a run, and some more by name."""
    settings = config.settings()
    keys = (*dataset_arguments, *RUN_KEYS, "eval_batch_size", *further)
    return {key: settings[key] for key in keys if key in settings}


def recbole_config(config: GenRecConfig, dataset: GenRecDataset, model_name: str) -> GenRecConfig:
    """Return the settings of a teacher.

    teacher_settings has the model's settings. Data, split, metrics and seed are the run's, the
    rest is RecBole's.

    Raises:
        UserError: no such model, a model with data of its own, or teacher_settings that the model
            does not know or shares with the run.
    """
    _check_model(model_name)
    own = config["teacher_settings"]
    if own is not None and not isinstance(own, Mapping):
        raise UserError(
            f"teacher_settings is {own!r}, but has to be a mapping: "
            "write for example {embedding_size: 32, epochs: 50}"
        )
    own = dict(own or {})
    refused = [key for key in own if key in (*RUN_KEYS, "model", "dataset", "checkpoint_dir")]
    if refused:
        raise UserError(
            f"teacher_settings has {refused[0]!r}, but a teacher shares it with its run: "
            "set it outside of teacher_settings"
        )
    given = settings_of_run(config, *_RANKING_KEYS)
    if _is_general(find_model(model_name)):
        # RecBole counts histories for a sequential model, but scores for a general one.
        given["eval_batch_size"] *= dataset.item_num
    return GenRecConfig(model_name, config["dataset"], config_dict={**given, **own})


def _check_model(model_name: str) -> None:
    module = find_model(model_name).__module__.split(".")
    is_plain = module[0] == "recbole" and module[2] in (
        "general_recommender",
        "sequential_recommender",
    )
    if not is_plain or hasattr(recbole.data.dataset, f"{model_name}Dataset"):
        raise UserError(
            f"{model_name} cannot be a teacher, because a teacher learns from interactions alone: "
            "use a general or sequential recommender of RecBole, such as SASRec, BPR or LightGCN"
        )


def _is_general(model_class: type) -> bool:
    return model_class.__module__.split(".")[2] == "general_recommender"


def train_recbole(config: GenRecConfig, dataset: GenRecDataset) -> dict[str, Any]:
    """Train a teacher and return its item embeddings and metrics.

    Models that propagate embeddings over the graph of users and items (LightGCN, NGCF and others)
    give the propagated embeddings, with which they rank. FPMC, NeuMF, FISM and NAIS give their two
    or three tables side by side.

    Args:
        config: see recbole_config.
        dataset: the data set of the run.

    Returns:
        "item_embeddings": float32 [n_items, d] on the CPU, by the run's item ids, row 0 zeros;
        "metrics": {"valid": {metric: value}, "test": {metric: value}}.

    Raises:
        UserError: the model has no item embeddings, would see other data than the run, or is never
            validated.
    """
    data = (GeneralDataset if _is_general(config.model_class) else GenRecDataset)(config)
    item_ids = _item_ids(config["model"], dataset, data)
    train_data, valid_data, test_data = make_loaders(config, data)
    model = config.model_class(config, train_data.dataset).to(config["device"])
    _item_table(model)  # refuses a model without one before it is trained
    with tempfile.TemporaryDirectory() as folder:
        config["checkpoint_dir"] = folder
        # RecBole would write the teacher's figures under the names of the run's own.
        with tensorboard_writer(NullWriter()):
            trainer = plain_trainer(config, model)
        _, valid = trainer.fit(train_data, valid_data, show_progress=config["show_progress"])
        if valid is None:
            raise UserError(
                f"eval_step of the teacher {config['model']} is {config['eval_step']}, but the "
                "epoch with the best validation is kept: set it to 1 or more in teacher_settings"
            )
        test = trainer.evaluate(test_data, show_progress=config["show_progress"])
    item_embeddings = _item_table(model)[item_ids].float()
    item_embeddings[0] = 0
    return {
        "item_embeddings": item_embeddings,
        "metrics": {"valid": to_plain(dict(valid)), "test": to_plain(dict(test))},
    }


def _item_ids(model_name: str, dataset: GenRecDataset, data: GenRecDataset) -> torch.Tensor:
    """Return the teacher's id of every item of the run, int64 [n_items].

    Raises:
        UserError: the teacher would learn from other interactions than the run.
    """
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
            f"the teacher {model_name} would see other users, items or interactions than its run: "
            "remove the settings of the data from teacher_settings, and leave the files of the "
            "data set as they are during a run"
        )
    return item_ids


@torch.no_grad()
def _item_table(model: Any) -> torch.Tensor:
    """Return a model's item embeddings, float [n_items, d] on the CPU, by its own item ids.

    Raises:
        UserError: the model has none of RecBole's names of item embeddings.
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
        # BERT4Rec has one more row, for its mask.
        if len(tables) == len(group) and all(
            table.num_embeddings >= model.n_items for table in tables
        ):
            return torch.cat([table.weight[: model.n_items] for table in tables], dim=1).cpu()
    raise UserError(
        f"{name} has the modules {sorted(dict(model.named_children()))}, but a teacher needs item "
        "embeddings: use a model with a table of items, such as SASRec, BPR, LightGCN or GRU4Rec"
    )
