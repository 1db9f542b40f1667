import logging
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer

import recbole_genrec.data.recbole_teacher as recbole_teacher
from recbole_genrec.compat import load_plain
from recbole_genrec.config import GenRecConfig
from recbole_genrec.data.collaborative import teacher_embeddings
from recbole_genrec.data.dataset import GenRecDataset
from recbole_genrec.data.recbole_teacher import GeneralDataset, train_recbole_teacher
from recbole_genrec.quick_start import create_dataset, run

SIZES = {
    "BPR": {"embedding_size": 4},
    "LightGCN": {"embedding_size": 4, "n_layers": 2},
    "GRU4Rec": {"embedding_size": 4, "hidden_size": 4},
    "BERT4Rec": {"mask_ratio": 0.6, "hidden_size": 4, "inner_size": 8, "n_layers": 1, "n_heads": 1},
    "FPMC": {"embedding_size": 4},
}


@pytest.fixture
def make(small_settings, tmp_path):
    """make(model_name, **teacher_settings): settings of a run with this teacher, and its data set."""

    def make(model_name, seed=1, **teacher_settings):
        teacher = {**SIZES.get(model_name, {}), "epochs": 2, "train_batch_size": 8, "learning_rate": 0.05, **teacher_settings}
        own = {"teacher_cache_dir": str(tmp_path / "teacher"), "teacher_settings": teacher, "seed": seed}
        config = GenRecConfig("TIGER", config_dict={**small_settings("TIGER"), **own})
        return config, create_dataset(config)

    return make


@pytest.fixture
def seen(monkeypatch):
    """What the teacher was trained on and became: `data`, the rows of its training part as (user, item) tokens, and `model`."""
    seen = SimpleNamespace()
    prepare, item_table = recbole_teacher.data_preparation, recbole_teacher._item_table

    def prepare_and_keep(config, data):
        loaders = prepare(config, data)
        seen.data, rows = data, loaders[0].dataset.inter_feat
        seen.rows = [tuple(data.id2token(field, rows[field]).tolist()) for field in ("user_id", "item_id")]
        return loaders

    def table_and_keep(model):
        seen.model = model
        return item_table(model)

    monkeypatch.setattr(recbole_teacher, "data_preparation", prepare_and_keep)
    monkeypatch.setattr(recbole_teacher, "_item_table", table_and_keep)
    return seen


class OtherIds(GenRecDataset):
    """The same interactions with item ids in another order: those of a user stand in the file from the last to the first."""

    def _load_data(self, token, dataset_path):
        super()._load_data(token, dataset_path)
        users = self.inter_feat["user_id"].drop_duplicates().tolist()
        backwards = self.inter_feat.sort_values("timestamp", ascending=False)
        self.inter_feat = backwards.sort_values("user_id", key=lambda column: column.map(users.index), kind="stable", ignore_index=True)


class OtherGeneralIds(OtherIds, GeneralDataset):
    pass


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec", "BERT4Rec"])
def test_a_teacher_is_the_model_that_a_run_of_it_trains(make, tiny_settings, model_name):
    """Weights and test metrics of `run`, which reads general data with RecBole's own class; rows compared by token."""
    config, dataset = make(model_name)
    teacher = train_recbole_teacher(config, dataset, model_name)
    its_own = {**tiny_settings, **config["teacher_settings"], "seed": 1, "eval_batch_size": config["eval_batch_size"]}
    result = run(model_name, config_dict=its_own)
    table = load_plain(result["checkpoint"], "cpu")["state_dict"]["item_embedding.weight"]
    assert len(table) == (12 if model_name == "BERT4Rec" else 11)
    token2id = create_dataset(GenRecConfig(model_name, config_dict=its_own)).field2token_id["item_id"]
    assert teacher.item_embeddings.shape == (11, 4)
    assert not teacher.item_embeddings[0].any()
    for token, item in dataset.field2token_id["item_id"].items():
        if item:
            assert torch.equal(teacher.item_embeddings[item], table[token2id[token]])
    assert teacher.metrics["test"] == dict(result["test_result"])
    assert teacher.metrics["valid"] == dict(result["best_valid_result"])


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec"])
def test_items_are_joined_by_token(make, seen, monkeypatch, model_name):
    monkeypatch.setattr(recbole_teacher, "GenRecDataset", OtherIds)
    monkeypatch.setattr(recbole_teacher, "GeneralDataset", OtherGeneralIds)
    config, dataset = make(model_name)
    embeddings = teacher_embeddings(config, dataset, model_name)
    theirs = seen.data.field2token_id["item_id"]
    assert list(theirs) != list(dataset.field2token_id["item_id"])
    for token, item in dataset.field2token_id["item_id"].items():
        if item:
            assert torch.equal(embeddings[item], seen.model.item_embedding.weight[theirs[token]])


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec"])
def test_only_the_training_part_is_trained_on(make, seen, tiny_sequences, model_name):
    teacher_embeddings(*make(model_name), model_name)
    first = 0 if model_name == "BPR" else 1  # the first item of a history is the target of no row
    expected = [(f"u{user}", f"i{item}") for user, items in enumerate(tiny_sequences, start=1) for item in items[first:-2]]
    assert sorted(zip(*seen.rows)) == sorted(expected)


@pytest.mark.parametrize("model_name", ["BPR", "LightGCN", "GRU4Rec"])
def test_held_out_targets_change_nothing(make, tiny_data, tiny_sequences, model_name):
    tables = []
    # The first user names all items in order, so that the ids stay; the others' test, validation or last training item changes.
    for place in (None, -1, -2, -3):
        lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"u0\ti{item}\t{item}" for item in range(1, 11))]
        for user, items in enumerate(tiny_sequences, start=1):
            changed = list(items)
            if place is not None:
                changed[place] = items[place] % 10 + 1
            lines += [f"u{user}\ti{item}\t{step}" for step, item in enumerate(changed)]
        (tiny_data / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
        tables.append(teacher_embeddings(*make(model_name, epochs=1), model_name))
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0], tables[3])


def test_a_trained_teacher_is_not_trained_again(make, monkeypatch, caplog):
    config, dataset = make("BPR")
    first = train_recbole_teacher(config, dataset, "BPR")
    monkeypatch.setattr(recbole_teacher, "_train", None)
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        assert torch.equal(teacher_embeddings(*make("BPR"), "BPR"), first.item_embeddings)
    assert f"Teacher BPR loaded from {first.path}" in caplog.text
    for change in ({"embedding_size": 8}, {"learning_rate": 0.1}, {"seed": 2}, {"weight_decay": 0.1}):
        with pytest.raises(TypeError, match="not callable"):
            teacher_embeddings(*make("BPR", **change), "BPR")
    with pytest.raises(TypeError, match="not callable"):
        teacher_embeddings(*make("ENMF", embedding_size=4), "ENMF")


def test_other_interactions_are_another_teacher(make, tiny_data, monkeypatch):
    config, dataset = make("BPR")
    teacher_embeddings(config, dataset, "BPR")
    with open(tiny_data / "tiny" / "tiny.inter", "a") as file:
        file.write("u1\ti9\t1500000000\n")
    monkeypatch.setattr(recbole_teacher, "_train", None)
    with pytest.raises(TypeError, match="not callable"):
        teacher_embeddings(*make("BPR"), "BPR")


def test_an_unreadable_file_is_replaced(make, caplog):
    config, dataset = make("GRU4Rec")
    first = train_recbole_teacher(config, dataset, "GRU4Rec")
    with open(first.path, "r+b") as file:
        file.truncate(100)
    with caplog.at_level(logging.WARNING, logger="recbole_genrec"):
        again = train_recbole_teacher(config, dataset, "GRU4Rec")
    assert "cannot be read" in caplog.text
    assert torch.equal(again.item_embeddings, first.item_embeddings)
    assert torch.equal(torch.load(first.path, weights_only=True)["item_embeddings"], first.item_embeddings)


@pytest.mark.parametrize("model_name", ["BPR", "BERT4Rec"])
def test_training_leaves_the_random_state_alone_and_does_not_depend_on_it(make, tmp_path, model_name):
    def state():
        cudnn = torch.backends.cudnn
        switches = cudnn.benchmark, cudnn.deterministic, torch.is_anomaly_enabled()
        return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist(), switches

    tables = []
    for number in range(2):
        config, dataset = make(model_name)
        config.final_config_dict["teacher_cache_dir"] = str(tmp_path / f"cache{number}")
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, bool(number)
        before = state()
        tables.append(teacher_embeddings(config, dataset, model_name))
        assert state() == before
    torch.backends.cudnn.benchmark = False
    assert torch.equal(*tables)


def test_a_teacher_writes_its_file_and_nothing_else(make, tmp_path):
    before = set(os.listdir(tmp_path))
    config, dataset = make("BPR")
    path = train_recbole_teacher(config, dataset, "BPR").path
    assert set(os.listdir(tmp_path)) - before == {"teacher"}
    assert os.listdir(tmp_path / "teacher") == [os.path.basename(path)]


def test_epochs_are_logged_and_the_best_is_kept(make, seen, monkeypatch, caplog):
    tables, scores = [], [0.25, 0.5, 0.375, 0.125]

    def scripted(self, valid_data, show_progress=False):
        tables.append(self.model.item_embedding.weight.detach().clone())
        return scores[len(tables) - 1], {"ndcg@5": scores[len(tables) - 1]}

    monkeypatch.setattr(Trainer, "_valid_epoch", scripted)
    config, dataset = make("BPR", epochs=9, stopping_step=1)
    with caplog.at_level(logging.INFO, logger="recbole_genrec"):
        teacher = train_recbole_teacher(config, dataset, "BPR")
    lines = [line for line in caplog.messages if " epoch " in line]
    assert [line.split(":")[0] for line in lines] == [f"Teacher BPR epoch {epoch}" for epoch in range(4)]
    assert [float(line.split("valid NDCG@5 ")[1]) for line in lines] == [0.25, 0.5, 0.375, 0.125]
    assert torch.equal(teacher.item_embeddings[1:], tables[1][1:])
    assert not torch.equal(tables[1], tables[3])
    assert teacher.metrics["valid"] == {"ndcg@5": 0.5}
    assert (teacher.metrics["best_epoch"], teacher.metrics["n_epochs"]) == (1, 4)


def test_lightgcn_gives_what_it_ranks_with(make, seen, tiny_sequences):
    """Equations 7 and 8 of LightGCN (He et al., SIGIR 2020), with the training part of the literal sequences as the graph."""
    config, dataset = make("LightGCN")
    embeddings = teacher_embeddings(config, dataset, "LightGCN").double()
    graph = torch.zeros(13 + 11, 13 + 11, dtype=torch.double)
    ids = [dataset.field2token_id[field] for field in ("user_id", "item_id")]
    for user, items in enumerate(tiny_sequences, start=1):
        for item in items[:-2]:
            row, column = ids[0][f"u{user}"], 13 + ids[1][f"i{item}"]
            graph[row, column] = graph[column, row] = 1
    scale = graph.sum(1).clamp(min=1e-12).rsqrt()
    graph = scale[:, None] * graph * scale
    start = torch.cat([seen.model.user_embedding.weight, seen.model.item_embedding.weight]).detach().double()
    expected = ((start + graph @ start + graph @ graph @ start) / 3)[13:]
    torch.testing.assert_close(embeddings[1:], expected[1:], rtol=0, atol=1e-5)
    assert not torch.allclose(embeddings[1:], start[14:], atol=1e-2)


def test_several_tables_lie_side_by_side(make, seen):
    embeddings = teacher_embeddings(*make("FPMC"), "FPMC")
    model = seen.model
    expected = torch.cat([model.IU_emb.weight, model.IL_emb.weight, model.LI_emb.weight], dim=1)
    assert embeddings.shape == (11, 12)
    assert torch.equal(embeddings[1:], expected[1:])


def test_a_teacher_may_read_item_fields_and_have_items_more(make, seen, tiny_data):
    """GRU4RecF reads .item, which names an item of no interaction; the run does not."""
    with open(tiny_data / "tiny" / "tiny.item", "a") as file:
        file.write("i11\tlute\n")
    fields = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    config, dataset = make("GRU4RecF", embedding_size=4, hidden_size=4, load_col=fields, selected_features=["title"])
    embeddings = teacher_embeddings(config, dataset, "GRU4RecF")
    assert seen.model.item_embedding.weight.shape == (12, 4)
    assert embeddings.shape == (11, 4)
    assert torch.equal(embeddings[1:], seen.model.item_embedding.weight[1:11])


@pytest.mark.parametrize(
    ("model_name", "teacher_settings", "message"),
    [
        ("LightGNC", {}, r"the model 'LightGNC' is not known \(did you mean 'LightGCN'\?\)"),
        ("Pop", {"epochs": 1}, r"Pop has the modules \[\], but a teacher needs item embeddings"),
        ("KGAT", {}, "KGAT cannot be a teacher, because a teacher learns from interactions alone"),
        ("TIGER", {}, "TIGER cannot be a teacher"),
        ("DIEN", {}, "DIEN cannot be a teacher"),
        ("BPR", {"embeding_size": 8}, r"the setting 'embeding_size' is not known to BPR \(did you mean 'embedding_size'\?\)"),
        ("BPR", {"eval_args": {"split": {"RS": [8, 1, 1]}}}, "teacher_settings has 'eval_args', but a teacher shares it with its run"),
        ("BPR", {"checkpoint_dir": "here"}, "teacher_settings has 'checkpoint_dir'"),
        ("BPR", {"user_inter_num_interval": "[6,inf)"}, "the teacher BPR would see other users, items or interactions than its run"),
        ("GRU4Rec", {"user_inter_num_interval": "[6,inf)"}, "the teacher GRU4Rec would see other users, items"),
        ("BPR", {"epochs": 2, "eval_step": 0}, "eval_step of the teacher BPR is 0, but the epoch with the best validation is kept"),
    ],
)
def test_what_cannot_teach_is_refused(make, tmp_path, model_name, teacher_settings, message):
    config, dataset = make(model_name)
    config.final_config_dict["teacher_settings"] = teacher_settings
    with pytest.raises(ValueError, match=message):
        teacher_embeddings(config, dataset, model_name)
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec"])
@pytest.mark.parametrize(("old", "new"), [("u3\t", "other\t"), ("u3\ti5\t", "u3\ti9\t"), ("i9\t", "other\t"), ("1400000004", "1300000004")])
def test_files_that_change_during_a_run_are_noticed(make, tiny_data, model_name, old, new):
    config, dataset = make(model_name)
    file = tiny_data / "tiny" / "tiny.inter"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=f"the teacher {model_name} would see other users, items or interactions than its run"):
        teacher_embeddings(config, dataset, model_name)


def test_teacher_settings_are_a_mapping(make):
    config, dataset = make("BPR")
    config.final_config_dict["teacher_settings"] = ["epochs"]
    with pytest.raises(ValueError, match=r"teacher_settings is \['epochs'\], but has to be a mapping"):
        teacher_embeddings(config, dataset, "BPR")
