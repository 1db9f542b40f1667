"""Settings that all models or all generative models share, declared without defaults.

Their defaults stand in properties/overall.yaml, properties/generative.yaml and RecBole's own files.
"""

from __future__ import annotations

from typing import Any

from recbole.evaluator import metric_types

from recbole_genrec.config.declare import (
    Rule,
    either,
    flag,
    list_of,
    mapping,
    number,
    one_of,
    optional,
    text,
    whole,
)
from recbole_genrec.config.own_metrics import import_metric

SCHEDULERS = ("constant", "linear", "cosine", "inverse_sqrt")
_MAX_SEED = 2**32 - 1  # of numpy


def hidden_sizes() -> Rule:
    """Widths of hidden layers; an empty list means none."""
    return list_of(whole(min=1), example="[512, 256]", min_length=0)


def _list_lengths() -> Rule:
    lengths = list_of(whole(min=1), example="[5, 10]")
    return Rule(
        "whole numbers of at least 1",
        "use for example [5, 10]",
        lambda value: lengths.read(value if isinstance(value, (list, tuple)) else [value]),
    )


def _metrics() -> Rule:
    def read(value: Any) -> list[str]:
        names = [value] if isinstance(value, str) else list(value)
        for name in names:
            if ":" in str(name):
                import_metric(str(name))
        if not names or any(str(name).lower() not in metric_types for name in names):
            raise ValueError
        return names

    return Rule(
        "the names of metrics of RecBole or paths module:Class",
        f"use some of {sorted(metric_types)}",
        read,
    )


def _clipping() -> Rule:
    max_norm = number(above=0)

    def read(value: Any) -> dict[str, float]:
        if set(value) != {"max_norm"}:
            raise ValueError
        return {"max_norm": max_norm.read(value["max_norm"])}

    return optional(Rule("a maximum norm of the gradient", "write {max_norm: 1.0}", read))


def _gpus() -> Rule:
    numbers = list_of(whole(min=0), example="[0, 1]")

    def read(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ",".join(map(str, numbers.read(value)))
        return text().read(value)

    return Rule("the number of a GPU, or several as in 0,1", "give one, as in --gpu_id=0", read)


_FIELDS = list_of(text(), example="[ent_id]", min_length=0)
EVERY_MODEL = {
    "model": text(),
    "dataset": text(),
    "recipe": optional(text()),
    "model_class": optional(text()),
    "seed": whole(min=0, max=_MAX_SEED),
    "reproducibility": flag(),
    "state": optional(text()),
    "show_progress": flag(),
    "data_path": text(),
    "mirror": optional(text()),
    "resume": optional(text()),
    "checkpoint_dir": text(),
    "load_col": optional(mapping()),
    "normalize_all": optional(flag()),
    "threshold": optional(mapping()),
    "MAX_ITEM_LIST_LENGTH": whole(min=1),
    "eval_args": mapping(),
    "repeatable": flag(),
    "metrics": _metrics(),
    "topk": _list_lengths(),
    "valid_metric": text(),
    "metric_decimal_place": whole(min=0),
    "epochs": whole(min=1),
    "train_batch_size": whole(min=1),
    "eval_batch_size": whole(min=1),
    "learning_rate": number(min=0),
    "weight_decay": number(min=0),
    "eval_step": whole(min=0),
    "stopping_step": whole(min=0),
    "use_gpu": flag(),
    "gpu_id": _gpus(),
    "enable_amp": flag(),
    "worker": whole(min=0),
    "additional_feat_suffix": optional(either(_FIELDS, text())),
    "preload_weight": optional(mapping()),
    **{f"alias_of_{name}_id": optional(_FIELDS) for name in ("user", "item", "entity", "relation")},
}
# Of models of RecBole, which check none.
RECBOLE = {
    "pretrain_epochs": whole(min=0),
    "hidden_size": whole(min=1),
    "inner_size": whole(min=1),
    "embedding_size": whole(min=1),
    "n_layers": whole(min=1),
    "n_heads": whole(min=1),
    "hidden_dropout_prob": number(min=0, below=1),
    "attn_dropout_prob": number(min=0, below=1),
}
GENERATIVE = {
    "item_features": either(text(), mapping()),
    "item_feature_tokens": optional(text()),
    "text_fields": optional(either(list_of(text(), example="[title, brand]"), text())),
    "text_template": optional(text()),
    "text_dim": whole(min=1),
    "text_min_df": whole(min=1),
    "text_batch_size": whole(min=1),
    "ppmi_window": whole(min=1),
    "ppmi_dim": whole(min=1),
    "ppmi_shift": number(min=1),
    "feature_pca": optional(whole(min=1)),
    "feature_scaling": one_of("standardize", "unit_norm", "centered", "raw"),
    "feature_cache_dir": optional(text()),
    "teacher_hidden_size": whole(min=1),
    "teacher_inner_size": whole(min=1),
    "teacher_n_layers": whole(min=1),
    "teacher_n_heads": whole(min=1),
    "teacher_dropout_prob": number(min=0, below=1),
    "teacher_learning_rate": number(min=0),
    "teacher_batch_size": whole(min=1),
    "teacher_epochs": whole(min=0),
    "teacher_stopping_step": whole(min=0),
    "teacher_cache_dir": optional(text()),
    "teacher_settings": optional(mapping()),
    "n_levels": whole(min=1),
    "codebook_size": whole(min=1),
    "counter_size": whole(min=0),
    "code_dim": whole(min=1),
    "tokenizer_hidden_sizes": hidden_sizes(),
    "kmeans_iterations": whole(min=1),
    "tokenizer_epochs": whole(min=0),
    "tokenizer_batch_size": whole(min=1),
    "tokenizer_learning_rate": number(min=0),
    "tokenizer_weight_decay": number(min=0),
    "tokenizer_scheduler": one_of(*SCHEDULERS),
    "tokenizer_warmup_epochs": number(min=0),
    "hidden_size": whole(min=1),
    "inner_size": whole(min=1),
    "n_layers": whole(min=1),
    "n_heads": whole(min=1),
    "head_size": whole(min=1),
    "hidden_dropout_prob": number(min=0, below=1),
    "attn_dropout_prob": number(min=0, below=1),
    "softmax_scope": one_of("level", "full", "tree"),
    "generation_temperature": number(above=0),
    "learner": one_of("adamw", "adam", "sgd"),
    "scheduler": one_of(*SCHEDULERS),
    "warmup_epochs": number(min=0),
    "clip_grad_norm": _clipping(),
    "train_mode": one_of("prefixes", "all_positions"),
    "n_beams": whole(min=1),
    "scoring": one_of("beam", "exact"),
    "constrained": flag(),
    "compile_search": flag(),
    "renormalize_trie": optional(flag()),
}
