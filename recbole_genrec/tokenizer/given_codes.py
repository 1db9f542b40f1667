"""Codes that come from elsewhere: drawn at random, or read from a file. Nothing is learned.

Shapes: N items, L levels, K codebook size, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.base import ItemTokenizer


class GivenCodes(ItemTokenizer):
    """Item i has codes[i], whatever its features.

    Args:
        codes: LongTensor [N, L], each from 0 to codebook_size - 1.
        n_features: width of the features that the model hands over.
        codebook_size: number of codes of every level.
    """

    def __init__(self, codes: Tensor, *, n_features: int, codebook_size: int) -> None:
        super().__init__(
            n_features=n_features, n_levels=codes.shape[1], codebook_size=codebook_size
        )
        self.register_buffer("codes", codes)

    def start(self, features: Tensor, seed: int) -> None:
        """Nothing to place."""

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        return {}

    def encode(self, features: Tensor) -> Tensor:
        self._check(features)
        if len(features) != len(self.codes):
            raise UserError(
                f"there are {len(features)} items, but codes of {len(self.codes)}: give every item its codes"
            )
        return self.codes.clone()

    def report(self, features: Tensor) -> dict[str, float]:
        """Nothing but the codes themselves, whose statistics the semantic ids log."""
        return {}

    def _codes(self, features: Tensor) -> Tensor:
        raise NotImplementedError(
            "codes belong to items, not to features: use encode with all items"
        )

    def _diagnose(self, features: Tensor) -> dict[str, Tensor]:
        return {}


def random_codes(n_items: int, n_levels: int, codebook_size: int, seed: int) -> Tensor:
    """Different codes for every item, drawn uniformly: LongTensor [n_items, n_levels] (TIGER §4.2, "Random ID").

    Raises:
        ValueError: there are fewer code tuples than items.
    """
    if codebook_size**n_levels < n_items:
        raise UserError(
            f"{n_levels} levels of {codebook_size} codes name {codebook_size**n_levels} items at most, but there are {n_items}: "
            "raise n_levels or codebook_size"
        )
    generator = torch.Generator().manual_seed(seed)
    codes = torch.empty(0, n_levels, dtype=torch.long)
    while len(codes) < n_items:
        drawn = torch.randint(codebook_size, (n_items - len(codes), n_levels), generator=generator)
        codes = torch.cat((codes, drawn)).unique(dim=0)
    return codes[torch.randperm(n_items, generator=generator)]
