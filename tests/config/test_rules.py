"""Settings are refused before anything runs, with value, rule and way out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recbole_genrec.config.models import find_model
from recbole_genrec.config.reading import properties_folder, read_yaml
from recbole_genrec.config.rules import check_settings, rules_of
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError

GENERATIVE_MODELS = ("ETEGRec", "LETTER", "TIGER", "UNGER", "UniGRec")
FULL = {"valid": "full", "test": "full"}
PROTOCOL = {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": FULL}
PRELOADED = {
    "load_col": {"inter": ["user_id", "item_id"], "ent": ["ent_id", "ent_emb"]},
    "additional_feat_suffix": ["ent"],
    "preload_weight": {"ent_id": "ent_emb"},
    "alias_of_user_id": None,
    "alias_of_item_id": ["ent_id"],
}


@cache
def defaults(model: str) -> dict[str, Any]:
    return GenRecConfig(model).settings()


def check(model: str, **change: Any) -> dict[str, Any]:
    return check_settings(find_model(model), {**defaults(model), **change}, change)


@pytest.mark.parametrize("model", [*GENERATIVE_MODELS, "SASRec", "BPR"])
def test_defaults_pass_and_stay(model):
    assert check(model) == defaults(model)


def test_a_preloaded_field_with_an_alias_passes():
    check("SASRec", **PRELOADED)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_beams": 9}, "n_beams is 9, but a ranked list of 20 items"),
        ({"n_beams": 0}, "n_beams is 0, but has to be a whole number of at least 1"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH is 0"),
        ({"epochs": 0}, "epochs is 0, but .*: give one, as in --epochs=1"),
        ({"epochs": "many"}, "epochs is 'many'"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"seed": 2**32}, "seed is 4294967296, but .* of at least 0 and of at most 4294967295"),
        ({"eval_batch_size": -1}, "eval_batch_size is -1"),
        ({"train_batch_size": True}, "train_batch_size is True"),
        ({"stopping_step": None}, "stopping_step is None, but has to be a whole number"),
        ({"tokenizer_epochs": -1}, "tokenizer_epochs is -1, but .* of at least 0"),
        ({"n_user_tokens": -1}, "n_user_tokens is -1, but .* of at least 0"),
        ({"n_levels": 0}, "n_levels is 0, but .* of at least 1"),
        ({"codebook_size": 2.5}, "codebook_size is 2.5, but .* of at least 1"),
        ({"counter_size": -1}, "counter_size is -1, but .* of at least 0"),
        ({"learning_rate": "abc"}, "learning_rate is 'abc', but has to be a number of at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"commitment_weight": -1.0}, "commitment_weight is -1.0, but .* number of at least 0"),
        ({"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1, .* at least 0 and below 1"),
        ({"generation_temperature": 0}, "generation_temperature is 0, .* a number above 0"),
        ({"constrained": "maybe"}, "constrained is 'maybe', but has to be True or False"),
        ({"renormalize_trie": 2}, "renormalize_trie is 2, but has to be True or False, or none"),
        ({"data_path": True}, "data_path is True, but has to be text"),
        ({"item_features": []}, r"item_features is \[\], but has to be text or a mapping"),
        ({"tokenizer_hidden_sizes": [0]}, "a list of whole numbers of at least 1: write for"),
        ({"topk": [0]}, r"topk is \[0\]"),
        ({"topk": []}, r"topk is \[\]"),
        ({"metrics": ["Recal"]}, "metrics is"),
        ({"metrics": []}, "metrics is"),
        ({"metrics": ["NDCG", "GAUC"]}, "leave GAUC out"),
        ({"valid_metric": "NDCG@7"}, "valid_metric is 'NDCG@7'"),
        ({"valid_metric": "NDCG"}, "valid_metric is 'NDCG'"),
        ({"valid_metric": "MAP@10"}, "valid_metric is 'MAP@10'"),
        (
            {**PRELOADED, "alias_of_item_id": None},
            "preload_weight has the id field 'ent_id', but no alias says whose ids",
        ),
        (
            {**PRELOADED, "alias_of_item_id": ["x"], "additional_feat_suffix": "ent"},
            r"set for example alias_of_item_id to \[ent_id\]",
        ),
        ({"eval_args": {**PROTOCOL, "split": {"RS": [8, 1, 1]}}}, "has split"),
        ({"eval_args": {**PROTOCOL, "order": "RO"}}, "has order"),
        ({"eval_args": {**PROTOCOL, "mode": "uni100"}}, "has mode"),
        ({"eval_args": {**PROTOCOL, "mode": {"valid": "uni100", "test": "full"}}}, "has mode"),
        ({"eval_args": "LS"}, "eval_args is 'LS', but has to be a mapping"),
        (
            {"softmax_scope": "item"},
            "softmax_scope is 'item', but has to be one of level, full, tree: choose one",
        ),
        (
            {"softmax_scope": "tree", "constrained": False},
            "softmax_scope is 'tree', whose probabilities are over items, but constrained",
        ),
        (
            {"softmax_scope": "tree", "renormalize_trie": False},
            "softmax_scope is 'tree', which renormalizes in every search, but",
        ),
        (
            {"scoring": "exact", "constrained": False},
            "scoring is 'exact', which ranks the catalogue, but constrained is False",
        ),
        ({"learner": "adagrad"}, "learner is 'adagrad', but has to be one of adamw, adam, sgd"),
        ({"scheduler": "step"}, "scheduler is 'step', but has to be one of constant, linear"),
        ({"tokenizer_scheduler": None}, "tokenizer_scheduler is None, but has to be one of"),
        ({"tokenizer": "vq"}, "tokenizer is 'vq', but has to be one of rqvae, residual_kmeans"),
        ({"feature_scaling": None}, "feature_scaling is None, but has to be one of standardize"),
        (
            {"clip_grad_norm": 1.0},
            r"clip_grad_norm is 1.0, but .* maximum norm .*, or none: write \{max_norm: 1.0\}",
        ),
        ({"clip_grad_norm": {"norm_type": 2}}, "clip_grad_norm is {'norm_type': 2}"),
        ({"clip_grad_norm": {"max_norm": -1.0}}, "clip_grad_norm is {'max_norm': -1.0}"),
        ({"clip_grad_norm": {"max_norm": 1.0, "norm_type": 1}}, "clip_grad_norm is {'max_norm'"),
        (
            {"benchmark_filename": ["train", "valid", "test"]},
            r"benchmark_filename is \['train', 'valid', 'test'\], but .* one .inter file",
        ),
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "sample no negatives"),
    ],
)
def test_shared_settings_of_a_generative_model_are_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        check("TIGER", **change)


@pytest.mark.parametrize(
    ("model", "change", "sentence"),
    [
        ("LETTER", {"collaborative_weight": -1.0}, "collaborative_weight is -1.0, but"),
        ("LETTER", {"group_sizes": [10]}, r"group_sizes is \[10\], but .* write for .*10, 60"),
        ("UNGER", {"din_windows": []}, r"din_windows is \[\], but .* write for example \[20\]"),
        ("UNGER", {"train_mode": "all_positions"}, "the losses of UNGER need a row per next item"),
        ("UniGRec", {"contrastive_temperature": "low"}, "contrastive_temperature is 'low'"),
        ("ETEGRec", {"finetune_learning_rate": -0.1}, "finetune_learning_rate is -0.1, but"),
        ("ETEGRec", {"finetune_scheduler": "Cosine"}, "finetune_scheduler is 'Cosine', but"),
        ("SASRec", {"hidden_size": "abc"}, "hidden_size is 'abc', but has to be a whole number"),
        ("S3Rec", {"pretrain_epochs": 1.5}, "pretrain_epochs is 1.5, but has to be a whole number"),
        ("ETEGRec", {"cycle_epochs": 1}, "cycle_epochs is 1, but has to be .* at least 2"),
        (
            "ETEGRec",
            {"cycle_epochs": 4, "epochs": 6},
            "epochs is 6, but has to be a multiple of cycle_epochs, which is 4",
        ),
    ],
)
def test_settings_of_one_model_are_refused(model, change, sentence):
    with pytest.raises(UserError, match=sentence):
        check(model, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"clip_grad_norm": None},
        {"softmax_scope": "full"},
        {"scoring": "exact"},
        {"constrained": False},
        {"learner": "sgd"},
        {"tokenizer": "residual_kmeans"},
        {"scheduler": "inverse_sqrt"},
        {"feature_scaling": "raw"},
        {"feature_pca": None},
        {"tokenizer_hidden_sizes": []},
    ],
)
def test_choices_of_a_generative_model_pass(change):
    assert check("TIGER", **change).items() >= change.items()


def test_other_models_are_free_in_what_generative_ones_are_not():
    free = {
        "benchmark_filename": ["a", "b", "c"],
        "enable_amp": True,
        "learner": "adagrad",
        "clip_grad_norm": {"norm_type": 2},
        "scheduler": "step",
        "eval_args": {"split": {"RS": [8, 1, 1]}},
        "train_neg_sample_args": {"distribution": "uniform"},
    }
    assert check("SASRec", **free).items() >= free.items()


def test_value_metrics_have_no_list_length():
    check("SASRec", metrics=["AUC"], valid_metric="AUC")
    with pytest.raises(UserError, match="valid_metric is 'AUC@10'"):
        check("SASRec", metrics=["AUC"], valid_metric="AUC@10")


def keys_of(*files: str) -> set[str]:
    return {key for file in files for key in read_yaml(properties_folder() / file)}


@pytest.mark.parametrize("model", GENERATIVE_MODELS)
def test_every_setting_is_declared_and_every_declaration_has_a_default(model):
    recipes = sorted((properties_folder() / "recipe").glob(f"{model.lower()}_*.yaml"))
    files = ["overall.yaml", "generative.yaml", f"model/{model}.yaml"]
    declared = set(rules_of(find_model(model)))
    assert keys_of(*files) <= declared
    assert declared <= set(defaults(model)), "a default stands in a property file"
    for recipe in recipes:
        config = GenRecConfig(model, config_dict={"recipe": recipe.stem.split("_", 1)[1]})
        assert keys_of(f"recipe/{recipe.name}") <= set(rules_of(config.model_class))
        assert set(rules_of(config.model_class)) <= set(config.settings())


def test_the_tested_models_are_all_generative_models():
    files = sorted(Path(properties_folder() / "model").glob("*.yaml"))
    names = {file.stem for file in files if hasattr(find_model(file.stem), "check_settings")}
    assert names == set(GENERATIVE_MODELS)
