"""RQ-VAE: an autoencoder with a residual quantizer (TIGER, Rajput et al. 2023, §3.1)."""

# Shapes: B batch, N items, L levels, K codebook size, C code width, D feature width

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_genrec.config.declare import Declarations, number, one_of, whole
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.tokenizer.base import ItemTokenizer, check_choice, in_chunks, mlp
from recbole_genrec.tokenizer.clustering import closeness, nearest
from recbole_genrec.tokenizer.residual_kmeans import (
    fit_codebooks,
    level_distances,
    quantize_by_nearest,
)

REDUCTIONS = ("sum", "mean")


class QuantizerTerms(NamedTuple):
    """A quantized batch and the unweighted terms of its loss.

    Attributes:
        quantized: Sum of the codewords, with their gradient, [B, C].
        codebook: |sg[r] - e|^2 over the levels, scalar.
        commitment: |r - sg[e]|^2 over the levels, scalar.
        residuals: Residual before every level, with gradient, [B, L, C].
        codes: int64 [B, L].
    """

    quantized: Tensor
    codebook: Tensor
    commitment: Tensor
    residuals: Tensor
    codes: Tensor


class Autoencoded(NamedTuple):
    """A batch of features encoded, quantized and decoded.

    Attributes:
        quantized: Input of the decoder, [B, C]; its gradient goes to the encoder's output.
        reconstructed: [B, D]; its gradient goes straight through the quantizer to the encoder, and
            not to the codebooks.
        residuals: See QuantizerTerms, [B, L, C].
        codes: int64 [B, L].
        losses: See RQVAE.losses.
    """

    quantized: Tensor
    reconstructed: Tensor
    residuals: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class RQVAE(ItemTokenizer):
    """Hard residual quantization with straight-through gradient, as in TIGER.

    Args:
        n_features: D.
        hidden_sizes: Widths between features and code; the decoder mirrors the encoder.
        code_dim: C, width of a codeword.
        n_levels: L.
        codebook_size: K, per level; the levels share no codewords.
        commitment_weight: Beta of the commitment term.
        reduction: `sum` to add squared errors over dimensions and levels (the paper); `mean` to
            average over both (the LC-Rec family), which changes the ratio of reconstruction to
            quantization.
        restart_every: Epochs between restarts of codes that no item has; 0 for never.
        kmeans_iterations: Maximum number of updates of each initial k-means.

    Raises:
        UserError: Reduction is unknown.
    """

    settings: ClassVar[Declarations] = {
        "commitment_weight": number(min=0),
        "quantization_reduction": one_of(*REDUCTIONS),
        "restart_every": whole(min=0),
    }

    def __init__(
        self,
        *,
        n_features: int,
        hidden_sizes: Sequence[int],
        code_dim: int,
        n_levels: int,
        codebook_size: int,
        commitment_weight: float,
        reduction: str,
        restart_every: int,
        kmeans_iterations: int,
    ) -> None:
        super().__init__(n_features=n_features, n_levels=n_levels, codebook_size=codebook_size)
        check_choice("reduction", reduction, REDUCTIONS)
        sizes = [n_features, *hidden_sizes, code_dim]
        self.encoder = mlp(sizes)
        self.decoder = mlp(sizes[::-1])
        self.codebooks = nn.Parameter(torch.empty(n_levels, codebook_size, code_dim))
        nn.init.normal_(self.codebooks, std=code_dim**-0.5)
        self.commitment_weight = commitment_weight
        self.reduction = reduction
        self.restart_every = restart_every
        self.kmeans_iterations = kmeans_iterations

    @classmethod
    def from_config(cls, config: GenRecConfig, n_features: int, **more: Any) -> RQVAE:
        """Build the tokenizer that the settings describe, for features of this width.

        Args:
            config: Settings of the run.
            n_features: D.
            **more: Further arguments of a subclass.
        """
        return cls(
            n_features=n_features,
            hidden_sizes=config["tokenizer_hidden_sizes"],
            code_dim=config["code_dim"],
            n_levels=config["n_levels"],
            codebook_size=config["codebook_size"],
            commitment_weight=config["commitment_weight"],
            reduction=config["quantization_reduction"],
            restart_every=config["restart_every"],
            kmeans_iterations=config["kmeans_iterations"],
            **more,
        )

    @torch.no_grad()
    def start(self, features: Tensor, seed: int) -> None:
        """Fit the codebooks to the encoded features, see ItemTokenizer."""
        self._check_finite(features)
        codebooks = fit_codebooks(
            in_chunks(self.encoder, features),
            n_levels=self.n_levels,
            codebook_size=self.codebook_size,
            seed=seed,
            n_iterations=self.kmeans_iterations,
        )
        self.codebooks.copy_(codebooks)

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        """Return the terms `reconstruction`, `codebook` and `commitment` (TIGER §3.1)."""
        return self.autoencode(features).losses

    def autoencode(self, features: Tensor) -> Autoencoded:
        """Encode, quantize and decode a batch [B, D], with gradient.

        Under autocast only the layers run in bfloat16; distances and losses stay in float32.
        """
        latent = self.encoder(features).to(self.codebooks.dtype)
        with full_precision(features):
            terms = self.quantizer_terms(latent)
            quantized = latent + (terms.quantized - latent).detach()
        reconstructed = self.decoder(quantized).to(self.codebooks.dtype)
        with full_precision(features):
            losses = {
                "reconstruction": self._squared_error(features, reconstructed),
                "codebook": terms.codebook,
                "commitment": self.commitment_weight * terms.commitment,
            }
        return Autoencoded(quantized, reconstructed, terms.residuals, terms.codes, losses)

    def quantizer_terms(self, latent: Tensor) -> QuantizerTerms:
        """Quantize latent vectors [B, C]; `reduction` decides how the terms are combined."""
        residuals, codes = self.follow(latent)
        codewords, codebook_terms, commitment_terms = [], [], []
        for level, codebook in enumerate(self.codebooks.unbind()):
            codeword = F.embedding(codes[:, level], codebook)
            codewords.append(codeword)
            codebook_terms.append(self._squared_error(residuals[:, level].detach(), codeword))
            commitment_terms.append(self._squared_error(residuals[:, level], codeword.detach()))
        combine = torch.sum if self.reduction == "sum" else torch.mean
        return QuantizerTerms(
            quantized=torch.stack(codewords).sum(dim=0),
            codebook=combine(torch.stack(codebook_terms)),
            commitment=combine(torch.stack(commitment_terms)),
            residuals=residuals,
            codes=codes,
        )

    def follow(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the codes of latent vectors, level by level: r' = r - sg[e].

        Args:
            latent: Latent vectors, [B, C].

        Returns:
            The residual before each level, [B, L, C], and the codes, int64 [B, L]. The gradient of
            the residuals reaches the latent vectors at every level, and no codewords.
        """
        residual, residuals, codes = latent.to(self.codebooks.dtype), [], []
        for level, codebook in enumerate(self.codebooks.detach().unbind()):
            code = self.choose(level, residual.detach(), codebook)
            residuals.append(residual)
            codes.append(code)
            residual = residual - F.embedding(code, codebook)
        return torch.stack(residuals, dim=1), torch.stack(codes, dim=1)

    def choose(self, level: int, residual: Tensor, codebook: Tensor) -> Tensor:
        """Choose the codes [B] of residuals [B, C] in training: the nearest codewords."""
        return nearest(residual, codebook)

    def closeness(self, residuals: Tensor) -> Tensor:
        """Return the negative squared distances of residuals to codewords, up to a constant.

        A softmax over them is ETEGRec's distribution of the codes (equation 6).

        Args:
            residuals: Residual before each level, [B, L, C].

        Returns:
            Float [B, L, K].
        """
        levels = [
            closeness(residuals[:, level], codebook)
            for level, codebook in enumerate(self.codebooks.unbind())
        ]
        return torch.stack(levels, dim=1)

    @torch.no_grad()
    def end_epoch(self, features: Tensor, epoch: int, seed: int) -> int:
        """Every `restart_every` epochs, move each code without items to a random item's residual.

        The draw depends on (seed, epoch) only. A level is searched for unused codes after the
        levels before it have been repaired.

        Returns:
            The number of restarted codes.
        """
        if not self.restart_every or (epoch + 1) % self.restart_every:
            return 0
        # The multipliers keep pairs of equal sum apart, such as (seed 1, epoch 2) and (2, 1).
        generator = torch.Generator().manual_seed((seed * 2654435761 + epoch * 40503) % 2**63)
        residual = in_chunks(self.encoder, features)
        return sum(
            self._restart_level(level, residual, generator) for level in range(self.n_levels)
        )

    def _restart_level(self, level: int, residual: Tensor, generator: torch.Generator) -> int:
        """Restart the unused codes of a level; subtract its codewords from `residual` in place."""
        codebook = self.codebooks[level]
        code = nearest(residual, codebook)
        unused = torch.nonzero(torch.bincount(code, minlength=self.codebook_size) == 0).squeeze(1)
        if len(unused):
            rows = torch.randperm(len(residual), generator=generator)[: len(unused)]
            codebook[unused] = residual[rows.to(residual.device)]
            code = nearest(residual, codebook)
        residual -= F.embedding(code, codebook)
        return len(unused)

    def _squared_error(self, target: Tensor, value: Tensor) -> Tensor:
        error = F.mse_loss(value, target)
        return error * target.shape[1] if self.reduction == "sum" else error

    def _codes(self, features: Tensor) -> Tensor:
        return quantize_by_nearest(self.encoder(features), self.codebooks).codes

    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        result = quantize_by_nearest(self.encoder(features), self.codebooks)
        return {
            "squared_error": (features - self.decoder(result.quantized)).square().mean(dim=1),
            **level_distances(result),
        }
