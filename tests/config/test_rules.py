from __future__ import annotations

import pytest

from recbole_genrec.config.rules import check_rules

GENERATIVE = {
    "epochs": 1,
    "train_batch_size": 4,
    "eval_batch_size": 4,
    "tokenizer_epochs": 0,
    "warmup_epochs": 0.5,
    "MAX_ITEM_LIST_LENGTH": 20,
    "n_beams": 10,
    "metrics": ["Recall", "NDCG"],
    "topk": [5, 10],
    "valid_metric": "ndcg@10",
    "benchmark_filename": None,
    "enable_amp": False,
    "load_col": {"inter": ["user_id", "item_id"], "ent": ["ent_id", "ent_emb"]},
    "additional_feat_suffix": ["ent"],
    "preload_weight": {"ent_id": "ent_emb"},
    "alias_of_user_id": None,
    "alias_of_item_id": ["ent_id"],
    "clip_grad_norm": {"max_norm": 1.0},
    "learner": "adamw",
    "softmax_scope": "level",
    "scoring": "beam",
    "constrained": True,
    "tokenizer": "rqvae",
    "feature_scaling": "standardize",
    "scheduler": "cosine",
    "tokenizer_scheduler": "linear",
    "finetune_scheduler": "constant",
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "group_by": "user",
        "order": "TO",
        "mode": {"valid": "full", "test": "full"},
    },
}


def test_consistent_settings_pass():
    check_rules(dict(GENERATIVE), {"train_neg_sample_args": None})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_beams": 9}, "n_beams is 9, but a ranked list of 10 items"),
        ({"n_beams": 0}, "n_beams is 0"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": "many"}, "epochs is 'many'"),
        ({"eval_batch_size": -1}, "eval_batch_size is -1"),
        ({"train_batch_size": True}, "train_batch_size is True"),
        (
            {"tokenizer_epochs": -1},
            "tokenizer_epochs is -1, but has to be a whole number of at least 0",
        ),
        ({"n_user_tokens": -1}, "n_user_tokens is -1, but has to be a whole number of at least 0"),
        ({"n_levels": 0}, "n_levels is 0, but has to be a whole number of at least 1"),
        (
            {"codebook_size": 2.5},
            "codebook_size is 2.5, but has to be a whole number of at least 1",
        ),
        ({"counter_size": -1}, "counter_size is -1, but has to be a whole number of at least 0"),
        ({"learning_rate": "abc"}, "learning_rate is 'abc', but has to be a number"),
        (
            {"finetune_learning_rate": -0.1},
            "finetune_learning_rate is -0.1, but has to be at least 0",
        ),
        (
            {"contrastive_temperature": "low"},
            "contrastive_temperature is 'low', but has to be a number",
        ),
        ({"collaborative_weight": -1.0}, "collaborative_weight is -1.0, but has to be at least 0"),
        (
            {"group_sizes": [10]},
            r"group_sizes is \[10\], but has to be the least and the most codewords of a group",
        ),
        ({"topk": [0]}, r"topk is \[0\]"),
        ({"topk": []}, r"topk is \[\]"),
        ({"metrics": ["Recal"]}, "metrics is"),
        (
            {"alias_of_item_id": None},
            "preload_weight has the id field 'ent_id', but no alias says whose ids",
        ),
        (
            {"alias_of_item_id": ["x"], "additional_feat_suffix": "ent"},
            r"set for example alias_of_item_id to \[ent_id\]",
        ),
        ({"metrics": []}, "metrics is"),
        ({"metrics": ["NDCG", "GAUC"]}, "leave GAUC out"),
        ({"valid_metric": "NDCG@7"}, "valid_metric is 'NDCG@7'"),
        ({"valid_metric": "NDCG"}, "valid_metric is 'NDCG'"),
        ({"valid_metric": "MRR@10"}, "valid_metric is 'MRR@10'"),
        ({"eval_args": {**GENERATIVE["eval_args"], "split": {"RS": [8, 1, 1]}}}, "has split"),
        ({"eval_args": {**GENERATIVE["eval_args"], "order": "RO"}}, "has order"),
        ({"eval_args": {**GENERATIVE["eval_args"], "mode": "uni100"}}, "has mode"),
        (
            {"eval_args": {**GENERATIVE["eval_args"], "mode": {"valid": "uni100", "test": "full"}}},
            "has mode",
        ),
        ({"eval_args": "LS"}, "eval_args is 'LS'"),
        (
            {"softmax_scope": "item"},
            "softmax_scope is 'item', but has to be one of level, full, tree: choose one",
        ),
        (
            {"scoring": "teacher"},
            "scoring is 'teacher', but has to be one of beam, exact: choose one",
        ),
        (
            {"softmax_scope": "tree", "constrained": False},
            "softmax_scope is 'tree', whose probabilities are those of items, but constrained",
        ),
        (
            {"softmax_scope": "tree", "renormalize_trie": False},
            "softmax_scope is 'tree', which renormalizes in every search, but",
        ),
        (
            {"generation_temperature": 0},
            "generation_temperature is 0, but has to be above 0, as it divides logits or similarities",
        ),
        (
            {"scoring": "exact", "constrained": False},
            "scoring is 'exact', which ranks the catalogue, but constrained is False",
        ),
        ({"learner": "adagrad"}, "learner is 'adagrad', but has to be one of adamw, adam, sgd"),
        (
            {"scheduler": "step"},
            "scheduler is 'step', but has to be one of constant, linear, cosine, inverse_sqrt",
        ),
        (
            {"tokenizer_scheduler": None},
            "tokenizer_scheduler is None, but has to be one of constant",
        ),
        (
            {"finetune_scheduler": "Cosine"},
            "finetune_scheduler is 'Cosine', but has to be one of constant",
        ),
        ({"tokenizer": "vq"}, "tokenizer is 'vq', but has to be one of rqvae, residual_kmeans"),
        (
            {"feature_scaling": None},
            "feature_scaling is None, but has to be one of standardize, unit_norm, centered, raw",
        ),
        (
            {"cycle_epochs": 1, "epochs": 4},
            "cycle_epochs is 1, but a cycle has an epoch of the tokenizer and some of the recommender",
        ),
        (
            {"cycle_epochs": 4, "epochs": 6},
            "epochs is 6, but has to be a multiple of cycle_epochs, which is 4",
        ),
        (
            {"without": "x"},
            "without is 'x', but has to be one of nothing, sia, psa, alignment, alternation, end_to_end",
        ),
        (
            {"clip_grad_norm": 1.0},
            r"clip_grad_norm is 1.0, but has to be none or a largest norm: write \{max_norm: 1.0\}",
        ),
        ({"clip_grad_norm": {"norm_type": 2}}, "clip_grad_norm is {'norm_type': 2}"),
        (
            {"clip_grad_norm": {"max_norm": 1.0, "norm_type": 1}},
            "clip_grad_norm is {'max_norm': 1.0, 'norm_type': 1}",
        ),
        (
            {"benchmark_filename": ["train", "valid", "test"]},
            r"benchmark_filename is \['train', 'valid', 'test'\], but .* one .inter file",
        ),
    ],
)
def test_contradictions_of_a_generative_model_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_rules({**GENERATIVE, **change}, change)


@pytest.mark.parametrize(
    "change",
    [
        {"clip_grad_norm": None},
        {"softmax_scope": "full"},
        {"scoring": "exact"},
        {"constrained": False},
        {"learner": "sgd"},
        {"tokenizer": "residual_kmeans"},
        {"cycle_epochs": 2, "epochs": 4},
        {"scheduler": "inverse_sqrt"},
        {"feature_scaling": "unit_norm"},
        {"feature_scaling": "raw"},
    ],
)
def test_choices_of_a_generative_model_pass(change):
    check_rules({**GENERATIVE, **change}, change)


def test_other_models_are_free_in_what_generative_ones_are_not():
    settings = {key: value for key, value in GENERATIVE.items() if key != "n_beams"}
    free = {
        "benchmark_filename": ["a", "b", "c"],
        "enable_amp": True,
        "learner": "adagrad",
        "clip_grad_norm": {"norm_type": 2},
    }
    check_rules({**settings, **free, "scheduler": "step"}, {})


def test_sampled_negatives_of_a_generative_model_are_refused():
    with pytest.raises(ValueError, match="sample no negatives"):
        check_rules(dict(GENERATIVE), {"train_neg_sample_args": {"distribution": "uniform"}})


def test_other_models_choose_their_own_protocol():
    settings = {key: value for key, value in GENERATIVE.items() if key != "n_beams"}
    check_rules(
        {**settings, "eval_args": {"split": {"RS": [8, 1, 1]}}}, {"train_neg_sample_args": {}}
    )


def test_value_metrics_have_no_list_length():
    settings = {key: value for key, value in GENERATIVE.items() if key != "n_beams"}
    check_rules({**settings, "metrics": ["AUC"], "valid_metric": "AUC"}, {})
    with pytest.raises(ValueError, match="valid_metric is 'AUC@10'"):
        check_rules({**settings, "metrics": ["AUC"], "valid_metric": "AUC@10"}, {})
