"""Ranked lists of items handed to RecBole's evaluator without a score for every item."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as functional
from recbole.evaluator import Collector

from recbole_genrec.compat import PlainCollector
from recbole_genrec.errors import UserError

logger = logging.getLogger(__name__)


class TopKCollector(PlainCollector, Collector):
    """RecBole's collector, which also accepts ranked item ids in place of dense scores.

    A LongTensor is a ranking, anything else is dense scores as RecBole's collector takes them.
    Equal rankings give equal metrics in
    both ways, and an empty place of a ranking is never a hit. `users` (int64 [N]) and `hits` (int
    [N, k + 1], the last column the
    number of positives; None if no metric needs it) stay after an evaluation.
    """

    users: torch.Tensor | None = None
    hits: torch.Tensor | None = None

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i) -> None:
        """Collect one batch.

        Args:
            scores_tensor: LongTensor [B, k], internal item ids, best first, distinct within a row,
                0 where there is no more item;
                or FloatTensor [B, n_items] of scores.
            interaction: the batch.
            positive_u: LongTensor [n_positives], rows of the batch.
            positive_i: LongTensor [n_positives], the positive items of these rows.

        Raises:
            ValueError: a metric is wanted that needs the score or the rank of every item, such as
                GAUC.
        """
        self.data_struct.update_tensor("rec.users", interaction[self.config["USER_ID_FIELD"]])
        if scores_tensor.dtype != torch.long:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        if self.register.need("rec.meanrank") or self.register.need("rec.score"):
            raise UserError(
                f"metrics {self.config['metrics']} need the rank or score of every item, but this model gives only its "
                f"{scores_tensor.size(1)} best: use metrics of ranked lists such as Recall, NDCG and MRR"
            )
        width = max(self.topk)
        ids = functional.pad(scores_tensor, (0, max(0, width - scores_tensor.size(1))))[:, :width]
        if self.register.need("rec.items"):
            self._warn_of_empty_places(ids)
            self.data_struct.update_tensor("rec.items", ids)
        if self.register.need("rec.topk"):
            self.data_struct.update_tensor(
                "rec.topk", _hits(ids, positive_u.to(ids.device), positive_i.to(ids.device))
            )

    def get_data_struct(self):
        """All that was collected, as RecBole's collector gives it; the next evaluation starts anew."""
        collected = super().get_data_struct()
        self.users = collected.get("rec.users")
        self.hits = collected.get("rec.topk") if "rec.topk" in collected else None
        del self.data_struct["rec.users"]
        return collected

    def _warn_of_empty_places(self, ids: torch.Tensor) -> None:
        n_empty = int((ids == 0).sum())
        if n_empty:
            logger.warning(
                "%d places of %d ranked lists hold no item: diversity metrics count them as one more item",
                n_empty,
                len(ids),
            )


def _hits(ids: torch.Tensor, positive_u: torch.Tensor, positive_i: torch.Tensor) -> torch.Tensor:
    """IntTensor [B, k + 1]: 1 where an item of `ids` [B, k] is a positive of its row, and in the last column the row's positives."""
    pairs = torch.unique(torch.stack((positive_u, positive_i)), dim=1)
    row, item = pairs[0], pairs[1]
    is_hit = torch.zeros_like(ids, dtype=torch.int).index_add_(
        0, row, (ids[row] == item[:, None]).int()
    )
    n_positives = torch.bincount(row, minlength=len(ids)).int()
    return torch.cat((is_hit, n_positives[:, None]), dim=1)
