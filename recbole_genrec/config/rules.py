"""Settings that contradict each other or the evaluation protocol: refused before anything runs."""

from __future__ import annotations

from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

from recbole_genrec.errors import UserError

SCHEDULERS = ("constant", "linear", "cosine", "inverse_sqrt")
CHOICES = {
    "learner": ("adamw", "adam", "sgd"),
    "softmax_scope": ("level", "full", "tree"),
    "scoring": ("beam", "exact"),
    "train_mode": ("prefixes", "all_positions"),
    "tokenizer": ("rqvae", "residual_kmeans", "random"),
    "feature_scaling": ("standardize", "unit_norm", "centered", "raw"),
    "quantization_reduction": ("sum", "mean"),
    "residual_gradient": ("through", "blocked"),
    "temperature_unit": ("variance", "absolute"),
    "initial_weights": ("t5", "normal"),
    "retokenize_every": ("step", "epoch"),
    "variant": (
        "cka_ikd",
        "cka",
        "concat",
        "collaborative",
        "semantic",
        "concat_ikd",
        "collaborative_ikd",
    ),
    "integrated_embedding": ("anchor", "mean"),
    "din_scorer": ("dot", "mlp"),
    "adaption_norm": ("adaptive", "plain", "none"),
    "alignment_similarity": ("cosine", "dot"),
    "encoder_input": ("item_id", "code_sum", "code_flat"),
    "generation_reduction": ("mean", "sum"),
    "ablation": ("M0", "M1", "M2", "M3", "M4", "M5", "M6"),
    "tokenizer_distillation_target": ("teacher", "item"),
    "without": ("nothing", "sia", "psa", "alignment", "alternation", "end_to_end"),
}
# What a row of UniGRec's ablation table adds to the one before; without it the run would be that
# row's.
_ADDED_BY_ROW = {
    "M2": "joint_tokenizer_learning_rate",
    "M3": "tokenizer_uniformity_weight",
    "M4": "tokenizer_distillation_weight",
    "M5": "recommender_distillation_weight",
}
_AT_LEAST_ONE = frozenset(
    [
        "epochs",
        "n_beams",
        "MAX_ITEM_LIST_LENGTH",
        "n_decoder_layers",
        "din_negatives",
        "distillation_negatives",
        "integration_valid_users",
        "n_groups",
        "regroup_every",
        "n_levels",
        "codebook_size",
        "code_dim",
        "kmeans_iterations",
        "head_size",
    ]
)
_AT_LEAST_ZERO = frozenset(
    ["n_user_tokens", "alignment_extra_items", "counter_size", "restart_every"]
)
_ABOVE_ZERO = frozenset(
    [
        "generation_temperature",
        "alignment_temperature",
        "distillation_temperature",
        "contrastive_temperature",
    ]
)
_NOT_NEGATIVE = frozenset(
    [
        "alignment_weight",
        "distillation_weight",
        "sia_weight",
        "psa_weight",
        "generation_weight",
        "reconstruction_weight",
        "uniformity_weight",
        "tokenizer_uniformity_weight",
        "tokenizer_distillation_weight",
        "recommender_distillation_weight",
        "collaborative_weight",
        "diversity_weight",
        "commitment_weight",
    ]
)


def check_rules(settings: dict[str, Any], given: dict[str, Any]) -> None:
    """Check merged settings.

    A model with the setting `n_beams` is a generative one.

    Args:
        settings: all settings.
        given: those of them that the user gave in files, dict or command line.

    Raises:
        ValueError: the first rule that is broken, with the value, the rule and the way out.
    """
    _check_counts(settings)
    _check_metrics(settings)
    _check_preloaded(settings)
    if "n_beams" in settings:
        _check_generative(settings, given)


def _check_counts(settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if value is None:
            continue
        if key in _AT_LEAST_ONE or key.endswith("batch_size"):
            least = 1
        elif (
            key in _AT_LEAST_ZERO
            or key.endswith("stopping_step")
            or (key.endswith("_epochs") and not key.endswith("warmup_epochs"))
        ):
            least = 0
        else:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(
                f"{key} is {value!r}, but has to be a whole number of at least {least}: give one, as in --{key}={least}"
            )


def _check_metrics(settings: dict[str, Any]) -> None:
    metrics = [settings["metrics"]] if isinstance(settings["metrics"], str) else settings["metrics"]
    unknown = [metric for metric in metrics if str(metric).lower() not in metric_types]
    if unknown or not metrics:
        raise UserError(
            f"metrics is {settings['metrics']!r}, but has to name metrics of RecBole: use some of {sorted(metric_types)}"
        )
    lengths = settings["topk"] if isinstance(settings["topk"], list) else [settings["topk"]]
    if not lengths or any(not isinstance(k, int) or isinstance(k, bool) or k < 1 for k in lengths):
        raise UserError(
            f"topk is {settings['topk']!r}, but has to be whole numbers of at least 1: use for example [5, 10]"
        )
    names = [name for metric in metrics for name in _result_names(metric, lengths)]
    if str(settings["valid_metric"]).lower() not in [name.lower() for name in names]:
        raise UserError(
            f"valid_metric is {settings['valid_metric']!r}, but has to be one of the computed {names}: change it, metrics or topk"
        )


def _result_names(metric: str, lengths: list[int]) -> list[str]:
    is_of_a_list = (
        metric_types[metric.lower()] == EvaluatorType.RANKING and metric.lower() != "gauc"
    )
    return [f"{metric}@{k}" for k in lengths] if is_of_a_list else [metric]


def _check_preloaded(settings: dict[str, Any]) -> None:
    """RecBole gives ids to the tokens of an additional file only by an alias, and else ends in a KeyError."""
    aliases = {
        field
        for key, fields in settings.items()
        if key.startswith("alias_of_")
        for field in fields or []
    }
    suffixes = settings["additional_feat_suffix"] or []
    loaded = settings["load_col"] if isinstance(settings["load_col"], dict) else {}
    added = {
        field
        for suffix in ([suffixes] if isinstance(suffixes, str) else suffixes)
        for field in loaded.get(suffix) or []
    }
    for field in settings["preload_weight"] or {}:
        if field in added and field not in aliases:
            raise UserError(
                f"preload_weight has the id field {field!r}, but no alias says whose ids these are: "
                f"set for example alias_of_item_id to [{field}]"
            )


def _check_generative(settings: dict[str, Any], given: dict[str, Any]) -> None:
    longest = max(settings["topk"]) if isinstance(settings["topk"], list) else settings["topk"]
    if settings["n_beams"] < longest:
        raise UserError(
            f"n_beams is {settings['n_beams']}, but a ranked list of {longest} items needs as many beams: raise n_beams or lower topk"
        )
    if given.get("train_neg_sample_args") is not None:
        raise UserError(
            f"train_neg_sample_args is {given['train_neg_sample_args']!r}, but generative models learn by cross-entropy over codes and "
            "sample no negatives: leave it out"
        )
    if "gauc" in str(settings["metrics"]).lower():
        raise UserError(
            f"metrics is {settings['metrics']!r}, but GAUC needs the rank of every item and beams give only the best: leave GAUC out"
        )
    if settings["benchmark_filename"] is not None:
        raise UserError(
            f"benchmark_filename is {settings['benchmark_filename']!r}, but generative models and their teacher need whole sequences: "
            "give one .inter file with a time column"
        )
    clipping = settings["clip_grad_norm"]
    _check_numbers(settings)
    if clipping is not None and (not isinstance(clipping, dict) or set(clipping) != {"max_norm"}):
        raise UserError(
            f"clip_grad_norm is {clipping!r}, but has to be none or a largest norm: write {{max_norm: 1.0}}"
        )
    _check_choices(settings)
    if "cycle_epochs" in settings:
        _check_cycles(settings["cycle_epochs"], settings["epochs"])
    if "ablation" in settings:
        _check_ablation(settings)
    _check_protocol(settings["eval_args"])


def _check_ablation(settings: dict[str, Any]) -> None:
    row, n_epochs = settings["ablation"], settings["epochs"]
    key = _ADDED_BY_ROW.get(row)
    if key is not None and not settings[key]:
        raise UserError(
            f"ablation is {row}, but what it adds is switched off by {key}, which is 0: raise it or choose another row"
        )
    if row in ("M4", "M5") and settings["distillation_warmup_epochs"] >= n_epochs:
        raise UserError(
            f"ablation is {row}, but distillation_warmup_epochs is {settings['distillation_warmup_epochs']} of {n_epochs} epochs, so "
            "nothing would be distilled: lower it, raise epochs or choose M3"
        )
    if not settings["temperature_max"] >= settings["temperature_min"] > 0:
        raise UserError(
            f"temperature_max is {settings['temperature_max']!r} and temperature_min {settings['temperature_min']!r}, but the temperature "
            "falls from one to the other and stays above 0: swap or raise them"
        )


def _check_choices(settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        choices = SCHEDULERS if key.endswith("scheduler") else CHOICES.get(key, None)
        if choices is not None and value not in choices:
            raise UserError(
                f"{key} is {value!r}, but has to be one of {', '.join(choices)}: choose one"
            )
    if settings["softmax_scope"] == "tree" and not settings["constrained"]:
        raise UserError(
            "softmax_scope is 'tree', whose probabilities are those of items, but constrained is False: use softmax_scope=level"
        )
    if settings["softmax_scope"] == "tree" and settings["renormalize_trie"] is False:
        raise UserError(
            "softmax_scope is 'tree', which renormalizes in every search, but renormalize_trie is False: leave it out"
        )
    if settings["scoring"] == "exact" and not settings["constrained"]:
        raise UserError(
            "scoring is 'exact', which ranks the catalogue, but constrained is False and codes need no item: use scoring=beam"
        )


def _check_cycles(cycle_epochs: int, epochs: int) -> None:
    if cycle_epochs < 2:
        raise UserError(
            f"cycle_epochs is {cycle_epochs}, but a cycle has an epoch of the tokenizer and some of the recommender: raise it"
        )
    if epochs % cycle_epochs:
        raise UserError(
            f"epochs is {epochs}, but has to be a multiple of cycle_epochs, which is {cycle_epochs}: the last cycle would stop half-way"
        )


def _check_numbers(settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        if key.endswith("stopping_step") and value is None:
            raise UserError(
                f"{key} is none, but the best validation is kept: give as many as there are epochs to never stop early"
            )
        is_rate = key.endswith("learning_rate")
        if key not in _ABOVE_ZERO and key not in _NOT_NEGATIVE and not is_rate:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise UserError(
                f"{key} is {value!r}, but has to be a number: write one, as in --{key}=0.1"
            )
        if key in _ABOVE_ZERO and not value > 0:
            raise UserError(
                f"{key} is {value!r}, but has to be above 0, as it divides logits or similarities: raise it"
            )
        if not value >= 0:
            raise UserError(f"{key} is {value!r}, but has to be at least 0: raise it")
    sizes = settings.get("group_sizes", [1, 1])
    if (
        not isinstance(sizes, list)
        or len(sizes) != 2
        or not all(isinstance(size, int) for size in sizes)
    ):
        raise UserError(
            f"group_sizes is {sizes!r}, but has to be the least and the most codewords of a group: write for example [10, 60]"
        )
    windows = settings.get("din_windows", [1])
    if (
        not isinstance(windows, list)
        or not windows
        or not all(isinstance(size, int) and size > 0 for size in windows)
    ):
        raise UserError(
            f"din_windows is {windows!r}, but has to be whole numbers of at least 1: write for example [20]"
        )


def _check_protocol(eval_args: Any) -> None:
    if not isinstance(eval_args, dict):
        raise UserError(
            f"eval_args is {eval_args!r}, but has to be a mapping with split, group_by, order and mode: leave it out"
        )
    modes = (
        eval_args["mode"].values() if isinstance(eval_args["mode"], dict) else [eval_args["mode"]]
    )
    wanted = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    for key, value in wanted.items():
        if eval_args[key] != value:
            raise UserError(
                f"eval_args has {key} {eval_args[key]!r}, but generative models are evaluated with {value!r}: leave it out"
            )
    if any(mode != "full" for mode in modes):
        raise UserError(
            f"eval_args has mode {eval_args['mode']!r}, but generative models rank the whole catalogue: use 'full'"
        )
