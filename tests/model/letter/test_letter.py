from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.model.letter.letter import trained_items
from recbole_genrec.model.letter.letter_rqvae import LetterRQVAE
from recbole_genrec.tokenizer.given_codes import GivenCodes
from recbole_genrec.tokenizer.residual_kmeans import ResidualKMeans
from recbole_genrec.trainer.optimizer import named_parameters

HISTORIES = [[1, 2, 3], [4], [5, 6]]
TARGETS = [4, 5, 7]


@pytest.fixture
def vectors_file(tmp_path):
    """vectors_file(n_columns): the path of a .npy file with vectors of the items i1 to i10."""

    def write(n_columns: int) -> str:
        np.save(
            tmp_path / "vectors.npy",
            np.random.default_rng(0).normal(size=(10, n_columns)).astype(np.float32),
        )
        (tmp_path / "vectors.tokens").write_text(
            "\n".join(f"i{item}" for item in range(1, 11)) + "\n"
        )
        return str(tmp_path / "vectors.npy")

    return write


@pytest.fixture
def ids_file(tmp_path):
    """ids_file(codes): the path of a file with these codes of i1, i2, ..."""

    def write(codes) -> str:
        (tmp_path / "ids.json").write_text(
            json.dumps({f"i{item}": row for item, row in enumerate(codes, start=1)})
        )
        return str(tmp_path / "ids.json")

    return write


UNIQUE = [[item // 4, item % 4, 0] for item in range(10)]


# --- the ranking-guided generation loss


@pytest.mark.parametrize(
    "temperature, loss, slope, share",
    [
        (1, 0.407606, -0.3348, 0.731),
        (0.7, 0.260118, -0.3272, 0.807),
        (0.5, 0.142932, -0.2664, 0.881),
    ],
)
def test_a_temperature_below_one_weighs_codes_that_are_easily_confused(
    make_experiment, temperature, loss, slope, share
):
    """Logits are 2, 1, 0, and the first is right.

    Tested are the loss, its slope and the share of the second logit in the push downwards.
    """
    model = (
        make_experiment(
            "LETTER", codebook_size=3, generation_temperature=temperature, group_sizes=[1, 2]
        )
        .name_items()
        .train()
    )
    with torch.no_grad():
        model.token_table.weight.zero_()
        model.token_table.weight[1:4, 0] = torch.tensor([2.0, 1.0, 0.0]) * 16**0.5
    hidden = torch.zeros(16)
    hidden[0] = 1.0
    model.token_table.weight.grad = None
    found = -model.level_log_probs(hidden, 0)[0]
    assert found.item() == pytest.approx(loss, abs=1e-6)
    found.backward()
    gradient = (
        model.token_table.weight.grad[1:4, 0] * 16**0.5 * temperature
    )  # of the logits divided by the temperature
    assert gradient[0].item() == pytest.approx(slope * temperature, abs=2e-4)
    assert (gradient[1] / gradient[1:].sum()).item() == pytest.approx(share, abs=1e-3)


def test_loss_is_the_cross_entropy_of_divided_logits(make_experiment, make_batch):
    model = make_experiment("LETTER", generation_temperature=0.5).name_items()
    item_ids = torch.tensor(TARGETS)
    batch = make_batch(HISTORIES, TARGETS)
    hidden = model.decode_targets(item_ids, *model.encode_history(batch))
    codes = model.semantic_ids.codes[item_ids]
    expected = [
        F.cross_entropy(
            hidden[:, level] @ model.token_table.weight[1 + 4 * level : 5 + 4 * level].T / 4 / 0.5,
            codes[:, level],
        )
        for level in range(3)
    ]
    assert model.losses(batch)["generation"].item() == pytest.approx(
        torch.stack(expected).mean().item(), abs=1e-5
    )


# --- tokenizer


def test_reduces_to_tiger(make_experiment, make_batch):
    """Codes and losses are equal without regularizers, with a counter and a temperature of 1."""
    shared = dict(
        quantization_reduction="mean",
        restart_every=2,
        counter_size=10,
        softmax_scope="full",
    )
    shared["feature_scaling"] = "standardize"
    tiger = make_experiment("TIGER", **shared).model
    letter = make_experiment("LETTER", **shared, collaborative_weight=0, diversity_weight=0).model
    item_ids, batch, found = torch.tensor([1, 4, 5, 9]), make_batch(HISTORIES, TARGETS), []
    for model in (tiger, letter):
        torch.manual_seed(3)
        stage, losses = model.stages()[0], []
        optimizer = torch.optim.SGD(model.tokenizer.parameters(), 0.1)
        stage.start()
        for epoch in range(4):
            if stage.before_epoch is not None:
                stage.before_epoch(epoch)
            terms = stage.losses(item_ids)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            stage.after_epoch(epoch)
            losses.append({name: term.item() for name, term in terms.items()})
        stage.finish()
        figures = model.losses(batch)["generation"].item(), model.search(batch).item_ids.tolist()
        found.append((losses, model.semantic_ids.codes.tolist(), *figures))
    assert found[0] == found[1]


def test_settings_reach_the_tokenizer(make_experiment):
    given = dict(
        collaborative_weight=0.3,
        diversity_weight=0.4,
        n_groups=3,
        group_sizes=[1, 2],
        regroup_every=5,
    )
    model = make_experiment("LETTER", **given, commitment_weight=0.7, restart_every=6).model
    tokenizer = model.tokenizer
    found = {key: getattr(tokenizer, key) for key in given if key != "group_sizes"}
    assert found == {key: value for key, value in given.items() if key != "group_sizes"}
    assert (
        tokenizer.min_group_size,
        tokenizer.max_group_size,
        tokenizer.commitment_weight,
        tokenizer.restart_every,
    ) == (1, 2, 0.7, 6)
    calls = []
    tokenizer.regroup = lambda epoch, seed: calls.append((epoch, seed))
    model.stages()[0].before_epoch(7)
    assert calls == [(7, model.config["seed"])]


def test_codes_are_made_of_all_features_but_cf(make_experiment, vectors_file):
    text = make_experiment("TIGER", feature_scaling="standardize").model.item_features
    model = make_experiment("LETTER").model
    assert torch.equal(model.item_features, text) and model.collaborative.shape == (11, 4)
    sources = {"mine": vectors_file(5), "cf": "SASRec", "text": "tfidf"}
    assert (
        make_experiment("LETTER", item_features=sources).model.item_features.shape[1]
        == 5 + text.shape[1]
    )
    reduced = make_experiment("LETTER", feature_pca=2).model
    assert (reduced.item_features.shape, reduced.collaborative.shape) == ((11, 2), (11, 4))


def test_vectors_of_cf_are_scaled_to_a_mean_length_and_otherwise_unchanged(
    make_experiment, vectors_file
):
    path = vectors_file(4)
    experiment = make_experiment(
        "LETTER", item_features={"text": "tfidf", "cf": path}, cf_length=None
    )
    tokens = experiment.train.dataset.field2id_token["item_id"]
    rows = torch.from_numpy(np.load(path))[[int(token[1:]) - 1 for token in tokens[1:]]]
    torch.testing.assert_close(experiment.model.collaborative[1:], rows)
    assert not experiment.model.collaborative[0].any()
    scaled = make_experiment(
        "LETTER", item_features={"text": "tfidf", "cf": path}, cf_length=2.5
    ).model.collaborative[1:]
    torch.testing.assert_close(scaled, 2.5 / rows.norm(dim=1).mean() * rows)
    assert scaled.norm(dim=1).mean().item() == pytest.approx(2.5)


def test_items_never_trained_on_have_no_vector(make_experiment, vectors_file, monkeypatch, caplog):
    known = torch.ones(11, dtype=torch.bool).index_fill(0, torch.tensor([0, 3, 8]), False)
    monkeypatch.setattr("recbole_genrec.model.letter.letter.trained_items", lambda *given: known)
    with caplog.at_level("INFO"):
        model = make_experiment(
            "LETTER", item_features={"text": "tfidf", "cf": vectors_file(4)}, cf_length=2.0
        ).model
    assert torch.equal(model.collaborative.any(1), known)
    assert model.collaborative[known].norm(dim=1).mean().item() == pytest.approx(2.0)
    assert any(
        line.startswith("cf: vectors of 8 of 10 items, mean length") for line in caplog.messages
    )


def test_items_of_the_training_part(make_experiment):
    dataset = make_experiment("TIGER").train.dataset
    assert trained_items(dataset.sequences, 11).tolist() == [False, *[True] * 10]
    sequences = dataset.sequences
    # Users with 3, 2 and 3 items: all but the last two of each are trained on.
    short = type(sequences)(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8]), torch.tensor([0, 0, 3, 5, 8]))
    assert trained_items(short, 9).nonzero().flatten().tolist() == [1, 6]


def test_losses_of_a_batch_see_the_right_rows(make_experiment, monkeypatch):
    model, seen = make_experiment("LETTER").model, []
    monkeypatch.setattr(
        LetterRQVAE, "regularized_losses", lambda tokenizer, *given: seen.append(given)
    )
    model.stages()[0].losses(torch.tensor([3, 7]))
    assert torch.equal(seen[0][0], model.item_features[[3, 7]]) and torch.equal(
        seen[0][1], model.collaborative[[3, 7]]
    )


def test_stages_train_every_parameter_once(make_experiment):
    model = make_experiment("LETTER").model
    trained = [
        id(weight)
        for stage in model.stages()
        for group in stage.groups
        for weight in named_parameters(model, group)
    ]
    assert len(trained) == len(set(trained))
    assert set(trained) == {id(weight) for weight in model.parameters()}


def test_other_tokenizers_and_ablations_need_no_teacher(make_experiment, ids_file):
    nowhere = {"text": "tfidf", "cf": "nowhere.npy"}
    assert isinstance(
        make_experiment("LETTER", tokenizer="random", item_features=nowhere).model.tokenizer,
        GivenCodes,
    )
    kmeans = make_experiment(
        "LETTER", tokenizer="residual_kmeans", counter_size=10, item_features=nowhere
    ).model
    assert isinstance(kmeans.tokenizer, ResidualKMeans) and len(kmeans.stages()) == 2
    assert make_experiment(
        "LETTER", collaborative_weight=0, item_features={"text": "tfidf"}
    ).model.collaborative.shape == (11, 0)
    given = make_experiment(
        "LETTER", semantic_ids_file=ids_file(UNIQUE), item_features=nowhere
    ).model
    assert isinstance(given.tokenizer, GivenCodes) and given.stages()[0].epochs == 0


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"item_features": {"cf": "SASRec"}},
            "features, but item_features is {'cf': 'SASRec'}: add .*give vectors with",
        ),
        (
            {"item_features": {"text": "tfidf"}},
            "feature named cf, but item_features is .*: add cf: SASRec .*collaborative_weight to 0",
        ),
        (
            {"item_features": "text"},
            "item_features is 'text', but LETTER takes auto or names with sources",
        ),
        (
            {"cf_length": 0},
            "cf_length is 0, but has to be a number above 0, or none: give one",
        ),
        ({"teacher_hidden_size": 8}, "vectors of cf have 8 dimensions, but code_dim is 4"),
        ({"tokenizer": "residual_kmeans"}, "set counter_size to 256"),
        (
            {"codebook_size": 2, "group_sizes": [1, 1]},
            "n_levels and codebook_size give 8 codes, but the catalogue has 10 items",
        ),
        ({"group_sizes": [3, 4]}, "2 groups of 3 to 4 codewords hold 6 to 8, but there are 4"),
        ({"generation_temperature": 0}, "generation_temperature is 0, but .* above 0"),
        ({"n_groups": 0}, "n_groups is 0, but has to be a whole number of at least 1"),
        ({"regroup_every": 0}, "regroup_every is 0"),
    ],
)
def test_bad_settings_are_refused_before_a_teacher_is_trained(
    make_experiment, monkeypatch, settings, message
):
    monkeypatch.setattr(
        "recbole_genrec.quick_start.teacher_table",
        lambda *given, **more: pytest.fail("a teacher was trained"),
    )
    with pytest.raises(UserError, match=message):
        make_experiment("LETTER", **settings)


def test_a_data_set_without_text_is_refused_with_the_ways_out(
    make_experiment, tiny_data, vectors_file
):
    (tiny_data / "tiny" / "tiny.item").unlink()
    with pytest.raises(
        ValueError,
        match=r"'tiny' has no item text: add a text field .*give vectors .*or ready codes",
    ):
        make_experiment("LETTER")
    make_experiment("LETTER", item_features={"mine": vectors_file(6), "cf": "SASRec"})


def test_vectors_of_another_width_are_refused(make_experiment, vectors_file):
    with pytest.raises(UserError, match="vectors of cf have 7 dimensions, but code_dim is 4"):
        make_experiment("LETTER", item_features={"text": "tfidf", "cf": vectors_file(7)})


# --- semantic ids from a file


@pytest.mark.parametrize("model", ["TIGER", "LETTER", "UNGER"])
def test_items_get_the_codes_of_a_file(make_experiment, ids_file, model):
    experiment = make_experiment(model, semantic_ids_file=ids_file(UNIQUE), counter_size=0)
    named = experiment.name_items()
    tokens = experiment.train.dataset.field2id_token["item_id"]
    for item_id in range(1, 11):
        assert named.semantic_ids.codes[item_id].tolist() == UNIQUE[int(tokens[item_id][1:]) - 1]


def test_codes_of_a_file_that_are_not_unique_are_numbered(make_experiment, ids_file):
    twins = [[0, 0, 0], [0, 0, 0], *UNIQUE[2:]]
    model = make_experiment(
        "LETTER", semantic_ids_file=ids_file(twins), counter_size=2
    ).name_items()
    assert (
        model.semantic_ids.n_levels == 4 and len(model.semantic_ids.codes[1:].unique(dim=0)) == 10
    )
    with pytest.raises(UserError, match=r"1 items have the id of another item.*raise counter_size"):
        make_experiment("LETTER", semantic_ids_file=ids_file(twins))


@pytest.mark.parametrize("model", ["TIGER", "LETTER", "UNGER"])
def test_a_bad_file_is_refused(make_experiment, ids_file, model):
    with pytest.raises(UserError, match=r"no id for 1 of 10 items \(such as i10\)"):
        make_experiment(model, semantic_ids_file=ids_file(UNIQUE[:9]), counter_size=0)
    with pytest.raises(
        MissingFileError, match=r"no file 'lost.json', but semantic_ids_file names it"
    ):
        make_experiment(model, semantic_ids_file="lost.json", counter_size=0)
