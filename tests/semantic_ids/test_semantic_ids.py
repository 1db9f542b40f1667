from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.semantic_ids import SemanticIDs


def random_ids(
    n_items: int = 50, sizes: tuple[int, ...] = (4, 3), counter_size: int = 20, seed: int = 0
) -> SemanticIDs:
    ids = SemanticIDs(n_items, sizes, counter_size)
    generator = torch.Generator().manual_seed(seed)
    ids.assign(
        torch.stack(
            [torch.randint(size, (n_items - 1,), generator=generator) for size in sizes], dim=1
        )
    )
    return ids


def test_token_layout():
    ids = SemanticIDs(3, (256, 256, 256), 256)
    ids.assign(torch.tensor([[0, 0, 5], [255, 255, 255]]))
    assert ids.tokens.tolist() == [[0, 0, 0, 0], [1, 257, 518, 769], [256, 512, 768, 769]]
    assert ids.n_levels == 4
    assert ids.n_tokens == 1025
    assert [ids.level_tokens(level) for level in range(4)] == [
        slice(1, 257),
        slice(257, 513),
        slice(513, 769),
        slice(769, 1025),
    ]
    assert ids.level_tokens(2).start + 5 == 518


def test_number_of_tokens_with_three_codebooks_of_256_and_101_counters():
    assert SemanticIDs(2, (256, 256, 256), 101).n_tokens == 870


def test_every_token_lies_in_its_level_and_no_token_is_shared():
    ids = SemanticIDs(2, (3, 5, 2), 4)
    tokens = [list(range(ids.n_tokens))[ids.level_tokens(level)] for level in range(ids.n_levels)]
    assert [len(level) for level in tokens] == [3, 5, 2, 4]
    assert [0, *itertools.chain(*tokens)] == list(range(15))


def test_codes_to_tokens_and_back():
    ids = random_ids()
    assert torch.equal(ids.tokens[1:] - ids.offsets, ids.codes[1:])
    assert torch.equal(ids.trie.find(ids.tokens[1:] - ids.offsets), torch.arange(1, 50))
    for level in range(ids.n_levels):
        own = ids.level_tokens(level)
        assert ((ids.tokens[1:, level] >= own.start) & (ids.tokens[1:, level] < own.stop)).all()


def test_assign_makes_ids_unique_in_the_order_of_items():
    ids = SemanticIDs(6, (4, 4), 3)
    ids.assign(torch.tensor([[1, 2], [0, 0], [1, 2], [3, 3], [1, 2]]))
    assert ids.codes[1:].tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [3, 3, 0], [1, 2, 2]]
    assert ids.codes[0].tolist() == [-1, -1, -1]
    assert ids.trie.n_nodes(3) == 5
    assert len(random_ids().codes[1:].unique(dim=0)) == 49


def test_assign_returns_the_share_of_items_whose_codes_changed():
    ids = SemanticIDs(5, (4, 4), 4)
    codes = torch.tensor([[0, 0], [0, 1], [2, 2], [3, 3]])
    assert ids.assign(codes) == 1.0
    assert ids.assign(codes) == 0.0
    codes = torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3]])
    assert ids.assign(codes) == 0.25
    assert ids.tokens[2].tolist() == [2, 6, 9]
    assert ids.trie.find(torch.tensor([[1, 1, 0], [0, 1, 0]])).tolist() == [2, 0]


def test_too_many_equal_codes_are_an_error_that_leaves_the_ids_alone():
    ids = SemanticIDs(5, (2, 2), 2)
    ids.assign(torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]]))
    before = ids.codes.clone()
    with pytest.raises(
        UserError, match="3 items share the same codes, but counter_size is 2: raise counter_size"
    ):
        ids.assign(torch.tensor([[0, 0], [0, 0], [0, 0], [1, 1]]))
    assert torch.equal(ids.codes, before)


@pytest.mark.parametrize("code", [-1, 2])
def test_a_code_out_of_range_is_an_error_that_leaves_the_ids_alone(code):
    ids = SemanticIDs(4, (2, 2), 2)
    ids.assign(torch.tensor([[0, 0], [0, 1], [1, 1]]))
    before = ids.codes.clone()
    with pytest.raises(UserError, match="outside the level sizes"):
        ids.assign(torch.tensor([[0, 0], [0, code], [1, 1]]))
    assert torch.equal(ids.codes, before)
    assert ids.trie.find(torch.tensor([0, 1, 0])).item() == 2


def test_there_is_no_trie_before_the_first_assignment():
    ids = SemanticIDs(4, (2, 2), 2)
    for same in (ids, ids.double()):
        assert not same.is_assigned and not same.tokens.any()
        with pytest.raises(RuntimeError, match="no semantic ids yet"):
            _ = same.trie
    ids.assign(torch.tensor([[0, 0], [0, 1], [1, 1]]))
    assert ids.is_assigned


def test_a_state_dict_restores_codes_tokens_and_trie():
    ids = random_ids(seed=1)
    state = ids.state_dict()
    assert list(state) == ["codes"]
    fresh = SemanticIDs(50, (4, 3), 20)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.codes, ids.codes) and torch.equal(fresh.tokens, ids.tokens)
    assert torch.equal(fresh.trie.find(ids.codes[1:]), torch.arange(1, 50))


def test_a_state_dict_replaces_earlier_ids():
    ids, other = random_ids(seed=1), random_ids(seed=2)
    outer = torch.nn.Sequential(other)
    outer.load_state_dict(torch.nn.Sequential(ids).state_dict())
    assert torch.equal(other.tokens, ids.tokens)
    assert torch.equal(other.trie.find(ids.codes[1:]), torch.arange(1, 50))


def test_a_copy_is_independent():
    ids = random_ids()
    twin = copy.deepcopy(ids)
    ids.assign(random_ids(seed=3).codes[1:, :-1])
    assert torch.equal(twin.trie.find(twin.codes[1:]), torch.arange(1, 50))
    assert not torch.equal(twin.codes, ids.codes)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
            ],
        ),
    ],
)
def test_the_trie_follows_the_buffers(device):
    ids = torch.nn.Sequential(random_ids()).to(device).double()[0]
    assert ids.codes.dtype == ids.tokens.dtype == torch.int64
    assert ids.trie.item_ids.device == ids.codes.device
    children = ids.trie.children(1, torch.zeros((1, 1), dtype=torch.long, device=device))
    assert children.codes.device.type == device
    assert torch.equal(ids.trie.find(ids.codes[1:]).cpu(), torch.arange(1, 50))


def test_the_trie_is_rebuilt_when_the_buffers_are_replaced():
    ids = random_ids()
    before = ids.codes[1:].clone()
    ids._apply(
        lambda tensor: torch.cat((tensor[:1], tensor[1:].flip(0))) if tensor.ndim == 2 else tensor
    )  # as .to() does
    assert torch.equal(ids.codes[1:], before.flip(0))
    assert torch.equal(ids.trie.find(before), torch.arange(1, 50).flip(0))


def test_statistics_in_closed_form():
    ids = SemanticIDs(9, (4, 2), 5)
    ids.assign(torch.tensor([[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [1, 0], [2, 1], [2, 1]]))
    figures = ids.statistics()
    assert len(figures) == 7
    assert figures["usage_0"] == 0.75 and figures["usage_1"] == 1.0
    assert figures["entropy_0"] == pytest.approx(1.5 * math.log(2), abs=1e-12)
    assert figures["entropy_1"] == pytest.approx(
        0.75 * math.log(4 / 3) + 0.25 * math.log(4), abs=1e-12
    )
    assert figures["collisions_before"] == pytest.approx(1 - 3 / 8, abs=1e-12)
    assert figures["collisions_after"] == 0.0
    assert figures["largest_group"] == 4.0


def test_balanced_codes_reach_the_maximum_entropy():
    ids = SemanticIDs(17, (4, 4), 1)
    ids.assign(torch.cartesian_prod(torch.arange(4), torch.arange(4)))
    figures = ids.statistics()
    assert figures["entropy_0"] == pytest.approx(math.log(4), abs=1e-12)
    assert figures["collisions_before"] == 0.0 and figures["largest_group"] == 1.0


def test_describe_lists_the_statistics():
    ids = SemanticIDs(9, (4, 2), 5)
    ids.assign(torch.tensor([[0, 0], [0, 0], [0, 0], [0, 0], [1, 0], [1, 0], [2, 1], [2, 1]]))
    assert ids.describe() == (
        "codes in use per level 75.0% 100.0%; entropy 1.04 0.56 of at most 1.39 0.69 nats; "
        "collisions 62.50% before and 0.00% after the counter; largest group 4"
    )


def test_without_a_counter_the_codes_are_the_ids():
    ids = SemanticIDs(4, (4, 4), 0)
    assert ids.assign(torch.tensor([[1, 2], [0, 0], [1, 3]])) == 1.0
    assert (ids.n_levels, ids.n_code_levels, ids.n_tokens) == (2, 2, 9)
    assert ids.codes[1:].tolist() == [[1, 2], [0, 0], [1, 3]]
    assert ids.assign(torch.tensor([[1, 2], [0, 0], [1, 1]])) == pytest.approx(1 / 3)
    figures = ids.statistics()
    assert (figures["usage_0"], figures["usage_1"]) == (0.5, 0.75)
    assert (figures["collisions_before"], figures["largest_group"]) == (0.0, 1.0)


def test_without_a_counter_equal_codes_are_an_error_that_leaves_the_ids_alone():
    ids = SemanticIDs(4, (4, 4), 0)
    ids.assign(torch.tensor([[1, 2], [0, 0], [1, 3]]))
    before = ids.codes.clone()
    with pytest.raises(
        UserError,
        match="2 of 3 items have the codes of another item, but there is no counter level",
    ):
        ids.assign(torch.tensor([[1, 2], [1, 2], [1, 2]]))
    assert torch.equal(ids.codes, before)
