"""RQ-VAE (TIGER, Rajput et al. 2023, section 3.1): an autoencoder with a residual quantizer in the middle.

Shapes: B batch, N items, L levels, K codebook size, C code width, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_genrec.config.declare import Declarations, number, one_of, whole
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.tokenizer.base import ItemTokenizer, check_choice, in_chunks, mlp
from recbole_genrec.tokenizer.clustering import closeness, nearest
from recbole_genrec.tokenizer.residual_kmeans import fit_codebooks, quantize_by_nearest

REDUCTIONS = ("sum", "mean")
RESIDUAL_GRADIENTS = ("through", "blocked")


class QuantizerTerms(NamedTuple):
    """Outcome of the quantizer on a batch; the two terms are unweighted scalars."""

    quantized: Tensor  # [B, C], the sum of the codewords, with their gradient
    codebook: Tensor  # |sg[r] - e|^2 over the levels
    commitment: Tensor  # |r - sg[e]|^2 over the levels
    residuals: Tensor  # [B, L, C], what every level quantizes, with the gradient that `residual_gradient` allows
    codes: Tensor  # LongTensor [B, L]


class Autoencoded(NamedTuple):
    """A batch of features after the way through the tokenizer."""

    quantized: Tensor  # [B, C], what the decoder sees; its gradient is that of the encoder's output
    reconstructed: Tensor  # [B, D]; its gradient reaches the encoder straight through the quantizer, the codebooks not at all
    residuals: Tensor  # [B, L, C], as in QuantizerTerms
    codes: Tensor  # LongTensor [B, L]
    losses: dict[str, Tensor]  # as `RQVAE.losses`


class RQVAE(ItemTokenizer):
    """Hard residual quantization with straight-through gradient, as in TIGER.

    Args:
        n_features: D.
        hidden_sizes: widths between features and code; the decoder mirrors the encoder.
        code_dim: C, width of a codeword.
        n_levels: L.
        codebook_size: K, per level; the levels share nothing.
        commitment_weight: beta of the commitment term.
        reduction: `sum` adds squared errors over dimensions and levels (the paper); `mean` averages
            over both (the
            LC-Rec family), which changes the ratio of reconstruction to quantization.
        residual_gradient: `through` lets the commitment of all levels reach the encoder, r' = r -
            sg[e]; `blocked` only
            that of the first level, as a straight-through value inside the residual does.
        restart_every: epochs between two looks for codes that no item has, which then restart; 0
            means never.
        kmeans_iterations: most iterations of each k-means of the start.

    Raises:
        ValueError: for an unknown reduction or residual_gradient.
    """

    settings: ClassVar[Declarations] = {
        "commitment_weight": number(min=0),
        "quantization_reduction": one_of(*REDUCTIONS),
        "residual_gradient": one_of(*RESIDUAL_GRADIENTS),
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
        residual_gradient: str,
        restart_every: int,
        kmeans_iterations: int,
    ) -> None:
        super().__init__(n_features=n_features, n_levels=n_levels, codebook_size=codebook_size)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("residual_gradient", residual_gradient, RESIDUAL_GRADIENTS)
        sizes = [n_features, *hidden_sizes, code_dim]
        self.encoder = mlp(sizes)
        self.decoder = mlp(sizes[::-1])
        self.codebooks = nn.Parameter(torch.empty(n_levels, codebook_size, code_dim))
        nn.init.normal_(self.codebooks, std=code_dim**-0.5)
        self.commitment_weight = commitment_weight
        self.reduction = reduction
        self.residual_gradient = residual_gradient
        self.restart_every = restart_every
        self.kmeans_iterations = kmeans_iterations

    @classmethod
    def from_config(cls, config, n_features: int, **more) -> RQVAE:
        """The RQ-VAE that the settings describe, for features of this width; `more` goes to the constructor of a subclass."""
        return cls(
            n_features=n_features,
            hidden_sizes=config["tokenizer_hidden_sizes"],
            code_dim=config["code_dim"],
            n_levels=config["n_levels"],
            codebook_size=config["codebook_size"],
            commitment_weight=config["commitment_weight"],
            reduction=config["quantization_reduction"],
            residual_gradient=config["residual_gradient"],
            restart_every=config["restart_every"],
            kmeans_iterations=config["kmeans_iterations"],
            **more,
        )

    @torch.no_grad()
    def start(self, features: Tensor, seed: int) -> None:
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
        """Terms `reconstruction`, `codebook` and `commitment` of a batch [B, D] (TIGER, section 3.1)."""
        return self.autoencode(features).losses

    def autoencode(self, features: Tensor) -> Autoencoded:
        """Encodes, quantizes and decodes a batch [B, D], with gradient; under autocast, layers are short, distances and losses not."""
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
        """Quantizes latent vectors [B, C]; the terms are summed or averaged as `reduction` says."""
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

    def follow(self, latent: Tensor, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Residuals [B, L, C] of latent vectors [B, C], one before each level, and the codes [B, L] that lead through them.

        Without given `codes` each residual takes its nearest codeword. The gradient of the
        residuals is what
        `residual_gradient` allows; codewords get none.
        """
        residual, residuals, taken = latent.to(self.codebooks.dtype), [], []
        for level, codebook in enumerate(self.codebooks.detach().unbind()):
            code = (
                self.choose(level, residual.detach(), codebook)
                if codes is None
                else codes[:, level]
            )
            residuals.append(residual)
            taken.append(code)
            residual = residual - F.embedding(code, codebook)
            if self.residual_gradient == "blocked":
                residual = residual.detach()
        return torch.stack(residuals, dim=1), torch.stack(taken, dim=1)

    def choose(self, level: int, residual: Tensor, codebook: Tensor) -> Tensor:
        """The codes [B] that residuals [B, C] take at a level while the tokenizer is trained: those of the nearest codewords."""
        return nearest(residual, codebook)

    def closeness(self, residuals: Tensor) -> Tensor:
        """Minus the squared distances of residuals [B, L, C] to all codewords of their level, up to a constant; float [B, L, K].

        A softmax over them is ETEGRec's distribution of the codes (its equation 6).
        """
        levels = [
            closeness(residuals[:, level], codebook)
            for level, codebook in enumerate(self.codebooks.unbind())
        ]
        return torch.stack(levels, dim=1)

    @torch.no_grad()
    def end_epoch(self, features: Tensor, epoch: int, seed: int) -> int:
        """Every `restart_every` epochs puts each code without an item on the residual of a random item.

        The draw depends on (seed, epoch) only. Level l + 1 is judged after level l has been
        repaired.
        """
        if not self.restart_every or (epoch + 1) % self.restart_every:
            return 0
        # Odd multipliers keep pairs of equal sum apart: seed 1, epoch 2 and seed 2, epoch 1.
        generator = torch.Generator().manual_seed((seed * 2654435761 + epoch * 40503) % 2**63)
        residual = in_chunks(self.encoder, features)
        return sum(
            self._restart_level(level, residual, generator) for level in range(self.n_levels)
        )

    def _restart_level(self, level: int, residual: Tensor, generator: torch.Generator) -> int:
        """Restarts the unused codes of one level and takes its codewords off the residual, in place."""
        codebook = self.codebooks[level]
        code = nearest(residual, codebook)
        unused = torch.nonzero(torch.bincount(code, minlength=self.codebook_size) == 0).squeeze(1)
        if len(unused):
            rows = torch.randperm(len(residual), generator=generator)[: len(unused)].to(
                residual.device
            )
            codebook[unused] = residual[rows]
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
        values = {
            f"distance_level_{level}": distance
            for level, distance in enumerate(result.distances.t())
        }
        return {
            "squared_error": (features - self.decoder(result.quantized)).square().mean(dim=1),
            **values,
        }
