"""The parts and losses of UniGRec, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_genrec.model.unigrec.unigrec import UniGRec
from recbole_genrec.trainer.optimizer import StageOptimizer, named_parameters

# Repeated items within and between rows, a repeated target, and padding.
HISTORIES = [[1, 2, 1], [4], [5, 6, 2, 4], [7, 7]]
TARGETS = [4, 5, 8, 5]
PARTS = [
    "tokenizer.encoder",
    "tokenizer.codebooks",
    "tokenizer.decoder",
    "token_table",
    "seq2seq.encoder",
    "seq2seq.decoder",
    "history_adapter",
    "teacher_adapter",
    "decoder_adapter",
]
TERMS = [
    "generation",
    "reconstruction",
    "uniformity",
    "tokenizer_distillation",
    "recommender_distillation",
]


@pytest.fixture
def make_model(make_experiment):
    """UniGRec with all five terms, named items, in training mode; `double` for gradients."""

    def make(double: bool = False, **settings):
        model = (
            make_experiment("UniGRec", **{"uniformity_weight": 0.3, **settings})
            .name_items()
            .train()
        )
        model.distills = True
        return model.double() if double else model

    return make


def slot_by_slot(model, batch) -> dict[str, torch.Tensor]:
    """Compute the five terms from their formulas, one sample, slot and item at a time."""
    histories = [[item for item in row if item] for row in batch["item_id_list"].tolist()]
    targets, terms = batch["item_id"].tolist(), {term: [] for term in TERMS}
    students, pooled = [], []
    for history, target in zip(histories, targets):
        memory, mask = encode_slots(model, history)
        hidden = model.decode_targets(torch.tensor([target]), memory, mask)
        terms["generation"].append(-model.target_log_probs(hidden, torch.tensor([target])).mean())
        students.append(model.decoder_adapter(hidden[0, 0]))
        pooled.append(memory[0].mean(0))
    shares = []
    for item in {*targets, *(item for history in histories for item in history)}:
        features = model.item_features[item : item + 1]
        soft = model.tokenizer.soft_codes(features)
        decoded = model.tokenizer.decoder(soft.quantized)
        terms["reconstruction"].append((decoded - features).square().mean())
        shares.append(soft.probabilities[0])
    usage = torch.stack(shares).mean(0)
    terms["uniformity"] = [(usage * usage.log()).sum(-1).mean()]
    for state, target in zip(pooled, targets):
        latents = (model.history_adapter(state), model.teacher_adapter(model.teacher[target]))
        p, q = (model.tokenizer.quantize(latent[None], 0.1).probabilities for latent in latents)
        divergence = (p * (p / q).log() + q * (q / p).log()).sum(-1)
        terms["tokenizer_distillation"].append(divergence.mean())
    terms["recommender_distillation"] = in_batch_contrast(model, students, targets)
    return {
        term: model.config[f"{term}_weight"] * torch.stack(terms[term]).mean() for term in TERMS
    }


def encode_slots(model, history: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode one history without padding, each slot and level by its formula."""
    tables = [model.token_table.weight[1 + 4 * level : 5 + 4 * level] for level in range(3)]
    embeddings = []
    for item in history:
        features = model.item_features[item : item + 1]
        probabilities = model.tokenizer.soft_codes(features).probabilities[0]
        embeddings += [probabilities[level] @ tables[level] for level in range(3)]
    mask = torch.ones(1, len(embeddings), dtype=torch.bool)
    return model.seq2seq.encode(torch.stack(embeddings).unsqueeze(0), mask), mask


def in_batch_contrast(model, students, targets) -> list[torch.Tensor]:
    """Contrast every row in both directions; rows with the same target are no negatives."""
    teachers, terms = [model.teacher[target] for target in targets], []

    def similarity(student: int, teacher: int) -> torch.Tensor:
        return torch.cosine_similarity(students[student], teachers[teacher], dim=0) / 0.07

    for row, target in enumerate(targets):
        others = [other for other, item in enumerate(targets) if item != target or other == row]
        forward = torch.stack([similarity(row, other) for other in others])
        backward = torch.stack([similarity(other, row) for other in others])
        own = others.index(row)
        terms.append(forward.logsumexp(0) - forward[own] + backward.logsumexp(0) - backward[own])
    return terms


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def test_joint_losses_equal_the_formulas_slot_by_slot(make_model, make_batch):
    """Every term and every gradient; no term sees padding or counts a repeated item twice."""
    model = make_model(double=True, softmax_scope="full")
    batch = make_batch(HISTORIES, TARGETS, width=6)
    losses, expected = model.joint_losses(batch), slot_by_slot(model, batch)
    assert list(losses) == TERMS
    for term in TERMS:
        assert losses[term].item() == pytest.approx(expected[term].item(), rel=1e-5), term
        assert abs(losses[term].item()) > 1e-6
        ours, theirs = gradients(model, losses[term]), gradients(model, expected[term])
        for name in ours:
            close = torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
            assert close, f"{term}, {name}"


def test_fine_tuning_loss_is_the_joint_generation_term(make_model, make_batch):
    model, batch = make_model(generation_weight=0.7), make_batch(HISTORIES, TARGETS)
    losses = model.losses(batch)
    assert list(losses) == ["generation"]
    torch.testing.assert_close(losses["generation"], model.joint_losses(batch)["generation"])
    hidden = model.decode_targets(batch["item_id"], *model.encode_history(batch))
    expected = -0.7 * model.target_log_probs(hidden, batch["item_id"]).mean()
    torch.testing.assert_close(losses["generation"], expected)


@pytest.mark.parametrize(
    "term, reached",
    [
        ("generation", PARTS[:2] + PARTS[3:6]),
        ("reconstruction", PARTS[:3]),
        ("uniformity", PARTS[:2]),
        ("tokenizer_distillation", PARTS[:2] + PARTS[3:5] + PARTS[6:8]),
        ("recommender_distillation", PARTS[:2] + PARTS[3:6] + PARTS[8:]),
    ],
)
def test_a_term_reaches_its_parts(make_model, make_batch, term, reached):
    model = make_model()
    found = gradients(model, model.joint_losses(make_batch(HISTORIES, TARGETS))[term])
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    for part in PARTS:
        size = sum(
            gradient.abs().sum().item() for name, gradient in found.items() if name.startswith(part)
        )
        assert (size > 0) == (part in reached), f"{term}: {part}"
    assert not model.teacher.requires_grad
    assert set(PARTS) == {
        next(part for part in PARTS if name.startswith(part)) for name in found
    }, "the table names all parameters"


def test_generation_trains_every_layer_and_codebook(make_model, make_batch):
    model = make_model()
    found = gradients(model, model.losses(make_batch(HISTORIES, TARGETS))["generation"])
    for name, gradient in found.items():
        if name.startswith(("tokenizer.encoder", "token_table", "seq2seq")):
            assert gradient.abs().sum() > 0, name
    assert (found["tokenizer.codebooks"].abs().sum((1, 2)) > 0).all(), "all levels"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_gradient_of_a_codeword_is_the_finite_difference(make_model, make_batch, level):
    model, batch = make_model(double=True), make_batch(HISTORIES, TARGETS)
    model.tokenizer.temperature.fill_(0.1)
    codebooks, code = model.tokenizer.codebooks, int(model.semantic_ids.codes[2, level])
    gradient = gradients(model, model.losses(batch)["generation"])["tokenizer.codebooks"][
        level, code
    ]
    for dimension in range(4):
        values = []
        for move in (1e-5, -1e-5):
            with torch.no_grad():
                codebooks[level, code, dimension] += move
                values.append(model.losses(batch)["generation"].item())
                codebooks[level, code, dimension] -= move
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(
            gradient[dimension].item(), rel=1e-4, abs=1e-9
        )


def test_every_term_ignores_padding(make_model, make_batch):
    model = make_model()
    narrow, wide = (
        model.joint_losses(make_batch(HISTORIES, TARGETS, width=width)) for width in (4, 20)
    )
    for term in TERMS:
        assert wide[term].item() == pytest.approx(narrow[term].item(), rel=1e-5), term


def test_features_of_padding_change_nothing(make_model, make_batch):
    model, batch = make_model(), make_batch(HISTORIES, TARGETS, width=6)
    before = {term: loss.item() for term, loss in model.joint_losses(batch).items()}
    model.item_features[0] = 1.0
    model.teacher[0] = 1.0
    assert {term: loss.item() for term, loss in model.joint_losses(batch).items()} == pytest.approx(
        before, rel=1e-6
    )


def test_reconstruction_counts_an_item_once(make_model, make_batch):
    model = make_model(reconstruction_weight=2.0)
    few = model.joint_losses(make_batch([[1, 2], [3]], [4, 5]))["reconstruction"]
    many = model.joint_losses(make_batch([[1, 2, 1, 2], [3, 3, 3]], [4, 5], width=9))[
        "reconstruction"
    ]
    features = model.item_features[1:6]
    decoded = model.tokenizer.decoder(model.tokenizer.soft_codes(features).quantized)
    expected = 2 * (decoded - features).square().mean()
    torch.testing.assert_close(few, expected)
    torch.testing.assert_close(many, expected)


def test_rows_do_not_depend_on_their_batch(make_model, make_batch):
    """A term without negatives is the mean of its rows' own losses; no term sees their order."""
    model = make_model()
    together = model.joint_losses(make_batch(HISTORIES, TARGETS))
    alone = [
        model.joint_losses(make_batch([history], [target]))
        for history, target in zip(HISTORIES, TARGETS)
    ]
    for term in ("generation", "tokenizer_distillation"):
        assert together[term].item() == pytest.approx(
            np.mean([losses[term].item() for losses in alone]), rel=1e-5
        )
    backwards = model.joint_losses(make_batch(HISTORIES[::-1], TARGETS[::-1]))
    for term in TERMS:
        assert together[term].item() == pytest.approx(backwards[term].item(), rel=1e-5)


def test_distillation_starts_after_its_warm_up(make_model, make_batch):
    model, batch = make_model(distillation_warmup_epochs=2), make_batch(HISTORIES, TARGETS)
    before_epoch = model.stages()[1].before_epoch
    counts = []
    for epoch in range(4):
        before_epoch(epoch)
        counts.append([term for term in model.joint_losses(batch) if "distillation" in term])
    assert counts == [[], [], TERMS[3:], TERMS[3:]]
    assert make_model(uniformity_weight=0.0).joint_losses(batch).keys() == set(TERMS) - {
        "uniformity"
    }


def test_the_first_decoder_state_does_not_depend_on_the_target(make_model, make_batch):
    model = make_model()
    memory, mask = model.encode_history(make_batch([[1, 2]] * 10, [1] * 10))
    hidden = model.decode_targets(torch.arange(1, 11), memory, mask)
    assert (hidden[:, 0] == hidden[:1, 0]).all()
    assert not (hidden[:, 1] == hidden[:1, 1]).all()


def test_a_joint_step_moves_everything_but_the_teacher(make_model, make_batch):
    """The adapters too, which the released code does not train."""
    model = make_model()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    optimizer = StageOptimizer(model, model.stages()[1], "adamw", 1.0, 1)
    optimizer.step(sum(model.joint_losses(make_batch(HISTORIES, TARGETS)).values()), 0)
    moved = {
        name for name, values in model.state_dict().items() if not torch.equal(values, before[name])
    }
    assert moved == {name for name, _ in model.named_parameters()}
    codebooks = model.state_dict()["tokenizer.codebooks"] != before["tokenizer.codebooks"]
    assert codebooks.flatten(1).any(1).all()


def test_stages_train_every_parameter_once(make_model):
    model = make_model()
    trained = [
        [id(p) for group in stage.groups for p in named_parameters(model, group)]
        for stage in model.stages()
    ]
    assert all(len(ids) == len(set(ids)) for ids in trained)
    everything = {id(weight) for weight in model.parameters()}
    assert set(trained[1]) == everything
    assert set(trained[0]) == {id(weight) for weight in model.tokenizer.parameters()}
    assert set(trained[2]) == {
        id(weight) for part in (model.token_table, model.seq2seq) for weight in part.parameters()
    }


def test_parameter_counts_at_the_papers_sizes(make_experiment, tmp_path, monkeypatch):
    # Ten items fill no codebook of 256.
    monkeypatch.setattr(UniGRec, "_check_catalogue", lambda model: None, raising=False)
    vectors = np.random.default_rng(0).normal(size=(10, 768)).astype(np.float32)
    np.save(tmp_path / "text.npy", vectors)
    (tmp_path / "text.tokens").write_text("\n".join(f"i{item}" for item in range(1, 11)) + "\n")
    model = make_experiment(
        "UniGRec",
        item_features={"text": str(tmp_path / "text.npy")},
        n_levels=3,
        codebook_size=256,
        counter_size=101,
        code_dim=32,
        tokenizer_hidden_sizes=[512, 256, 128, 64],
        hidden_size=128,
        inner_size=512,
        n_layers=6,
        n_heads=4,
        head_size=64,
        teacher_hidden_size=256,
    ).model
    counts = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in model.named_children()
    }
    assert counts["tokenizer"] == 1_161_888
    assert counts["seq2seq"] + counts["token_table"] == 4_047_872
    adapters = [counts[f"{name}_adapter"] for name in ("history", "teacher", "decoder")]
    assert adapters == [10_336, 43_232, 33_024]


def test_adapters_do_not_see_the_scale_of_their_source(make_model):
    adapter, states = make_model().teacher_adapter, torch.randn(3, 8)
    torch.testing.assert_close(adapter(100 * states + 7), adapter(states), atol=1e-3, rtol=1e-3)
    assert (adapter(states.flip(1)) - adapter(states)).abs().max() > 1e-2
