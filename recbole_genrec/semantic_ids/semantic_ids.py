"""Semantic ids: unique codes of all items, their tokens in a shared vocabulary, and their trie."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.collisions import counter_level
from recbole_genrec.semantic_ids.trie import Trie


class SemanticIDs(nn.Module):
    """The semantic id of every item: the tokenizer's codes and an optional counter.

    Token 0 is padding and starts the decoder; code c of level l is token `offsets[l] + c`. The
    codes are a buffer, so a model's checkpoint holds them.

    Args:
        n_items: Number of items with padding (row 0).
        codebook_sizes: Number of codes of every tokenizer level.
        counter_size: Number of items that may share all their codes; 0 for no counter, if the codes
            are unique themselves.

    Attributes:
        codes: int64 [n_items, n_levels]; -1 in row 0 and before the first assignment.
        tokens: int64 [n_items, n_levels]; 0 where codes are -1.
        offsets: First token of every level, int64 [n_levels].
    """

    codes: Tensor
    tokens: Tensor
    offsets: Tensor

    def __init__(self, n_items: int, codebook_sizes: tuple[int, ...], counter_size: int) -> None:
        super().__init__()
        self.level_sizes = (*codebook_sizes, counter_size) if counter_size else (*codebook_sizes,)
        self.n_code_levels = len(codebook_sizes)
        self.n_levels = len(self.level_sizes)
        self.n_tokens = 1 + sum(self.level_sizes)
        first_tokens = torch.tensor((1, *self.level_sizes[:-1])).cumsum(0)
        self.register_buffer("offsets", first_tokens, persistent=False)
        self.register_buffer("codes", torch.full((n_items, self.n_levels), -1))
        tokens = torch.zeros((n_items, self.n_levels), dtype=torch.long)
        self.register_buffer("tokens", tokens, persistent=False)
        self._trie: Trie | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module._derive())

    @property
    def is_assigned(self) -> bool:
        """Return True once the items have codes."""
        return self._trie is not None

    @property
    def trie(self) -> Trie:
        """Return the trie of all semantic ids; only after the first assignment."""
        if self._trie is None:
            raise RuntimeError("the items have no semantic ids yet: call assign first")
        return self._trie

    def assign(self, codes: Tensor) -> float:
        """Give every item its codes, and a counter if there is one.

        Args:
            codes: The tokenizer's codes of items 1, 2, ..., int64 [n_items - 1, n_code_levels].

        Returns:
            The share of items whose codes changed, 0 to 1; 1 at the first call.

        Raises:
            UserError: More items share their codes than the counter can number (without a counter:
                two or more), or a code does not fit its level. The ids then stay as they were.
        """
        counter = counter_level(codes)
        self._check_counter(counter)
        changed = (codes != self.codes[1:, : self.n_code_levels]).any(dim=1).float().mean().item()
        unique_codes = torch.cat((codes, counter.unsqueeze(1)), dim=1)[:, : self.n_levels]
        # Refuses a code that does not fit its level before any id is overwritten.
        self._trie = _trie_of_items(unique_codes, self.level_sizes)
        self.codes[1:] = unique_codes
        self.tokens[1:] = unique_codes + self.offsets
        return changed

    def _check_counter(self, counter: Tensor) -> None:
        largest = int(counter.max()) + 1
        if self.n_levels == self.n_code_levels:
            if largest > 1:
                raise UserError(
                    f"{int((counter > 0).sum())} of {len(counter)} items have the codes of another "
                    "item, but there is no counter level to tell them apart: set counter_size, or "
                    "make the codes unique."
                )
        elif largest > self.level_sizes[-1]:
            raise UserError(
                f"{largest} items share the same codes, but counter_size is "
                f"{self.level_sizes[-1]}: raise counter_size, give the tokenizer more levels, "
                "codes or epochs, or try feature_scaling unit_norm or centered."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SemanticIDs:
        """Convert the buffers, as `to` does, and rebuild the trie, whose tensors are no buffers."""
        super()._apply(fn, recurse)
        self._derive()
        return self

    def _derive(self) -> None:
        """Recompute tokens and trie from the codes, if the items have any."""
        codes = self.codes[1:]
        if (codes < 0).any():
            return
        self._trie = _trie_of_items(codes, self.level_sizes)
        self.tokens[1:] = codes + self.offsets

    def level_tokens(self, level: int) -> slice:
        """Return the range of a level's tokens in the vocabulary."""
        first = 1 + sum(self.level_sizes[:level])
        return slice(first, first + self.level_sizes[level])

    def statistics(self) -> dict[str, float]:
        """Measure how well the codes are used.

        Returns:
            Per tokenizer level l, `usage_l`, the share of codes in use (0 to 1), and `entropy_l` in
            nats (0 to log codebook size); `collisions_before`, 1 - distinct codes / items without
            the counter; `collisions_after`, the same with it; `largest_group`, the size of the
            largest group of items with equal codes.
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
        """Return the statistics as one line for the log."""
        figures, levels = self.statistics(), range(self.n_code_levels)
        usage = " ".join(f"{figures[f'usage_{level}']:.1%}" for level in levels)
        entropy = " ".join(f"{figures[f'entropy_{level}']:.2f}" for level in levels)
        maximum = " ".join(f"{math.log(self.level_sizes[level]):.2f}" for level in levels)
        return (
            f"codes in use per level {usage}; entropy {entropy} of at most {maximum} nats; "
            f"collisions {figures['collisions_before']:.2%} before and "
            f"{figures['collisions_after']:.2%} after the counter; "
            f"largest group {figures['largest_group']:.0f}"
        )


def _trie_of_items(codes: Tensor, level_sizes: tuple[int, ...]) -> Trie:
    """Return the trie of items 1, 2, ... from their unique codes, int64 [n_items - 1, n_levels]."""
    return Trie(codes, torch.arange(1, len(codes) + 1, device=codes.device), level_sizes)
