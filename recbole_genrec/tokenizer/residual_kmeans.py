"""Residual k-means: codes without gradient, the quick and deterministic alternative to an RQ-VAE.

Shapes: N items, L levels, K codebook size, D feature width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_genrec.tokenizer.base import ItemTokenizer
from recbole_genrec.tokenizer.clustering import kmeans, nearest


class ResidualCodes(NamedTuple):
    """What a nearest-codeword quantizer says of N vectors of width D."""

    codes: Tensor  # LongTensor [N, L]
    quantized: Tensor  # [N, D], the sum of the codewords
    distances: Tensor  # [N, L], squared distance of each level's residual to its codeword


def fit_codebooks(
    points: Tensor, *, n_levels: int, codebook_size: int, seed: int, n_iterations: int
) -> Tensor:
    """Codebooks [L, K, D]: k-means on the points [N, D], then level by level on what is left of them.

    Raises:
        ValueError: if N is smaller than K.
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
    """Codes of points [N, D] with codebooks [L, K, D]: at each level the codeword nearest to the residual."""
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
    """Residual k-means on the features themselves, without an encoder (TIGER ablations; Rajput et al. 2023)."""

    def __init__(
        self, *, n_features: int, n_levels: int, codebook_size: int, kmeans_iterations: int
    ) -> None:
        super().__init__(n_features=n_features, n_levels=n_levels, codebook_size=codebook_size)
        self.kmeans_iterations = kmeans_iterations
        self.register_buffer("codebooks", torch.zeros(n_levels, codebook_size, n_features))

    @classmethod
    def from_config(cls, config, n_features: int) -> ResidualKMeans:
        """The residual k-means that the settings describe, for features of this width."""
        sizes = {name: config[name] for name in ("n_levels", "codebook_size", "kmeans_iterations")}
        return cls(n_features=n_features, **sizes)

    @torch.no_grad()
    def start(self, features: Tensor, seed: int) -> None:
        self._check_finite(features)
        codebooks = fit_codebooks(
            features,
            n_levels=self.n_levels,
            codebook_size=self.codebook_size,
            seed=seed,
            n_iterations=self.kmeans_iterations,
        )
        self.codebooks.copy_(codebooks)

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        return {}

    def _codes(self, features: Tensor) -> Tensor:
        return quantize_by_nearest(features, self.codebooks).codes

    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        result = quantize_by_nearest(features, self.codebooks)
        values = {
            f"distance_level_{level}": distance
            for level, distance in enumerate(result.distances.t())
        }
        return {"squared_error": (features - result.quantized).square().mean(dim=1), **values}
