"""Ranked lists of an evaluation: made by a model's search, shared among processes, counted."""

# Shapes: B batch, K length of the ranked lists

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_genrec.data.batches import to_device
from recbole_genrec.runtime import distributed
from recbole_genrec.trainer.collector import Ranking

logger = logging.getLogger(__name__)


class Ranker:
    """Rank the batches of one evaluation after another.

    Args:
        model: has RecBole's `ITEM_SEQ` and `ITEM_SEQ_LEN` and a `search(batch, k)` that gives
            beams.
        k: items of a list, K >= 1.
        device: device of the model.
    """

    def __init__(self, model: Any, k: int, device: torch.device) -> None:
        self.model, self.k, self.device = model, k, device
        # Lists of the next batches, if several processes share the ranking.
        self._shared: deque[Tensor] = deque()
        self._reset()

    def _reset(self) -> None:
        self._n_empty, self._n_proven = torch.zeros(2, dtype=torch.long, device=self.device)
        self._n_lists = 0

    def start(self, batches: Iterable) -> None:
        """Begin an evaluation; several processes rank all its batches now, each a share.

        Args:
            batches: tuples that begin with an Interaction, the same in all processes.
        """
        self._reset()
        self._shared = distributed.rank_in_parallel(batches, self._search, self.k, self.device)

    def rank(self, batch: Interaction) -> Ranking:
        """Return the lists of the evaluation's next batch."""
        return Ranking(self._shared.popleft() if self._shared else self._search(batch))

    def finish(self) -> float | None:
        """Log the counts of all processes.

        Returns:
            The share of lists proven to be exact (0 to 1), or None without any list.
        """
        n_empty, n_proven, n_lists = distributed.all_reduce_sum(
            self._n_empty, self._n_proven, self._n_lists
        )
        if n_empty:
            logger.info(
                "%d positions of the ranked lists hold codes of no item; they count as misses",
                n_empty,
            )
        if not n_lists:
            return None
        share = float(n_proven) / n_lists
        logger.info("ranked lists proven exact: %.2f%% of %d", 100 * share, n_lists)
        return share

    def _search(self, batch: Interaction) -> Tensor:
        """Return item ids, int64 [B, at most K], best first, 0 where there is no item."""
        history, lengths = self.model.ITEM_SEQ, batch[self.model.ITEM_SEQ_LEN]
        narrow = {**batch.interaction, history: batch[history][:, : int(lengths.max())]}
        beams = self.model.search(to_device(Interaction(narrow), self.device), self.k)
        item_ids = beams.item_ids[:, : self.k]
        self._n_empty += (item_ids == 0).sum()
        self._n_proven += beams.proven(self.k).sum()
        self._n_lists += len(item_ids)
        return item_ids
