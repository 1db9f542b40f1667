"""Histories of soft identifiers (UniGRec, arXiv 2601.17438): an item is the mixture of all codewords by their closeness."""

# Shapes: B batch, T history length in items, U distinct items, L tokenizer levels, K codebook size,
# D hidden size

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_genrec.model.abstract import GenerativeRecommender
from recbole_genrec.model.unigrec.soft_rqvae import SoftCodes
from recbole_genrec.tokenizer.base import in_chunks


class SoftIdentifiers(GenerativeRecommender):
    """A recommender with a SoftRQVAE, which its loss reaches through the histories; what is the same for every batch is kept."""

    def __init__(self, config, dataset, saved: dict[str, Tensor] | None = None) -> None:
        super().__init__(config, dataset, saved)
        self.item_embeddings: Tensor | None = None  # of all items, in evaluation
        self.latents: Tensor | None = None  # of all items, while the tokenizer is frozen
        self.register_load_state_dict_post_hook(lambda module, _: module.forget_item_embeddings())

    @property
    def is_soft(self) -> bool:
        """Whether histories are soft identifiers, not codes."""
        return True

    def soft_embeddings(self, probabilities: Tensor) -> Tensor:
        """Expected token embeddings of soft codes, float [U, L, K] -> [U, L, D]; a one-hot code is a plain lookup."""
        levels = [
            self.token_table.weight[self.semantic_ids.level_tokens(level)]
            for level in range(probabilities.shape[1])
        ]
        return torch.stack(
            [probabilities[:, level] @ table for level, table in enumerate(levels)], dim=1
        )

    def forget_item_embeddings(self) -> None:
        """Called whenever the weights may have changed."""
        self.item_embeddings = self.latents = None

    def train(self, mode: bool = True) -> SoftIdentifiers:
        """Set the mode, as of any module."""
        self.forget_item_embeddings()
        return super().train(mode)

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Soft identifiers of every item without the counter, oldest item first; the tokenizer sees an item once.

        Hard identifiers are all codes of an item, counter included, as TIGER has them.
        """
        if not self.is_soft:
            return self.token_table(self.semantic_ids.tokens[item_id_list].flatten(1))
        if not self.training:
            if self.item_embeddings is None or torch.is_grad_enabled():
                self.item_embeddings = in_chunks(self._embed_items, self.item_features)
            return self.item_embeddings[item_id_list].flatten(1, 2)
        items, places = item_id_list.unique(return_inverse=True)
        return self.gather(self._soft_codes(items), places)

    def _embed_items(self, features: Tensor) -> Tensor:
        return self.soft_embeddings(self.tokenizer.soft_codes(features).probabilities)

    def _soft_codes(self, items: Tensor) -> SoftCodes:
        """Of items [U]; a frozen tokenizer's encoder sees all items once, not a batch's in every step."""
        if any(parameter.requires_grad for parameter in self.tokenizer.parameters()):
            return self.tokenizer.soft_codes(self.item_features[items])
        if self.latents is None:
            self.latents = in_chunks(self.tokenizer.encoder, self.item_features)
        return self.tokenizer.quantize(self.latents[items])

    def gather(self, soft_codes: SoftCodes, places: Tensor) -> Tensor:
        """Encoder input [B, T * L, D] of histories given as places [B, T] in the rows of soft codes."""
        embeddings = self.soft_embeddings(soft_codes.probabilities)
        return (
            F.embedding(places, embeddings.flatten(1))
            .unflatten(-1, embeddings.shape[1:])
            .flatten(1, 2)
        )
