"""Check all settings before anything runs: each by its declaration, then how they go together."""

from __future__ import annotations

from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType

from recbole_genrec.config.declare import Rule, declared
from recbole_genrec.config.models import is_generative
from recbole_genrec.config.shared import EVERY_MODEL, GENERATIVE, RECBOLE
from recbole_genrec.errors import UserError


def rules_of(model_class: type) -> dict[str, Rule]:
    """Return the rules of a model's settings; its own win over the shared ones."""
    shared = {**EVERY_MODEL, **(GENERATIVE if is_generative(model_class) else RECBOLE)}
    return {**shared, **declared(model_class)}


def check_settings(
    model_class: type, settings: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """Check merged settings.

    Args:
        model_class: the model that they are for.
        settings: all settings.
        given: the settings that the user gave in files, dict or command line.

    Returns:
        The settings, with plain values where something is declared.

    Raises:
        UserError: the first rule that is broken, with the value, the rule and the way out.
    """
    rules = rules_of(model_class)
    checked = {
        key: rules[key].check(key, value) if key in rules else value
        for key, value in settings.items()
    }
    _check_valid_metric(checked)
    _check_preloaded(checked)
    _check_loss_type(model_class, checked)
    if is_generative(model_class):
        _check_generative(checked, given)
        _check_search(checked)
        _check_protocol(checked["eval_args"])
    if hasattr(model_class, "check_settings"):
        model_class.check_settings(checked)
    return checked


def _check_valid_metric(settings: dict[str, Any]) -> None:
    names = [
        name for metric in settings["metrics"] for name in _result_names(metric, settings["topk"])
    ]
    if settings["valid_metric"].lower() not in [name.lower() for name in names]:
        raise UserError(
            f"valid_metric is {settings['valid_metric']!r}, but has to be one of the computed "
            f"{names}: change it, metrics or topk"
        )


def _result_names(metric: str, lengths: list[int]) -> list[str]:
    is_of_a_list = (
        metric_types[metric.lower()] == EvaluatorType.RANKING and metric.lower() != "gauc"
    )
    name = metric.rpartition(":")[2]  # of a path, the class
    return [f"{name}@{k}" for k in lengths] if is_of_a_list else [name]


def _check_preloaded(settings: dict[str, Any]) -> None:
    """Refuse an id field without an alias, which RecBole would meet with a KeyError."""
    aliases = {
        field
        for key, fields in settings.items()
        if key.startswith("alias_of_")
        for field in fields or []
    }
    suffixes = settings["additional_feat_suffix"] or []
    loaded = settings["load_col"] or {}
    added = {
        field
        for suffix in ([suffixes] if isinstance(suffixes, str) else suffixes)
        for field in loaded.get(suffix) or []
    }
    for field in settings["preload_weight"] or {}:
        if field in added and field not in aliases:
            raise UserError(
                f"preload_weight has the id field {field!r}, but no alias says whose ids these "
                f"are: set for example alias_of_item_id to [{field}]"
            )


def _check_loss_type(model_class: type, settings: dict[str, Any]) -> None:
    """Refuse a loss that RecBole does not know, which it would meet with a KeyError."""
    loss_type = settings.get("loss_type")
    if not hasattr(model_class, "input_type") and loss_type not in ("CE", "BPR"):
        raise UserError(
            f"loss_type is {loss_type!r}, but RecBole trains {model_class.__name__} by CE or BPR: "
            "choose one of them"
        )


def _check_generative(settings: dict[str, Any], given: dict[str, Any]) -> None:
    longest = max(settings["topk"])
    if settings["n_beams"] < longest:
        raise UserError(
            f"n_beams is {settings['n_beams']}, but a ranked list of {longest} items needs as many "
            "beams: raise n_beams or lower topk"
        )
    if given.get("train_neg_sample_args") is not None:
        raise UserError(
            f"train_neg_sample_args is {given['train_neg_sample_args']!r}, but generative models "
            "learn by cross-entropy over codes and sample no negatives: leave it out"
        )
    if "gauc" in map(str.lower, settings["metrics"]):
        raise UserError(
            f"metrics is {settings['metrics']!r}, but GAUC needs the rank of every item and beams "
            "give only the best: leave GAUC out"
        )
    if settings["benchmark_filename"] is not None:
        raise UserError(
            f"benchmark_filename is {settings['benchmark_filename']!r}, but generative models and "
            "their teacher need whole sequences: give one .inter file with a time column"
        )


def _check_search(settings: dict[str, Any]) -> None:
    if settings["softmax_scope"] == "tree" and not settings["constrained"]:
        raise UserError(
            "softmax_scope is 'tree', whose probabilities are over items, but constrained is "
            "False: use softmax_scope=level"
        )
    if settings["softmax_scope"] == "tree" and settings["renormalize_trie"] is False:
        raise UserError(
            "softmax_scope is 'tree', which renormalizes in every search, but renormalize_trie is "
            "False: leave it out"
        )
    if settings["scoring"] == "exact" and not settings["constrained"]:
        raise UserError(
            "scoring is 'exact', which ranks the catalogue, but constrained is False and codes "
            "need no item: use scoring=beam"
        )


def _check_protocol(eval_args: dict[str, Any]) -> None:
    wanted = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    for key, value in wanted.items():
        if eval_args[key] != value:
            raise UserError(
                f"eval_args has {key} {eval_args[key]!r}, but generative models are evaluated with "
                f"{value!r}: leave it out"
            )
    mode = eval_args["mode"]
    if any(part != "full" for part in (mode.values() if isinstance(mode, dict) else [mode])):
        raise UserError(
            f"eval_args has mode {mode!r}, but generative models rank the whole catalogue: use "
            "'full'"
        )
