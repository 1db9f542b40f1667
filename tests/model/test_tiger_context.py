"""TIGER's tokens besides the semantic ids: hashed users and separators."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from recbole_genrec.model.tiger import hashed_users

HISTORIES = [[1, 2, 3], [4], [5, 6], [10, 9, 8, 7]]
TARGETS = [4, 5, 7, 1]
CONTEXT = {"n_user_tokens": 7, "separator_token": True}
# 1 + 3 levels of 4 codes + a counter of 10: users are tokens 23 .. 29, the separator is token 30.
FIRST_USER, SEPARATOR = 23, 30


def entered_tokens(model, batch) -> list[torch.Tensor]:
    """Return the tokens that are looked up when a history is encoded."""
    seen = []
    handle = model.token_table.register_forward_pre_hook(
        lambda module, given: seen.append(given[0])
    )
    model.encode_history(batch)
    handle.remove()
    return seen


def test_users_are_spread_evenly():
    """The paper's Beauty has 22,363 users; 11.2 of them share a token on average."""
    tokens = hashed_users(torch.arange(1, 22364), 2000)
    assert tokens.dtype == torch.int64
    assert (int(tokens.min()), int(tokens.max())) == (0, 1999)
    loads = torch.bincount(tokens, minlength=2000)
    assert loads.max() < 40
    assert loads.min() > 0


@pytest.mark.parametrize("n_user_tokens", [1, 2, 1000, 99991])
def test_tokens_of_users_are_in_range(n_user_tokens):
    users = torch.tensor([[0, 1, 2, 3], [10**6, 10**9, 2**31 - 1, 2**31]])
    tokens = hashed_users(users, n_user_tokens)
    assert tokens.shape == users.shape
    assert ((tokens >= 0) & (tokens < n_user_tokens)).all()
    # In Python's integers, which cannot overflow.
    assert tokens.tolist() == [
        [user * 2654435761 % 2**32 * n_user_tokens // 2**32 for user in row]
        for row in users.tolist()
    ]


def test_a_user_has_the_same_token_in_every_process():
    imports = "import torch; from recbole_genrec.model.tiger import hashed_users"
    program = f"{imports}; print(hashed_users(torch.arange(99), 50).tolist())"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.stdout.splitlines()[-1] == str(hashed_users(torch.arange(99), 50).tolist())


def test_tokens_stand_where_the_paper_has_them(make_experiment, make_batch):
    """The user first, then every item's four codes, each item followed by the separator."""
    model = make_experiment("TIGER", **CONTEXT).name_items()
    ids, user = model.semantic_ids.tokens, FIRST_USER + int(hashed_users(torch.tensor(5), 7))
    items, users = entered_tokens(model, make_batch([[3, 1]], [4], user_ids=[5]))
    assert items.tolist() == [[*ids[3].tolist(), SEPARATOR, *ids[1].tolist(), SEPARATOR]]
    assert users.tolist() == [user]
    batch = make_batch([[3, 1], [2]], [4, 4], user_ids=[5, 6])
    memory, mask = model.encode_history(batch)
    assert mask.tolist() == [[True] * 11, [True] * 6 + [False] * 5]
    by_hand = torch.tensor([[user, *items[0].tolist()]])
    expected = model.seq2seq.encode(model.token_table(by_hand), torch.ones(1, 11, dtype=torch.bool))
    torch.testing.assert_close(memory[:1], expected, atol=1e-5, rtol=1e-5)


def test_tokens_do_not_collide_with_those_of_items(make_experiment, make_batch):
    model = make_experiment("TIGER", **CONTEXT).name_items()
    assert model.semantic_ids.n_tokens == FIRST_USER
    items, users = entered_tokens(
        model, make_batch([list(range(1, 11))] * 40, [1] * 40, user_ids=list(range(1, 41)))
    )
    assert set(items.flatten().tolist()) - {SEPARATOR} <= set(range(1, FIRST_USER))
    assert set(users.tolist()) == set(range(FIRST_USER, SEPARATOR))


@pytest.mark.parametrize(
    "settings, n_more",
    [({}, 0), ({"n_user_tokens": 7}, 7), ({"separator_token": True}, 1), (CONTEXT, 8)],
)
def test_every_token_is_a_row_of_the_table(make_experiment, settings, n_more):
    plain, model = (make_experiment("TIGER", **given).model for given in ({}, settings))
    assert model.token_table.weight.shape == (23 + n_more, 16)
    assert (
        sum(map(torch.numel, model.parameters()))
        == sum(map(torch.numel, plain.parameters())) + 16 * n_more
    )


def test_users_with_the_same_history_differ(make_experiment, make_batch):
    """Only if users have tokens, and not if they share one."""
    buckets = hashed_users(torch.arange(99), 7).tolist()
    first, second, alike = 1, 2, buckets.index(buckets[1], 2)
    assert buckets[first] == buckets[alike] != buckets[second]
    for n_user_tokens in (7, 0):
        model = make_experiment("TIGER", n_user_tokens=n_user_tokens).name_items()
        scores = model.predict(make_batch([[1, 2]] * 3, [4] * 3, user_ids=[first, second, alike]))
        memory, _ = model.encode_history(
            make_batch([[1, 2]] * 2, [4] * 2, user_ids=[first, second])
        )
        assert (abs(float(scores[0] - scores[1])) > 1e-5) == (n_user_tokens > 0)
        assert torch.allclose(memory[0], memory[1], atol=1e-5) == (n_user_tokens == 0)
        torch.testing.assert_close(scores[0], scores[2], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scope", ["level", "full"])
def test_search_with_a_beam_per_item_is_the_exact_ranking(make_experiment, make_batch, scope):
    model = make_experiment("TIGER", n_beams=10, softmax_scope=scope, **CONTEXT).name_items()
    beams = model.search(make_batch(HISTORIES, TARGETS))
    exact = torch.full((4, 11), float("-inf"))
    for item in range(1, 11):
        exact[:, item] = model.predict(make_batch(HISTORIES, [item] * 4))
    ranked = exact.sort(dim=1, descending=True)
    torch.testing.assert_close(beams.log_probs, ranked.values[:, :10], atol=1e-5, rtol=1e-5)
    assert torch.equal(beams.item_ids, ranked.indices[:, :10])
    assert (ranked.values[:, :9] - ranked.values[:, 1:10]).min() > 1e-5, (
        "no ties: the order is a real one"
    )


def test_padding_is_invisible(make_experiment, make_batch):
    """Padding items bring separators that nothing sees."""
    model = make_experiment("TIGER", **CONTEXT).name_items()
    narrow, wide = make_batch(HISTORIES, TARGETS), make_batch(HISTORIES, TARGETS, width=20)
    torch.testing.assert_close(model.predict(wide), model.predict(narrow), atol=1e-5, rtol=1e-5)
    assert torch.equal(
        model.search(wide, 5).item_ids[:, :5], model.search(narrow, 5).item_ids[:, :5]
    )
    alone = [
        model.predict(make_batch([HISTORIES[row]], [TARGETS[row]], user_ids=[row + 1]))
        for row in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), model.predict(narrow), atol=1e-5, rtol=1e-5)
    model.train()
    assert model.calculate_loss(wide).item() == pytest.approx(
        model.calculate_loss(narrow).item(), abs=1e-5
    )


def test_the_tokens_in_use_are_trained(make_experiment, make_batch):
    model = make_experiment("TIGER", **CONTEXT).name_items().train()
    model.calculate_loss(make_batch(HISTORIES, TARGETS)).backward()
    moved = model.token_table.weight.grad.abs().sum(1) > 0
    users = set((FIRST_USER + hashed_users(torch.arange(1, 5), 7)).tolist())
    assert {row for row in range(FIRST_USER, 31) if moved[row]} == {*users, SEPARATOR}
