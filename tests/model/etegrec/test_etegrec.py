"""The parts and losses of ETEGRec, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_genrec.model.etegrec.etegrec import first_rows
from recbole_genrec.trainer.optimizer import training_only

# Repeated items within and between rows, a repeated target, and padding.
HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7], [3, 2]]
TARGETS = [4, 5, 8, 5, 9]
FIRST = [0, 1, 2, 4]
RELEASED = {"model_class": "recbole_genrec.model.etegrec.released:ReleasedETEGRec"}
PARTS = [
    "tokenizer.encoder",
    "tokenizer.codebooks",
    "tokenizer.decoder",
    "token_table",
    "seq2seq.encoder",
    "seq2seq.decoder",
]
PARTS += ["sequence_adapter", "preference_adapter"]


@pytest.fixture
def make_model(make_experiment):
    """ETEGRec with named items and both alignments on, in double precision to compare gradients."""

    def make(**settings):
        given = {
            "feature_scaling": "standardize",
            "sia_weight": 0.3,
            "psa_weight": 0.2,
            "initializer_range": 0.3,
            **settings,
        }
        model = make_experiment("ETEGRec", **given).name_items().double()
        model.aligns = True
        return model

    return make


def test_alignment_sees_the_codes_that_name_items(make_experiment):
    """Mixed precision, which would shorten the tokenizer's layers, does not reach it."""
    model = make_experiment("ETEGRec").name_items()
    items = torch.arange(1, model.n_items)
    expected = model.tokenizer.autoencode(model.item_features[items])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short, ours = (
            model.tokenizer.autoencode(model.item_features[items]),
            model._autoencode(items),
        )
    assert not torch.equal(short.reconstructed, expected.reconstructed)
    assert torch.equal(ours.reconstructed, expected.reconstructed)
    assert torch.equal(ours.codes, model.semantic_ids.codes[1:, : ours.codes.shape[1]])


def phase_of(model, name: str):
    return {phase.name: phase for phase in model.stages()[1].phases}[name]


def softmax_of_distances(vectors, codebook, sign: int):
    return (sign * (vectors - codebook).square().sum(-1)).softmax(-1)


def alignment_row_by_row(model, histories, targets, sign: int) -> tuple[float, float]:
    """Compute both alignments of distinct targets, one item, level and direction at a time."""
    tokenizer, divergences, students, teachers = model.tokenizer, [], [], []
    for history, target in zip(histories, targets):
        tokens = torch.cat([model.semantic_ids.tokens[item] for item in history])
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        memory = model.seq2seq.encode(model.token_table(tokens)[None], mask)
        of_history = model.sequence_adapter(memory[0].mean(0))
        of_target = tokenizer.encoder(model.item_features[target])
        quantized = torch.zeros_like(of_target)
        for codebook in tokenizer.codebooks:
            p, q = (softmax_of_distances(each, codebook, sign) for each in (of_target, of_history))
            divergences.append((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
            own, others = (
                (each - codebook).square().sum(-1).argmin() for each in (of_target, of_history)
            )
            quantized = quantized + codebook[own]
            of_target, of_history = (
                of_target - codebook[own],
                of_history - codebook[others],
            )
        hidden = model.seq2seq.decode(
            model.token_table(torch.zeros(1, 1, dtype=torch.long)), memory, mask
        )
        students.append(model.preference_adapter(hidden[0, 0]))
        teachers.append(tokenizer.decoder(quantized))
    similarity = (
        torch.stack(
            [
                torch.stack([torch.cosine_similarity(a, b, dim=0) for b in teachers])
                for a in students
            ]
        )
        / 0.07
    )
    both = [matrix.logsumexp(1) - matrix.diagonal() for matrix in (similarity, similarity.T)]
    return torch.stack(divergences).mean().item(), sum(term.mean() for term in both).item()


@pytest.mark.parametrize("settings, sign", [({}, -1), (RELEASED, 1)])
@pytest.mark.parametrize("phase", ["tokenizer_losses", "recommender_losses", "joint_losses"])
def test_alignments_equal_their_formulas(make_model, make_batch, phase, settings, sign):
    """In every phase: distinct targets, no padding, no counter of the target."""
    model = make_model(retokenize_every="epoch", **settings)
    losses = getattr(model, phase)(make_batch(HISTORIES, TARGETS, width=7))
    histories, targets = [HISTORIES[row] for row in FIRST], [TARGETS[row] for row in FIRST]
    sia, psa = alignment_row_by_row(model, histories, targets, sign)
    assert sia > 1e-3
    assert losses["sia"].item() == pytest.approx(0.3 * sia, rel=1e-5)
    assert losses["psa"].item() == pytest.approx(0.2 * psa, rel=1e-5)


def test_quantization_is_of_the_distinct_targets(make_model, make_batch):
    model = make_model()
    losses = model.tokenizer_losses(make_batch(HISTORIES, TARGETS))
    expected = model.tokenizer.losses(model.item_features[[4, 5, 8, 9]])
    assert (
        list(losses)
        == [*expected, "sia", "psa"]
        == ["reconstruction", "codebook", "commitment", "sia", "psa"]
    )
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_recommendation_is_the_mean_over_rows_and_four_levels(make_model, make_batch):
    """Every row counts, and so does the counter; logits are plain inner products."""
    model, total = make_model(), 0.0
    for history, target in zip(HISTORIES, TARGETS):
        tokens = torch.cat([model.semantic_ids.tokens[item] for item in history])
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        memory = model.seq2seq.encode(model.token_table(tokens)[None], mask)
        target_tokens = model.semantic_ids.tokens[target]
        inputs = torch.cat((torch.zeros(1, dtype=torch.long), target_tokens[:3]))
        hidden = model.seq2seq.decode(model.token_table(inputs)[None], memory, mask)[0]
        for level, first, size in ((0, 1, 4), (1, 5, 4), (2, 9, 4), (3, 13, 10)):
            logits = model.token_table.weight[first : first + size] @ hidden[level]
            total += (logits.logsumexp(0) - logits[target_tokens[level] - first]).item()
    losses = model.losses(make_batch(HISTORIES, TARGETS, width=9))
    assert list(losses) == ["generation"]
    assert losses["generation"].item() == pytest.approx(total / 20, rel=1e-6)
    assert model.recommender_losses(make_batch(HISTORIES, TARGETS))[
        "generation"
    ].item() == pytest.approx(total / 20, rel=1e-6)


def gradients(model, phase: str, batch, term: str) -> set[str]:
    """Return the parts that get a gradient from one term in one phase."""
    model.zero_grad()
    with training_only(model, phase_of(model, phase).groups):
        phase_of(model, phase).losses(batch)[term].backward()
    reached = {
        name
        for name, weight in model.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    return {part for part in PARTS if any(name.startswith(part) for name in reached)}


ENCODER, CODEBOOKS, DECODER, TABLE, READER, WRITER, SEQUENCE, PREFERENCE = PARTS
ROUTES = [
    ("tokenizer", "reconstruction", {ENCODER, DECODER}),
    ("tokenizer", "codebook", {CODEBOOKS}),
    ("tokenizer", "commitment", {ENCODER}),
    ("tokenizer", "sia", {ENCODER, CODEBOOKS}),
    ("tokenizer", "psa", {ENCODER, DECODER}),
    ("recommender", "generation", {TABLE, READER, WRITER}),
    ("recommender", "sia", {TABLE, READER, SEQUENCE}),
    ("recommender", "psa", {TABLE, READER, WRITER, PREFERENCE}),
]


@pytest.mark.parametrize("settings", [{}, RELEASED])
@pytest.mark.parametrize("phase, term, reached", ROUTES)
def test_a_term_reaches_its_parts(make_model, make_batch, phase, term, reached, settings):
    model = make_model(**settings)
    assert gradients(model, phase, make_batch(HISTORIES, TARGETS), term) == reached


def test_recommendation_never_reaches_the_tokenizer_even_in_the_joint_stage(make_model, make_batch):
    model = make_model(ablation="alternation")
    model.joint_losses(make_batch(HISTORIES, TARGETS))["generation"].backward()
    assert all(weight.grad is None for weight in model.tokenizer.parameters())
    model.joint_losses(make_batch(HISTORIES, TARGETS))["sia"].backward()
    assert all(
        part.weight.grad.abs().sum() > 0
        for part in (model.sequence_adapter, model.tokenizer.encoder[0])
    )


@pytest.mark.parametrize("settings, n_levels", [({}, 3), (RELEASED, 1)])
def test_levels_through_which_the_history_learns(
    make_model, make_batch, monkeypatch, settings, n_levels
):
    """In the released code only the first level's alignment trains the recommender."""
    model = make_model(**settings)
    closeness, counted = model.tokenizer.closeness, []
    for level in range(3):
        model.zero_grad()
        alone = torch.zeros(1, 3, 1, dtype=torch.double).index_fill(1, torch.tensor(level), 1.0)
        monkeypatch.setattr(
            model.tokenizer,
            "closeness",
            lambda residuals, alone=alone: closeness(residuals) * alone,
        )
        with training_only(model, phase_of(model, "recommender").groups):
            loss = model.recommender_losses(make_batch(HISTORIES, TARGETS))["sia"]
            counted.append(
                loss.requires_grad
                and torch.autograd.grad(loss, model.sequence_adapter.weight)[0].abs().sum() > 0
            )
    assert sum(map(bool, counted)) == n_levels and counted[0]


@pytest.mark.parametrize("settings", [{}, RELEASED])
@pytest.mark.parametrize("phase", ["tokenizer", "recommender"])
def test_a_small_step_brings_the_distributions_together(make_model, make_batch, phase, settings):
    """Equation 15 has a minus sign, which would push them apart."""
    model, batch = make_model(**settings), make_batch(HISTORIES, TARGETS)
    stage = phase_of(model, phase)
    with training_only(model, stage.groups):
        loss = stage.losses(batch)["sia"]
        loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= 1e-4 * weight.grad
        assert stage.losses(batch)["sia"].item() < loss.item()


def test_repeated_targets_change_no_term_but_the_recommendation(make_model, make_batch):
    model = make_model()
    many, few = (
        make_batch(HISTORIES, TARGETS),
        make_batch([HISTORIES[row] for row in FIRST], [TARGETS[row] for row in FIRST]),
    )
    for phase in (model.tokenizer_losses, model.recommender_losses):
        for name, value in phase(many).items():
            assert (abs(value.item() - phase(few)[name].item()) < 1e-9) == (name != "generation"), (
                name
            )


def test_padding_changes_nothing(make_model, make_batch):
    model = make_model()
    for phase in (model.tokenizer_losses, model.recommender_losses):
        narrow, wide = (
            phase(make_batch(HISTORIES, TARGETS)),
            phase(make_batch(HISTORIES, TARGETS, width=15)),
        )
        for name in narrow:
            assert wide[name].item() == pytest.approx(narrow[name].item(), rel=1e-9), name


def test_no_alignment_before_its_time_or_without_weight(make_model, make_batch, monkeypatch):
    """Then a tokenizer epoch needs no recommender at all."""
    batch, terms = make_batch(HISTORIES, TARGETS), ["reconstruction", "codebook", "commitment"]
    model = make_model()
    before_epoch = make_model(alignment_warmup_epochs=3).stages()[1].before_epoch
    before_epoch(2)
    assert not before_epoch.__self__.aligns
    before_epoch(3)
    assert before_epoch.__self__.aligns
    model.aligns = False
    assert list(model.recommender_losses(batch)) == ["generation"]
    monkeypatch.setattr(
        model, "encode_history", lambda batch: pytest.fail("the recommender was asked")
    )
    assert list(model.tokenizer_losses(batch)) == terms
    left_of = {"sia": ["psa"], "psa": ["sia"], "alignment": []}
    for given, left in [
        *(({"ablation": name}, left) for name, left in left_of.items()),
        ({"sia_weight": 0}, ["psa"]),
    ]:
        model = make_model(**given)
        assert list(model.tokenizer_losses(batch)) == terms + left
        assert list(model.recommender_losses(batch)) == ["generation", *left]


def test_negatives_come_in_parts(make_model, make_batch):
    """The loss of four distinct targets in two parts is the mean of the parts' losses."""
    model, histories, targets = (
        make_model(contrastive_batch_size=2),
        [HISTORIES[row] for row in FIRST],
        [TARGETS[row] for row in FIRST],
    )
    parts = [
        model.recommender_losses(make_batch(histories[i : i + 2], targets[i : i + 2]))["psa"].item()
        for i in (0, 2)
    ]
    whole = model.recommender_losses(make_batch(histories, targets))["psa"].item()
    assert whole == pytest.approx(sum(parts) / 2)
    assert make_model().recommender_losses(make_batch(histories, targets))["psa"].item() > whole


def test_alignment_does_not_see_the_labels(make_model, make_batch):
    """Encoder and first decoder state know the history only; targets count by the tokenizer."""
    model = make_model()
    batch, expected = make_batch(HISTORIES[:3], TARGETS[:3]), None
    for _ in range(2):
        losses = model.recommender_losses(batch)
        found = (losses["sia"].item(), losses["psa"].item())
        assert expected is None or found == pytest.approx(expected, rel=1e-9)
        expected = found
        # Other names for the targets, which stand in no history here.
        free = torch.tensor([item for item in range(1, 11) if item not in {1, 2, 4, 5, 6}])
        model.semantic_ids.tokens[free] = model.semantic_ids.tokens[free].flip(0)
        model.semantic_ids.codes[free] = model.semantic_ids.codes[free].flip(0)


def test_in_batch_chance_level(make_model, make_batch):
    """A constant preference gives 2 log U and the spread of the features' cosines."""
    model = make_model()
    model.preference_adapter.weight.data.zero_()
    model.preference_adapter.bias.data.fill_(1.0)
    losses = model.recommender_losses(make_batch(HISTORIES, TARGETS))
    features = model.tokenizer.autoencode(model.item_features[[4, 5, 8, 9]]).reconstructed
    similarity = torch.cosine_similarity(torch.ones(8, dtype=torch.double), features, dim=1)
    expected = math.log(4) + (similarity / 0.07).logsumexp(0) - similarity.mean() / 0.07
    assert losses["psa"].item() == pytest.approx(0.2 * expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "item_ids, rows",
    [
        ([7], [0]),
        ([4, 5, 8, 5, 9], [0, 1, 2, 4]),
        ([9, 9, 1, 9, 1], [0, 2]),
        ([3, 2, 1], [0, 1, 2]),
        ([6, 6, 6], [0]),
    ],
)
def test_first_rows(item_ids, rows):
    assert first_rows(torch.tensor(item_ids)).tolist() == rows
