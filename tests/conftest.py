from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)

# One line per user u1..u12: the items i1..i10 in time order. The second to last is the validation target, the last the test target.
TINY_SEQUENCES = (
    (1, 2, 3, 4, 5),
    (2, 3, 4, 5, 6),
    (3, 4, 5, 6, 7),
    (4, 5, 6, 7, 8, 9),
    (5, 6, 7, 8, 9),
    (6, 7, 8, 9, 10),
    (7, 8, 9, 10, 1),
    (8, 9, 10, 1, 2, 3),
    (9, 10, 1, 2, 3),
    (10, 1, 2, 3, 4),
    (1, 3, 5, 7, 9),
    (2, 4, 6, 8, 10, 1, 3),
)
TINY_TITLES = ("red drum", "red guitar", "blue drum", "blue guitar", "old red drum", "old piano", "new piano", "flute", "old flute", "horn")

# Sizes at which a whole run takes a second; temperatures at which every codeword has a share.
SMALL_SETTINGS = {
    "text_dim": 6,
    "n_levels": 3,
    "codebook_size": 4,
    "counter_size": 10,
    "code_dim": 4,
    "tokenizer_hidden_sizes": [8],
    "kmeans_iterations": 10,
    "tokenizer_epochs": 4,
    "tokenizer_batch_size": 4,
    "tokenizer_learning_rate": 0.01,
    "tokenizer_warmup_epochs": 1,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "head_size": 8,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "learning_rate": 0.01,
    "epochs": 2,
    "train_batch_size": 8,
    "eval_batch_size": 5,
    "n_beams": 5,
    "train_mode": "prefixes",
    "topk": [3, 5],
    "valid_metric": "NDCG@5",
}
SMALL_UNIGREC_SETTINGS = {
    "teacher_hidden_size": 8,
    "teacher_inner_size": 16,
    "teacher_n_layers": 1,
    "teacher_n_heads": 1,
    "teacher_epochs": 1,
    "temperature_max": 0.5,
    "temperature_min": 0.1,
    "temperature_unit": "absolute",
    "distillation_temperature": 0.1,
    "joint_tokenizer_learning_rate": 0.001,
    "finetune_epochs": 2,
}
SMALL_ETEGREC_SETTINGS = {
    **{key: value for key, value in SMALL_UNIGREC_SETTINGS.items() if key.startswith("teacher")},
    "joint_tokenizer_learning_rate": 0.01,
    "initial_weights": "normal",
    "epochs": 4,
    "alignment_warmup_epochs": 1,
    "sia_weight": 0.1,
    "psa_weight": 0.1,
    "finetune_epochs": 2,
}
SMALL_LETTER_SETTINGS = {
    **{key: value for key, value in SMALL_UNIGREC_SETTINGS.items() if key.startswith("teacher")},
    "teacher_hidden_size": 4,
    "counter_size": 0,
    "collaborative_weight": 0.1,
    "diversity_weight": 0.1,
    "n_groups": 2,
    "group_sizes": [1, 3],
    "regroup_every": 2,
}
SMALL_UNGER_SETTINGS = {
    "counter_size": 0,
    "embedding_size": 8,
    "din_attention_hidden_sizes": [8, 4],
    "din_scorer_hidden_sizes": [8],
    "din_negatives": 4,
    "adaption_hidden_size": 8,
    "alignment_extra_items": 3,
    "integration_epochs": 2,
    "integration_batch_size": 8,
    "integration_learning_rate": 0.01,
    "integration_valid_users": 7,
    "n_decoder_layers": 2,
    "distillation_negatives": 6,
}


@pytest.fixture
def tiny_data(tmp_path):
    """A folder that holds the data set `tiny`, for data_path.

    Times are one second apart at 1.4e9, where float32 has a spacing of 128 s, and every other user stands in the file backwards.
    """
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in enumerate(TINY_SEQUENCES, start=1):
        lines = [f"u{user}\ti{item}\t{1400000000 + step}" for step, item in enumerate(items)]
        rows.extend(lines if user % 2 else reversed(lines))
    (folder / "tiny.inter").write_text("\n".join(rows) + "\n")
    titles = [f"i{item}\t{title}" for item, title in enumerate(TINY_TITLES, start=1)]
    (folder / "tiny.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *titles]) + "\n")
    return folder.parent


@pytest.fixture
def tiny_settings(tiny_data, tmp_path, monkeypatch):
    """Settings of a run on `tiny` that writes only below tmp_path."""
    monkeypatch.chdir(tmp_path)
    return {
        "dataset": "tiny",
        "data_path": str(tiny_data),
        "checkpoint_dir": str(tmp_path / "saved"),
        "show_progress": False,
        "epochs": 2,
        "train_batch_size": 8,
        "topk": [3, 5],
        "valid_metric": "NDCG@5",
    }


@pytest.fixture
def small_settings(tiny_settings):
    """small_settings(model): settings of a whole run of a generative model on `tiny`."""

    def make(model: str) -> dict:
        own = {"UniGRec": SMALL_UNIGREC_SETTINGS, "ETEGRec": SMALL_ETEGREC_SETTINGS, "UNGER": SMALL_UNGER_SETTINGS}
        own["LETTER"] = SMALL_LETTER_SETTINGS
        return {**tiny_settings, **SMALL_SETTINGS, **own.get(model, {})}

    return make


@pytest.fixture
def tiny_sequences():
    """The literal sequences behind `tiny`, one tuple of item numbers per user."""
    return TINY_SEQUENCES
