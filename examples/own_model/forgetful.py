"""TIGER whose training drops items from the histories, so that no single item is relied on."""

import torch
from torch import Tensor

from recbole_genrec.config.declare import number
from recbole_genrec.model.tiger import TIGER


class ForgetfulTIGER(TIGER):
    """TIGER with item dropout: in training, an item's tokens are all read or all zero."""

    settings = {"item_dropout_prob": number(min=0, below=1)}

    def embed_history(self, item_id_list: Tensor) -> Tensor:
        """Embed histories, int64 [B, T] -> float [B, T * E, D], E tokens per item."""
        embeddings = super().embed_history(item_id_list)
        if not self.training:
            return embeddings
        drop_prob = self.config["item_dropout_prob"]
        is_kept = torch.rand(item_id_list.shape, device=embeddings.device) >= drop_prob
        tokens_per_item = embeddings.shape[1] // item_id_list.shape[1]
        return embeddings * is_kept.repeat_interleave(tokens_per_item, dim=1).unsqueeze(-1)
