"""The interface of all tokenizers, which turn item features into codes."""

# Shapes: B batch, N items, L levels, K codebook size, D feature width

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recbole_genrec.errors import UserError
from recbole_genrec.runtime.precision import full_precision

CHUNK_ROWS = 2**14


class ItemTokenizer(nn.Module, ABC):
    """Turn features [N, D] of real items (no padding row) into codes [N, L], each from 0 to K - 1.

    A training run calls `start` once, then `losses` on batches and `end_epoch` for every epoch. A
    run resumed from a checkpoint does not call `start` again.

    Args:
        n_features: D.
        n_levels: L.
        codebook_size: K.
    """

    def __init__(self, *, n_features: int, n_levels: int, codebook_size: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_levels = n_levels
        self.codebook_size = codebook_size

    @abstractmethod
    def start(self, features: Tensor, seed: int) -> None:
        """Initialize the codebooks by k-means on all items [N, D], level by level.

        Raises:
            UserError: The features have a wrong shape, hold NaN or infinity, or N < K.
        """

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        """Return the weighted scalar terms of a batch [B, D], whose sum is minimized.

        There are none here, for a tokenizer without gradient.
        """
        return {}

    @abstractmethod
    def _codes(self, features: Tensor) -> Tensor:
        """Return the codes of a chunk of features, int64 [rows, L]."""

    @abstractmethod
    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        """Return named values [rows] of a chunk of features.

        Values named `...squared_error`, means over dimensions, are reported as explained variance.
        """

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Return the codes of features [N, D], int64 [N, L]; memory is bounded for any N."""
        self._check(features)
        return in_chunks(self._codes, features)

    def end_epoch(self, features: Tensor, epoch: int, seed: int) -> int:
        """Maintain the codebooks after an epoch (from 0); return the number of restarted codes."""
        return 0

    @torch.no_grad()
    def report(self, features: Tensor) -> dict[str, float]:
        """Average measures of quality over all items [N, D].

        Returns:
            `explained_variance`: 1 - mean squared error / variance of the features, at most 1; 0 if
            the features do not vary. `hard_explained_variance`: the same with codewords where the
            decoder is trained with mixtures of them. `distance_level_<l>`: squared distance of a
            residual to the codeword of its code, levels counted from 0.
        """
        self._check(features)
        with full_precision(features):
            rows = [self._diagnose(chunk) for chunk in features.split(CHUNK_ROWS)]
        means = {
            name: float(torch.cat([row[name] for row in rows]).double().mean()) for name in rows[0]
        }
        variance = float(features.double().var(dim=0, unbiased=False).mean())
        errors = {name: means.pop(name) for name in list(means) if name.endswith("squared_error")}
        explained = {
            name.replace("squared_error", "explained_variance"): 1 - error / variance
            if variance
            else 0.0
            for name, error in errors.items()
        }
        return {**explained, **means}

    def _check(self, features: Tensor) -> None:
        if features.dim() != 2 or features.shape[1] != self.n_features:
            raise UserError(
                f"features have shape {list(features.shape)}, but the tokenizer takes "
                f"[items, {self.n_features}]: pass features of this width, or build another "
                "tokenizer"
            )

    def _check_finite(self, features: Tensor) -> None:
        self._check(features)
        bad_rows = int((~torch.isfinite(features).all(dim=1)).sum())
        if bad_rows:
            raise UserError(
                f"{bad_rows} of {len(features)} rows of the item features hold NaN or infinity, "
                "but a tokenizer takes finite numbers only: repair the features"
            )


def in_chunks(function: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Return function(features) row by row, with bounded memory and in full precision."""
    with full_precision(features):
        return torch.cat([function(rows) for rows in features.split(CHUNK_ROWS)])


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Build linear layers of widths sizes[0] -> ... -> sizes[-1] with ReLU between them.

    Weights start Xavier-normal, biases zero.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise UserError if `value` is not one of the choices."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}, but must be one of {', '.join(choices)}: choose one")
