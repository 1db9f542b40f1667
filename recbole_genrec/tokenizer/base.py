"""The one interface of everything that turns item features into codes.

Shapes: N items, L levels, K codebook size, D feature width.
"""

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
    """Turns features [N, D] of real items (no padding row) into codes [N, L], each from 0 to K - 1.

    One training run calls `start` once, then for every epoch `losses` on batches and `end_epoch`. A
    run that is resumed
    from a checkpoint does not call `start` again.
    """

    def __init__(self, *, n_features: int, n_levels: int, codebook_size: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_levels = n_levels
        self.codebook_size = codebook_size

    @abstractmethod
    def start(self, features: Tensor, seed: int) -> None:
        """Places the codebooks by k-means on all items [N, D], level by level.

        Raises:
            ValueError: if the features have a wrong shape, hold NaN or infinity, or N is smaller
                than K.
        """

    @abstractmethod
    def losses(self, features: Tensor) -> dict[str, Tensor]:
        """Weighted scalar terms on a batch [B, D]; their sum is minimized. Empty for a tokenizer without gradient."""

    @abstractmethod
    def _codes(self, features: Tensor) -> Tensor:
        """LongTensor [rows, L] of a few rows of features."""

    @abstractmethod
    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        """Named values [rows] of a few rows of features.

        Those named `...squared_error`, means over dimensions, are reported as explained variance.
        """

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """Codes [N, L] of features [N, D], LongTensor, in memory bounded for any N."""
        self._check(features)
        return in_chunks(self._codes, features)

    def end_epoch(self, features: Tensor, epoch: int, seed: int) -> int:
        """Looks after the codebooks when `epoch` (from 0) is over; returns how many codes were restarted."""
        return 0

    @torch.no_grad()
    def report(self, features: Tensor) -> dict[str, float]:
        """Means over all items [N, D] of what only the tokenizer knows.

        `explained_variance` is 1 - mean squared error / variance of the features (at most 1; 0 if
        they do not vary), and so is
        `hard_explained_variance` where the decoder sees codewords instead of mixtures of them;
        `distance_level_<l>` the squared distance of a residual to the codeword of its code, levels
        counted from 0.
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
            name: 1 - error / variance if variance else 0.0 for name, error in errors.items()
        }
        return {
            **{
                name.replace("squared_error", "explained_variance"): share
                for name, share in explained.items()
            },
            **means,
        }

    def _check(self, features: Tensor) -> None:
        if features.dim() != 2 or features.shape[1] != self.n_features:
            raise UserError(
                f"features have shape {list(features.shape)} but the tokenizer takes [items, {self.n_features}]; "
                f"pass the features it was built for, or build it anew"
            )

    def _check_finite(self, features: Tensor) -> None:
        self._check(features)
        bad_rows = int((~torch.isfinite(features).all(dim=1)).sum())
        if bad_rows:
            raise UserError(
                f"{bad_rows} of {len(features)} rows of the item features hold NaN or infinity; "
                f"a tokenizer takes finite numbers only: repair the features"
            )


def in_chunks(function: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """The rows of function(features), in memory bounded for any N and in full precision."""
    with full_precision(features):
        return torch.cat([function(rows) for rows in features.split(CHUNK_ROWS)])


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of widths sizes[0] -> ... -> sizes[-1], ReLU between them, none after the last.

    Weights are Xavier-normal, biases zero.
    """
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse what is not one of the choices: ValueError."""
    if value not in choices:
        raise UserError(
            f"{name} is {value!r} but must be one of {', '.join(choices)}; choose one of them"
        )
