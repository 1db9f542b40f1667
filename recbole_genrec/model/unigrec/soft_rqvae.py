"""Soft RQ-VAE (UniGRec, arXiv 2601.17438): levels are distributions over codewords, so losses reach the tokenizer.

Shapes: N items, L levels, K codebook size, C code width, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_genrec.errors import UserError
from recbole_genrec.runtime.precision import full_precision
from recbole_genrec.tokenizer.base import ItemTokenizer, check_choice, in_chunks, mlp
from recbole_genrec.tokenizer.clustering import closeness, kmeans

UNITS = ("variance", "absolute")
MOST_MEASURED = 2048  # ours: as many vectors tell the variance to 2 per cent, and encoding a large catalogue takes a sixth of an epoch


class SoftCodes(NamedTuple):
    """What the soft quantizer says of N vectors."""

    probabilities: Tensor  # [N, L, K], each level sums to 1
    quantized: Tensor  # [N, C], sum over the levels of the expected codewords
    codes: Tensor  # LongTensor [N, L], the most probable code along the soft path


def codeword_uniformity(probabilities: Tensor) -> Tensor:
    """Negative entropy of the mean assignment [N, L, K] -> scalar in [-log K, 0], averaged over the levels.

    Least when the rows together use all codewords alike, however sharp each row is (UniGRec,
    codeword uniformity).
    """
    usage = probabilities.mean(dim=0)
    return (usage * (usage + 1e-10).log()).sum(dim=-1).mean()


class SoftRQVAE(ItemTokenizer):
    """Residual quantization by softmax(-squared distance / temperature), the residual being the soft one.

    Args:
        n_features: D.
        hidden_sizes: widths between features and code; the decoder mirrors the encoder.
        code_dim: C, width of a codeword.
        n_levels: L.
        codebook_size: K, per level; the levels share nothing.
        uniformity_weight: of codeword uniformity; 0 switches it off.
        temperature_max: of the first epoch, in units of `temperature_unit`.
        temperature_min: of epoch `annealing_epochs` and all later ones.
        temperature_unit: "variance", that of the items' latent vectors (of some 2,000 items at
            most), added up over their dimensions and
            measured anew in every `anneal`; or "absolute", on the scale of squared distances of
            latent vectors.
        annealing_epochs: length of the linear descent from one to the other.
        kmeans_iterations: most iterations of each k-means of the start.

    The temperature in use and its unit are buffers: they are saved with the codebooks, because
    codes of deeper levels depend on them.

    Raises:
        ValueError: unless temperature_max >= temperature_min > 0 and annealing_epochs >= 1, or for
            an unknown unit.
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
        check_choice("temperature_unit", temperature_unit, UNITS)
        _check_annealing(temperature_max, temperature_min, annealing_epochs)
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

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        """Checkpoints from before there was a unit have absolute temperatures."""
        state_dict.setdefault(f"{prefix}unit", torch.tensor(1.0))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def anneal(self, epoch: int, features: Tensor) -> None:
        """Sets the temperature of `epoch` (from 0; call it before the epoch), linear, then constant, for the features of all items [N, D].

        Training may sharpen the codes by widening the latent space, which a temperature in units of
        its variance does not let happen.
        """
        progress = min(max(epoch / self.annealing_epochs, 0.0), 1.0)
        if self.temperature_unit == "variance":
            measured = features[:: -(-len(features) // MOST_MEASURED)]
            self.unit.copy_(in_chunks(self.encoder, measured).var(dim=0, unbiased=False).sum())
        self.temperature.copy_(
            self.unit
            * (self.temperature_max + (self.temperature_min - self.temperature_max) * progress)
        )

    @torch.no_grad()
    def start(self, features: Tensor, seed: int) -> None:
        """Places the codebooks by k-means, level by level on the soft residuals at temperature_max."""
        self._check_finite(features)
        self.anneal(0, features)
        residual = in_chunks(self.encoder, features)
        for level, codebook in enumerate(self.codebooks):
            centroids, _ = kmeans(
                residual, self.codebook_size, seed=seed + level, n_iterations=self.kmeans_iterations
            )
            codebook.copy_(centroids)
            residual = in_chunks(partial(self._soft_residual, codebook=codebook), residual)

    def quantize(self, latent: Tensor, temperature: float | None = None) -> SoftCodes:
        """Soft codes of latent vectors [N, C], in float32 whatever autocast says.

        Args:
            latent: [N, C], an output of the encoder or of any other map into the code space.
            temperature: greater than 0, absolute; the tokenizer's own if None.
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

    def distributions(self, latent: Tensor, temperature: float, sign: str, residual: str) -> Tensor:
        """Distributions over the codewords that two vectors of the code space are compared by, [N, C] -> [N, L, K].

        Args:
            latent: [N, C].
            temperature: greater than 0, in units of `temperature_unit`.
            sign: minus: softmax of minus the squared distances, as in `quantize`; plus: of the
                distances, as released.
            residual: what every level takes away: the soft codeword as in `quantize`, or, hard, the
                nearest, as released.
        """
        with full_precision(latent):
            rest, levels = latent.to(self.codebooks.dtype), []
            for codebook in self.codebooks.unbind():
                near = closeness(rest, codebook) / (temperature * self.unit)
                levels.append((near if sign == "minus" else -near).softmax(dim=1))
                rest = rest - (
                    near.softmax(dim=1) @ codebook
                    if residual == "soft"
                    else F.embedding(near.argmax(dim=1), codebook)
                )
        return torch.stack(levels, dim=1)

    def soft_codes(self, features: Tensor) -> SoftCodes:
        """Soft codes of features [N, D] at the current temperature, with gradient to encoder and codebooks."""
        with full_precision(features):
            return self.quantize(self.encoder(features))

    def reconstruct(self, features: Tensor) -> Tensor:
        """Features [N, D] as the decoder sees them through their soft codes."""
        with full_precision(features):
            return self.decoder(self.soft_codes(features).quantized)

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        """Terms `reconstruction` (mean squared error) and `uniformity` of a batch [B, D].

        Uniformity stays in the scale of the paper, whose features have unit norm: rescale its
        weight with the features.
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
        self, residual: Tensor, codebook: Tensor, temperature: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities [N, K] and expected codewords [N, C] of one level."""
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
        levels = zip(soft.codes.unbind(dim=1), self.codebooks)
        hard = torch.stack([F.embedding(code, codebook) for code, codebook in levels]).sum(dim=0)
        values = {
            "squared_error": (features - self.decoder(soft.quantized)).square().mean(dim=1),
            "hard_squared_error": (features - self.decoder(hard)).square().mean(dim=1),
        }
        levels = zip(self.codebooks, soft.probabilities.unbind(dim=1), soft.codes.unbind(dim=1))
        for level, (codebook, probabilities, code) in enumerate(levels):
            values[f"distance_level_{level}"] = (
                (residual - F.embedding(code, codebook)).square().sum(dim=1)
            )
            values[f"entropy_level_{level}"] = torch.special.entr(probabilities).sum(dim=1)
            values[f"max_probability_level_{level}"] = probabilities.max(dim=1).values
            residual = residual - probabilities @ codebook
        return values


def _check_annealing(temperature_max: float, temperature_min: float, annealing_epochs: int) -> None:
    if not temperature_max >= temperature_min > 0:
        raise UserError(
            f"temperature_max {temperature_max} and temperature_min {temperature_min} must satisfy "
            f"temperature_max >= temperature_min > 0; set them so"
        )
    if annealing_epochs < 1:
        raise UserError(f"annealing_epochs is {annealing_epochs} but must be at least 1; raise it")
