"""Prefix trees as tensors: the codes that may follow a prefix, and the items of complete codes."""

# Shapes: B batch, W beams, F largest number of children at a level, L levels, N ids

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from recbole_genrec.errors import UserError


class Children(NamedTuple):
    """Continuations of nodes, each [B, W, F].

    Attributes:
        nodes: Node numbers among the prefixes that are one code longer, int64.
        codes: Last codes of these prefixes, int64.
        exist: False in the slots after a node's last child, bool.
    """

    nodes: Tensor
    codes: Tensor
    exist: Tensor


class Trie:
    """Prefix tree in compressed rows: the children of a node are neighbors at the next level.

    Prefixes of one length are numbered in lexicographic order. A node's children are therefore
    `first_child[level][node]` up to, not including, `first_child[level][node + 1]`, and no child
    table is needed.

    Args:
        codes: Unique codes, int64 [N, L].
        item_ids: Item id of every row, int64 [N].
        level_sizes: Number of codes of every level.

    Attributes:
        paths: For every level, the node of each row before that level's code, int64 [N].

    Raises:
        UserError: Two rows have equal codes, or a code does not fit its level.
    """

    def __init__(self, codes: Tensor, item_ids: Tensor, level_sizes: tuple[int, ...]) -> None:
        sizes = torch.tensor(level_sizes, device=codes.device)
        if ((codes < 0) | (codes >= sizes)).any():
            raise UserError(
                f"a code lies outside the level sizes {level_sizes}: codes count from 0 to the "
                "level's size - 1."
            )
        self.level_sizes = level_sizes
        self.n_levels = len(level_sizes)
        self.paths: list[Tensor] = []
        self._keys: list[Tensor] = []  # of every node: parent * size + code, ascending
        self._codes: list[Tensor] = []
        self._first_child: list[Tensor] = []
        self._fan_out: list[int] = []
        node = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        n_nodes = 1
        for level, size in enumerate(level_sizes):
            self.paths.append(node)
            keys, node = (node * size + codes[:, level]).unique(return_inverse=True)
            n_children = torch.bincount(keys // size, minlength=n_nodes)
            self._keys.append(keys)
            self._codes.append(keys % size)
            self._first_child.append(torch.cat((n_children.new_zeros(1), n_children.cumsum(0))))
            self._fan_out.append(int(n_children.max()))
            n_nodes = len(keys)
        if n_nodes != len(codes):
            raise UserError(
                f"{len(codes)} items share {n_nodes} semantic ids, but every id must name one "
                "item: add a counter level."
            )
        self.item_ids = torch.empty_like(item_ids).scatter_(0, node, item_ids)

    def n_nodes(self, level: int) -> int:
        """Return the number of distinct prefixes of length `level`; 1 for the root."""
        return len(self._codes[level - 1]) if level else 1

    def children(self, level: int, nodes: Tensor) -> Children:
        """Return all continuations of prefixes of length `level`.

        Args:
            level: Length of the prefixes, 0 <= level < n_levels.
            nodes: Node numbers of the prefixes, int64 [B, W].
        """
        first, end = self._first_child[level][nodes], self._first_child[level][nodes + 1]
        children = first.unsqueeze(-1) + torch.arange(self._fan_out[level], device=nodes.device)
        exist = children < end.unsqueeze(-1)
        children = children.clamp(max=len(self._codes[level]) - 1)
        return Children(children, self._codes[level][children], exist)

    def allowed(self, level: int, nodes: Tensor) -> Tensor:
        """Mark the codes that continue prefixes of length `level`.

        Args:
            level: Length of the prefixes, 0 <= level < n_levels.
            nodes: Node numbers of the prefixes, int64 [B].

        Returns:
            bool [B, codes of the level].
        """
        children, size = self.children(level, nodes.unsqueeze(1)), self.level_sizes[level]
        slots = children.codes.masked_fill(~children.exist, size).squeeze(1)
        mask = torch.zeros(len(nodes), size + 1, dtype=torch.bool, device=nodes.device)
        return mask.scatter_(1, slots, True)[:, :size]

    def items(self, nodes: Tensor) -> Tensor:
        """Return the item ids of complete prefixes; same shape as `nodes`."""
        return self.item_ids[nodes]

    def find(self, codes: Tensor) -> Tensor:
        """Return the item ids [...] of complete codes [..., L]; 0 where no item has them."""
        node = torch.zeros(codes.shape[:-1], dtype=torch.long, device=codes.device)
        known = torch.ones_like(node, dtype=torch.bool)
        for level, size in enumerate(self.level_sizes):
            code = codes[..., level]
            key = node * size + code
            node = torch.searchsorted(self._keys[level], key).clamp(max=len(self._keys[level]) - 1)
            known &= (self._keys[level][node] == key) & (code >= 0) & (code < size)
        return torch.where(known, self.item_ids[node], 0)


class CompleteTree:
    """Tree in which every code may follow every prefix: decoding as in the TIGER paper.

    Args:
        trie: Trie of the catalogue; it says which complete codes name an item.
    """

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.level_sizes = trie.level_sizes
        self.n_levels = trie.n_levels

    def n_nodes(self, level: int) -> int:
        """Return the number of code sequences of length `level`."""
        return math.prod(self.level_sizes[:level])

    def children(self, level: int, nodes: Tensor) -> Children:
        """Return all codes of the level after every prefix [B, W].

        The node number of a prefix is its codes read as one mixed-radix number.
        """
        size = self.level_sizes[level]
        codes = torch.arange(size, device=nodes.device).expand(*nodes.shape, size)
        exist = torch.ones_like(codes, dtype=torch.bool)
        return Children(nodes.unsqueeze(-1) * size + codes, codes, exist)

    def items(self, nodes: Tensor) -> Tensor:
        """Return the item ids of complete prefixes, 0 for no item; same shape as `nodes`."""
        codes = []
        for size in reversed(self.level_sizes):
            codes.append(nodes % size)
            nodes = nodes // size
        return self.trie.find(torch.stack(codes[::-1], dim=-1))
