from __future__ import annotations

import pytest
import torch

from recbole_genrec.model.unger.din import DIN, Dice

HISTORIES = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 0, 0, 0], [6, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[2, 7], [1, 8], [3, 9]])


@pytest.fixture
def make_din():
    def make(scorer="mlp", windows=(2, 1, 1), **settings) -> DIN:
        torch.manual_seed(0)
        given = dict(
            n_items=10, size=4, attention_hidden_sizes=[6, 3], scorer_hidden_sizes=[5], dropout=0.0
        )
        din = DIN(scorer=scorer, windows=list(windows), **{**given, **settings})
        for weight in din.parameters():
            torch.nn.init.normal_(weight, std=0.5)
        for buffer in din.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
        return din.eval()

    return make


def score_by_hand(din: DIN, history: list[int], candidate: int, windows: list[int]) -> float:
    """Score one pair with the concatenated first layer and a loop over the history."""
    e_v, table, groups = (
        din.table.weight[candidate],
        din.table.weight,
        [torch.zeros(4) for _ in windows],
    )
    ends = torch.tensor(windows).flip(0).cumsum(0).tolist()
    for recency, item in enumerate(reversed(history)):
        e_t = table[item]
        hidden = din.attention.first(torch.cat((e_v, e_t, e_v - e_t, e_v * e_t)))
        weight = din.attention.rest(hidden.unsqueeze(0))[0, 0]
        newer = next((number for number, end in enumerate(ends) if recency < end), len(windows) - 1)
        window = len(windows) - 1 - newer
        groups[window] = groups[window] + weight * e_t
    if din.scorer == "dot":
        return (din.score(torch.cat(groups)) @ e_v).item()
    return din.score(torch.cat((*groups, e_v)).unsqueeze(0)).item()


@pytest.mark.parametrize("scorer", ["mlp", "dot"])
@pytest.mark.parametrize("windows", [(2, 1, 1), (20,), (1, 3)])
def test_scores_equal_the_formula_pair_by_pair(make_din, scorer, windows):
    """In a history longer than all windows, the oldest items belong to the first window."""
    din = make_din(scorer, windows)
    histories = [[item for item in row if item] for row in HISTORIES.tolist()]
    expected = [
        [score_by_hand(din, history, item, list(windows)) for item in row]
        for history, row in zip(histories, CANDIDATES.tolist())
    ]
    torch.testing.assert_close(
        din(HISTORIES, CANDIDATES), torch.tensor(expected), atol=1e-5, rtol=1e-4
    )


def test_only_one_window_is_blind_to_order(make_din):
    shuffled = HISTORIES.clone()
    shuffled[0] = HISTORIES[0, [4, 2, 0, 1, 3]]
    torch.testing.assert_close(
        make_din(windows=[20])(shuffled, CANDIDATES), make_din(windows=[20])(HISTORIES, CANDIDATES)
    )
    windows = make_din()
    assert (windows(shuffled, CANDIDATES) - windows(HISTORIES, CANDIDATES))[0].abs().max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_more_padding_changes_nothing(make_din, training):
    """Padding has no part in the batch statistics either."""
    din, wide = (
        make_din().train(training),
        torch.cat((HISTORIES, torch.zeros(3, 4, dtype=torch.long)), dim=1),
    )
    scores = din(HISTORIES, CANDIDATES)
    with torch.no_grad():
        din.table.weight[0] = 100.0
    torch.testing.assert_close(din(wide, CANDIDATES), scores)


def test_scores_of_a_candidate_do_not_see_the_others(make_din):
    din = make_din()
    torch.testing.assert_close(din(HISTORIES, CANDIDATES[:, 1:]), din(HISTORIES, CANDIDATES)[:, 1:])


def test_ranking_is_that_of_all_scores_in_any_memory(make_din, monkeypatch):
    din, catalogue = make_din(), torch.arange(1, 10).expand(3, -1)
    expected = din(HISTORIES, catalogue).argsort(descending=True)[:, :4] + 1
    assert torch.equal(din.rank(HISTORIES, 4), expected)
    monkeypatch.setattr("recbole_genrec.model.unger.din.MAX_ENTRIES", 100)
    assert torch.equal(din.rank(HISTORIES, 4), expected)


def test_dice_is_a_soft_switch_between_two_slopes():
    dice = Dice(2)
    with torch.no_grad():
        dice.slope.copy_(torch.tensor([0.0, 0.5]))
    states = torch.tensor([[-2.0, 1.0], [0.0, 3.0], [2.0, 5.0]])
    share = torch.sigmoid((states - states.mean(0)) / (states.var(0, unbiased=False) + 1e-5).sqrt())
    expected = share * states + (1 - share) * torch.tensor([0.0, 0.5]) * states
    torch.testing.assert_close(dice(states), expected)


def test_every_parameter_gets_a_gradient(make_din):
    for scorer in ("mlp", "dot"):
        din = make_din(scorer).train()
        (din(HISTORIES, CANDIDATES) * torch.randn(3, 2)).sum().backward()
        for name, weight in din.named_parameters():
            if not name.endswith("bias"):  # a batch norm removes the bias before it
                assert weight.grad.abs().sum() > 0, name
