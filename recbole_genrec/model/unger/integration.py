"""Stage I of UNGER: one vector per item for what is said of it and what is done with it (§3.3)."""

# Shapes: B batch, T history length in items, N items with padding, S width of the semantic
# features, D embedding size, Z width of a vector

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.features.item_features import principal_components
from recbole_genrec.model.unger.adaptive_norm import ModalityAdaption
from recbole_genrec.model.unger.din import DIN
from recbole_genrec.model.unger.sampled_losses import alignment, sampled_softmax

ROWS_AT_ONCE = 2**14
USERS_AT_ONCE = 64


class Integration(nn.Module):
    """A DIN whose item table is pulled, by contrast, to what an adaption layer makes of the semantic features.

    Args:
        config: has the settings din_*, adaption_*, alignment_* and embedding_size (D).
        n_items: N.
        n_features: S; 0: there are none, and no alignment.
    """

    def __init__(self, config, n_items: int, n_features: int) -> None:
        super().__init__()
        self.din = DIN(
            n_items=n_items,
            size=config["embedding_size"],
            attention_hidden_sizes=config["din_attention_hidden_sizes"],
            scorer=config["din_scorer"],
            scorer_hidden_sizes=config["din_scorer_hidden_sizes"],
            windows=config["din_windows"],
            dropout=config["din_dropout_prob"],
        )
        sizes = (n_features, config["adaption_hidden_size"], config["embedding_size"])
        self.adaption = ModalityAdaption(*sizes, config["adaption_norm"]) if n_features else None
        self.n_negatives, self.n_extra_items = (
            config["din_negatives"],
            config["alignment_extra_items"],
        )
        self.alignment_weight = config["alignment_weight"]
        self.similarity, self.temperature = (
            config["alignment_similarity"],
            config["alignment_temperature"],
        )

    @property
    def table(self) -> Tensor:
        """The collaborative embedding [N, D]; row 0 belongs to no item."""
        return self.din.table.weight

    def losses(self, histories: Tensor, targets: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Next item (equation 4) and alignment (equation 3), whose sum is equation 5.

        Args:
            histories, targets: item ids [B, T], 0 on the right of the shorter ones, and [B].
            features: semantic features of all items [N, S].
        """
        negatives = self._drawn(targets, len(targets), self.n_negatives)
        scores = self.din(histories, torch.cat((targets.unsqueeze(1), negatives), dim=1))
        is_target = negatives == targets.unsqueeze(1)
        losses = {
            "next_item": sampled_softmax(
                scores[:, 0], scores[:, 1:], is_target, len(self.table) - 1
            )
        }
        if self.adaption is not None and self.alignment_weight:
            losses["alignment"] = self.alignment_weight * self._align(targets, features)
        return losses

    def _align(self, targets: Tensor, features: Tensor) -> Tensor:
        """Over distinct items: the batch's targets and some others, or an item that is no target would never be aligned."""
        items = torch.cat((targets, self._drawn(targets, self.n_extra_items))).unique()
        adapted = self.adaption(features[items])
        return alignment(self.din.table(items), adapted, self.similarity, self.temperature)

    def _drawn(self, like: Tensor, *shape: int) -> Tensor:
        """Item ids of that shape, drawn uniformly; on the CPU, so that all devices see the same."""
        return torch.randint(1, len(self.table), shape).to(like.device, non_blocking=True)

    @torch.no_grad()
    def recall(self, rows, fields: tuple[str, str, str], k: int) -> float:
        """Share of rows whose target is among the first k of the whole catalogue, 0 to 1.

        Args:
            rows: RecBole's rows (history, next item).
            fields: names of their histories, history lengths and targets.
        """
        n_hits, device = 0, self.table.device
        for places in torch.arange(len(rows)).split(USERS_AT_ONCE):
            histories, lengths, targets = (rows[places][field].to(device) for field in fields)
            ranked = self.din.rank(histories[:, : int(lengths.max())], k)
            n_hits += int((ranked == targets.unsqueeze(1)).sum())
        return n_hits / len(rows)

    @torch.no_grad()
    def mean(self, features: Tensor) -> Tensor:
        """The mean of table and adapted features [N, S], both of length 1: [N, D]."""
        adapted = torch.cat([self.adaption(rows) for rows in features.split(ROWS_AT_ONCE)])
        return (F.normalize(self.table, dim=1) + F.normalize(adapted, dim=1)) / 2

    @torch.no_grad()
    def concatenated(self, features: Tensor, n_components: int) -> Tensor:
        """Principal components of the features and table, both of length 1, side by side: the baseline that §1 argues against."""
        reduced = principal_components("text", features, n_components)
        return torch.cat((F.normalize(reduced, dim=1), F.normalize(self.table, dim=1)), dim=1)
