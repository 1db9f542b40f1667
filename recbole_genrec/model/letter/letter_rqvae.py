"""The tokenizer of LETTER (arXiv 2405.07314, section 3.2).

It is an RQ-VAE with a collaborative and a diversity regularizer.
"""

# Shapes: B batch, N items, L levels, K codebook size, C code width, D feature width, G groups.

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_genrec.config.declare import Declarations, list_of, number, whole
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.tokenizer.balanced_clustering import balanced_kmeans, check_sizes
from recbole_genrec.tokenizer.base import in_chunks
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.tokenizer.unique_kmeans import unique_codes

logger = logging.getLogger(__name__)


class LetterRQVAE(RQVAE):
    """An RQ-VAE whose codes follow who uses the items, and whose codewords spread evenly.

    Args:
        collaborative_weight: alpha of the collaborative regularization; 0 leaves it out.
        diversity_weight: beta of the diversity regularization; 0 leaves it out.
        n_groups: G, the number of groups of codewords in each level.
        group_sizes: minimum and maximum number of codewords in a group.
        regroup_every: epochs between two clusterings of the codewords.
        has_unique_codes: whether items with equal codes get other, free codes; without it a
            counter level has to tell them apart.
        rqvae: the arguments of RQVAE.

    Raises:
        UserError: the groups cannot have these sizes; and as RQVAE.
    """

    settings: ClassVar[Declarations] = {
        "collaborative_weight": number(min=0),
        "diversity_weight": number(min=0),
        "n_groups": whole(min=1),
        "group_sizes": list_of(whole(min=0), example="[10, 60]", length=2),
        "regroup_every": whole(min=1),
    }
    groups: Tensor  # LongTensor [L, K], the group of every codeword; -1 before the first clustering

    def __init__(
        self,
        *,
        collaborative_weight: float,
        diversity_weight: float,
        n_groups: int,
        group_sizes: Sequence[int],
        regroup_every: int,
        has_unique_codes: bool,
        **rqvae: Any,
    ) -> None:
        super().__init__(**rqvae)
        self.min_group_size, self.max_group_size = group_sizes
        if diversity_weight:
            check_sizes(self.codebook_size, n_groups, self.min_group_size, self.max_group_size)
        self.collaborative_weight = collaborative_weight
        self.diversity_weight = diversity_weight
        self.n_groups = n_groups
        self.regroup_every = regroup_every
        self.has_unique_codes = has_unique_codes
        self.register_buffer("groups", torch.full((self.n_levels, self.codebook_size), -1))

    @classmethod
    def from_config(cls, config: GenRecConfig, n_features: int, **more: Any) -> RQVAE:
        """Return the tokenizer that the settings describe, for features of this width."""
        return super().from_config(
            config,
            n_features,
            collaborative_weight=config["collaborative_weight"],
            diversity_weight=config["diversity_weight"],
            n_groups=config["n_groups"],
            group_sizes=config["group_sizes"],
            regroup_every=config["regroup_every"],
            **more,
        )

    # --- training

    def regroup(self, epoch: int, seed: int) -> None:
        """Cluster the codewords of each level before every `regroup_every`-th epoch, from epoch 0.

        A clustering starts from the last one, because codewords move little.
        """
        if not self.diversity_weight or epoch % self.regroup_every:
            return
        for level, codebook in enumerate(self.codebooks.detach()):
            start = None if (self.groups[level] < 0).any() else self.groups[level]
            self.groups[level] = balanced_kmeans(
                codebook,
                start,
                self.n_groups,
                self.min_group_size,
                self.max_group_size,
                seed + level,
            )

    def regularized_losses(self, features: Tensor, collaborative: Tensor) -> dict[str, Tensor]:
        """Return the terms of L_LETTER (section 3.2).

        These are the terms of `RQVAE.losses` and, with a weight above 0, `collaborative` and
        `diversity`.

        Args:
            features: [B, D].
            collaborative: [B, C], vectors of the same items from a collaborative model; zeros for
                items that it does not know.
        """
        batch = self.autoencode(features)
        losses = dict(batch.losses)
        with full_precision(features):
            if self.collaborative_weight:
                losses["collaborative"] = self.collaborative_weight * collaborative_loss(
                    batch.quantized, collaborative
                )
            if self.diversity_weight:
                levels = diversity_losses(self.codebooks, self.groups, batch.codes, self.n_groups)
                losses["diversity"] = self.diversity_weight * (
                    levels.sum() if self.reduction == "sum" else levels.mean()
                )
        return losses

    # --- codes

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Return the codes [N, L] of the whole catalogue [N, D] after `repair_collisions`.

        Raises:
            UserError: the codes have to be unique, but are fewer than the items.
        """
        codes = super().encode(features)
        repaired = self.repair_collisions(features, codes)
        counts = codes.unique(dim=0, return_counts=True)[1]
        logger.info(
            "codes: %d of %d items shared their codes; %d got other codes",
            int(counts[counts > 1].sum()),
            len(codes),
            int((codes != repaired).any(dim=1).sum()),
        )
        return repaired

    def repair_collisions(self, features: Tensor, codes: Tensor) -> Tensor:
        """Give items with equal codes [N, L] the nearest free codes, if codes have to be unique."""
        if not self.has_unique_codes:
            return codes
        return unique_codes(in_chunks(self.encoder, features), codes, self.codebooks)


def collaborative_loss(quantized: Tensor, collaborative: Tensor) -> Tensor:
    """Return the cross-entropy of every item's own vector among the vectors of the batch.

    The logits are inner products, without temperature or norm.

    Args:
        quantized: [B, C], the sums of the items' codewords.
        collaborative: [B, C]; a row of zeros is an unknown item, which is neither a row nor a
            negative of the loss.

    Source: LETTER section 3.2, L_CF.
    """
    is_known = collaborative.any(dim=1)
    # -inf would have no gradient where a batch holds no known item.
    logits = (quantized @ collaborative.t()).masked_fill(
        ~is_known, torch.finfo(quantized.dtype).min
    )
    own = torch.where(is_known, logits.log_softmax(dim=1).diagonal(), 0)
    return -own.sum() / is_known.sum().clamp(min=1)


def diversity_losses(codebooks: Tensor, groups: Tensor, codes: Tensor, n_groups: int) -> Tensor:
    """Return the cross-entropy [L] of a random sibling of each codeword, level by level.

    A sibling is another codeword of the same group. It competes with all codewords of the level but
    the codeword itself; the logits are inner products.

    Args:
        codebooks: [L, K, C], with gradient.
        groups: LongTensor [L, K].
        codes: LongTensor [B, L], the codes of the items of a batch; a codeword without a sibling
            does not count.
        n_groups: G.

    Source: LETTER section 3.2, L_Div.
    """
    siblings, has_sibling = draw_siblings(groups, codes, n_groups)
    # Logits depend on the code alone, so their cost does not grow with the batch.
    products = codebooks @ codebooks.transpose(1, 2)
    itself = torch.eye(products.shape[1], dtype=torch.bool, device=products.device)
    log_probs = products.masked_fill(itself, float("-inf")).log_softmax(dim=2)
    levels = torch.arange(len(codebooks), device=codes.device)
    own = torch.where(has_sibling, log_probs[levels, codes, siblings], 0)
    return -own.sum(dim=0) / has_sibling.sum(dim=0).clamp(min=1)


def draw_siblings(groups: Tensor, codes: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Draw another code of the same group for every code, all siblings equally likely.

    Args:
        groups: LongTensor [L, K], from 0 to G - 1.
        codes: LongTensor [B, L].
        n_groups: G.

    Returns:
        The siblings, LongTensor [B, L], and whether a code has any, bool [B, L].
    """
    # All codes of a level stand in one row, group after group.
    row = groups.argsort(dim=1, stable=True)  # [L, K], position -> code
    position = row.argsort(dim=1)  # [L, K], code -> position
    sizes = F.one_hot(groups, n_groups).sum(dim=1)  # [L, G]
    starts = sizes.cumsum(dim=1) - sizes  # [L, G], position of the first code of a group

    level = torch.arange(len(groups), device=codes.device)
    group = groups[level, codes]
    size, start = sizes[level, group], starts[level, group]
    # Drawn on the CPU, so that all devices see the same numbers.
    draws = torch.rand(codes.shape, dtype=torch.double).to(codes.device, non_blocking=True)
    # Between 1 and size - 1 steps around the group never lead back to the code itself.
    steps = 1 + (draws * (size - 1)).long()
    index_in_group = (position[level, codes] - start + steps) % size
    return row[level, start + index_in_group], size > 1
