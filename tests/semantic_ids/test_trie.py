from __future__ import annotations

import itertools

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.trie import CompleteTree, Trie

SIZES = (6, 4, 2, 2)
CODES = [(0, 1, 1, 0), (0, 1, 1, 1), (0, 3, 1, 0), (5, 0, 0, 0)]


def random_codes(n_ids: int, sizes: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return distinct codes in random order."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))
    return every[torch.randperm(len(every), generator=generator)[:n_ids]]


def random_trie(
    n_ids: int, sizes: tuple[int, ...], seed: int
) -> tuple[Trie, torch.Tensor, torch.Tensor]:
    codes = random_codes(n_ids, sizes, seed)
    item_ids = torch.randperm(n_ids, generator=torch.Generator().manual_seed(seed + 1)) + 1
    return Trie(codes, item_ids, sizes), codes, item_ids


def allowed(trie: Trie | CompleteTree, level: int, node: int) -> dict[int, int]:
    """Map each code that may follow a prefix to the node of the longer prefix."""
    children = trie.children(level, torch.tensor([[node]]))
    exist = children.exist[0, 0]
    return dict(zip(children.codes[0, 0][exist].tolist(), children.nodes[0, 0][exist].tolist()))


def test_children_by_hand():
    trie = Trie(
        torch.tensor([(0, 1, 2, 0), (0, 1, 2, 1), (0, 3, 1, 0), (5, 0, 0, 0)]),
        torch.tensor([7, 3, 9, 1]),
        (6, 4, 3, 2),
    )
    assert trie.n_levels == 4
    assert [trie.n_nodes(level) for level in range(5)] == [1, 2, 3, 3, 4]
    assert allowed(trie, 0, 0) == {0: 0, 5: 1}
    assert allowed(trie, 1, 0) == {1: 0, 3: 1}
    assert allowed(trie, 1, 1) == {0: 2}
    assert [allowed(trie, 2, node) for node in range(3)] == [{2: 0}, {1: 1}, {0: 2}]
    assert [allowed(trie, 3, node) for node in range(3)] == [{0: 0, 1: 1}, {0: 2}, {0: 3}]
    assert trie.items(torch.tensor([[0, 1], [2, 3]])).tolist() == [[7, 3], [9, 1]]


def test_children_of_many_nodes_at_once():
    trie = Trie(torch.tensor(CODES), torch.arange(1, 5), SIZES)
    children = trie.children(1, torch.tensor([[1, 0, 1], [0, 0, 1]]))
    assert children.nodes.shape == children.codes.shape == children.exist.shape == (2, 3, 2)
    assert children.exist.tolist() == [
        [[True, False], [True, True], [True, False]],
        [[True, True], [True, True], [True, False]],
    ]
    assert children.codes[children.exist].tolist() == [0, 1, 3, 0, 1, 3, 1, 3, 0]


@pytest.mark.parametrize(
    ("n_ids", "sizes"),
    [
        (1, (1,)),
        (1, (4, 3)),
        (5, (5,)),
        (30, (4, 3, 5)),
        (60, (4, 3, 5)),
        (50, (9, 1, 8, 2)),
        (200, (3, 90, 7)),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_children_equal_brute_force(n_ids, sizes, seed):
    trie, codes, item_ids = random_trie(n_ids, sizes, seed)
    rows = list(map(tuple, codes.tolist()))
    for level in range(len(sizes)):
        prefixes = sorted({row[:level] for row in rows})
        longer = sorted({row[: level + 1] for row in rows})
        assert trie.n_nodes(level) == len(prefixes)
        children = trie.children(level, torch.arange(len(prefixes)).unsqueeze(0))
        assert ((children.codes >= 0) & (children.codes < sizes[level])).all()
        assert ((children.nodes >= 0) & (children.nodes < len(longer))).all()
        for node, prefix in enumerate(prefixes):
            expected = {row[-1]: number for number, row in enumerate(longer) if row[:-1] == prefix}
            assert allowed(trie, level, node) == expected
    names = dict(zip(rows, item_ids.tolist()))
    assert trie.items(torch.arange(n_ids)).tolist() == [names[row] for row in sorted(rows)]


@pytest.mark.parametrize(
    ("n_ids", "sizes"), [(1, (4, 3)), (30, (4, 3, 5)), (60, (4, 3, 5)), (40, (8, 2, 8, 3))]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_find_equals_a_dictionary(n_ids, sizes, seed):
    trie, codes, item_ids = random_trie(n_ids, sizes, seed)
    assert torch.equal(trie.find(codes), item_ids)
    names = dict(zip(map(tuple, codes.tolist()), item_ids.tolist()))
    beyond = torch.cartesian_prod(*(torch.arange(-1, size + 2) for size in sizes))
    assert trie.find(beyond).tolist() == [names.get(row, 0) for row in map(tuple, beyond.tolist())]


def test_find_takes_any_leading_shape():
    trie = Trie(torch.tensor(CODES), torch.arange(1, 5), SIZES)
    assert trie.find(torch.tensor(CODES[2])).item() == 3
    asked = torch.tensor([[CODES[3], (1, 1, 1, 1)], [(5, 0, 0, 1), CODES[0]]])
    assert trie.find(asked).tolist() == [[4, 0], [0, 1]]


def test_find_does_not_read_a_code_too_large_as_the_next_prefix():
    trie = Trie(torch.tensor([[0, 0], [1, 1]]), torch.tensor([1, 2]), (2, 3))
    assert trie.find(torch.tensor([[0, 4], [2, -2], [1, 1]])).tolist() == [0, 0, 2]


def test_equal_rows_are_an_error():
    with pytest.raises(UserError, match="3 items share 2 semantic ids"):
        Trie(torch.tensor([[0, 1], [1, 1], [0, 1]]), torch.arange(1, 4), (2, 2))


@pytest.mark.parametrize("row", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_code_out_of_range_is_an_error(row):
    with pytest.raises(UserError, match=r"level sizes \(2, 3\)"):
        Trie(torch.tensor([[0, 0], row]), torch.arange(1, 3), (2, 3))


def test_the_largest_codes_are_in_range():
    trie = Trie(torch.tensor([[1, 2]]), torch.tensor([1]), (2, 3))
    assert trie.find(torch.tensor([1, 2])).item() == 1


@pytest.mark.parametrize("sizes", [(4,), (3, 2), (3, 2, 4)])
def test_complete_tree_equals_brute_force(sizes):
    trie, codes, item_ids = random_trie(3, sizes, seed=0)
    tree = CompleteTree(trie)
    assert tree.n_levels == len(sizes) and tuple(tree.level_sizes) == sizes
    assert tree.n_nodes(0) == 1
    for level, size in enumerate(sizes):
        prefixes = list(itertools.product(*map(range, sizes[:level])))
        longer = list(itertools.product(*map(range, sizes[: level + 1])))
        assert tree.n_nodes(level + 1) == len(longer)
        for node, prefix in enumerate(prefixes):
            assert allowed(tree, level, node) == {
                code: longer.index((*prefix, code)) for code in range(size)
            }
    names = dict(zip(map(tuple, codes.tolist()), item_ids.tolist()))
    every = list(itertools.product(*map(range, sizes)))
    assert tree.items(torch.arange(len(every))).tolist() == [names.get(row, 0) for row in every]


def test_children_of_many_nodes_of_a_complete_tree():
    trie, _, _ = random_trie(3, (3, 2), seed=0)
    children = CompleteTree(trie).children(1, torch.tensor([[2, 0], [1, 1]]))
    assert children.nodes.tolist() == [[[4, 5], [0, 1]], [[2, 3], [2, 3]]]
    assert children.codes.tolist() == [[[0, 1]] * 2] * 2
    assert children.exist.all() and children.exist.shape == (2, 2, 2)


def test_allowed_codes_and_paths_by_hand():
    trie = Trie(torch.tensor(CODES), torch.tensor([7, 3, 9, 1]), SIZES)
    assert [path.tolist() for path in trie.paths] == [
        [0, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 1, 2],
        [0, 0, 1, 2],
    ]
    assert trie.allowed(0, torch.tensor([0])).tolist() == [[True, False, False, False, False, True]]
    assert trie.allowed(1, torch.tensor([1, 0])).tolist() == [
        [True, False, False, False],
        [False, True, False, True],
    ]
    assert trie.allowed(3, torch.tensor([0, 2])).tolist() == [[True, True], [True, False]]
