"""LETTER: "Learnable Item Tokenization for Generative Recommendation".

CIKM 2024, arXiv 2405.07314; on TIGER's generator.
"""

# Shapes: B batch, C code width.

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from recbole_genrec.config.declare import Declarations, number, optional
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.sequences import Sequences
from recbole_genrec.errors import UserError
from recbole_genrec.features.item_features import (
    TeacherTable,
    item_matrix,
    no_teacher,
    read_feature,
)
from recbole_genrec.features.sentence_encoder import is_encoder
from recbole_genrec.features.text import text_fields
from recbole_genrec.model.letter.letter_rqvae import LetterRQVAE
from recbole_genrec.model.stage import Stage
from recbole_genrec.model.tiger import TIGER
from recbole_genrec.tokenizer.balanced_clustering import check_sizes
from recbole_genrec.tokenizer.base import ItemTokenizer

logger = logging.getLogger(__name__)

COLLABORATIVE = "cf"  # the name of the item feature that the codes are aligned with
AUTO = {"text": "tfidf", COLLABORATIVE: "SASRec"}


class LETTER(TIGER):
    """TIGER with codes that also follow who uses the items, spread evenly, and a loss that ranks.

    The ranking-guided generation loss (section 3.3) is TIGER's cross-entropy with a
    `generation_temperature` below 1.
    """

    settings: ClassVar[Declarations] = {
        **LetterRQVAE.settings,
        "cf_length": optional(number(above=0)),
    }
    tokenizer_class = LetterRQVAE
    collaborative: Tensor  # float [n_items, C], the vectors that codes are aligned with

    def __init__(
        self,
        config: GenRecConfig,
        dataset: GenRecDataset,
        saved: dict[str, Tensor] | None = None,
        teacher_table: TeacherTable = no_teacher,
    ) -> None:
        super().__init__(config, dataset, saved, teacher_table)
        collaborative = (
            self._make_collaborative(dataset, teacher_table)
            if saved is None
            else saved["collaborative"]
        )
        self.register_buffer("collaborative", collaborative)

    def has_unique_codes(self) -> bool:
        """Return whether codes are given, or an RQ-VAE has no counter to tell equal ones apart."""
        is_rqvae = self.config["tokenizer"] == "rqvae"
        return self.has_given_codes() or (is_rqvae and not self.config["counter_size"])

    def _is_regularized(self) -> bool:
        return self.config["tokenizer"] == "rqvae" and not self.has_given_codes()

    def _is_aligned(self) -> bool:
        return self._is_regularized() and bool(self.config["collaborative_weight"])

    # --- features

    def make_features(self, dataset: GenRecDataset, teacher_table: TeacherTable) -> Tensor:
        """Return the semantic features: all item features but `cf`."""
        if self.has_given_codes():
            return super().make_features(dataset, teacher_table)
        sources = self._sources()
        semantic = {name: source for name, source in sources.items() if name != COLLABORATIVE}
        self._check_semantic(semantic, dataset)
        if self._is_aligned():
            self._check_collaborative(sources)
        return item_matrix(self.config, dataset, teacher_table, semantic)

    def _make_collaborative(self, dataset: GenRecDataset, teacher_table: TeacherTable) -> Tensor:
        """Return the vectors that codes are aligned with, float [n_items, C].

        Items without a training interaction have zeros. C is 0 if nothing is aligned.
        """
        if not self._is_aligned():
            return torch.zeros(self.n_items, 0)
        vectors = read_feature(
            COLLABORATIVE, self._sources()[COLLABORATIVE], self.config, dataset, teacher_table
        )
        self._check_width(vectors.shape[1])
        is_known = trained_items(dataset.sequences, self.n_items)
        vectors = vectors * is_known.unsqueeze(1)
        # The collaborative loss has no temperature, so the length of the vectors acts as one.
        length, wanted = float(vectors[is_known].norm(dim=1).mean()), self.config["cf_length"]
        scale = 1.0 if wanted is None or not length else wanted / length
        logger.info(
            "cf: vectors of %d of %d items, mean length %.4g, scaled by %.4g",
            int(is_known.sum()),
            self.n_items - 1,
            length,
            scale,
        )
        return scale * vectors

    # --- tokenizer and stages

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Return the regularized RQ-VAE (section 3.2), or one of TIGER's other tokenizers."""
        if not self._is_regularized():
            return super().make_tokenizer(n_features)
        return self.tokenizer_class.from_config(
            self.config, n_features, has_unique_codes=self.has_unique_codes()
        )

    def stages(self) -> tuple[Stage, ...]:
        """Return the tokenizer with L_LETTER (section 3.2), then TIGER's recommender."""
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, LetterRQVAE):
            return super().stages()
        stage = replace(
            self.tokenizer_stage(lambda epoch: tokenizer.regroup(epoch, self.config["seed"])),
            losses=lambda item_ids: tokenizer.regularized_losses(
                self.item_features[item_ids], self.collaborative[item_ids]
            ),
        )
        return (stage, self.recommender_stage())

    # --- checks

    def _check_catalogue(self) -> None:
        super()._check_catalogue()
        if self._is_regularized() and self.config["diversity_weight"]:
            check_sizes(
                self.config["codebook_size"], self.config["n_groups"], *self.config["group_sizes"]
            )

    def _sources(self) -> Mapping[str, str]:
        wanted = self.config["item_features"]
        if wanted != "auto" and not isinstance(wanted, Mapping):
            raise UserError(
                f"item_features is {wanted!r}, but LETTER takes auto or names with sources: "
                f"write {AUTO}."
            )
        return AUTO if wanted == "auto" else wanted

    def _check_semantic(self, sources: Mapping[str, str], dataset: GenRecDataset) -> None:
        needs_text = any(source == "tfidf" or is_encoder(source) for source in sources.values())
        if sources and not (needs_text and not text_fields(self.config, dataset)):
            return
        lack = (
            f"{dataset.dataset_name!r} has no item text"
            if sources
            else f"item_features is {self.config['item_features']!r}"
        )
        raise UserError(
            f"LETTER makes codes of semantic features, but {lack}: add a text field "
            "(name:token_seq) to the .item file, give vectors with "
            "item_features={text: vectors.npy, cf: SASRec}, or ready codes with semantic_ids_file."
        )

    def _check_collaborative(self, sources: Mapping[str, str]) -> None:
        if COLLABORATIVE not in sources:
            raise UserError(
                "LETTER aligns its codes with an item feature named cf, but item_features is "
                f"{self.config['item_features']!r}: add cf: SASRec or cf: vectors.npy, or set "
                "collaborative_weight to 0, which needs none."
            )
        if sources[COLLABORATIVE] == "SASRec":
            self._check_width(self.config["teacher_hidden_size"])

    def _check_width(self, width: int) -> None:
        if width != self.config["code_dim"]:
            raise UserError(
                f"the vectors of cf have {width} dimensions, but code_dim is "
                f"{self.config['code_dim']} and the loss multiplies both: make them equal (the "
                "width of a SASRec is teacher_hidden_size, of ppmi ppmi_dim)."
            )


def trained_items(sequences: Sequences, n_items: int) -> Tensor:
    """Return which items occur in the training part of any user, bool [n_items]."""
    return torch.bincount(sequences.items[sequences.is_training()], minlength=n_items) > 0
