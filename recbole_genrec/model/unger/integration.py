"""Stage I of UNGER (section 3.3): one vector per item for its text and its interactions."""

# Shapes: B batch, T history length in items, N items with padding, S width of the semantic
# features, D embedding size.

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_genrec.config.declare import Declarations, list_of, number, one_of, whole
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.config.shared import hidden_sizes
from recbole_genrec.features.item_features import principal_components
from recbole_genrec.model.unger.adaptive_norm import NORMS, ModalityAdaption
from recbole_genrec.model.unger.din import DIN
from recbole_genrec.model.unger.sampled_losses import alignment, sampled_softmax

MAX_ROWS = 2**14  # of the features that are adapted at a time


class Integration(nn.Module):
    """A DIN whose item table is pulled, by contrast, to the adapted semantic features.

    Args:
        config: the settings din_*, adaption_*, alignment_* and embedding_size (D).
        n_items: N.
        n_features: S; without features (0) there is no alignment.
    """

    settings: ClassVar[Declarations] = {
        "embedding_size": whole(min=1),
        "din_attention_hidden_sizes": list_of(whole(min=1), example="[64, 16]"),
        "din_windows": list_of(whole(min=1), example="[20]"),
        "din_scorer": one_of("dot", "mlp"),
        "din_scorer_hidden_sizes": hidden_sizes(),
        "din_dropout_prob": number(min=0, below=1),
        "din_negatives": whole(min=1),
        "adaption_hidden_size": whole(min=1),
        "adaption_norm": one_of(*NORMS),
        "alignment_weight": number(min=0),
        "alignment_similarity": one_of("cosine", "dot"),
        "alignment_temperature": number(above=0),
        "alignment_extra_items": whole(min=0),
    }

    def __init__(self, config: GenRecConfig, n_items: int, n_features: int) -> None:
        super().__init__()
        size = config["embedding_size"]
        self.din = DIN(
            n_items=n_items,
            size=size,
            attention_hidden_sizes=config["din_attention_hidden_sizes"],
            scorer=config["din_scorer"],
            scorer_hidden_sizes=config["din_scorer_hidden_sizes"],
            windows=config["din_windows"],
            dropout=config["din_dropout_prob"],
        )
        self.adaption: ModalityAdaption | None = None
        if n_features:
            self.adaption = ModalityAdaption(
                n_features, config["adaption_hidden_size"], size, config["adaption_norm"]
            )
        self.n_negatives = config["din_negatives"]
        self.n_extra_items = config["alignment_extra_items"]
        self.alignment_weight = config["alignment_weight"]
        self.similarity = config["alignment_similarity"]
        self.temperature = config["alignment_temperature"]

    @property
    def table(self) -> Tensor:
        """Return the collaborative embedding [N, D]; row 0 belongs to no item."""
        return self.din.table.weight

    def losses(self, histories: Tensor, targets: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Return next item prediction (equation 4) and alignment (equation 3).

        Their sum is equation 5.

        Args:
            histories: item ids [B, T], oldest first, 0 on the right.
            targets: item ids [B].
            features: semantic features of all items [N, S].
        """
        negatives = self._draw(targets, len(targets), self.n_negatives)
        scores = self.din(histories, torch.cat((targets.unsqueeze(1), negatives), dim=1))
        is_target = negatives == targets.unsqueeze(1)
        losses = {
            "next_item": sampled_softmax(
                scores[:, 0], scores[:, 1:], is_target, len(self.table) - 1
            )
        }
        if self.adaption is not None and self.alignment_weight:
            aligned = self._align(self.adaption, targets, features)
            losses["alignment"] = self.alignment_weight * aligned
        return losses

    def _align(self, adaption: ModalityAdaption, targets: Tensor, features: Tensor) -> Tensor:
        """Align the distinct targets of a batch and some drawn items.

        Without the drawn items, an item that is never a target would never be aligned.
        """
        items = torch.cat((targets, self._draw(targets, self.n_extra_items))).unique()
        adapted = adaption(features[items])
        return alignment(self.din.table(items), adapted, self.similarity, self.temperature)

    def _draw(self, like: Tensor, *shape: int) -> Tensor:
        """Draw item ids uniformly; on the CPU, so that all devices see the same."""
        return torch.randint(1, len(self.table), shape).to(like.device, non_blocking=True)

    @torch.no_grad()
    def mean(self, features: Tensor) -> Tensor:
        """Return the mean of table and adapted features [N, S], both of length 1: [N, D].

        The features have to be aligned, so there is an adaption layer.
        """
        assert self.adaption is not None
        adapted = torch.cat([self.adaption(rows) for rows in features.split(MAX_ROWS)])
        return (F.normalize(self.table, dim=1) + F.normalize(adapted, dim=1)) / 2

    @torch.no_grad()
    def concatenated(self, features: Tensor, n_components: int) -> Tensor:
        """Return principal components of the features beside the table, both of length 1.

        This is the baseline that section 1 argues against: [N, S] -> [N, n_components + D].
        """
        reduced = principal_components("text", features, n_components)
        return torch.cat((F.normalize(reduced, dim=1), F.normalize(self.table, dim=1)), dim=1)
