"""The prefix tree of all semantic ids, as tensors: which codes may follow a prefix."""

# Shapes: B batch, W beams, F largest number of children at a level, N_l prefixes of length l

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_genrec.errors import UserError


class Children(NamedTuple):
    """The continuations of some nodes; all shaped [B, W, F]."""

    nodes: Tensor
    codes: Tensor
    exist: Tensor


class Trie:
    """Prefix tree in compressed rows: the children of a node are neighbors in the next level.

    Prefixes of one length are numbered in lexicographic order, so a node's children are
    `first_child[level][node]` up to `first_child[level][node + 1]`, and no child table is needed.

    Args:
        codes: unique codes, int64, shape [n_ids, n_levels].
        item_ids: the item id of every row, int64, shape [n_ids].
        level_sizes: the number of codes of every level.

    Raises:
        ValueError: if two rows have equal codes or a code does not fit its level.
    """

    def __init__(self, codes: Tensor, item_ids: Tensor, level_sizes: tuple[int, ...]) -> None:
        sizes = torch.tensor(level_sizes, device=codes.device)
        if ((codes < 0) | (codes >= sizes)).any():
            raise UserError(
                f"a code lies outside the level sizes {level_sizes}; codes count from 0 to the level's size - 1."
            )
        self.level_sizes = level_sizes
        self.keys: list[Tensor] = []
        self.codes: list[Tensor] = []
        self.first_child: list[Tensor] = []
        self.fan_out: list[int] = []
        self.paths: list[Tensor] = []  # of every row, the number of its prefix of each length
        node = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        n_nodes = 1
        for level, size in enumerate(level_sizes):
            self.paths.append(node)
            keys, node = (node * size + codes[:, level]).unique(return_inverse=True)
            n_children = torch.bincount(keys // size, minlength=n_nodes)
            self.keys.append(keys)
            self.codes.append(keys % size)
            self.first_child.append(torch.cat((n_children.new_zeros(1), n_children.cumsum(0))))
            self.fan_out.append(int(n_children.max()))
            n_nodes = len(keys)
        if n_nodes != len(codes):
            raise UserError(
                f"{len(codes)} items share {n_nodes} semantic ids; every id must name one item, so add a counter level."
            )
        self.item_ids = torch.empty_like(item_ids).scatter_(0, node, item_ids)

    @property
    def n_levels(self) -> int:
        """Length of a semantic id."""
        return len(self.level_sizes)

    def n_nodes(self, level: int) -> int:
        """Number of distinct prefixes of length `level`; 1 for the root."""
        return len(self.codes[level - 1]) if level else 1

    def children(self, level: int, nodes: Tensor) -> Children:
        """All continuations of prefixes of length `level`.

        Args:
            level: length of the prefixes, 0 <= level < n_levels.
            nodes: numbers of the prefixes among those of their length, int64, shape [B, W].
        """
        first, end = self.first_child[level][nodes], self.first_child[level][nodes + 1]
        children = first.unsqueeze(-1) + torch.arange(self.fan_out[level], device=nodes.device)
        exist = children < end.unsqueeze(-1)
        children = children.clamp(max=len(self.codes[level]) - 1)
        return Children(children, self.codes[level][children], exist)

    def allowed(self, level: int, nodes: Tensor) -> Tensor:
        """Mark the codes that continue prefixes of length `level`: int64 [B] -> bool [B, codes of the level]."""
        children, size = self.children(level, nodes.unsqueeze(1)), self.level_sizes[level]
        slots = children.codes.masked_fill(~children.exist, size).squeeze(1)
        mask = torch.zeros(len(nodes), size + 1, dtype=torch.bool, device=nodes.device)
        return mask.scatter_(1, slots, True)[:, :size]

    def items(self, nodes: Tensor) -> Tensor:
        """Item ids of complete prefixes; shape as `nodes`."""
        return self.item_ids[nodes]

    def find(self, codes: Tensor) -> Tensor:
        """Item ids of complete codes, 0 where no item has them; int64 [..., n_levels] -> [...]."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.long, device=codes.device)
        known = torch.ones_like(node, dtype=torch.bool)
        for level, size in enumerate(self.level_sizes):
            code = codes[..., level]
            key = node * size + code
            node = torch.searchsorted(self.keys[level], key).clamp(max=len(self.keys[level]) - 1)
            known &= (self.keys[level][node] == key) & (code >= 0) & (code < size)
        return torch.where(known, self.item_ids[node], 0)


class CompleteTree:
    """Every code may follow every prefix: decoding without a catalogue, as the TIGER paper does.

    Args:
        trie: the catalogue, asked only which complete codes name an item.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.level_sizes = trie.level_sizes
        self.n_levels = trie.n_levels

    def n_nodes(self, level: int) -> int:
        """Number of code sequences of length `level`."""
        count = 1
        for size in self.level_sizes[:level]:
            count *= size
        return count

    def children(self, level: int, nodes: Tensor) -> Children:
        """All codes of the level after every prefix; a node is its codes read as one mixed-radix number."""
        size = self.level_sizes[level]
        codes = torch.arange(size, device=nodes.device).expand(*nodes.shape, size)
        return Children(
            nodes.unsqueeze(-1) * size + codes, codes, torch.ones_like(codes, dtype=torch.bool)
        )

    def items(self, nodes: Tensor) -> Tensor:
        """Item ids of complete prefixes, 0 where no item has these codes; shape as `nodes`."""
        codes = []
        for size in reversed(self.level_sizes):
            codes.append(nodes % size)
            nodes = nodes // size
        return self.trie.find(torch.stack(codes[::-1], dim=-1))
