"""Codes that are not learned: drawn at random, or read from a file."""

# Shapes: N items, L levels, K codebook size

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.base import ItemTokenizer


class GivenCodes(ItemTokenizer):
    """Tokenizer that gives item i the codes[i], whatever its features.

    Args:
        codes: int64 [N, L], each from 0 to codebook_size - 1.
        n_features: Width of the features that the model passes.
        codebook_size: Number of codes of every level.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, *, n_features: int, codebook_size: int) -> None:
        super().__init__(
            n_features=n_features, n_levels=codes.shape[1], codebook_size=codebook_size
        )
        self.register_buffer("codes", codes)

    def start(self, features: Tensor, seed: int) -> None:
        """Do nothing: there are no codebooks."""

    def encode(self, features: Tensor) -> Tensor:
        """Return the codes of all items, int64 [N, L].

        Raises:
            UserError: The features are not of N items.
        """
        self._check(features)
        if len(features) != len(self.codes):
            raise UserError(
                f"there are {len(features)} items, but codes of {len(self.codes)}: give every item "
                "its codes"
            )
        return self.codes.clone()

    def report(self, features: Tensor) -> dict[str, float]:
        """Return nothing: the semantic ids log the statistics of codes."""
        return {}

    def _codes(self, features: Tensor) -> Tensor:
        raise NotImplementedError(
            "codes belong to items, not to features: use encode with all items"
        )

    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        return {}


def random_codes(n_items: int, n_levels: int, codebook_size: int, seed: int) -> Tensor:
    """Draw distinct codes for every item uniformly, int64 [n_items, n_levels].

    Raises:
        UserError: There are fewer code sequences than items.

    Source: TIGER §4.2, "Random ID".
    """
    if codebook_size**n_levels < n_items:
        raise UserError(
            f"{n_levels} levels of {codebook_size} codes name {codebook_size**n_levels} items at "
            f"most, but there are {n_items}: raise n_levels or codebook_size"
        )
    generator = torch.Generator().manual_seed(seed)
    codes = torch.empty(0, n_levels, dtype=torch.long)
    while len(codes) < n_items:
        drawn = torch.randint(codebook_size, (n_items - len(codes), n_levels), generator=generator)
        codes = torch.cat((codes, drawn)).unique(dim=0)
    return codes[torch.randperm(n_items, generator=generator)]
