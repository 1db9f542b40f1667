"""The tokenizer of UniGRec (arXiv 2601.17438): a residual quantizer whose codes are distributions.

Shapes: N items, L levels, K codebook size, C code width, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.tokenizer.base import ItemTokenizer, in_chunks, mlp
from recbole_genrec.tokenizer.clustering import closeness, kmeans

# Ours: this many vectors give the variance to 2 per cent, and encoding a large catalogue would
# take a sixth of an epoch.
MAX_MEASURED = 2048


class SoftCodes(NamedTuple):
    """The output of the soft quantizer for N vectors."""

    probabilities: Tensor  # [N, L, K], each level sums to 1
    quantized: Tensor  # [N, C], sum over the levels of the expected codewords
    codes: Tensor  # LongTensor [N, L], the most probable code along the soft path


def codeword_uniformity(probabilities: Tensor) -> Tensor:
    """Return L_CU, the negative entropy of the mean assignment, averaged over the levels.

    Args:
        probabilities: [N, L, K].

    Returns:
        A scalar in [-log K, 0]. It is smallest when the N rows together use all codewords equally,
        however sharp each row is.
    """
    usage = probabilities.mean(dim=0)
    return (usage * (usage + 1e-10).log()).sum(dim=-1).mean()


class SoftRQVAE(ItemTokenizer):
    """An autoencoder with a soft residual quantizer: p = softmax(-squared distance / temperature).

    Each level subtracts the expected codeword, not the nearest one, so losses reach the encoder
    and all codebooks.

    Args:
        n_features: D.
        hidden_sizes: widths between features and code; the decoder mirrors the encoder.
        code_dim: C.
        n_levels: L; the levels share no codewords.
        codebook_size: K, per level.
        uniformity_weight: weight of codeword uniformity; 0 switches it off.
        temperature_max: temperature of the first epoch, in units of `temperature_unit`.
        temperature_min: temperature of epoch `annealing_epochs` and all later ones, above 0.
        temperature_unit: "variance": the variance of the items' latent vectors, summed over their
            dimensions, estimated from about 2,000 items and updated in every `anneal`; "absolute":
            the scale of squared distances of latent vectors.
        annealing_epochs: length of the linear descent from one to the other, at least 1.
        kmeans_iterations: maximum iterations of each k-means at the start.

    The temperature in use and its unit are buffers: they are saved with the codebooks, because the
    codes of deeper levels depend on them.
    """

    temperature: Tensor
    unit: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        hidden_sizes: Sequence[int],
        code_dim: int,
        n_levels: int,
        codebook_size: int,
        uniformity_weight: float,
        temperature_max: float,
        temperature_min: float,
        temperature_unit: str,
        annealing_epochs: int,
        kmeans_iterations: int,
    ) -> None:
        super().__init__(n_features=n_features, n_levels=n_levels, codebook_size=codebook_size)
        sizes = [n_features, *hidden_sizes, code_dim]
        self.encoder = mlp(sizes)
        self.decoder = mlp(sizes[::-1])
        self.codebooks = nn.Parameter(torch.empty(n_levels, codebook_size, code_dim))
        nn.init.normal_(self.codebooks, std=code_dim**-0.5)
        self.uniformity_weight = uniformity_weight
        self.temperature_max = temperature_max
        self.temperature_min = temperature_min
        self.temperature_unit = temperature_unit
        self.annealing_epochs = annealing_epochs
        self.kmeans_iterations = kmeans_iterations
        self.register_buffer("temperature", torch.tensor(float(temperature_max)))
        self.register_buffer("unit", torch.tensor(1.0))

    @classmethod
    def from_config(
        cls, config: GenRecConfig, n_features: int, uniformity_weight: float
    ) -> SoftRQVAE:
        """Build the tokenizer that the settings describe, for features of this width."""
        return cls(
            n_features=n_features,
            hidden_sizes=config["tokenizer_hidden_sizes"],
            code_dim=config["code_dim"],
            n_levels=config["n_levels"],
            codebook_size=config["codebook_size"],
            uniformity_weight=uniformity_weight,
            temperature_max=config["temperature_max"],
            temperature_min=config["temperature_min"],
            temperature_unit=config["temperature_unit"],
            annealing_epochs=max(1, config["tokenizer_epochs"]),
            kmeans_iterations=config["kmeans_iterations"],
        )

    @torch.no_grad()
    def anneal(self, epoch: int, features: Tensor) -> None:
        """Set the temperature before `epoch` (from 0) from the features of all items [N, D].

        In units of the latent variance, training cannot sharpen the codes by widening the latent
        space.
        """
        progress = min(max(epoch / self.annealing_epochs, 0.0), 1.0)
        if self.temperature_unit == "variance":
            measured = features[:: -(-len(features) // MAX_MEASURED)]
            self.unit.copy_(in_chunks(self.encoder, measured).var(dim=0, unbiased=False).sum())
        self.temperature.copy_(
            self.unit
            * (self.temperature_max + (self.temperature_min - self.temperature_max) * progress)
        )

    @torch.no_grad()
    def start(self, features: Tensor, seed: int) -> None:
        """Initialize the codebooks by k-means of the soft residuals at temperature_max.

        Args:
            features: [N, D], of all items.
            seed: seed of the first level's k-means; each level adds 1.

        Raises:
            UserError: the features have a wrong shape or hold NaN or infinity, or N is below K.
        """
        self._check_finite(features)
        self.anneal(0, features)
        residual = in_chunks(self.encoder, features)
        for level, codebook in enumerate(self.codebooks):
            centroids, _ = kmeans(
                residual, self.codebook_size, seed=seed + level, n_iterations=self.kmeans_iterations
            )
            codebook.copy_(centroids)
            residual = in_chunks(partial(self._soft_residual, codebook=codebook), residual)

    def quantize(self, latent: Tensor, temperature: float | Tensor | None = None) -> SoftCodes:
        """Return the soft codes of latent vectors [N, C], in float32 under autocast too.

        Args:
            latent: [N, C], from the encoder or any other map into the code space.
            temperature: above 0, absolute; None takes the tokenizer's own.
        """
        with full_precision(latent):
            residual = latent.to(self.codebooks.dtype)
            probabilities, codes, quantized = [], [], torch.zeros_like(residual)
            for codebook in self.codebooks.unbind():
                assignment, soft_codeword = self._assign(residual, codebook, temperature)
                probabilities.append(assignment)
                codes.append(assignment.detach().max(dim=1).indices)
                quantized = quantized + soft_codeword
                residual = residual - soft_codeword
        return SoftCodes(torch.stack(probabilities, dim=1), quantized, torch.stack(codes, dim=1))

    def distributions(self, latent: Tensor, temperature: float) -> Tensor:
        """Return the distributions by which distillation compares latent vectors, [N, L, K].

        Args:
            latent: [N, C].
            temperature: above 0, in units of `temperature_unit`.
        """
        return self.quantize(latent, temperature * self.unit).probabilities

    def soft_codes(self, features: Tensor) -> SoftCodes:
        """Return the soft codes of features [N, D] at the current temperature, with gradient."""
        with full_precision(features):
            return self.quantize(self.encoder(features))

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        """Return the terms `reconstruction` (mean squared error) and `uniformity`, features [B, D].

        The weight of uniformity is meant for features of unit norm: rescale it with the features.
        """
        with full_precision(features):
            soft = self.soft_codes(features)
            uniformity = features.new_zeros(())
            if self.uniformity_weight:
                uniformity = self.uniformity_weight * codeword_uniformity(soft.probabilities)
            return {
                "reconstruction": F.mse_loss(self.decoder(soft.quantized), features),
                "uniformity": uniformity,
            }

    def _assign(
        self, residual: Tensor, codebook: Tensor, temperature: float | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the probabilities [N, K] and expected codewords [N, C] of one level."""
        logits = closeness(residual, codebook) / (
            self.temperature if temperature is None else temperature
        )
        probabilities = logits.softmax(dim=1)
        return probabilities, probabilities @ codebook

    def _soft_residual(self, residual: Tensor, codebook: Tensor) -> Tensor:
        return residual - self._assign(residual, codebook)[1]

    def _codes(self, features: Tensor) -> Tensor:
        return self.soft_codes(features).codes

    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        residual = self.encoder(features)
        soft = self.quantize(residual)
        codewords = torch.stack(
            [F.embedding(code, book) for code, book in zip(soft.codes.t(), self.codebooks)], dim=1
        )
        hard = codewords.sum(dim=1)
        values = {
            "squared_error": (features - self.decoder(soft.quantized)).square().mean(dim=1),
            "hard_squared_error": (features - self.decoder(hard)).square().mean(dim=1),
        }
        for level, codebook in enumerate(self.codebooks):
            probabilities = soft.probabilities[:, level]
            distance = (residual - codewords[:, level]).square().sum(dim=1)
            values[f"distance_level_{level}"] = distance
            values[f"entropy_level_{level}"] = torch.special.entr(probabilities).sum(dim=1)
            values[f"max_probability_level_{level}"] = probabilities.max(dim=1).values
            residual = residual - probabilities @ codebook
        return values
