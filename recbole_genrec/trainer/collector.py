"""Ranked lists of items for RecBole's evaluator, without a score for every item."""

# Shapes: B batch, K length of the ranked lists, k = max(topk), N evaluated rows, P positives

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from recbole.evaluator import Collector

from recbole_genrec.compat import PlainCollector
from recbole_genrec.errors import UserError

logger = logging.getLogger(__name__)


class Ranking(NamedTuple):
    """The best items of every row of a batch.

    item_ids: int64 [B, K], internal item ids, best first, distinct within a row, 0 where there is
        no item.
    """

    item_ids: torch.Tensor

    def first(self, k: int) -> torch.Tensor:
        """Return the first k item ids of every row, int64 [B, k], padded with 0 if K < k."""
        missing = max(0, k - self.item_ids.size(1))
        return functional.pad(self.item_ids, (0, missing))[:, :k]


class TopKCollector(PlainCollector, Collector):
    """RecBole's collector for rankings as well as dense scores.

    A ranking gives the metrics of any dense scores with the same order. An empty position is never
    a hit. After an evaluation `users` (int64 [N]) and `hits` (int [N, k + 1], the number of
    positives in the last column; None if no metric needs it) are kept.
    """

    users: torch.Tensor | None = None
    hits: torch.Tensor | None = None

    def eval_batch_collect(
        self, scores_tensor: Ranking | torch.Tensor, interaction, positive_u, positive_i
    ) -> None:
        """Collect one batch.

        Args:
            scores_tensor: a Ranking, or scores of all items, float [B, n_items]; the name is
                RecBole's.
            interaction: the batch.
            positive_u: int64 [P], rows of the batch.
            positive_i: int64 [P], the positive items of these rows.

        Raises:
            UserError: a metric such as GAUC needs the score or the rank of every item, and a
                ranking is given.
        """
        self.data_struct.update_tensor("rec.users", interaction[self.config["USER_ID_FIELD"]])
        if not isinstance(scores_tensor, Ranking):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        if self.register.need("rec.meanrank") or self.register.need("rec.score"):
            raise UserError(
                f"metrics {self.config['metrics']} need the rank or score of every item, but this "
                f"model gives only its {scores_tensor.item_ids.size(1)} best: use metrics of "
                "ranked lists such as Recall, NDCG and MRR"
            )
        item_ids = scores_tensor.first(max(self.topk))
        if self.register.need("rec.items"):
            self._warn_of_empty_positions(item_ids)
            self.data_struct.update_tensor("rec.items", item_ids)
        if self.register.need("rec.topk"):
            device = item_ids.device
            hits = _hits(item_ids, positive_u.to(device), positive_i.to(device))
            self.data_struct.update_tensor("rec.topk", hits)

    def get_data_struct(self):
        """Return what was collected, as RecBole's collector does, and forget it."""
        collected = super().get_data_struct()
        self.users = collected.get("rec.users")
        self.hits = collected.get("rec.topk") if "rec.topk" in collected else None
        del self.data_struct["rec.users"]
        return collected

    def _warn_of_empty_positions(self, item_ids: torch.Tensor) -> None:
        n_empty = int((item_ids == 0).sum())
        if n_empty:
            logger.warning(
                "%d positions of %d ranked lists hold no item: diversity metrics count them as "
                "one more item",
                n_empty,
                len(item_ids),
            )


def _hits(
    item_ids: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor
) -> torch.Tensor:
    """Return which ranked items are positives, and the number of positives of every row.

    Args:
        item_ids: int64 [B, k].
        positive_u: int64 [P], rows.
        positive_i: int64 [P], the positive items of these rows.

    Returns:
        int [B, k + 1]: 1 for a hit, and in the last column the number of positives.
    """
    pairs = torch.unique(torch.stack((positive_u, positive_i)), dim=1)
    row, item = pairs[0], pairs[1]
    is_hit = torch.zeros_like(item_ids, dtype=torch.int).index_add_(
        0, row, (item_ids[row] == item[:, None]).int()
    )
    n_positives = torch.bincount(row, minlength=len(item_ids)).int()
    return torch.cat((is_hit, n_positives[:, None]), dim=1)
