from __future__ import annotations

import itertools
import math

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.semantic_ids.semantic_ids import SemanticIDs
from recbole_genrec.semantic_ids.trie import CompleteTree, Trie
from recbole_genrec.seq2seq.beam_search import beam_search


class TableStep:
    """Step function with a table of log-probabilities of every prefix."""

    def __init__(self, n_rows: int, sizes: tuple[int, ...], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = [(n_rows, *sizes[: level + 1]) for level in range(len(sizes))]
        self.tables = [
            torch.randn(shape, generator=generator).mul(2).log_softmax(-1) for shape in shapes
        ]
        self.rows = torch.arange(n_rows).unsqueeze(1)
        self.prefixes = torch.zeros(n_rows, 1, 0, dtype=torch.long)

    def __call__(self, level, codes, parents):
        if level == 0:
            assert codes is None and parents is None
            self.prefixes = self.prefixes[:, :1, :0]
        else:
            kept = self.prefixes[self.rows, parents]
            self.prefixes = torch.cat((kept, codes.unsqueeze(-1)), dim=-1)
        return self.tables[level][(self.rows, *self.prefixes.unbind(-1))]

    def log_prob(self, row: int, codes: tuple[int, ...]) -> float:
        return sum(
            self.tables[level][(row, *codes[: level + 1])].item() for level in range(len(codes))
        )


def random_catalogue(
    n_items: int, sizes: tuple[int, ...], seed: int
) -> tuple[Trie, dict[tuple[int, ...], int]]:
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*map(torch.arange, sizes))
    codes = every[torch.randperm(len(every), generator=generator)[:n_items]]
    item_ids = torch.randperm(n_items, generator=generator) + 1
    return Trie(codes, item_ids, sizes), dict(zip(map(tuple, codes.tolist()), item_ids.tolist()))


def naive_search(
    step: TableStep, row: int, paths, n_beams: int, n_levels: int
) -> list[tuple[tuple[int, ...], float]]:
    """Search over tuples: extend every beam to every path that exists, and keep the best."""
    beams = [()]
    for level in range(n_levels):
        extended = {path[: level + 1] for path in paths if path[:level] in beams}
        beams = sorted(extended, key=lambda prefix: -step.log_prob(row, prefix))[:n_beams]
    return [(beam, step.log_prob(row, beam)) for beam in beams]


@pytest.mark.parametrize("n_beams", [1, 2, 3, 5, 8, 13, 40, 100])
@pytest.mark.parametrize(
    ("n_items", "sizes"), [(40, (5, 4, 6)), (12, (12, 3, 2)), (30, (2, 3, 3, 4))]
)
@pytest.mark.parametrize("unconstrained", [False, True])
def test_equals_a_search_over_tuples(n_items, sizes, n_beams, unconstrained):
    trie, names = random_catalogue(n_items, sizes, seed=1)
    step = TableStep(6, sizes)
    tree, paths = (
        (CompleteTree(trie), list(itertools.product(*map(range, sizes))))
        if unconstrained
        else (trie, list(names))
    )
    found = beam_search(step, tree, n_beams)
    assert found.item_ids.dtype == torch.int64 and found.log_probs.dtype == torch.float32
    assert found.item_ids.shape == found.log_probs.shape == (6, min(n_beams, len(paths)))
    for row in range(6):
        expected = naive_search(step, row, paths, n_beams, len(sizes))
        assert found.item_ids[row].tolist() == [names.get(codes, 0) for codes, _ in expected]
        assert found.log_probs[row].tolist() == pytest.approx(
            [log_prob for _, log_prob in expected], abs=1e-5
        )


def test_complete_tree_with_all_beams_ranks_every_code_tuple():
    sizes = (3, 4, 2)
    trie, names = random_catalogue(7, sizes, seed=2)
    step = TableStep(4, sizes)
    found = beam_search(step, CompleteTree(trie), 24)
    assert ((found.item_ids == 0).sum(dim=1) == 17).all()
    torch.testing.assert_close(found.log_probs.exp().sum(dim=1), torch.ones(4))
    for row in range(4):
        ranked = sorted(
            itertools.product(*map(range, sizes)), key=lambda codes: -step.log_prob(row, codes)
        )
        assert found.item_ids[row].tolist() == [names.get(codes, 0) for codes in ranked]


def test_ties_are_broken_by_item_id():
    trie = Trie(
        torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]),
        torch.tensor([4, 2, 5, 1, 3]),
        (2, 3),
    )

    def step(level, codes, parents):
        return torch.full((2, 1 if level == 0 else codes.shape[1], (2, 3)[level]), -1.0)

    found = beam_search(step, trie, 5)
    assert found.item_ids.tolist() == [[1, 2, 3, 4, 5]] * 2
    assert found.log_probs.tolist() == [[-2.0] * 5] * 2


def test_many_ties_are_broken_by_item_id():
    item_ids = torch.randperm(500, generator=torch.Generator().manual_seed(0)) + 1
    trie = Trie(torch.arange(500).unsqueeze(1), item_ids, (500,))
    found = beam_search(lambda *_: torch.full((3, 1, 500), -1.0), trie, 500)
    assert torch.equal(found.item_ids, torch.arange(1, 501).expand(3, -1))


def test_ties_are_broken_by_item_id_only_among_equals():
    trie = Trie(torch.tensor([[0], [1], [2], [3]]), torch.tensor([3, 4, 1, 2]), (4,))
    found = beam_search(lambda *_: torch.tensor([[[-1.0, -2.0, -2.0, -1.0]]]), trie, 4)
    assert found.item_ids.tolist() == [[2, 3, 1, 4]]
    assert found.log_probs.tolist() == [[-1.0, -1.0, -2.0, -2.0]]


def literal_step(level, codes, parents):
    """Return .5 .3 .2 first, then .1 .2 .7 after code 0, .6 .3 .1 after 1, .2 .2 .6 after 2."""
    if level == 0:
        return torch.tensor([[[0.5, 0.3, 0.2]]]).log()
    return torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]).log()[codes]


LITERAL = Trie(torch.tensor([[0, 0], [0, 1], [1, 0]]), torch.tensor([1, 2, 3]), (3, 3))


def test_joint_probability_without_renormalization():
    found = beam_search(literal_step, LITERAL, 3)
    assert found.item_ids.tolist() == [[3, 2, 1]]
    assert found.log_probs.exp()[0].tolist() == pytest.approx([0.3 * 0.6, 0.5 * 0.2, 0.5 * 0.1])


def test_renormalization_shares_the_probability_among_the_items():
    found = beam_search(literal_step, LITERAL, 3, renormalize=True)
    assert found.item_ids.tolist() == [[2, 3, 1]]
    assert found.log_probs.exp()[0].tolist() == pytest.approx([5 / 8 * 2 / 3, 3 / 8, 5 / 8 * 1 / 3])


def test_the_probabilities_of_all_items_sum_to_one_after_renormalization():
    trie, _ = random_catalogue(20, (5, 4, 6), seed=3)
    found = beam_search(TableStep(3, (5, 4, 6)), trie, 20, renormalize=True)
    torch.testing.assert_close(found.log_probs.exp().sum(dim=1), torch.ones(3))
    assert (beam_search(TableStep(3, (5, 4, 6)), trie, 20).log_probs.exp().sum(dim=1) < 0.9).all()


@pytest.mark.parametrize("n_beams", [0, -3])
def test_fewer_than_one_beam_is_an_error(n_beams):
    with pytest.raises(UserError, match=f"n_beams is {n_beams}, but"):
        beam_search(literal_step, LITERAL, n_beams)


def test_a_catalogue_smaller_than_n_beams_is_returned_whole():
    found = beam_search(literal_step, LITERAL, 50)
    assert found.item_ids.tolist() == [[3, 2, 1]]
    assert found.log_probs.isfinite().all()


def test_log_probabilities_of_half_precision_are_summed_in_single():
    found = beam_search(lambda *arguments: literal_step(*arguments).bfloat16(), LITERAL, 3)
    exact = sum(math.log(p) for p in (0.3, 0.6))
    rounded = sum(torch.tensor(p).log().bfloat16().item() for p in (0.3, 0.6))
    assert found.log_probs.dtype == torch.float32
    assert found.log_probs[0, 0].item() == pytest.approx(rounded, abs=1e-7) and exact != rounded


SIZES = (6, 5, 4)


def semantic_ids(n_items: int, seed: int = 0) -> SemanticIDs:
    """Assign ids to n_items items, some of which share all tokenizer codes."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack(
        [torch.randint(size, (n_items,), generator=generator) for size in SIZES], dim=1
    )
    ids = SemanticIDs(n_items + 1, SIZES, 8)
    ids.assign(codes)
    return ids


def histories(ids: SemanticIDs, n_rows: int, seed: int = 0) -> torch.Tensor:
    """Return the tokens of one to five random items per row, padded right."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(1, len(ids.codes), (n_rows, 5), generator=generator)
    items = items.masked_fill(
        torch.arange(5) > torch.randint(5, (n_rows, 1), generator=generator), 0
    )
    return ids.tokens[items].flatten(1)


def teacher_forced(model, ids: SemanticIDs, source: torch.Tensor) -> torch.Tensor:
    """Score every item, [B, n_items]."""
    scores = []
    for tokens in ids.tokens[1:]:
        target = tokens.expand(len(source), -1)
        scores.append(
            model(source, target).log_softmax(-1).gather(-1, target.unsqueeze(-1)).sum((1, 2))
        )
    return torch.stack(scores, dim=1)


@pytest.fixture
def setting(make_model):
    ids = semantic_ids(50)
    return make_model(n_tokens=ids.n_tokens), ids


@pytest.mark.parametrize("n_beams", [50, 64])
@torch.no_grad()
def test_as_many_beams_as_items_rank_the_whole_catalogue(setting, n_beams):
    model, ids = setting
    source = histories(ids, 9)
    found = model.beams(source, ids, n_beams)
    scores, best = teacher_forced(model, ids, source).sort(dim=1, descending=True)
    assert scores.std() > 1
    assert torch.equal(found.item_ids, best + 1)
    torch.testing.assert_close(found.log_probs, scores, atol=1e-5, rtol=1e-6)


@torch.no_grad()
def test_the_scores_of_few_beams_are_those_of_teacher_forcing(setting):
    model, ids = setting
    source = histories(ids, 9)
    found = model.beams(source, ids, 7)
    torch.testing.assert_close(
        found.log_probs,
        teacher_forced(model, ids, source).gather(1, found.item_ids - 1),
        atol=1e-5,
        rtol=1e-6,
    )


@torch.no_grad()
def test_the_complete_tree_scores_items_as_teacher_forcing(setting):
    model, ids = setting
    source = histories(ids, 4)
    found = model.beams(source, ids, 6 * 5 * 4 * 8, CompleteTree(ids.trie))
    scores = teacher_forced(model, ids, source)
    for row in range(4):
        is_item = found.item_ids[row] > 0
        assert is_item.sum() == 50
        assert torch.equal(found.item_ids[row][is_item], scores[row].argsort(descending=True) + 1)
        torch.testing.assert_close(
            found.log_probs[row][is_item],
            scores[row].sort(descending=True)[0],
            atol=1e-5,
            rtol=1e-6,
        )


@torch.no_grad()
def test_one_beam_is_the_greedy_choice_among_the_codes_allowed(setting):
    model, ids = setting
    source = histories(ids, 9)
    found = model.beams(source, ids, 1)
    rows = list(map(tuple, ids.codes[1:].tolist()))
    for row in range(9):
        prefix: tuple[int, ...] = ()
        for level in range(4):
            target = torch.tensor(
                [[*(ids.offsets[:level] + torch.tensor(prefix, dtype=torch.long)).tolist(), 1]]
            )
            logits = model(source[[row]], target)[0, -1]
            allowed = {codes[level] for codes in rows if codes[:level] == prefix}
            prefix = (
                *prefix,
                max(allowed, key=lambda code: logits[ids.offsets[level] + code].item()),
            )
        assert found.item_ids[row].tolist() == [rows.index(prefix) + 1]


@torch.no_grad()
def test_every_beam_is_an_item_and_none_comes_twice(make_model):
    ids = semantic_ids(300, seed=5)
    model = make_model(n_tokens=ids.n_tokens, seed=5)
    source = histories(ids, 1000)
    found = model.beams(source, ids, 20)
    assert found.item_ids.shape == (1000, 20)
    assert ((found.item_ids >= 1) & (found.item_ids <= 300)).all()
    assert all(len(set(row)) == 20 for row in found.item_ids.tolist())
    assert found.log_probs.isfinite().all() and (found.log_probs <= 0).all()
    assert (found.log_probs.diff(dim=1) <= 0).all()


@torch.no_grad()
def test_the_same_search_twice_gives_the_same(setting):
    model, ids = setting
    source = histories(ids, 20)
    first, second = (model.beams(source, ids, 10) for _ in range(2))
    assert torch.equal(first.item_ids, second.item_ids) and torch.equal(
        first.log_probs, second.log_probs
    )


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch_or_padding(setting):
    model, ids = setting
    source = histories(ids, 12)
    together = model.beams(source, ids, 10)
    for row in range(12):
        alone = source[[row]][:, source[row] != 0]
        found = model.beams(alone, ids, 10)
        assert torch.equal(found.item_ids, together.item_ids[[row]])
        torch.testing.assert_close(found.log_probs, together.log_probs[[row]], atol=1e-5, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n_beams", [5, 20])
@torch.no_grad()
def test_equals_generate_of_transformers(setting, transformers_twin, n_beams):
    from recbole_genrec.seq2seq.t5 import T5Size

    model, ids = setting
    twin, _ = transformers_twin(model, T5Size(32, 48, 2, 2, 16, 0.0, 0.0))
    source = histories(ids, 8)
    after: dict[tuple[int, ...], set[int]] = {}
    for tokens in ids.tokens[1:].tolist():
        for level in range(4):
            after.setdefault(tuple(tokens[:level]), set()).add(tokens[level])
    expected = twin.generate(
        input_ids=source,
        attention_mask=(source != 0).long(),
        prefix_allowed_tokens_fn=lambda _, prefix: sorted(after.get((*prefix[1:].tolist(),), {0})),
        num_beams=n_beams,
        num_return_sequences=n_beams,
        max_new_tokens=4,
        length_penalty=0.0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = model.beams(source, ids, n_beams)
    items = ids.trie.find(expected.sequences[:, 1:] - ids.offsets).view(8, n_beams)
    assert (items > 0).all()
    assert torch.equal(found.item_ids, items)
    torch.testing.assert_close(
        found.log_probs, expected.sequences_scores.view(8, n_beams), atol=1e-5, rtol=1e-6
    )
