import pytest

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data.loaders import make_evaluation_loaders
from recbole_genrec.errors import UserError
from recbole_genrec.quick_start import create_dataset
from recbole_genrec.teacher import recbole_model
from recbole_genrec.teacher.teacher import teacher_table


@pytest.mark.parametrize(
    ("model_name", "teacher_settings", "message"),
    [
        ("LightGNC", {}, r"the model 'LightGNC' is not known \(did you mean 'LightGCN'\?\)"),
        ("Pop", {"epochs": 1}, r"Pop has the modules \[\], but a teacher needs item embeddings"),
        ("KGAT", {}, "KGAT cannot be a teacher, because a teacher learns from interactions alone"),
        ("TIGER", {}, "TIGER cannot be a teacher"),
        ("DIEN", {}, "DIEN cannot be a teacher"),
        (
            "BPR",
            {"embeding_size": 8},
            r"the setting 'embeding_size' is not known to BPR \(did you mean 'embedding_size'\?\)",
        ),
        (
            "BPR",
            {"eval_args": {"split": {"RS": [8, 1, 1]}}},
            "teacher_settings has 'eval_args', but a teacher shares it with its run",
        ),
        ("BPR", {"checkpoint_dir": "here"}, "teacher_settings has 'checkpoint_dir'"),
        (
            "BPR",
            {"user_inter_num_interval": "[6,inf)"},
            "the teacher BPR would see other users, items or interactions than its run",
        ),
        (
            "GRU4Rec",
            {"user_inter_num_interval": "[6,inf)"},
            "the teacher GRU4Rec would see other users, items",
        ),
        (
            "BPR",
            {"epochs": 2, "eval_step": 0},
            "eval_step of the teacher BPR is 0, but the epoch with the best validation is kept",
        ),
    ],
)
def test_what_cannot_teach_is_refused(
    make_teacher_run, tmp_path, model_name, teacher_settings, message
):
    config, loaders = make_teacher_run(model_name)
    config.final_config_dict["teacher_settings"] = teacher_settings
    with pytest.raises(UserError, match=message):
        teacher_table(config, loaders, model_name)
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("model_name", ["BPR", "GRU4Rec"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("u3\t", "other\t"),
        ("u3\ti5\t", "u3\ti9\t"),
        ("u3\ti7\t1400000004", "u4\ti7\t1300000000"),
        ("i9\t", "other\t"),
        ("1400000004", "1300000004"),
    ],
)
def test_files_that_change_during_a_run_are_noticed(
    make_teacher_run, tiny_data, model_name, old, new
):
    config, loaders = make_teacher_run(model_name)
    file = tiny_data / "tiny" / "tiny.inter"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(
        UserError,
        match=f"the teacher {model_name} would see other users, items or interactions than its run",
    ):
        teacher_table(config, loaders, model_name)


def test_every_item_of_the_run_is_needed(make_teacher_run, tiny_data):
    with open(tiny_data / "tiny" / "tiny.item", "a") as file:
        file.write("i11\tlute\n")
    fields = {"inter": ["user_id", "item_id", "timestamp"]}
    config, _ = make_teacher_run("BPR", load_col=fields)
    config = GenRecConfig(
        config_dict={**config.settings(), "load_col": {**fields, "item": ["item_id"]}}
    )
    with pytest.raises(UserError, match="the teacher BPR would see other users, items"):
        teacher_table(config, make_evaluation_loaders(config, create_dataset(config)), "BPR")


def test_a_model_without_item_embeddings_is_refused_before_it_is_trained(
    make_teacher_run, monkeypatch
):
    monkeypatch.setattr(recbole_model, "plain_trainer", None)
    with pytest.raises(UserError, match="MultiVAE has the modules"):
        teacher_table(*make_teacher_run("MultiVAE"), "MultiVAE")


def test_teacher_settings_are_a_mapping(make_teacher_run):
    config, loaders = make_teacher_run("BPR")
    config.final_config_dict["teacher_settings"] = ["epochs"]
    with pytest.raises(
        UserError, match=r"teacher_settings is \['epochs'\], but has to be a mapping"
    ):
        teacher_table(config, loaders, "BPR")
