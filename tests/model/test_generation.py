from __future__ import annotations

import itertools

import pytest
import torch
from recbole.data.interaction import Interaction
from torch.nn import functional as F

from recbole_genrec.model import abstract, generation
from recbole_genrec.seq2seq.beam_search import beam_search

HISTORIES = [[1, 2, 3], [4], [5, 6], [10, 9, 8, 7]]
TARGETS = [4, 5, 7, 1]


def exact_scores(model, make_batch, histories) -> torch.Tensor:
    """predict() of every item after every history, [B, n_items]; column 0 is -inf."""
    scores = torch.full((len(histories), model.n_items), float("-inf"))
    for item in range(1, model.n_items):
        scores[:, item] = model.predict(make_batch(histories, [item] * len(histories)))
    return scores


@pytest.fixture(params=["TIGER", "UniGRec"])
def name(request):
    return request.param


def test_decoder_sees_the_tokens_before(make_experiment, make_batch, name):
    """Level l depends on levels < l alone: token 0 starts, the counter is never an input."""
    model = make_experiment(name).name_items()
    memory, mask = model.encode_history(make_batch([[1, 2]], [3]))
    inputs = torch.cat(
        (torch.zeros(1, 1, dtype=torch.long), model.semantic_ids.tokens[3:4, :3]), dim=1
    )
    expected = model.seq2seq.decode(model.token_table(inputs), memory, mask)
    assert torch.equal(model.decode_targets(torch.tensor([3]), memory, mask), expected)


def test_softmax_of_a_level(make_experiment, name):
    model = make_experiment(name, softmax_scope="level").name_items()
    hidden = torch.randn(2, 3, 16)
    for level, (first, size) in enumerate([(1, 4), (5, 4), (9, 4), (13, 10)]):
        logits = (hidden / 4) @ model.token_table.weight[first : first + size].T
        expected = logits.exp() / logits.exp().sum(-1, keepdim=True)
        torch.testing.assert_close(model.level_log_probs(hidden, level).exp(), expected)


def test_softmax_of_the_whole_vocabulary(make_experiment, name):
    model = make_experiment(name, softmax_scope="full").name_items()
    hidden = torch.randn(2, 16)
    logits = (hidden / 4) @ model.token_table.weight.T
    expected = logits.exp() / logits.exp().sum(-1, keepdim=True)
    levels = torch.cat([model.level_log_probs(hidden, level).exp() for level in range(4)], dim=1)
    torch.testing.assert_close(levels, expected[:, 1:])
    torch.testing.assert_close(levels.sum(1) + expected[:, 0], torch.ones(2))


@pytest.mark.parametrize("scope", ["level", "full", "tree"])
def test_search_with_a_beam_per_item_is_the_exact_ranking(make_experiment, make_batch, name, scope):
    model = make_experiment(name, n_beams=10, softmax_scope=scope).name_items()
    beams = model.search(make_batch(HISTORIES, TARGETS))
    exact = exact_scores(model, make_batch, HISTORIES)
    ranked = exact.sort(dim=1, descending=True)
    torch.testing.assert_close(beams.log_probs, ranked.values[:, :10], atol=1e-5, rtol=1e-5)
    assert torch.equal(beams.item_ids, ranked.indices[:, :10])
    assert (ranked.values[:, :9] - ranked.values[:, 1:10]).min() > 1e-5, (
        "no ties: the order is a real one"
    )


def test_tree_softmax_shares_one_among_the_items(make_experiment, make_batch, name):
    """By hand over the children of every prefix, at two temperatures and after new ids."""
    model = make_experiment(name, softmax_scope="tree", generation_temperature=0.5).name_items()
    for _ in range(2):
        exact = exact_scores(model, make_batch, HISTORIES)
        torch.testing.assert_close(exact[:, 1:].exp().sum(1), torch.ones(4))
        memory, mask = model.encode_history(make_batch([HISTORIES[2]], [1]))
        codes = model.semantic_ids.codes[1:].tolist()
        for item, own in enumerate(codes, start=1):
            hidden, expected = model.decode_targets(torch.tensor([item]), memory, mask), 0.0
            for level, (first, size) in enumerate([(1, 4), (5, 4), (9, 4), (13, 10)]):
                weights = (
                    hidden[0, level] @ model.token_table.weight[first : first + size].T / 4 / 0.5
                ).exp()
                children = {other[level] for other in codes if other[:level] == own[:level]}
                expected += (
                    (weights[own[level]] / sum(weights[child] for child in children)).log().item()
                )
            assert exact[2, item].item() == pytest.approx(expected, abs=1e-5)
        model.semantic_ids.assign(model.semantic_ids.codes[1:, :3].flip(0))


def test_probabilities_of_all_code_sequences_sum_to_one(
    make_experiment, make_batch, name, monkeypatch
):
    """Over the complete tree; what items have is less."""
    model = make_experiment(
        name, n_levels=2, codebook_size=3, n_beams=10, constrained=False, softmax_scope="level"
    ).name_items()
    monkeypatch.setattr(
        generation,
        "beam_search",
        lambda step, tree, n_beams, *rest: beam_search(step, tree, 3 * 3 * 10, *rest),
    )
    beams = model.search(make_batch(HISTORIES, TARGETS))
    torch.testing.assert_close(beams.log_probs.exp().sum(1), torch.ones(4))
    exact = exact_scores(model, make_batch, HISTORIES)
    for row in range(4):
        found = {
            item: score
            for item, score in zip(beams.item_ids[row].tolist(), beams.log_probs[row].tolist())
            if item
        }
        assert found == pytest.approx(dict(enumerate(exact[row].tolist()[1:], start=1)), abs=1e-5)
        assert (beams.item_ids[row] == 0).sum() == 80


def test_unconstrained_beams_may_be_no_item(make_experiment, make_batch, name):
    experiment = make_experiment(name, constrained=False)
    model, batch = experiment.name_items(), make_batch(HISTORIES, TARGETS)
    ranked, scores = model.search(batch, 5).item_ids[:, :5], model.full_sort_predict(batch)
    assert (ranked == 0).any(), "random weights hit few items"
    assert (scores[:, 0] == float("-inf")).all()
    assert torch.equal(torch.isfinite(scores).sum(1), (ranked > 0).sum(1))


def test_topk_is_distinct_and_best_first(make_experiment, make_batch, name):
    model, batch = make_experiment(name, n_beams=7).name_items(), make_batch(HISTORIES, TARGETS)
    ranked, beams = model.search(batch, 4).item_ids[:, :4], model.search(batch)
    assert ranked.shape == (4, 4)
    assert all(len(set(row)) == 4 and min(row) > 0 for row in ranked.tolist())
    assert torch.equal(ranked, beams.item_ids[:, :4])
    assert (beams.log_probs[:, :-1] >= beams.log_probs[:, 1:]).all()


def test_full_sort_scores_are_finite_exactly_at_the_beams(make_experiment, make_batch, name):
    model, batch = make_experiment(name).name_items(), make_batch(HISTORIES, TARGETS)
    scores, beams = model.full_sort_predict(batch), model.search(batch)
    assert scores.shape == (4, 11)
    assert (torch.isfinite(scores).sum(1) == 5).all()
    assert torch.equal(scores.topk(5).indices, beams.item_ids)
    assert (scores[:, 0] == float("-inf")).all()
    exact = exact_scores(model, make_batch, HISTORIES)
    finite = torch.isfinite(scores)
    torch.testing.assert_close(scores[finite], exact[finite], atol=1e-5, rtol=1e-5)


def test_padding_is_invisible(make_experiment, make_batch, name):
    model = make_experiment(name).name_items()
    narrow, wide = make_batch(HISTORIES, TARGETS), make_batch(HISTORIES, TARGETS, width=20)
    torch.testing.assert_close(model.predict(wide), model.predict(narrow), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model.search(wide).log_probs, model.search(narrow).log_probs, atol=1e-5, rtol=1e-5
    )
    assert torch.equal(
        model.search(wide, 5).item_ids[:, :5], model.search(narrow, 5).item_ids[:, :5]
    )
    one_by_one = torch.cat(
        [
            model.predict(make_batch([history], [target]))
            for history, target in zip(HISTORIES, TARGETS)
        ]
    )
    torch.testing.assert_close(one_by_one, model.predict(narrow), atol=1e-5, rtol=1e-5)
    for mode in (True, False):
        model.train(mode)
        assert model.calculate_loss(wide).item() == pytest.approx(
            model.calculate_loss(narrow).item(), abs=1e-5
        )


def test_order_of_the_history_matters(make_experiment, make_batch, name):
    """Guards the invariances above against a model that ignores its input."""
    model = make_experiment(name).name_items()
    forward, backward = (
        model.predict(make_batch([history], [4])) for history in ([1, 2, 3], [3, 2, 1])
    )
    assert (forward - backward).abs().item() > 1e-4


def test_cross_entropy_by_hand(make_experiment, make_batch, name):
    """Each level of target_log_probs equals torch's cross-entropy on a slice of the logits."""
    model = make_experiment(name, softmax_scope="level").name_items()
    item_ids, hidden = torch.tensor([3, 8]), torch.randn(2, 4, 16)
    for (row, item), level in itertools.product(enumerate(item_ids.tolist()), range(4)):
        tokens = model.semantic_ids.level_tokens(level)
        logits = model.token_table.weight[tokens] @ hidden[row, level] / 4
        expected = -F.cross_entropy(logits, model.semantic_ids.codes[item, level])
        assert model.target_log_probs(hidden, item_ids)[row, level].item() == pytest.approx(
            expected.item(), abs=1e-5
        )


def test_interaction_may_hold_more_columns(make_experiment, make_batch, name):
    model, batch = make_experiment(name).name_items(), make_batch(HISTORIES, TARGETS)
    more = Interaction({**batch.interaction, "rating": torch.arange(1, 5)})
    assert torch.equal(model.predict(more), model.predict(batch))


def test_compiled_search_calls_the_compiled_parts_and_training_does_not(
    make_experiment, make_batch, name, monkeypatch
):
    called = []

    def note(function, dynamic):
        assert dynamic
        return lambda *given: called.append(function.__name__) or function(*given)

    monkeypatch.setattr(abstract, "check_compiler", lambda device: called.append("check"))
    monkeypatch.setattr(torch, "compile", note)
    plain = make_experiment(name, compile_search=False).name_items()
    model = make_experiment(name, compile_search=True).name_items()
    model.load_state_dict(plain.state_dict())
    assert called == ["check"]
    batch = make_batch(HISTORIES, TARGETS)
    beams, expected = model.search(batch), plain.search(batch)
    assert called == ["check", "encode", *["step"] * 4]
    assert torch.equal(beams.item_ids, expected.item_ids) and torch.equal(
        beams.log_probs, expected.log_probs
    )
    model.losses(batch)
    assert len(called) == 6
