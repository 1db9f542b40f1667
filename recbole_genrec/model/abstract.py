"""Parts, stages and semantic ids that generative recommenders share; generation.py generates."""

# Shapes: B batch, S encoder tokens, T history length in items, E encoder tokens per item, D hidden
# size

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_genrec.config.declare import number, one_of, optional, text, whole
from recbole_genrec.config.shared import SCHEDULERS
from recbole_genrec.errors import UserError
from recbole_genrec.features.item_features import TeacherTable, item_matrix, no_teacher
from recbole_genrec.model.generation import Generation
from recbole_genrec.model.stage import Group, Stage
from recbole_genrec.semantic_ids.collisions import check_distinct
from recbole_genrec.semantic_ids.id_files import read_semantic_ids
from recbole_genrec.semantic_ids.semantic_ids import SemanticIDs
from recbole_genrec.seq2seq.compiled import check_compiler
from recbole_genrec.seq2seq.t5 import T5, T5Size
from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.given_codes import GivenCodes, random_codes
from recbole_genrec.tokenizer.residual_kmeans import ResidualKMeans
from recbole_genrec.tokenizer.rqvae import RQVAE

logger = logging.getLogger(__name__)

MIN_USAGE = 0.8  # share of a codebook; TIGER trains its tokenizer until so much is in use
MAX_SHARING = 0.5  # share of the counter; beyond it a tokenizer that still learns may need more
LAST_EPOCHS = 0.1  # share of the tokenizer's epochs without restarts: a code needs time to settle

# Tokenizers that the setting `tokenizer` names; codes may also be random or from a file.
TOKENIZERS: dict[str, Callable[[Any, int], ItemTokenizer]] = {
    "rqvae": RQVAE.from_config,
    "residual_kmeans": ResidualKMeans.from_config,
}
# Declared by models that choose their tokenizer, and by models that train their generator further.
CHOSEN_TOKENIZER = {
    "tokenizer": one_of(*TOKENIZERS, "random"),
    "semantic_ids_file": optional(text()),
}
FINETUNE = {
    "finetune_epochs": whole(min=0),
    "finetune_learning_rate": number(min=0),
    "finetune_scheduler": one_of(*SCHEDULERS),
    "finetune_stopping_step": whole(min=0),
}


class GenerativeRecommender(Generation, SequentialRecommender):
    """A tokenizer that names items, a T5 that generates the next name, a beam search that ranks.

    A paper's model says how items become codes (`make_tokenizer`), how a history enters the
    encoder (`embed_history`), what is minimized (`losses`) and in which order (`stages`).

    Args:
        config: the settings of the run.
        dataset: the data set, split.
        saved: state of a trained model, whose item features and teacher tables are taken.
        teacher_table: gives the item table of a teacher by its name.
    """

    input_type = InputType.POINTWISE
    trains_all_positions = False  # whether `losses` takes batches of windows

    def __init__(
        self,
        config: Any,
        dataset: Any,
        saved: dict[str, Tensor] | None = None,
        teacher_table: TeacherTable = no_teacher,
    ) -> None:
        super().__init__(config, dataset)
        self.config = config
        self.dataset_fingerprint = dataset.fingerprint()
        self.item_tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
        self.is_restored = saved is not None
        self._check_catalogue()
        if config["compile_search"]:
            check_compiler(config["device"])
        features = (
            self.make_features(dataset, teacher_table) if saved is None else saved["item_features"]
        )
        self.register_buffer("item_features", features)
        if saved is None and config["counter_size"] and not self.has_unique_codes():
            self.check_features()
        self.tokenizer = self.make_tokenizer(features.shape[1])
        codebook_sizes = (config["codebook_size"],) * config["n_levels"]
        self.semantic_ids = SemanticIDs(self.n_items, codebook_sizes, config["counter_size"])
        self.token_table = nn.Embedding(
            self.semantic_ids.n_tokens + self.n_context_tokens(), config["hidden_size"]
        )
        self.seq2seq = self.make_seq2seq()

    @classmethod
    def check_settings(cls, settings: dict[str, Any]) -> None:
        """Refuse settings of this model that contradict each other.

        Args:
            settings: all settings; each of them follows its declaration.

        Raises:
            UserError: the first contradiction.
        """
        if settings["train_mode"] == "all_positions" and not cls.trains_all_positions:
            raise UserError(
                f"train_mode is 'all_positions', but the losses of {cls.__name__} need a row per "
                "next item: leave it out"
            )

    def _check_catalogue(self) -> None:
        """Refuse settings that cannot work, before anything is trained."""
        config, n_items = self.config, self.n_items - 1
        n_beams, codebook_size = config["n_beams"], config["codebook_size"]
        if n_beams > n_items:
            raise UserError(
                f"n_beams is {n_beams}, but the catalogue has only {n_items} items; "
                "lower n_beams (and topk, which may not exceed it)."
            )
        if codebook_size > n_items and not self.has_given_codes():
            raise UserError(
                f"codebook_size is {codebook_size}, but the catalogue has only {n_items} items to "
                "initialize the codes with; lower codebook_size."
            )
        if config["counter_size"]:
            return
        if not self.has_unique_codes():
            raise UserError(
                "counter_size is 0, but the tokenizer may leave items with equal codes to be "
                "numbered; set counter_size to 256."
            )
        n_codes = codebook_size ** config["n_levels"]
        if n_codes < n_items:
            raise UserError(
                f"n_levels and codebook_size give {n_codes} codes, but the catalogue has {n_items} "
                "items and each needs one of its own; raise one of them."
            )

    def has_given_codes(self) -> bool:
        """Tell whether codes are random or from a file, so that no item feature is needed."""
        config = self.config
        return "semantic_ids_file" in config and (
            config["tokenizer"] == "random" or config["semantic_ids_file"] is not None
        )

    def check_features(self) -> None:
        """Refuse features from which the tokenizer could not make enough different codes."""
        check_distinct(self.item_features[1:], self.config["counter_size"])

    def has_unique_codes(self) -> bool:
        """Tell whether the tokenizer never gives two items the same codes (no counter needed)."""
        return False

    def make_features(self, dataset: Any, teacher_table: TeacherTable) -> Tensor:
        """Make the item features, float [n_items, features]; row 0 (padding) is zeros."""
        return item_matrix(self.config, dataset, teacher_table)

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Make the paper's tokenizer, for item features of this width."""
        raise NotImplementedError

    def chosen_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Make the tokenizer that the settings name, or one of given codes."""
        if self.has_given_codes():
            return self.given_tokenizer(n_features)
        return TOKENIZERS[self.config["tokenizer"]](self.config, n_features)

    def given_tokenizer(self, n_features: int) -> GivenCodes:
        """Make a tokenizer of given codes: from `semantic_ids_file`, or random without a file.

        A restored model keeps its own codes.
        """
        config = self.config
        sizes = (config["n_levels"], config["codebook_size"])
        if self.is_restored:
            codes = torch.zeros(self.n_items - 1, config["n_levels"], dtype=torch.long)
        elif config["semantic_ids_file"] is not None:
            codes = read_semantic_ids(
                config["semantic_ids_file"], self.item_tokens, *sizes, config["counter_size"]
            )
        else:
            codes = random_codes(self.n_items - 1, *sizes, config["seed"])
        return GivenCodes(codes, n_features=n_features, codebook_size=config["codebook_size"])

    def make_seq2seq(self) -> nn.Module:
        """Make the model that reads histories and writes names: a T5 or a module like it."""
        sizes = (
            "hidden_size",
            "inner_size",
            "n_layers",
            "n_heads",
            "head_size",
            "hidden_dropout_prob",
            "attn_dropout_prob",
        )
        return T5(T5Size(*(self.config[size] for size in sizes)))

    def tokenizer_input(self) -> Tensor:
        """Return the tokenizer's input, float [n_items, features]: here the item features."""
        return self.item_features

    def n_context_tokens(self) -> int:
        """Count the tokens of the encoder beyond the semantic ids."""
        return 0

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Embed histories, int64 [B, T] -> float [B, T * E, D]; padding may give anything."""
        raise NotImplementedError

    def losses(self, interaction: Any) -> dict[str, Tensor]:
        """Return the named, weighted terms of a batch's loss."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """Return the training plan."""
        raise NotImplementedError

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Return the sum of the losses, as RecBole asks for it."""
        return reduce(torch.add, self.losses(interaction).values())

    # --- stages

    def tokenizer_stage(self, before_epoch: Callable[[int], None] | None = None) -> Stage:
        """Train the tokenizer on the features of all items, then name the items."""
        config = self.config
        trainable = any(parameter.numel() for parameter in self.tokenizer.parameters())
        epochs = config["tokenizer_epochs"] if trainable else 0
        return Stage(
            name="tokenizer",
            rows="items",
            groups=(
                Group(
                    ("tokenizer",),
                    config["tokenizer_learning_rate"],
                    config["tokenizer_weight_decay"],
                ),
            ),
            losses=lambda item_ids: self.tokenizer.losses(self.tokenizer_input()[item_ids]),
            epochs=epochs,
            batch_size=config["tokenizer_batch_size"],
            scheduler=config["tokenizer_scheduler"],
            warmup_epochs=config["tokenizer_warmup_epochs"],
            report_every=max(1, epochs // 10),
            start=self.start_tokenizer,
            before_epoch=before_epoch,
            after_epoch=self.restart_codes,
            finish=self.finish_tokenizer,
        )

    def recommender_stage(self) -> Stage:
        """Train the generator on fixed semantic ids."""
        config = self.config
        return Stage(
            name="recommender",
            rows="sequences" if config["train_mode"] == "all_positions" else "interactions",
            groups=(
                Group(("token_table", "seq2seq"), config["learning_rate"], config["weight_decay"]),
            ),
            losses=self.losses,
            epochs=config["epochs"],
            batch_size=config["train_batch_size"],
            scheduler=config["scheduler"],
            warmup_epochs=config["warmup_epochs"],
            stopping_step=config["stopping_step"],
        )

    def finetune_stage(self) -> Stage:
        """Train the generator further on the same semantic ids, with its own learning rate."""
        config = self.config
        return replace(
            self.recommender_stage(),
            name="finetune",
            groups=(
                Group(
                    ("token_table", "seq2seq"),
                    config["finetune_learning_rate"],
                    config["weight_decay"],
                ),
            ),
            epochs=config["finetune_epochs"],
            scheduler=config["finetune_scheduler"],
            warmup_epochs=0,
            stopping_step=config["finetune_stopping_step"],
        )

    # --- semantic ids

    def start_tokenizer(self) -> None:
        """Place the codebooks on all items' features."""
        self.tokenizer.start(self.tokenizer_input()[1:], self.config["seed"])

    def restart_codes(self, epoch: int) -> None:
        """Move unused codewords to items, while there is time left to train them."""
        if epoch < (1 - LAST_EPOCHS) * self.config["tokenizer_epochs"]:
            n_restarted = self.tokenizer.end_epoch(
                self.tokenizer_input()[1:], epoch, self.config["seed"]
            )
            if n_restarted:
                logger.info(
                    "tokenizer epoch %d: restarted %d codes that no item used", epoch, n_restarted
                )

    def finish_tokenizer(self) -> None:
        """Log the tokenizer's figures and name the items by it."""
        report = self.tokenizer.report(self.tokenizer_input()[1:])
        logger.info(
            "tokenizer: %s", ", ".join(f"{name} {value:.4g}" for name, value in report.items())
        )
        self.refresh_semantic_ids()

    @torch.no_grad()
    def refresh_semantic_ids(self) -> float:
        """Name all items by the tokenizer as it is now.

        Returns:
            The share of items whose codes changed, 0 to 1; it is logged, too.
        """
        changed = self.semantic_ids.assign(self.tokenizer.encode(self.tokenizer_input()[1:]))
        logger.info(
            "semantic ids: %.2f%% of the items changed their codes; %s",
            100 * changed,
            self.semantic_ids.describe(),
        )
        figures = self.semantic_ids.statistics()
        idle = [
            level
            for level in range(self.config["n_levels"])
            if figures[f"usage_{level}"] < MIN_USAGE
        ]
        if idle:
            logger.warning(
                "semantic ids: fewer than %.0f%% of the codes of levels %s are in use",
                100 * MIN_USAGE,
                idle,
            )
        largest, counter_size = figures["largest_group"], self.config["counter_size"]
        if (
            counter_size
            and largest > MAX_SHARING * counter_size
            and not isinstance(self.tokenizer, GivenCodes)
        ):
            logger.warning(
                "semantic ids: %.0f items share all codes, and counter_size allows %d: "
                "a run in which they become more ends; raise it",
                largest,
                counter_size,
            )
        return changed
