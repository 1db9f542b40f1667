import logging
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import recbole.trainer.trainer
import torch
from recbole.trainer import Trainer

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.quick_start import create_dataset, run
from recbole_genrec.storage import load_plain
from recbole_genrec.teacher import recbole_model, teacher
from recbole_genrec.teacher.recbole_model import GeneralDataset
from recbole_genrec.teacher.teacher import teacher_table, train_teacher


@pytest.fixture
def seen(monkeypatch):
    """Keep what a teacher was trained on and became.

    `data`; `rows` of its training part (users, items); `n_batches` to evaluate; `model`.
    """
    seen = SimpleNamespace()
    prepare, item_table = recbole_model.make_loaders, recbole_model._item_table

    def prepare_and_keep(config, data):
        loaders = prepare(config, data)
        seen.data, seen.n_batches, rows = (
            data,
            [len(loader) for loader in loaders[1:]],
            loaders[0].dataset.inter_feat,
        )
        seen.rows = [
            tuple(data.id2token(field, rows[field]).tolist()) for field in ("user_id", "item_id")
        ]
        return loaders

    def table_and_keep(model):
        seen.model = model
        return item_table(model)

    monkeypatch.setattr(recbole_model, "make_loaders", prepare_and_keep)
    monkeypatch.setattr(recbole_model, "_item_table", table_and_keep)
    return seen


class OtherIds(GenRecDataset):
    """The same interactions with other item ids: each user's are in the file backwards."""

    def _load_data(self, token, dataset_path):
        super()._load_data(token, dataset_path)
        users = self.inter_feat["user_id"].drop_duplicates().tolist()
        backwards = self.inter_feat.sort_values("timestamp", ascending=False)
        self.inter_feat = backwards.sort_values(
            "user_id", key=lambda column: column.map(users.index), kind="stable", ignore_index=True
        )


class OtherGeneralIds(OtherIds, GeneralDataset):
    pass


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec", "BERT4Rec"])
def test_a_teacher_is_the_model_that_a_run_of_it_trains(
    make_teacher_run, tiny_settings, model_name
):
    """Compare with weights and test metrics of `run`, whose rows are joined by token."""
    config, loaders = make_teacher_run(model_name)
    trained = train_teacher(config, loaders, model_name)
    its_own = {
        **tiny_settings,
        **config["teacher_settings"],
        "seed": 1,
        "eval_batch_size": config["eval_batch_size"],
    }
    result = run(model_name, config_dict=its_own)
    table = load_plain(result["checkpoint"], "cpu")["state_dict"]["item_embedding.weight"]
    assert len(table) == (12 if model_name == "BERT4Rec" else 11)
    token2id = create_dataset(GenRecConfig(model_name, config_dict=its_own)).field2token_id[
        "item_id"
    ]
    assert trained.item_embeddings.shape == (11, 4)
    assert not trained.item_embeddings[0].any()
    for token, item in loaders[0].dataset.field2token_id["item_id"].items():
        if item:
            assert torch.equal(trained.item_embeddings[item], table[token2id[token]])
    assert trained.metrics["test"] == dict(result["test_result"])
    assert trained.metrics["valid"] == dict(result["best_valid_result"])


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec"])
def test_items_are_joined_by_token(make_teacher_run, seen, monkeypatch, model_name):
    monkeypatch.setattr(recbole_model, "GenRecDataset", OtherIds)
    monkeypatch.setattr(recbole_model, "GeneralDataset", OtherGeneralIds)
    config, loaders = make_teacher_run(model_name)
    embeddings = teacher_table(config, loaders, model_name)
    theirs = seen.data.field2token_id["item_id"]
    assert list(theirs) != list(loaders[0].dataset.field2token_id["item_id"])
    for token, item in loaders[0].dataset.field2token_id["item_id"].items():
        if item:
            assert torch.equal(embeddings[item], seen.model.item_embedding.weight[theirs[token]])


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec"])
def test_only_the_training_part_is_trained_on(make_teacher_run, seen, tiny_sequences, model_name):
    teacher_table(*make_teacher_run(model_name), model_name)
    first = 0 if model_name == "BPR" else 1  # the first item of a history is the target of no row
    expected = [
        (f"u{user}", f"i{item}")
        for user, items in enumerate(tiny_sequences, start=1)
        for item in items[first:-2]
    ]
    assert sorted(zip(*seen.rows)) == sorted(expected)
    assert seen.n_batches == [
        3,
        3,
    ]  # 12 users, 5 to a batch; RecBole counts scores, not users, for its general models


@pytest.mark.parametrize("model_name", ["BPR", "LightGCN", "GRU4Rec"])
def test_held_out_targets_change_nothing(make_teacher_run, tiny_data, tiny_sequences, model_name):
    tables = []
    # The first user names all items in order, so that the ids stay; the others' test, validation or
    # last training item changes.
    for position in (None, -1, -2, -3):
        lines = [
            "user_id:token\titem_id:token\ttimestamp:float",
            *(f"u0\ti{item}\t{item}" for item in range(1, 11)),
        ]
        for user, items in enumerate(tiny_sequences, start=1):
            changed = list(items)
            if position is not None:
                changed[position] = items[position] % 10 + 1
            lines += [f"u{user}\ti{item}\t{step}" for step, item in enumerate(changed)]
        (tiny_data / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
        tables.append(teacher_table(*make_teacher_run(model_name, epochs=1), model_name))
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0], tables[3])


def test_a_trained_teacher_is_not_trained_again(make_teacher_run, monkeypatch, caplog):
    config, loaders = make_teacher_run("BPR")
    first = train_teacher(config, loaders, "BPR")
    monkeypatch.setattr(teacher, "train_recbole", None)
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        again = train_teacher(*make_teacher_run("BPR"), "BPR")
    assert torch.equal(again.item_embeddings, first.item_embeddings)
    assert again.metrics == first.metrics
    assert "Teacher BPR: valid recall@3 0." in caplog.text
    for change in (
        {"embedding_size": 8},
        {"learning_rate": 0.1},
        {"seed": 2},
        {"weight_decay": 0.1},
    ):
        with pytest.raises(TypeError, match="not callable"):
            teacher_table(*make_teacher_run("BPR", **change), "BPR")
    with pytest.raises(TypeError, match="not callable"):
        teacher_table(*make_teacher_run("ENMF", embedding_size=4), "ENMF")


def test_other_interactions_are_another_teacher(make_teacher_run, tiny_data, monkeypatch):
    config, loaders = make_teacher_run("BPR")
    teacher_table(config, loaders, "BPR")
    with open(tiny_data / "tiny" / "tiny.inter", "a") as file:
        file.write("u1\ti9\t1500000000\n")
    monkeypatch.setattr(teacher, "train_recbole", None)
    with pytest.raises(TypeError, match="not callable"):
        teacher_table(*make_teacher_run("BPR"), "BPR")


@pytest.mark.parametrize("model_name", ["BPR", "BERT4Rec"])
def test_training_leaves_the_random_state_alone_and_does_not_depend_on_it(
    make_teacher_run, tmp_path, model_name
):
    def state():
        cudnn = torch.backends.cudnn
        switches = cudnn.benchmark, cudnn.deterministic, torch.is_anomaly_enabled()
        return (
            random.getstate(),
            repr(np.random.get_state()),
            torch.get_rng_state().tolist(),
            switches,
        )

    tables = []
    for number in range(2):
        config, loaders = make_teacher_run(model_name)
        config.final_config_dict["teacher_cache_dir"] = str(tmp_path / f"cache{number}")
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, bool(number)
        before = state()
        tables.append(teacher_table(config, loaders, model_name))
        assert state() == before
    torch.backends.cudnn.benchmark = False
    assert torch.equal(*tables)


def test_a_teacher_writes_its_file_and_nothing_else(make_teacher_run, tmp_path):
    before, tensorboard = set(os.listdir(tmp_path)), recbole.trainer.trainer.get_tensorboard
    config, loaders = make_teacher_run("BPR")
    train_teacher(config, loaders, "BPR")
    assert set(os.listdir(tmp_path)) - before == {"teacher"}
    [file] = os.listdir(tmp_path / "teacher")
    assert file.startswith("BPR-tiny-") and file.endswith(".pth")
    assert recbole.trainer.trainer.get_tensorboard is tensorboard


def test_the_best_epoch_is_kept(make_teacher_run, monkeypatch):
    tables, scores = [], [0.25, 0.5, 0.375, 0.125]

    def scripted(self, valid_data, show_progress=False):
        tables.append(self.model.item_embedding.weight.detach().clone())
        return scores[len(tables) - 1], {"ndcg@5": scores[len(tables) - 1]}

    monkeypatch.setattr(Trainer, "_valid_epoch", scripted)
    config, loaders = make_teacher_run("BPR", epochs=9, stopping_step=1)
    trained = train_teacher(config, loaders, "BPR")
    assert len(tables) == 4
    assert torch.equal(trained.item_embeddings[1:], tables[1][1:])
    assert not torch.equal(tables[1], tables[3])
    assert trained.metrics["valid"] == {"ndcg@5": 0.5}


def test_lightgcn_gives_what_it_ranks_with(make_teacher_run, seen, tiny_sequences):
    """Compare with equations 7 and 8 of LightGCN (He et al., SIGIR 2020), on the literal graph."""
    config, loaders = make_teacher_run("LightGCN")
    embeddings = teacher_table(config, loaders, "LightGCN").double()
    graph = torch.zeros(13 + 11, 13 + 11, dtype=torch.double)
    ids = [loaders[0].dataset.field2token_id[field] for field in ("user_id", "item_id")]
    for user, items in enumerate(tiny_sequences, start=1):
        for item in items[:-2]:
            row, column = ids[0][f"u{user}"], 13 + ids[1][f"i{item}"]
            graph[row, column] = graph[column, row] = 1
    scale = graph.sum(1).clamp(min=1e-12).rsqrt()
    graph = scale[:, None] * graph * scale
    start = (
        torch.cat([seen.model.user_embedding.weight, seen.model.item_embedding.weight])
        .detach()
        .double()
    )
    expected = ((start + graph @ start + graph @ graph @ start) / 3)[13:]
    torch.testing.assert_close(embeddings[1:], expected[1:], rtol=0, atol=1e-5)
    assert not torch.allclose(embeddings[1:], start[14:], atol=1e-2)


def test_several_tables_lie_side_by_side(make_teacher_run, seen):
    embeddings = teacher_table(*make_teacher_run("FPMC"), "FPMC")
    model = seen.model
    expected = torch.cat([model.IU_emb.weight, model.IL_emb.weight, model.LI_emb.weight], dim=1)
    assert embeddings.shape == (11, 12)
    assert torch.equal(embeddings[1:], expected[1:])


def test_a_teacher_may_read_item_fields_and_have_items_more(make_teacher_run, seen, tiny_data):
    """GRU4RecF reads .item, which names an item of no interaction; the run does not."""
    with open(tiny_data / "tiny" / "tiny.item", "a") as file:
        file.write("i11\tlute\n")
    fields = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    config, loaders = make_teacher_run(
        "GRU4RecF", embedding_size=4, hidden_size=4, load_col=fields, selected_features=["title"]
    )
    embeddings = teacher_table(config, loaders, "GRU4RecF")
    assert seen.model.item_embedding.weight.shape == (12, 4)
    assert embeddings.shape == (11, 4)
    assert torch.equal(embeddings[1:], seen.model.item_embedding.weight[1:11])


def test_metrics_of_whole_lists_are_computed(make_teacher_run):
    config, loaders = make_teacher_run(
        "BPR", metrics=["NDCG", "ItemCoverage"], topk=[10], valid_metric="NDCG@10"
    )
    assert train_teacher(config, loaders, "BPR").metrics["valid"][
        "itemcoverage@10"
    ] == pytest.approx(10 / 11, abs=1e-6)
