from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.loaders import make_evaluation_loaders
from recbole_genrec.quick_start import create_dataset, create_model
from recbole_genrec.trainer.optimizer import StageOptimizer, training_only

torch.set_num_threads(1)

# One line per user u1..u12: the items i1..i10 in time order. The second to last is the validation
# target, the last the test target.
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
TINY_TITLES = (
    "red drum",
    "red guitar",
    "blue drum",
    "blue guitar",
    "old red drum",
    "old piano",
    "new piano",
    "flute",
    "old flute",
    "horn",
)

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

    Times are one second apart at 1.4e9, where float32 has a spacing of 128 s, and every other user
    stands in the file backwards.
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
        own = {
            "UniGRec": SMALL_UNIGREC_SETTINGS,
            "ETEGRec": SMALL_ETEGREC_SETTINGS,
            "UNGER": SMALL_UNGER_SETTINGS,
        }
        own["LETTER"] = SMALL_LETTER_SETTINGS
        return {**tiny_settings, **SMALL_SETTINGS, **own.get(model, {})}

    return make


@pytest.fixture
def tiny_sequences():
    """The literal sequences behind `tiny`, one tuple of item numbers per user."""
    return TINY_SEQUENCES


HEADER = "user_id:token\titem_id:token\ttimestamp:float"
TEACHER_SIZES = {
    "BPR": {"embedding_size": 4},
    "LightGCN": {"embedding_size": 4, "n_layers": 2},
    "GRU4Rec": {"embedding_size": 4, "hidden_size": 4},
    "BERT4Rec": {"mask_ratio": 0.6, "hidden_size": 4, "inner_size": 8, "n_layers": 1, "n_heads": 1},
    "FPMC": {"embedding_size": 4},
}


@pytest.fixture
def make_config(tmp_path, monkeypatch):
    """make_config(rows, ...): RecBole's settings of a data set, written if rows are given."""
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def make(rows=None, name="toy", model="SASRec", header=HEADER, **settings):
        if rows is not None:
            (tmp_path / name).mkdir(exist_ok=True)
            lines = ["\t".join(map(str, row)) for row in rows]
            (tmp_path / name / f"{name}.inter").write_text("\n".join([header, *lines]) + "\n")
        columns = [column.split(":")[0] for column in header.split("\t")]
        base = {
            "data_path": str(tmp_path),
            "load_col": {"inter": columns},
            "MAX_ITEM_LIST_LENGTH": 3,
            "train_neg_sample_args": None,
            "seed": 1,
        }
        return Config(model=model, dataset=name, config_dict={**base, **settings})

    return make


@pytest.fixture
def make_teacher_run(small_settings, tmp_path):
    """make_teacher_run(model_name, **teacher_settings): settings and loaders of a run."""

    def make(model_name, seed=1, **teacher_settings):
        teacher = {
            **TEACHER_SIZES.get(model_name, {}),
            "epochs": 2,
            "train_batch_size": 8,
            "learning_rate": 0.05,
            **teacher_settings,
        }
        own = {
            "teacher_cache_dir": str(tmp_path / "teacher"),
            "teacher_settings": teacher,
            "seed": seed,
        }
        config = GenRecConfig("TIGER", config_dict={**small_settings("TIGER"), **own})
        return config, make_evaluation_loaders(config, create_dataset(config))

    return make


class Experiment(NamedTuple):
    """The parts of a run before its first step."""

    config: GenRecConfig
    model: torch.nn.Module
    train: object
    valid: object
    test: object

    def name_items(self) -> torch.nn.Module:
        """The model with started tokenizer and semantic ids, in evaluation mode."""
        self.model.start_tokenizer()
        self.model.refresh_semantic_ids()
        return self.model.eval()


@pytest.fixture
def make_experiment(small_settings):
    """Build `model` on the data set `tiny` as a run does; named settings override small ones."""

    def make(model: str, **settings) -> Experiment:
        config = GenRecConfig(model, config_dict={**small_settings(model), **settings})
        init_seed(config["seed"], config["reproducibility"])
        parts = make_evaluation_loaders(config, create_dataset(config))
        init_seed(config["seed"], config["reproducibility"])
        return Experiment(config, create_model(config, parts), *parts)

    return make


@pytest.fixture
def make_batch():
    """Make a batch of histories, their next items and users 1, 2, ...; padded to `width` with 0."""

    def make(histories, targets, width: int | None = None, user_ids=None) -> Interaction:
        width = max(map(len, histories)) if width is None else width
        item_id_list = torch.tensor([[*items, *[0] * (width - len(items))] for items in histories])
        lengths = torch.tensor([len(items) for items in histories])
        users = torch.arange(1, len(histories) + 1) if user_ids is None else torch.tensor(user_ids)
        return Interaction(
            {
                "user_id": users,
                "item_id_list": item_id_list,
                "item_length": lengths,
                "item_id": torch.tensor(targets),
            }
        )

    return make


def wave(shape, phase: float) -> torch.Tensor:
    """Fixed numbers that look like nothing in particular, the same on every machine."""
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * 1.7 + phase).reshape(
        shape
    )


@pytest.fixture
def fixed_model(make_experiment, tmp_path):
    """A model whose features, teacher and weights come from a formula, not from a random generator.

    fixed_model(model, vectors, **settings): `vectors` has the phase and the width of every item
    feature.
    """

    def make(
        model: str, vectors: dict[str, tuple[float, int]] | None = None, **settings
    ) -> torch.nn.Module:
        sources = {name: str(tmp_path / f"{name}.npy") for name in vectors or {"text": (0.3, 6)}}
        for name, (phase, width) in (vectors or {"text": (0.3, 6)}).items():
            np.save(sources[name], wave((10, width), phase).numpy())
            (tmp_path / f"{name}.tokens").write_text(
                "\n".join(f"i{item}" for item in range(1, 11)) + "\n"
            )
        made = make_experiment(
            model, item_features=sources, feature_scaling="raw", **settings
        ).model.double()
        with torch.no_grad():
            for number, weight in enumerate(made.parameters()):
                weight.copy_(0.3 * wave(weight.shape, number) + (weight.dim() == 1))
            if hasattr(made, "teacher"):
                made.teacher.copy_(wave(made.teacher.shape, 1.1))
        return made

    return make


@pytest.fixture
def released_unigrec() -> dict[str, object]:
    """The settings by which UniGRec is the one of its released code."""
    return {
        "model_class": "recbole_genrec.model.unigrec.released:ReleasedUniGRec",
        "distillation_temperature": 1.0,
    }


@pytest.fixture
def five_steps_an_epoch():
    """five_steps_an_epoch(model, stage, batch, n_epochs): loss terms of some training steps.

    They belong to the very first step and to the last step of every epoch.
    """

    def train(model, stage, batch, n_epochs: int) -> list[dict[str, float]]:
        optimizer, found = StageOptimizer(model, stage, "adamw", 1.0, 5), []
        for epoch in range(n_epochs):
            if stage.before_epoch is not None:
                stage.before_epoch(epoch)
            with training_only(model, stage.groups):
                for step in range(5):
                    losses = stage.losses(batch)
                    optimizer.step(sum(losses.values()), 5 * epoch + step)
                    if step == 4 or (epoch, step) == (0, 0):
                        found.append({name: loss.item() for name, loss in losses.items()})
            if stage.after_epoch is not None:
                stage.after_epoch(epoch)
        return found

    return train
