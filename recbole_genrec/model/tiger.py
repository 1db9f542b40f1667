"""TIGER: "Recommender Systems with Generative Retrieval" (NeurIPS 2023, arXiv 2305.05065)."""

# Shapes: B batch, T history length in items, L levels, D hidden size

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_genrec.config.declare import Declarations, flag, whole
from recbole_genrec.features.item_features import TeacherTable
from recbole_genrec.model.abstract import CHOSEN_TOKENIZER, GenerativeRecommender
from recbole_genrec.model.stage import Stage
from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.rqvae import RQVAE

HASH_FACTOR = 2654435761  # 2^32 / golden ratio: Knuth's multiplicative hash


class TIGER(GenerativeRecommender):
    """A residual-quantized auto-encoder names the items; a T5 learns to generate the next name."""

    trains_all_positions = True
    settings: ClassVar[Declarations] = {
        **CHOSEN_TOKENIZER,
        **RQVAE.settings,
        "n_user_tokens": whole(min=0),
        "separator_token": flag(),
    }

    def has_unique_codes(self) -> bool:
        """Tell whether codes are given: those are unique, or refused as they are read."""
        return self.has_given_codes()

    def make_features(self, dataset: Any, teacher_table: TeacherTable) -> Tensor:
        """Return the item features; a column of zeros for given codes."""
        if self.has_given_codes():
            return torch.zeros(self.n_items, 1)
        return super().make_features(dataset, teacher_table)

    def make_tokenizer(self, n_features: int) -> ItemTokenizer:
        """Make an RQ-VAE (§3.1), residual k-means, random codes (§4.2) or the codes of a file."""
        return self.chosen_tokenizer(n_features)

    def n_context_tokens(self) -> int:
        """Count the tokens of hashed users, and the separator if there is one."""
        return self.config["n_user_tokens"] + int(self.config["separator_token"])

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Embed all codes of every item, counter included, oldest item first (§3.2)."""
        tokens = self.semantic_ids.tokens[item_id_list]
        if self.config["separator_token"]:
            separator = self.semantic_ids.n_tokens + self.config["n_user_tokens"]
            tokens = torch.cat((tokens, torch.full_like(tokens[..., :1], separator)), dim=-1)
        return self.token_table(tokens.flatten(1))

    def add_context(
        self, interaction: Any, embeddings: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put the user's token before the history (§3.2), if users have tokens."""
        n_user_tokens = self.config["n_user_tokens"]
        if not n_user_tokens:
            return embeddings, mask
        tokens = self.semantic_ids.n_tokens + hashed_users(interaction[self.USER_ID], n_user_tokens)
        users = self.token_table(tokens).unsqueeze(1)
        return torch.cat((users, embeddings), dim=1), torch.cat(
            (torch.ones_like(mask[:, :1]), mask), dim=1
        )

    def losses(self, interaction: Any) -> dict[str, Tensor]:
        """Return the cross-entropy of the next item's codes, averaged over the levels."""
        if self.config["train_mode"] == "all_positions":
            return {"generation": self.all_positions_loss(interaction)}
        item_ids = interaction[self.ITEM_ID]
        hidden = self.decode_targets(item_ids, *self.encode_history(interaction))
        return {"generation": self.generation_loss(hidden, item_ids)}

    def stages(self) -> tuple[Stage, ...]:
        """Train the tokenizer, then the recommender on fixed semantic ids."""
        return (self.tokenizer_stage(), self.recommender_stage())


def hashed_users(user_ids: Tensor, n_user_tokens: int) -> Tensor:
    """Spread internal user ids over 0 .. n_user_tokens - 1, the same in every process.

    Args:
        user_ids: int64, any shape.
        n_user_tokens: >= 1.

    Returns:
        int64, shape of user_ids. Source: §3.2, the hashing trick.
    """
    mixed = (user_ids * HASH_FACTOR) % 2**32
    return mixed * n_user_tokens // 2**32
