"""The tokenizer of LETTER (arXiv 2405.07314, section 3.2): an RQ-VAE with a collaborative and a diversity regularizer.

Shapes: B batch, N items, L levels, K codebook size, C code width, D feature width, G groups.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_genrec.model.letter.sinkhorn import sinkhorn_codes
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.tokenizer.balanced_clustering import balanced_kmeans, check_sizes
from recbole_genrec.tokenizer.base import in_chunks
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.tokenizer.unique_kmeans import unique_codes

logger = logging.getLogger(__name__)

SINKHORN_TEMPERATURE = 0.003  # released code: sk_epsilons of the last level
N_REPAIRS = 20  # released code: generate_indices.py


class LetterRQVAE(RQVAE):
    """RQ-VAE whose codes also follow who uses the items, and whose codewords spread evenly.

    Args:
        collaborative_weight: alpha of collaborative regularization; 0 leaves it out.
        diversity_weight: beta of diversity regularization; 0 leaves it out.
        n_groups: G, clusters of codewords.
        group_sizes: least and most codewords of a group.
        regroup_every: epochs between two clusterings of the codewords.
        last_level: how codes of the last level are chosen in training: `nearest`, or `sinkhorn`,
            which uses all codes alike.
        collision_repair: what becomes of items with equal codes: `matching` gives them the nearest
            free last codes, `sinkhorn`
            those of the released code, which may leave some equal, `counter` leaves them to the
            counter level.
        rqvae: those of RQVAE.

    Raises:
        ValueError: for groups that cannot have these sizes, and as RQVAE.
    """

    groups: Tensor  # LongTensor [L, K], the group of every codeword; -1 before the first clustering

    def __init__(
        self,
        *,
        collaborative_weight: float,
        diversity_weight: float,
        n_groups: int,
        group_sizes: Sequence[int],
        regroup_every: int,
        last_level: str,
        collision_repair: str,
        **rqvae,
    ) -> None:
        super().__init__(**rqvae)
        self.least, self.most = group_sizes
        if diversity_weight:
            check_sizes(self.codebook_size, n_groups, self.least, self.most)
        self.collaborative_weight = collaborative_weight
        self.diversity_weight = diversity_weight
        self.n_groups = n_groups
        self.regroup_every = regroup_every
        self.last_level = last_level
        self.collision_repair = collision_repair
        self.register_buffer("groups", torch.full((self.n_levels, self.codebook_size), -1))

    # --- training
    # -----------------------------------------------------------------------------------------

    def regroup(self, epoch: int, seed: int) -> None:
        """Every `regroup_every` epochs, before the epoch (from 0): cluster the codewords of each level, from the last clusters on."""
        if not self.diversity_weight or epoch % self.regroup_every:
            return
        for level, codebook in enumerate(self.codebooks.detach()):
            start = None if (self.groups[level] < 0).any() else self.groups[level]
            self.groups[level] = balanced_kmeans(
                codebook, start, self.n_groups, self.least, self.most, seed + level
            )

    def regularized_losses(self, features: Tensor, collaborative: Tensor) -> dict[str, Tensor]:
        """Terms of RQVAE.losses and, if they have a weight, `collaborative` and `diversity` (equation of L_LETTER).

        Args:
            features: [B, D].
            collaborative: [B, C], the same items' vectors from a collaborative model; zeros where
                it knows nothing of an item.
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

    def choose(self, level: int, residual: Tensor, codebook: Tensor) -> Tensor:
        """As of RQVAE, or by Sinkhorn at the last level."""
        if self.last_level == "nearest" or level < self.n_levels - 1:
            return super().choose(level, residual, codebook)
        return sinkhorn_codes(torch.cdist(residual, codebook).square(), SINKHORN_TEMPERATURE)

    # --- codes
    # --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Codes [N, L] of the whole catalogue [N, D], collisions repaired as `collision_repair` says.

        Raises:
            ValueError: if `matching` has fewer codes than there are items.
        """
        codes = super().encode(features)
        if self.collision_repair == "counter":
            return codes
        latent = in_chunks(self.encoder, features)
        repair = unique_codes if self.collision_repair == "matching" else repair_by_sinkhorn
        repaired = repair(latent, codes, self.codebooks)
        counts = codes.unique(dim=0, return_counts=True)[1]
        logger.info(
            "codes: %d of %d items shared theirs; %s gave other codes to %d",
            int(counts[counts > 1].sum()),
            len(codes),
            self.collision_repair,
            int((codes != repaired).any(dim=1).sum()),
        )
        return repaired


def collaborative_loss(quantized: Tensor, collaborative: Tensor) -> Tensor:
    """Cross-entropy of every item's own vector among those of the batch, by inner products.

    Args:
        quantized: [B, C], the items' sums of codewords.
        collaborative: [B, C]; rows of zeros neither count nor are counted against.

    Source: LETTER, L_CF; rows only, without temperature or norm, as in the released code.
    """
    is_known = collaborative.any(dim=1)
    # Not -inf, which has no gradient where a batch holds no known item.
    logits = (quantized @ collaborative.t()).masked_fill(
        ~is_known, torch.finfo(quantized.dtype).min
    )
    own = torch.where(is_known, logits.log_softmax(dim=1).diagonal(), 0)
    return -own.sum() / is_known.sum().clamp(min=1)


def diversity_losses(codebooks: Tensor, groups: Tensor, codes: Tensor, n_groups: int) -> Tensor:
    """Cross-entropy of a codeword's drawn neighbor in its group among all other codewords of the level, by inner products; [L].

    Args:
        codebooks: [L, K, C], with gradient.
        groups: LongTensor [L, K].
        codes: LongTensor [B, L], of the items of a batch; those whose codeword is alone in its
            group do not count.

    Source: LETTER, L_Div.
    """
    siblings, has_sibling = draw_siblings(groups, codes, n_groups)
    products = codebooks @ codebooks.transpose(
        1, 2
    )  # they depend on the code only, so a batch costs nothing
    itself = torch.eye(products.shape[1], dtype=torch.bool, device=products.device)
    log_probs = products.masked_fill(itself, float("-inf")).log_softmax(dim=2)
    levels = torch.arange(len(codebooks), device=codes.device)
    own = torch.where(has_sibling, log_probs[levels, codes, siblings], 0)
    return -own.sum(dim=0) / has_sibling.sum(dim=0).clamp(min=1)


def draw_siblings(groups: Tensor, codes: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Another codeword of the same group for every code, all of them equally likely.

    Args:
        groups: LongTensor [L, K].
        codes: LongTensor [B, L].

    Returns:
        LongTensor [B, L], and bool [B, L]: whether there is another one.
    """
    members = groups.argsort(dim=1, stable=True)
    places = members.argsort(dim=1)
    sizes = F.one_hot(groups, n_groups).sum(dim=1)
    starts = sizes.cumsum(dim=1) - sizes
    group = groups.gather(1, codes.t())
    size, start = sizes.gather(1, group), starts.gather(1, group)
    # Drawn on the CPU, so that all devices see the same numbers.
    draws = torch.rand(codes.shape, dtype=torch.double).t().to(codes.device, non_blocking=True)
    steps = 1 + (draws * (size - 1)).long()
    place = (places.gather(1, codes.t()) - start + steps) % size
    return members.gather(1, start + place).t(), (size > 1).t()


@torch.no_grad()
def repair_by_sinkhorn(points: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Give items with equal codes [N, L] other last codes, group by group, as the released code of LETTER does; some may stay equal.

    Args:
        points: [N, C], what the codes stand for.
        codebooks: [L, K, C].
    """
    codes, residual = codes.clone(), points
    for code, codebook in zip(codes[:, :-1].t(), codebooks):
        residual = residual - F.embedding(code, codebook)
    for _ in range(N_REPAIRS):
        _, group, counts = codes.unique(dim=0, return_inverse=True, return_counts=True)
        for shared in (counts > 1).nonzero().flatten():
            rows = (group == shared).nonzero().squeeze(1)
            codes[rows, -1] = sinkhorn_codes(
                torch.cdist(residual[rows], codebooks[-1]).square(), SINKHORN_TEMPERATURE
            )
    return codes
