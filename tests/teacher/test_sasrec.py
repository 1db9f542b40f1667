import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from recbole.config import Config
from recbole.data.utils import data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer

import recbole_genrec.teacher.sasrec as collaborative
from recbole_genrec.data.dataset import GenRecDataset, Sequences
from recbole_genrec.seq2seq.dropout import Dropout
from recbole_genrec.teacher.sasrec import (
    Rows,
    build_sasrec,
    evaluate,
    evaluation_rows,
    hidden_states,
    position_loss,
    teacher_embeddings,
    train_teacher,
    training_windows,
)

N_TOY_ITEMS = 30


@pytest.fixture
def make_config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    # Item i is followed by item i + 1: what comes next can be learned to the last user.
    lines = [
        f"u{user}\ti{(7 * user + step) % N_TOY_ITEMS}\t{step}"
        for user in range(60)
        for step in range(3 + user % 9)
    ]
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(lines) + "\n"
    )

    def make(**settings):
        base = {
            "data_path": str(tmp_path),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": 5,
            "train_neg_sample_args": None,
            "metrics": ["Recall", "NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "metric_decimal_place": 12,
            "eval_batch_size": 7,
            "seed": 1,
            "show_progress": False,
            "checkpoint_dir": str(tmp_path / "saved"),
            "teacher_hidden_size": 16,
            "teacher_inner_size": 32,
            "teacher_n_layers": 2,
            "teacher_n_heads": 2,
            "teacher_dropout_prob": 0.1,
            "teacher_learning_rate": 0.01,
            "teacher_batch_size": 16,
            "teacher_epochs": 2,
            "teacher_stopping_step": 2,
            "teacher_cache_dir": str(tmp_path / "teacher"),
        }
        return Config(model="SASRec", dataset="toy", config_dict={**base, **settings})

    return make


def toy_sequences(lengths):
    starts = torch.tensor([0, 0, *torch.tensor(lengths).cumsum(0).tolist()])
    return Sequences(items=torch.arange(1, int(starts[-1]) + 1), starts=starts)


def spread(model):
    """Weights large enough that every term of the forward pass matters."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_windows_of_a_long_user():
    windows = training_windows(toy_sequences([11]), max_length=4)
    assert windows.inputs.tolist() == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert windows.targets.tolist() == [[2, 3, 4, 5], [0, 0, 6, 7], [0, 0, 8, 9]]
    assert windows.lengths.tolist() == [4, 4, 4]


@pytest.mark.parametrize("max_length", [1, 2, 5, 20])
def test_windows_predict_every_training_pair_once(max_length):
    lengths = [1, 2, 3, 4, 5, 9, 10, 23, 0]
    sequences = toy_sequences(lengths)
    windows = training_windows(sequences, max_length)
    targets = windows.targets[windows.targets > 0].tolist()
    # Items are numbered 1, 2, ... through all users; starts has one entry more in front, for the
    # padding user.
    starts = sequences.starts[1:].tolist()
    expected = [
        item for start, n in zip(starts, lengths) for item in range(start + 2, start + n - 1)
    ]
    assert sorted(targets) == expected
    assert len(targets) == sum(max(0, n - 3) for n in lengths)
    has_target = windows.targets > 0
    assert torch.equal(windows.targets[has_target], windows.inputs[has_target] + 1)
    assert torch.equal((windows.inputs > 0).sum(1), windows.lengths)


def test_all_positions_end_where_sasrec_ends(make_config):
    config = make_config(MAX_ITEM_LIST_LENGTH=20)
    model = spread(build_sasrec(config, GenRecDataset(config)))
    length = torch.randint(1, 21, (64,))
    items = torch.randint(1, N_TOY_ITEMS + 1, (64, 20)).masked_fill(
        torch.arange(20) >= length[:, None], 0
    )
    step = torch.arange(20)
    states = hidden_states(model, items, step == length[:, None] - 1)
    torch.testing.assert_close(states, model(items, length), rtol=0, atol=1e-6)
    # An inner position knows its prefix only.
    inner = hidden_states(model, items, (step == 3) & (length[:, None] >= 4))
    prefix = items.masked_fill(step >= 4, 0)
    torch.testing.assert_close(
        inner, model(prefix, torch.full((64,), 4))[length >= 4], rtol=0, atol=1e-5
    )


def test_cheaper_parts_are_recboles_in_evaluation_and_drop_in_training(make_config):
    config = make_config(MAX_ITEM_LIST_LENGTH=20)
    dataset = GenRecDataset(config)
    ours = spread(build_sasrec(config, dataset)).eval()
    settings = {
        key: config[key]
        for key in (
            "USER_ID_FIELD",
            "ITEM_ID_FIELD",
            "LIST_SUFFIX",
            "ITEM_LIST_LENGTH_FIELD",
            "NEG_PREFIX",
        )
    }
    settings.update(
        MAX_ITEM_LIST_LENGTH=20,
        device=config["device"],
        loss_type="CE",
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )
    settings.update(
        {
            name: config[f"teacher_{name}"]
            for name in ("hidden_size", "inner_size", "n_layers", "n_heads")
        }
    )
    settings.update(hidden_dropout_prob=0.4, attn_dropout_prob=0.4, initializer_range=0.02)
    theirs = SASRec(settings, dataset).eval()
    theirs.load_state_dict(ours.state_dict())
    items, length = torch.randint(1, N_TOY_ITEMS + 1, (8, 20)), torch.full((8,), 20)
    torch.testing.assert_close(ours(items, length), theirs(items, length), rtol=0, atol=1e-6)
    assert not any(isinstance(module, torch.nn.Dropout) for module in ours.modules())
    assert sum(isinstance(module, Dropout) for module in ours.modules()) == sum(
        isinstance(module, torch.nn.Dropout) for module in theirs.modules()
    )
    assert {module.rate for module in ours.modules() if isinstance(module, Dropout)} == {
        config["teacher_dropout_prob"]
    }


def test_loss_of_all_positions_is_recboles_loss_of_all_prefixes(make_config):
    config = make_config(MAX_ITEM_LIST_LENGTH=20)
    dataset = GenRecDataset(config)
    model = spread(build_sasrec(config, dataset))
    # Users with 3 interactions have a training row in RecBole and a training part of one item here.
    rows = dataset.build()[0].inter_feat
    rows = rows[(dataset.sequences.lengths()[rows["user_id"]] > 3).nonzero().squeeze(1)]
    windows = training_windows(dataset.sequences, 20)
    loss = position_loss(model, windows.inputs, windows.targets)
    torch.testing.assert_close(loss, model.calculate_loss(rows))
    assert len(rows) == int((windows.targets > 0).sum()) > 100


@pytest.mark.parametrize("max_length", [4, 20])
def test_evaluation_rows_are_those_of_the_split(make_config, max_length):
    dataset = GenRecDataset(make_config(MAX_ITEM_LIST_LENGTH=max_length))
    _, valid, test = dataset.build()
    for part, split in (("valid", valid), ("test", test)):
        rows = evaluation_rows(dataset.sequences, max_length, part)
        ours = torch.cat([rows.history, rows.length[:, None], rows.target[:, None]], 1).tolist()
        columns = [
            split.inter_feat["item_id_list"],
            split.inter_feat["item_length"][:, None],
            split.inter_feat["item_id"][:, None],
        ]
        assert sorted(ours) == sorted(torch.cat(columns, 1).tolist())


def test_metrics_equal_recboles_evaluator(make_config):
    config = make_config()
    dataset = GenRecDataset(config)
    _, valid_data, test_data = data_preparation(config, dataset)
    model = spread(build_sasrec(config, dataset))
    for part, loader in (("valid", valid_data), ("test", test_data)):
        ours = evaluate(model, evaluation_rows(dataset.sequences, 5, part))
        theirs = Trainer(config, model).evaluate(loader, load_best_model=False)
        assert 0 < ours["recall@10"] < 1
        assert ours == pytest.approx(dict(theirs), abs=1e-9)


def test_ties_and_nan_are_no_hits(make_config):
    config = make_config()
    model = build_sasrec(config, SimpleNamespace(num=lambda field: N_TOY_ITEMS))
    rows = Rows(torch.tensor([[3, 0]]), torch.tensor([1]), torch.tensor([5]))
    for value in (0.0, float("nan")):
        torch.nn.init.constant_(model.item_embedding.weight, value)
        assert evaluate(model, rows) == {"recall@10": 0.0, "ndcg@10": 0.0}


def test_teacher_learns_and_is_saved_for_recboles_class(make_config):
    config = make_config(teacher_epochs=15, teacher_stopping_step=15)
    dataset = GenRecDataset(config)
    teacher = train_teacher(config, dataset)
    assert teacher.metrics["test"]["ndcg@10"] > 0.9
    assert teacher.item_embeddings.shape == (N_TOY_ITEMS + 1, 16)
    assert not teacher.item_embeddings[0].any()
    saved = torch.load(teacher.path, weights_only=True)
    model = build_sasrec(config, dataset).eval()
    assert type(model) is SASRec
    model.load_state_dict(saved["state_dict"])
    assert torch.equal(model.item_embedding.weight[1:], teacher.item_embeddings[1:])
    assert (
        evaluate(model, evaluation_rows(dataset.sequences, 5, "valid")) == teacher.metrics["valid"]
    )


def test_a_cached_teacher_is_not_trained_again(make_config, monkeypatch, caplog):
    config = make_config()
    first = train_teacher(config, GenRecDataset(config))
    monkeypatch.setattr(collaborative, "_fit", None)
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        assert torch.equal(
            teacher_embeddings(config, GenRecDataset(config), "SASRec"), first.item_embeddings
        )
    assert [
        record.getMessage().startswith(f"Teacher SASRec loaded from {first.path}")
        for record in caplog.records
    ] == [True]
    for change in (
        {"teacher_dropout_prob": 0.2},
        {"seed": 2},
        {"MAX_ITEM_LIST_LENGTH": 4},
        {"user_inter_num_interval": "[5,inf)"},
    ):
        changed = make_config(**change)
        with pytest.raises(TypeError, match="not callable"):
            train_teacher(changed, GenRecDataset(changed))


def test_training_is_deterministic_and_leaves_the_random_state_alone(make_config, tmp_path):
    results = []
    for number in range(2):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        config = make_config(teacher_cache_dir=str(tmp_path / f"cache{number}"))
        results.append(teacher_embeddings(config, GenRecDataset(config), "SASRec"))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)


def test_training_stops_and_keeps_the_best_epoch(make_config, monkeypatch):
    scores = iter(
        [0.1, 0.3, 0.2, 0.3, 0.25, 0.9]
    )  # a third epoch that is no better ends it; the last score is of the test part
    states = []

    def scripted(model, rows):
        states.append(model.item_embedding.weight.detach().clone())
        return {"recall@10": 0.5, "ndcg@10": next(scores)}

    monkeypatch.setattr(collaborative, "evaluate", scripted)
    config = make_config(teacher_epochs=9)
    teacher = train_teacher(config, GenRecDataset(config))
    assert (teacher.metrics["best_epoch"], teacher.metrics["n_epochs"]) == (1, 5)
    assert teacher.metrics["valid"]["ndcg@10"] == 0.3
    assert torch.equal(teacher.item_embeddings[1:], states[1][1:])
    assert torch.equal(states[5], states[1])
    assert not torch.equal(states[4], states[1])


def test_an_unreadable_cache_is_replaced_and_a_failed_save_leaves_nothing(
    make_config, tmp_path, monkeypatch, caplog
):
    config = make_config()
    first = train_teacher(config, GenRecDataset(config))
    with open(first.path, "wb") as file:
        file.write(b"half a file")
    with caplog.at_level(logging.WARNING, logger="recbole_genrec"):
        again = train_teacher(config, GenRecDataset(config))
    assert "cannot be read" in caplog.text
    assert torch.equal(again.item_embeddings, first.item_embeddings)
    assert torch.load(first.path, weights_only=True)["metrics"] == first.metrics

    def fail(saved, path):
        open(path, "wb").close()
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    other = make_config(teacher_cache_dir=str(tmp_path / "full"))
    with caplog.at_level(logging.WARNING, logger="recbole_genrec"):
        unsaved = train_teacher(other, GenRecDataset(other))
    assert "cannot be kept" in caplog.text
    assert torch.equal(unsaved.item_embeddings, first.item_embeddings)
    assert list((tmp_path / "full").iterdir()) == []


def test_bad_settings_are_named(make_config):
    for settings, message in (
        ({"teacher_epochs": 0}, "teacher_epochs is 0"),
        ({"teacher_n_heads": 3}, "size is 16"),
    ):
        config = make_config(**settings)
        with pytest.raises(ValueError, match=message):
            train_teacher(config, GenRecDataset(config))


def test_a_teacher_keeps_the_name_of_its_file(make_config):
    # Another name has every user train anew: right only where training itself has changed, and then
    # "format" says so.
    config = make_config(teacher_epochs=1)
    assert train_teacher(config, GenRecDataset(config)).path.endswith(
        "SASRec-toy-0c9e9f662e8bb230.pth"
    )
