"""Residual k-means: codes without training, a quick and deterministic alternative to an RQ-VAE."""

# Shapes: N items, L levels, K codebook size, D feature width

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.clustering import kmeans, nearest


class ResidualCodes(NamedTuple):
    """Vectors after quantization by nearest codewords.

    Attributes:
        codes: int64 [N, L].
        quantized: Sum of the codewords, [N, D].
        distances: Squared distance of each level's residual to its codeword, [N, L].
    """

    codes: Tensor
    quantized: Tensor
    distances: Tensor


def fit_codebooks(
    points: Tensor, *, n_levels: int, codebook_size: int, seed: int, n_iterations: int
) -> Tensor:
    """Fit codebooks [L, K, D] by k-means on points [N, D], then level by level on the residuals.

    Raises:
        UserError: N < K.
    """
    codebooks, residual = [], points
    for level in range(n_levels):
        centroids, assignments = kmeans(
            residual, codebook_size, seed=seed + level, n_iterations=n_iterations
        )
        codebooks.append(centroids)
        residual = residual - centroids[assignments]
    return torch.stack(codebooks)


def quantize_by_nearest(points: Tensor, codebooks: Tensor) -> ResidualCodes:
    """Quantize points [N, D] by the codeword of [L, K, D] nearest to the residual of each level."""
    residual, codes, distances = points, [], []
    for codebook in codebooks:
        code = nearest(residual, codebook)
        residual = residual - F.embedding(code, codebook)
        codes.append(code)
        distances.append(residual.square().sum(dim=1))
    return ResidualCodes(
        torch.stack(codes, dim=1), points - residual, torch.stack(distances, dim=1)
    )


class ResidualKMeans(ItemTokenizer):
    """Residual k-means on the features themselves, without an encoder (a TIGER ablation).

    Args:
        n_features: D.
        n_levels: L.
        codebook_size: K.
        kmeans_iterations: Maximum number of updates of each k-means.
    """

    codebooks: Tensor

    def __init__(
        self, *, n_features: int, n_levels: int, codebook_size: int, kmeans_iterations: int
    ) -> None:
        super().__init__(n_features=n_features, n_levels=n_levels, codebook_size=codebook_size)
        self.kmeans_iterations = kmeans_iterations
        self.register_buffer("codebooks", torch.zeros(n_levels, codebook_size, n_features))

    @classmethod
    def from_config(cls, config: GenRecConfig, n_features: int) -> ResidualKMeans:
        """Build the tokenizer that the settings describe, for features of this width."""
        sizes = {name: config[name] for name in ("n_levels", "codebook_size", "kmeans_iterations")}
        return cls(n_features=n_features, **sizes)

    @torch.no_grad()
    def start(self, features: Tensor, seed: int) -> None:
        """Fit the codebooks, see ItemTokenizer."""
        self._check_finite(features)
        codebooks = fit_codebooks(
            features,
            n_levels=self.n_levels,
            codebook_size=self.codebook_size,
            seed=seed,
            n_iterations=self.kmeans_iterations,
        )
        self.codebooks.copy_(codebooks)

    def _codes(self, features: Tensor) -> Tensor:
        return quantize_by_nearest(features, self.codebooks).codes

    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        result = quantize_by_nearest(features, self.codebooks)
        return {
            "squared_error": (features - result.quantized).square().mean(dim=1),
            **level_distances(result),
        }


def level_distances(result: ResidualCodes) -> dict[str, Tensor]:
    """Name the distances of every level for ItemTokenizer.report."""
    return {
        f"distance_level_{level}": distance for level, distance in enumerate(result.distances.t())
    }
