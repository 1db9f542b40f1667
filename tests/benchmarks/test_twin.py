from __future__ import annotations

import pytest
import torch

from benchmarks.twin import PrefixTree, copy_weights, make_twin, pad_histories

pytest.importorskip("transformers")


def test_prefix_tree():
    tree = PrefixTree(torch.tensor([[0, 0], [2, 5], [1, 5], [2, 4]]))
    assert tree.allowed(0, torch.tensor([0])) == [1, 2]
    assert tree.allowed(3, torch.tensor([0, 2])) == [4, 5]
    assert tree.item_of == {(2, 5): 1, (1, 5): 2, (2, 4): 3}


def test_histories_are_padded_to_the_longest():
    pad = pad_histories(torch.tensor([[0, 0], [3, 4], [5, 6]]))
    source, mask = pad([torch.tensor([2]), torch.tensor([1, 2])])
    assert source.tolist() == [[5, 6, 0, 0], [3, 4, 5, 6]]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_the_twin_refuses_a_t5_with_other_weights(tiger):
    model = tiger().model
    twin = make_twin(model)
    assert torch.equal(twin.shared.weight, model.token_table.weight)
    model.seq2seq.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"seq2seq\.extra\.weight"):
        copy_weights(model, twin)
