from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.cli import main
from recbole_genrec.errors import UserError
from recbole_genrec.model.unger.unger import ABLATIONS
from recbole_genrec.quick_start import load, run
from recbole_genrec.trainer.optimizer import named_parameters

HISTORIES = [[1, 2, 3], [4], [5, 6, 2, 4]]
TARGETS = [4, 5, 7]
ALL = sorted(ABLATIONS)


@pytest.fixture
def make_model(make_experiment):
    """UNGER with named items, in training mode."""

    def make(**settings):
        return make_experiment("UNGER", **settings).name_items().train()

    return make


def by_hand(model, histories, targets):
    """Compute generation losses and states of the distillation's token row by row, unpadded."""
    codes, tables, terms, states = model.semantic_ids.codes, [], [], []
    for level in range(3):
        tables.append(model.token_table.weight[1 + 4 * level : 5 + 4 * level])
    for history, target in zip(histories, targets):
        mask = torch.ones(1, len(history), dtype=torch.bool)
        memory = model.seq2seq.encode(model.item_table(torch.tensor([history])), mask)
        rows = [
            model.token_table.weight[0],
            *(tables[level][codes[target, level]] for level in range(3)),
        ]
        rows += [model.distillation.token] if model.distills else []
        hidden = model.seq2seq.decode(torch.stack(rows).unsqueeze(0), memory, mask)[0]
        terms.append(
            torch.stack(
                [
                    F.cross_entropy(tables[level] @ hidden[level], codes[target, level])
                    for level in range(3)
                ]
            )
        )
        states.append(hidden[4] if model.distills else None)
    return torch.stack(terms), states


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_generation_is_the_cross_entropy_of_the_targets_codes(make_model, make_batch, reduction):
    model = make_model(generation_reduction=reduction)
    terms, _ = by_hand(model, HISTORIES, TARGETS)
    expected = terms.mean() if reduction == "mean" else terms.sum(1).mean()
    assert model.losses(make_batch(HISTORIES, TARGETS))["generation"].item() == pytest.approx(
        expected.item(), abs=1e-5
    )


def test_distillation_points_to_the_targets_vector(make_model, make_batch):
    """All ten items are drawn; the target among them does not count twice."""
    model = make_model(
        distillation_negatives=99, distillation_weight=0.5, distillation_temperature=0.7
    )
    _, states = by_hand(model, HISTORIES, TARGETS)
    vectors, terms = F.normalize(model.integrated, dim=1), []
    for state, target in zip(states, TARGETS):
        query = F.normalize(model.distillation.map(F.normalize(state, dim=0)), dim=0)
        logits = vectors[1:] @ query / 0.7
        terms.append(logits.logsumexp(0) - logits[target - 1])
    losses = model.losses(make_batch(HISTORIES, TARGETS))
    assert list(losses) == ["generation", "distillation"]
    assert losses["distillation"].item() == pytest.approx(
        0.5 * torch.stack(terms).mean().item(), abs=1e-5
    )


def test_every_step_draws_other_items(make_model, make_batch):
    model, batch = make_model(distillation_negatives=2), make_batch(HISTORIES, TARGETS)
    first, second = (model.losses(batch)["distillation"].item() for _ in range(2))
    assert first != second
    assert max(first, second) < np.log(3) + 2


def test_the_token_sees_all_codes_and_no_code_sees_it(make_model, make_batch):
    model, batch = make_model(distillation_negatives=99), make_batch(HISTORIES, TARGETS)
    before = {name: loss.item() for name, loss in model.losses(batch).items()}
    with torch.no_grad():
        model.distillation.token.add_(torch.randn(16))
    after = {name: loss.item() for name, loss in model.losses(batch).items()}
    assert after["generation"] == pytest.approx(before["generation"], abs=1e-6)
    assert abs(after["distillation"] - before["distillation"]) > 1e-6
    _, states = by_hand(model, [[1]], [4])
    for level in range(3):
        codes = model.semantic_ids.codes.clone()
        model.semantic_ids.codes[4, level] = (codes[4, level] + 1) % 4
        assert (by_hand(model, [[1]], [4])[1][0] - states[0]).abs().max() > 1e-6
        model.semantic_ids.codes.copy_(codes)
    assert (by_hand(model, [[2]], [4])[1][0] - states[0]).abs().max() > 1e-6


@pytest.mark.parametrize(
    "encoder_input, n_tokens", [("item_id", 1), ("code_sum", 1), ("code_flat", 3)]
)
def test_the_encoder_reads_items_or_codes(make_model, make_batch, encoder_input, n_tokens):
    model = make_model(encoder_input=encoder_input)
    tokens = model.token_table(model.semantic_ids.tokens[[3, 1]])
    expected = {"code_sum": tokens.sum(1), "code_flat": tokens.flatten(0, 1)}
    embeddings = model.embed_history(torch.tensor([[3, 1]]))[0]
    torch.testing.assert_close(
        embeddings,
        expected[encoder_input] if encoder_input in expected else model.item_table.weight[[3, 1]],
    )
    assert model.seq2seq.encoder_positions.num_embeddings == 20 * n_tokens
    narrow, wide = (
        model.losses(make_batch(HISTORIES, TARGETS, width=width))["generation"].item()
        for width in (4, 20)
    )
    assert narrow == pytest.approx(wide, abs=1e-6)
    assert model.losses(make_batch([list(range(1, 11)) * 2], [3]))["generation"].isfinite()


def test_beams_are_the_exact_ranking_of_the_catalogue(make_model, make_batch):
    model = make_model(n_beams=10).eval()
    batch = make_batch(HISTORIES, TARGETS)
    beams = model.search(batch)
    for item in range(1, 11):
        exact = model.predict(make_batch(HISTORIES, [item] * 3))
        torch.testing.assert_close(
            beams.log_probs[beams.item_ids == item], exact, atol=1e-5, rtol=0
        )
    assert beams.item_ids.sort(1).values.tolist() == [list(range(1, 11))] * 3
    assert (beams.log_probs.exp().sum(1) < 1).all()
    model = make_model(n_beams=10, renormalize_trie=True).eval()
    torch.testing.assert_close(model.search(batch).log_probs.exp().sum(1), torch.ones(3))


@pytest.mark.parametrize("ablation", ALL)
def test_ablations_make_codes_of_the_named_vectors(make_experiment, ablation):
    model = make_experiment("UNGER", ablation=ablation).name_items()
    source, distills = ABLATIONS[ablation]
    assert model.distills == distills == (model.distillation is not None)
    assert (model.integration is not None) == (source != "semantic")
    vectors = model.integrated[1:]
    if source == "semantic":
        assert torch.equal(vectors, model.item_features[1:])
    elif source == "concat":
        assert vectors.shape[1] == 6 + 8
        torch.testing.assert_close(vectors[:, 6:], F.normalize(model.integration.table[1:], dim=1))
    else:
        assert torch.equal(vectors, model.integration.table[1:])
        assert (model.integration.adaption is not None) == (source == "integrated")
    assert not model.integrated[0].any()
    names = [stage.name for stage in model.stages()]
    assert names == (
        ["tokenizer", "recommender"]
        if source == "semantic"
        else ["integration", "tokenizer", "recommender"]
    )
    trained = [
        id(weight)
        for stage in model.stages()
        for group in stage.groups
        for weight in named_parameters(model, group)
    ]
    assert len(trained) == len(set(trained))
    assert set(trained) == {id(weight) for weight in model.parameters()}


def test_the_other_integrated_embedding(make_experiment):
    model = make_experiment("UNGER", integrated_embedding="mean").name_items()
    torch.testing.assert_close(
        model.integrated[1:], model.integration.mean(model.item_features)[1:]
    )


@pytest.mark.parametrize("tokenizer, counter_size", [("random", 0), ("rqvae", 10)])
def test_other_quantizers_encode_the_same_vectors(
    make_experiment, make_batch, tokenizer, counter_size
):
    experiment = make_experiment("UNGER", tokenizer=tokenizer, counter_size=counter_size)
    model, stage = experiment.name_items(), experiment.model.stages()[1]
    assert stage.epochs == (4 if tokenizer == "rqvae" else 0)
    assert torch.equal(model.integrated[1:], model.integration.table[1:])
    if tokenizer == "rqvae":
        expected = model.tokenizer.losses(model.integrated[[3, 5]])
        assert {
            name: loss.item() for name, loss in stage.losses(torch.tensor([3, 5])).items()
        } == pytest.approx({name: loss.item() for name, loss in expected.items()})
    assert len(model.semantic_ids.codes[1:].unique(dim=0)) == 10
    assert model.losses(make_batch(HISTORIES, TARGETS))["generation"].isfinite()


def test_collaborative_codes_need_no_features(make_experiment, monkeypatch):
    monkeypatch.setattr(
        "recbole_genrec.model.abstract.item_matrix",
        lambda *given: pytest.fail("features were made"),
    )
    assert make_experiment("UNGER", ablation="collaborative").model.item_features.shape == (11, 0)


def test_a_counter_in_place_of_unique_codes(make_experiment, make_batch):
    """The paper compares with this way of TIGER."""
    model = make_experiment(
        "UNGER", counter_size=10, n_levels=1, encoder_input="code_flat", n_beams=10
    ).name_items()
    assert model.semantic_ids.codes.shape == (11, 2) and model.semantic_ids.codes[1:, 1].max() > 0
    assert model.losses(make_batch(HISTORIES, TARGETS))["generation"].isfinite()
    assert model.search(make_batch([[1]], [5]), 10).item_ids[:, :10][
        0
    ].sort().values.tolist() == list(range(1, 11))


@pytest.mark.parametrize("ablation", ["collaborative", "no_distillation"])
def test_features_are_checked_only_if_codes_are_made_of_them(
    make_experiment, monkeypatch, ablation
):
    """More items have equal features than a counter of 3 tells apart."""
    same = torch.ones(11, 3) * (torch.arange(11) % 2).unsqueeze(1)
    monkeypatch.setattr("recbole_genrec.model.abstract.item_matrix", lambda *given: same)
    make_experiment("UNGER", ablation=ablation, tokenizer="rqvae", counter_size=3)
    with pytest.raises(UserError, match="5 items have the same features"):
        make_experiment("UNGER", ablation="semantic", tokenizer="rqvae", counter_size=3)


@pytest.mark.parametrize("ablation", ALL)
def test_given_codes_need_vectors_only_to_distill_them(
    make_experiment, make_batch, monkeypatch, ablation
):
    source, distills = ABLATIONS[ablation]
    if not distills:
        monkeypatch.setattr(
            "recbole_genrec.model.abstract.item_matrix",
            lambda *given: pytest.fail("features were made"),
        )
    model = make_experiment("UNGER", ablation=ablation, tokenizer="random").name_items()
    names = [stage.name for stage in model.stages()]
    assert names == (["integration"] if distills and source != "semantic" else []) + [
        "tokenizer",
        "recommender",
    ]
    assert model.integrated.any() == distills
    assert len(model.semantic_ids.codes[1:].unique(dim=0)) == 10
    assert model.losses(make_batch(HISTORIES, TARGETS))["generation"].isfinite()


def test_more_codes_than_items_are_refused_unless_they_are_given(make_experiment):
    assert (
        make_experiment("UNGER", tokenizer="random", codebook_size=11).model.tokenizer.codebook_size
        == 11
    )
    with pytest.raises(
        UserError,
        match="codebook_size is 11, but the catalogue has only 10 items to initialize",
    ):
        make_experiment("UNGER", codebook_size=11)


@pytest.mark.parametrize("ablation", ["none", "concat", "semantic"])
def test_a_whole_run_and_its_checkpoint(small_settings, ablation):
    settings = {**small_settings("UNGER"), "ablation": ablation}
    result = run("UNGER", config_dict=settings)
    assert result["best_valid_result"]["ndcg@5"] == result["best_valid_score"], (
        "of the generator, not of the DIN"
    )
    assert result["semantic_ids"]["collisions_after"] == 0
    _, model, _, _, _, test = load(result["checkpoint"])
    assert model.integrated[1:].any()
    batch = next(iter(test))[0]
    assert model.search(batch, 5).item_ids[:, :5].shape[1] == 5


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            {"ablation": "unger"},
            "ablation is 'unger', but has to be one of none, no_distillation, concat,",
        ),
        (
            {"n_levels": 1},
            "n_levels and codebook_size give 4 codes, but the catalogue has 10 items",
        ),
        (
            {"din_windows": [5, 0]},
            "din_windows is [5, 0], but has to be a list of whole numbers of at least 1: write",
        ),
        (
            {"din_windows": []},
            "din_windows is [], but has to be a list of whole numbers of at least 1: write",
        ),
        (
            {"din_attention_hidden_sizes": []},
            "din_attention_hidden_sizes is [], but has to be a list of whole numbers",
        ),
        (
            {"integration_epochs": -1},
            "integration_epochs is -1, but has to be a whole number of at least 0: give one",
        ),
        (
            {"tokenizer": "rqvae"},
            "counter_size is 0, but the tokenizer may leave items with equal codes",
        ),
        (
            {"encoder_input": "codes"},
            "encoder_input is 'codes', but has to be one of item_id, code_sum, code_flat: choose",
        ),
        (
            {"item_features": "{cf: SASRec}"},
            "needs semantic features, but item_features is {'cf': 'SASRec'} and 'tiny'",
        ),
        (
            {"distillation_negatives": 0},
            "distillation_negatives is 0, but has to be a whole number of at least 1: give one",
        ),
        (
            {"din_negatives": 0},
            "din_negatives is 0, but has to be a whole number of at least 1: give one",
        ),
        (
            {"integration_valid_users": 0},
            "integration_valid_users is 0, but has to be a whole number of at least 1: give one",
        ),
        (
            {"alignment_temperature": 0},
            "alignment_temperature is 0, but has to be a number above 0",
        ),
        (
            {"distillation_weight": -1},
            "distillation_weight is -1, but has to be a number of at least 0",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(
    small_settings, settings, sentence, capsys, monkeypatch
):
    monkeypatch.setattr(
        "recbole_genrec.trainer.trainer.GenRecTrainer.fit",
        lambda *given, **named: pytest.fail("training began"),
    )
    arguments = [
        f"--{name}={value}" for name, value in {**small_settings("UNGER"), **settings}.items()
    ]
    assert main(["run", "--model=UNGER", *arguments]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_a_data_set_without_text_is_refused_with_the_ways_out(small_settings, tmp_path, capsys):
    (tmp_path / "data" / "tiny" / "tiny.item").unlink()
    arguments = [f"--{name}={value}" for name, value in small_settings("UNGER").items()]
    assert main(["run", "--model=UNGER", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "UNGER with ablation none needs semantic features, but item_features is 'auto' and 'tiny' "
        "has no item text; add a text field (name:token_seq) to its .item file, give vectors with "
        "item_features={text: vectors.npy}, or set ablation to collaborative, which needs none."
    )
    assert main(["run", "--model=UNGER", *arguments, "--ablation=collaborative"]) == 0


@pytest.mark.parametrize("name", ["text", "mine"])
def test_vectors_of_a_file_replace_text(make_experiment, tmp_path, name):
    np.save(tmp_path / "text.npy", np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32))
    (tmp_path / "text.tokens").write_text("\n".join(f"i{item}" for item in range(1, 11)) + "\n")
    _, model, train, _, _ = make_experiment(
        "UNGER", item_features={name: str(tmp_path / "text.npy")}
    )
    assert model.integration.adaption.widen.in_features == 5
    rows = [int(token[1:]) - 1 for token in train.dataset.field2id_token["item_id"][1:]]
    given = torch.from_numpy(np.load(tmp_path / "text.npy"))[rows]
    torch.testing.assert_close(model.item_features[1:], F.normalize(given - given.mean(0), dim=1))
