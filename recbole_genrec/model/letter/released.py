"""LETTER as its released code (HonghuiBao2000/LETTER) runs, for comparisons with it.

`--recipe=code` trains this class. docs/models/letter.md says what differs from the paper.
"""

# Shapes: B batch, N items, L levels, K codebook size, C code width, D feature width.

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_genrec.model.letter.letter import LETTER
from recbole_genrec.model.letter.letter_rqvae import LetterRQVAE
from recbole_genrec.model.letter.sinkhorn import sinkhorn_codes
from recbole_genrec.tokenizer.base import in_chunks

TEMPERATURE = 0.003  # RQ-VAE/main.py: sk_epsilons of the last level
N_REPAIRS = 20  # RQ-VAE/generate_indices.py


class ReleasedLetterRQVAE(LetterRQVAE):
    """LETTER's tokenizer with Sinkhorn at the last level and a gradient through level 1 alone."""

    def follow(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return residuals [B, L, C] and codes [B, L] of latent vectors [B, C].

        A straight-through value inside the residual cuts the gradient after the first level
        (RQ-VAE/models/rq.py).
        """
        residuals, codes = super().follow(latent)
        return torch.cat((residuals[:, :1], residuals[:, 1:].detach()), dim=1), codes

    def choose(self, level: int, residual: Tensor, codebook: Tensor) -> Tensor:
        """Choose codes [B] in training: by Sinkhorn at the last level, else the nearest."""
        if level < self.n_levels - 1:
            return super().choose(level, residual, codebook)
        return sinkhorn_codes(torch.cdist(residual, codebook).square(), TEMPERATURE)

    def repair_collisions(self, features: Tensor, codes: Tensor) -> Tensor:
        """Give items with equal codes [N, L] other last codes by Sinkhorn; some may stay equal."""
        return repair_by_sinkhorn(in_chunks(self.encoder, features), codes, self.codebooks)


class ReleasedLETTER(LETTER):
    """LETTER with the released code's tokenizer; items that share an id there need a counter."""

    tokenizer_class = ReleasedLetterRQVAE

    def has_unique_codes(self) -> bool:
        """Return whether codes are given, because Sinkhorn may leave some equal."""
        return self.has_given_codes()


@torch.no_grad()
def repair_by_sinkhorn(latent: Tensor, codes: Tensor, codebooks: Tensor) -> Tensor:
    """Give items with equal codes other last codes, group by group, in up to `N_REPAIRS` rounds.

    Over a small group Sinkhorn picks codes that separate the items, hardly ever near ones.

    Args:
        latent: [N, C], the vectors that were quantized.
        codes: LongTensor [N, L].
        codebooks: [L, K, C].

    Returns:
        LongTensor [N, L]; some rows may still be equal.

    Source: RQ-VAE/generate_indices.py.
    """
    codes, residual = codes.clone(), latent
    for code, codebook in zip(codes[:, :-1].t(), codebooks):
        residual = residual - F.embedding(code, codebook)
    for _ in range(N_REPAIRS):
        _, group, counts = codes.unique(dim=0, return_inverse=True, return_counts=True)
        for shared in (counts > 1).nonzero().flatten():
            rows = (group == shared).nonzero().squeeze(1)
            codes[rows, -1] = sinkhorn_codes(
                torch.cdist(residual[rows], codebooks[-1]).square(), TEMPERATURE
            )
    return codes
