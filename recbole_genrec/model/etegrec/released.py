"""ETEGRec as its released code runs, for comparisons with it.

`--recipe=code` trains this class. docs/models/etegrec.md says what differs from the paper.

Shapes: B batch, L levels, K codebook size, C code width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recbole_genrec.model.etegrec.etegrec import ETEGRec
from recbole_genrec.model.stage import Group, Phase, Stage
from recbole_genrec.tokenizer.rqvae import RQVAE


class ReleasedRQVAE(RQVAE):
    """An RQ-VAE with the released code's residuals and distributions."""

    def follow(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return residuals [B, L, C] and codes [B, L] of latent vectors [B, C].

        A straight-through value inside the residual cuts the gradient after the first level
        (vq.py).
        """
        residuals, codes = super().follow(latent)
        return torch.cat((residuals[:, :1], residuals[:, 1:].detach()), dim=1), codes

    def closeness(self, residuals: Tensor) -> Tensor:
        """Return plus the squared distances, whose softmax prefers the farthest codes (trainer.py).

        Up to a constant per row; float [B, L, C] -> [B, L, K].
        """
        return -super().closeness(residuals)


class ReleasedETEGRec(ETEGRec):
    """ETEGRec with the released code's alignment, schedule and choice of the best weights."""

    def make_tokenizer(self, n_features: int) -> RQVAE:
        """Return the released RQ-VAE."""
        return ReleasedRQVAE.from_config(self.config, n_features)

    def phases(self, tokenizer: Group, recommender: Group) -> tuple[Phase, Phase]:
        """Let the recommender's schedule count the tokenizer's epochs too (main.py).

        Its learning rate then never falls to the end.
        """
        first, second = super().phases(tokenizer, recommender)
        return first, replace(second, epochs=self.config["epochs"])

    def stages(self) -> tuple[Stage, ...]:
        """Forget the best score when fine-tuning starts (trainer.py)."""
        *earlier, finetune = super().stages()
        return (*earlier, replace(finetune, keeps_best=False))
