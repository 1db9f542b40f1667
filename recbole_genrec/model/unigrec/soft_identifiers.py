"""Soft identifiers (UniGRec, arXiv 2601.17438): an item of a history is a mixture of codewords.

Shapes: B batch, T history length in items, U distinct items, L tokenizer levels, K codebook size,
D hidden size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.features.item_features import TeacherTable, no_teacher
from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.model.unigrec.soft_rqvae import SoftCodes, SoftRQVAE
from recbole_genrec.tokenizer.base import in_chunks


class SoftBatch(NamedTuple):
    """The distinct items of a batch and their soft codes: a repeated item is encoded once."""

    items: Tensor  # int64 [U], ascending, padding included
    rows: Tensor  # int64 [B, T + 1], rows of `items`: each history, then its target
    codes: SoftCodes  # of `items`


class SoftIdentifiers(GenerativeRecommender):
    """A recommender that reads soft identifiers, through which its loss trains a SoftRQVAE.

    Tensors that are the same for every batch are kept: all item embeddings in evaluation, all
    latent vectors while the tokenizer is frozen.
    """

    tokenizer: SoftRQVAE
    item_features: Tensor

    def __init__(
        self,
        config: GenRecConfig,
        dataset: GenRecDataset,
        saved: dict[str, Tensor] | None = None,
        teacher_table: TeacherTable = no_teacher,
    ) -> None:
        super().__init__(config, dataset, saved, teacher_table)
        self.item_embeddings: Tensor | None = None
        self.latents: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.forget_item_embeddings())

    @property
    def is_soft(self) -> bool:
        """Return True if histories are soft identifiers, not codes."""
        return True

    def soft_embeddings(self, probabilities: Tensor) -> Tensor:
        """Return the expected token embeddings of soft codes, float [U, L, K] -> [U, L, D].

        A one-hot code gives a plain lookup.
        """
        levels = [
            self.token_table.weight[self.semantic_ids.level_tokens(level)]
            for level in range(probabilities.shape[1])
        ]
        return torch.stack(
            [probabilities[:, level] @ table for level, table in enumerate(levels)], dim=1
        )

    def forget_item_embeddings(self) -> None:
        """Drop what is kept of the items; called whenever the weights may have changed."""
        self.item_embeddings = self.latents = None

    def train(self, mode: bool = True) -> SoftIdentifiers:
        """Set training or evaluation mode and drop what is kept of the items."""
        self.forget_item_embeddings()
        return super().train(mode)

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Embed histories, int64 [B, T] -> float [B, T * L, D], oldest item first.

        Soft identifiers leave the counter out. Hard identifiers are all codes of an item, the
        counter among them, as in TIGER.
        """
        if not self.is_soft:
            return self.token_table(self.semantic_ids.tokens[item_id_list].flatten(1))
        if not self.training:
            if self.item_embeddings is None or torch.is_grad_enabled():
                self.item_embeddings = in_chunks(self._embed_items, self.item_features)
            return self.item_embeddings[item_id_list].flatten(1, 2)
        items, rows = item_id_list.unique(return_inverse=True)
        return self._gather(self._soft_codes(items), rows)

    def soft_batch(self, item_id_list: Tensor, item_ids: Tensor) -> SoftBatch:
        """Encode the distinct items of histories [B, T] and their targets [B], with gradient."""
        items, rows = torch.cat((item_id_list, item_ids.unsqueeze(1)), dim=1).unique(
            return_inverse=True
        )
        return SoftBatch(items, rows, self.tokenizer.soft_codes(self.item_features[items]))

    def embed_soft_batch(self, batch: SoftBatch) -> tuple[Tensor, Tensor]:
        """Return the encoder input [B, T * L, D] of a batch's histories and its mask [B, T * L]."""
        rows, n_levels = batch.rows[:, :-1], batch.codes.codes.shape[1]
        mask = (batch.items[rows] > 0).repeat_interleave(n_levels, dim=1)
        return self._gather(batch.codes, rows), mask

    def _embed_items(self, features: Tensor) -> Tensor:
        return self.soft_embeddings(self.tokenizer.soft_codes(features).probabilities)

    def _soft_codes(self, items: Tensor) -> SoftCodes:
        """Return the soft codes of items [U]; a frozen encoder runs once, on all items."""
        if any(parameter.requires_grad for parameter in self.tokenizer.parameters()):
            return self.tokenizer.soft_codes(self.item_features[items])
        if self.latents is None:
            self.latents = in_chunks(self.tokenizer.encoder, self.item_features)
        return self.tokenizer.quantize(self.latents[items])

    def _gather(self, soft_codes: SoftCodes, rows: Tensor) -> Tensor:
        """Embed histories [B, T] given as rows of soft codes, float [B, T * L, D]."""
        embeddings = self.soft_embeddings(soft_codes.probabilities)
        return (
            F.embedding(rows, embeddings.flatten(1))
            .unflatten(-1, embeddings.shape[1:])
            .flatten(1, 2)
        )
