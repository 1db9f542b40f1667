"""What an item is called: unique codes, their place in the shared vocabulary, and the way back to items."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.collisions import counter_level
from recbole_genrec.semantic_ids.trie import Trie


class SemanticIDs(nn.Module):
    """The semantic id of every item: the tokenizer's codes and, if there is one, a counter that makes them unique.

    Token 0 is padding and the decoder's start; code c of level l is token `offsets[l] + c`.
    The codes are a buffer, so they travel in the model's checkpoint.

    Args:
        n_items: number of items, padding (row 0) counted.
        codebook_sizes: number of codes of every tokenizer level.
        counter_size: number of items that may share all their codes; 0: no counter, the codes are
            unique themselves.
    """

    def __init__(self, n_items: int, codebook_sizes: tuple[int, ...], counter_size: int) -> None:
        super().__init__()
        self.level_sizes = (
            (*codebook_sizes, counter_size) if counter_size else tuple(codebook_sizes)
        )
        self.n_code_levels = len(codebook_sizes)
        self.n_levels = len(self.level_sizes)
        self.n_tokens = 1 + sum(self.level_sizes)
        first_tokens = torch.tensor((1, *self.level_sizes[:-1])).cumsum(0)
        self.register_buffer("offsets", first_tokens, persistent=False)
        self.register_buffer("codes", torch.full((n_items, self.n_levels), -1, dtype=torch.long))
        self.register_buffer(
            "tokens", torch.zeros((n_items, self.n_levels), dtype=torch.long), persistent=False
        )
        self.trie: Trie | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module._derive())

    def assign(self, codes: Tensor) -> float:
        """Name every item anew.

        Args:
            codes: the tokenizer's codes of items 1, 2, ..., int64, shape [n_items - 1,
                n_code_levels].

        Returns:
            The share of items whose codes changed, 0 to 1; 1 at the first call.

        Raises:
            ValueError: if more items share their codes than the counter can number (without a
                counter: two or more), or a code
                does not fit its level; the names then stay as they were.
        """
        counter = counter_level(codes)
        self._check_counter(counter)
        changed = (codes != self.codes[1:, : self.n_code_levels]).any(dim=1).float().mean().item()
        unique_codes = torch.cat((codes, counter.unsqueeze(1)), dim=1)[:, : self.n_levels]
        Trie(
            unique_codes, counter, self.level_sizes
        )  # refuses codes that do not fit, before any name is overwritten
        self.codes[1:] = unique_codes
        self._derive()
        return changed

    def _check_counter(self, counter: Tensor) -> None:
        largest = int(counter.max()) + 1
        if self.n_levels == self.n_code_levels:
            if largest > 1:
                raise UserError(
                    f"{int((counter > 0).sum())} of {len(counter)} items have the codes of another item, but there is no counter level "
                    "to tell them apart: set counter_size, or make the codes unique."
                )
        elif largest > self.level_sizes[-1]:
            raise UserError(
                f"{largest} items share the same codes, but counter_size is {self.level_sizes[-1]}; "
                "raise counter_size, give the tokenizer more levels, codes or epochs, or try feature_scaling unit_norm or centered."
            )

    def _apply(self, fn, *args, **kwargs) -> SemanticIDs:
        """The trie holds plain tensors, which must follow the buffers to another device."""
        super()._apply(fn, *args, **kwargs)
        self._derive()
        return self

    def _derive(self) -> None:
        """Recompute all that follows from the codes; nothing while there are none."""
        if (self.codes[1:] < 0).any():
            return
        self.tokens[1:] = self.codes[1:] + self.offsets
        item_ids = torch.arange(1, len(self.codes), device=self.codes.device)
        self.trie = Trie(self.codes[1:], item_ids, self.level_sizes)

    def level_tokens(self, level: int) -> slice:
        """The place of a level's codes in the vocabulary."""
        first = 1 + sum(self.level_sizes[:level])
        return slice(first, first + self.level_sizes[level])

    def statistics(self) -> dict[str, float]:
        """Health of the codes.

        Returns:
            Per tokenizer level l: `usage_l`, the share of codes in use (0 to 1), and `entropy_l` in
            nats (0 to
            log codebook size); `collisions_before`, 1 - distinct codes / items without the counter;
            `collisions_after`, the same with it; `largest_group`, the most items with equal codes.
        """
        codes = self.codes[1:]
        figures: dict[str, float] = {}
        for level, size in enumerate(self.level_sizes[: self.n_code_levels]):
            share = torch.bincount(codes[:, level], minlength=size).double() / len(codes)
            figures[f"usage_{level}"] = (share > 0).double().mean().item()
            figures[f"entropy_{level}"] = torch.special.entr(share).sum().item()
        groups = codes[:, : self.n_code_levels].unique(dim=0, return_counts=True)[1]
        figures["collisions_before"] = 1 - len(groups) / len(codes)
        figures["collisions_after"] = 1 - len(codes.unique(dim=0)) / len(codes)
        figures["largest_group"] = float(groups.max())
        return figures

    def describe(self) -> str:
        """The statistics as one line for the log."""
        figures = self.statistics()
        usage = " ".join(f"{figures[f'usage_{level}']:.1%}" for level in range(self.n_code_levels))
        entropy = " ".join(
            f"{figures[f'entropy_{level}']:.2f}" for level in range(self.n_code_levels)
        )
        best = " ".join(f"{math.log(size):.2f}" for size in self.level_sizes[: self.n_code_levels])
        return (
            f"codes in use per level {usage}; entropy {entropy} of at most {best} nats; "
            f"collisions {figures['collisions_before']:.2%} before and {figures['collisions_after']:.2%} after the counter; "
            f"largest group {figures['largest_group']:.0f}"
        )
