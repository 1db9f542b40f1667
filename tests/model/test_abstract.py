from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.model import abstract
from recbole_genrec.tokenizer.given_codes import GivenCodes, random_codes

HISTORIES = [[1, 2, 3], [4], [5, 6], [10, 9, 8, 7]]
TARGETS = [4, 5, 7, 1]


@pytest.fixture(params=["TIGER", "UniGRec"])
def name(request):
    return request.param


def test_token_layout(make_experiment, name):
    """Token 0 is padding; code c of level l is 1 + 4 l + c; then the counter: 1 + 3 * 4 + 10."""
    model = make_experiment(name).name_items()
    assert model.token_table.weight.shape == (23, 16)
    ids = model.semantic_ids
    for item in range(1, 11):
        assert ids.tokens[item].tolist() == [
            1 + 4 * level + int(code) for level, code in enumerate(ids.codes[item])
        ]
    assert ids.tokens[0].tolist() == [0, 0, 0, 0]
    assert len({tuple(row) for row in ids.codes[1:].tolist()}) == 10


def test_calculate_loss_is_the_sum_of_the_terms(make_experiment, make_batch, name, monkeypatch):
    model = make_experiment(name).name_items()
    monkeypatch.setattr(
        model, "losses", lambda batch: {"one": torch.tensor(1.5), "two": torch.tensor(0.25)}
    )
    assert model.calculate_loss(make_batch([[1]], [2])).item() == 1.75


def test_more_beams_than_items_are_refused(make_experiment, name):
    make_experiment(name, n_beams=10)
    with pytest.raises(UserError, match="n_beams is 11, but the catalogue has only 10 items"):
        make_experiment(name, n_beams=11)


def test_feature_rows_follow_the_item_tokens(make_experiment, tmp_path):
    """The file's order of items is not the data set's."""
    order = [7, 3, 10, 1, 9, 2, 8, 4, 6, 5]
    np.save(
        tmp_path / "mine.npy", np.array([[item, item * item] for item in order], dtype=np.float32)
    )
    (tmp_path / "mine.tokens").write_text("\n".join(f"i{item}" for item in order) + "\n")
    experiment = make_experiment(
        "TIGER", item_features={"mine": str(tmp_path / "mine.npy")}, feature_scaling="unit_norm"
    )
    tokens = experiment.train.dataset.field2id_token["item_id"]
    assert [int(token[1:]) for token in tokens[1:]] != order
    # The ratio of the two columns is the item's number.
    assert experiment.model.item_features[0].tolist() == [0, 0]
    numbers = experiment.model.item_features[1:, 1] / experiment.model.item_features[1:, 0]
    torch.testing.assert_close(numbers, torch.tensor([float(token[1:]) for token in tokens[1:]]))


def test_codes_come_from_the_items_own_features(make_experiment):
    model = make_experiment("TIGER").name_items()
    expected = model.tokenizer.encode(model.item_features[1:])
    assert torch.equal(model.semantic_ids.codes[1:, :3], expected)
    again = {tuple(codes): index for index, codes in enumerate(expected.tolist())}
    one = again[tuple(expected[4].tolist())]
    assert torch.equal(
        model.tokenizer.encode(model.item_features[one + 1 : one + 2])[0], expected[4]
    )


def test_refreshing_names_reports_the_share_of_changed_items(make_experiment, caplog):
    model = make_experiment("TIGER").name_items()
    assert model.refresh_semantic_ids() == 0
    codes = model.semantic_ids.codes[1:, :3].clone()
    codes[[2, 5], 0] = (codes[[2, 5], 0] + 1) % 4
    model.tokenizer.encode = lambda features: codes
    with caplog.at_level("INFO"):
        assert model.refresh_semantic_ids() == pytest.approx(0.2)
    assert "20.00% of the items changed their codes" in caplog.text


def test_names_travel_with_the_weights(make_experiment, make_batch, name):
    first, second = make_experiment(name).name_items(), make_experiment(name, seed=7).model
    second.load_state_dict(first.state_dict())
    batch = make_batch(HISTORIES, TARGETS)
    assert torch.equal(second.eval().search(batch).item_ids, first.search(batch).item_ids)
    assert torch.equal(second.predict(batch), first.predict(batch))


def test_finish_logs_the_tokenizers_health(make_experiment, caplog):
    model = make_experiment("TIGER").name_items()
    with caplog.at_level("INFO"):
        model.finish_tokenizer()
    assert "tokenizer: " in caplog.text
    for figure in model.tokenizer.report(model.item_features[1:]):
        assert figure in caplog.text


def test_idle_codes_are_warned_of(make_experiment, caplog):
    """Levels of five codes: all of them, three and four in use; four fifths are enough."""
    model = make_experiment("TIGER", codebook_size=5).model
    items = torch.arange(10)
    model.tokenizer.encode = lambda features: torch.stack((items % 5, items % 3, items % 4), dim=1)
    model.refresh_semantic_ids()
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and "semantic ids" in record.getMessage()
    ]
    assert warnings == ["semantic ids: fewer than 80% of the codes of levels [1] are in use"]
    caplog.clear()
    model.tokenizer.encode = lambda features: torch.stack((items % 5, items % 4, items % 4), dim=1)
    model.refresh_semantic_ids()
    assert "fewer than" not in caplog.text


@pytest.mark.parametrize(
    "n_equal, counter_size, is_warned_of",
    [(6, 10, True), (5, 10, False), (6, 12, False), (7, 13, True)],
)
def test_a_counter_that_may_become_too_small_is_warned_of(
    make_experiment, caplog, n_equal, counter_size, is_warned_of
):
    """A tokenizer that learns on may make more items share their codes than the counter allows."""
    model = make_experiment("TIGER", codebook_size=5, counter_size=counter_size).model
    items = (torch.arange(10) - n_equal + 1).clamp(min=0)
    model.tokenizer.encode = lambda features: torch.stack((items % 5, items // 5, items % 3), dim=1)
    model.refresh_semantic_ids()
    sentence = (
        f"{n_equal} items share all codes, and counter_size allows {counter_size}: "
        "a run in which they become more ends; raise it"
    )
    assert (sentence in caplog.text) == is_warned_of


def test_codes_that_stay_as_they_are_need_no_warning(make_experiment, caplog):
    model = make_experiment("TIGER", tokenizer="random", codebook_size=5, counter_size=10).model
    items = (torch.arange(10) - 5).clamp(min=0)
    model.tokenizer.codes = torch.stack((items % 5, items // 5, items % 3), dim=1)
    model.refresh_semantic_ids()
    assert (
        model.semantic_ids.statistics()["largest_group"] == 6
        and "share all codes" not in caplog.text
    )


def test_dead_codes_restart_after_an_epoch(make_experiment, monkeypatch, caplog):
    """The tokenizer gets all items, epoch and seed; the last tenth of the epochs restarts none."""
    model, calls = make_experiment("TIGER", seed=11, tokenizer_epochs=20).model, []
    monkeypatch.setattr(
        model.tokenizer,
        "end_epoch",
        lambda *given: calls.append(given) or (7 if given[1] == 3 else 0),
    )
    after_epoch = model.tokenizer_stage().after_epoch
    with caplog.at_level("INFO"):
        for epoch in range(20):
            after_epoch(epoch)
    assert all(torch.equal(features, model.item_features[1:]) for features, *_ in calls)
    assert [rest for _, *rest in calls] == [[epoch, 11] for epoch in range(18)]
    assert [line for line in caplog.messages if "restarted" in line] == [
        "tokenizer epoch 3: restarted 7 codes that no item used"
    ]


@pytest.mark.parametrize("model", ["TIGER", "LETTER", "UNGER"])
def test_a_tokenizer_is_built_by_its_name(make_experiment, monkeypatch, model):
    """One entry of TOKENIZERS is enough: no model takes another tokenizer in its place."""

    def make(config, n_features):
        codes = random_codes(10, config["n_levels"], config["codebook_size"], seed=0)
        return GivenCodes(codes, n_features=n_features, codebook_size=config["codebook_size"])

    monkeypatch.setitem(abstract.TOKENIZERS, "residual_kmeans", make)
    experiment = make_experiment(model, tokenizer="residual_kmeans", counter_size=10)
    assert isinstance(experiment.model.tokenizer, GivenCodes)
