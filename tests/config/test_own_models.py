"""Models outside the package, given by the path of their class."""

from __future__ import annotations

import sys

import pytest

from recbole_genrec.config.models import find_model, name_of_defaults
from recbole_genrec.config.own_models import (
    check_property_files,
    import_model,
    is_outside,
    path_of,
    property_files,
)
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError

SOURCE = """
from recbole.model.sequential_recommender import SASRec
from recbole_genrec.config.declare import whole
from recbole_genrec.model.letter import LETTER
from recbole_genrec.model.tiger import TIGER

class MyTIGER(TIGER):
    settings = {"n_extra_layers": whole(min=1)}

class MyOther(MyTIGER):
    pass

class MySASRec(SASRec):
    settings = {"n_extra_layers": whole(min=1)}

class Bare(LETTER):
    pass

class Plain:
    pass

def make():
    return MyTIGER
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the modules `own_tigers` and `broken`, which is the current one."""
    (tmp_path / "own_tigers.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import a_package_that_is_missing\n")
    (tmp_path / "MyTIGER.yaml").write_text("n_extra_layers: 2\nhidden_size: 32\n")
    (tmp_path / "mytiger_small.yaml").write_text("n_extra_layers: 1\nepochs: 3\n")
    (tmp_path / "MyOther.yaml").write_text("hidden_size: 48\n")
    (tmp_path / "MySASRec.yaml").write_text("n_extra_layers: 4\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_tigers", None)


def test_defaults_lie_over_those_of_the_model_that_a_class_derives_from(folder):
    tiger, config = GenRecConfig("TIGER"), GenRecConfig("own_tigers:MyTIGER")
    assert config["model"] == "MyTIGER"
    assert (config["n_extra_layers"], config["hidden_size"]) == (2, 32)
    unchanged = set(tiger.settings()) - {"model", "hidden_size"}
    assert {key: config[key] for key in unchanged} == {key: tiger[key] for key in unchanged}
    other = GenRecConfig("own_tigers:MyOther")
    assert (other["n_extra_layers"], other["hidden_size"]) == (2, 48)


def test_a_class_may_derive_from_a_model_of_recbole(folder):
    config = GenRecConfig("own_tigers:MySASRec")
    assert (config["n_extra_layers"], config["n_layers"]) == (4, GenRecConfig("SASRec")["n_layers"])


def test_the_settings_hold_the_path_and_give_the_same_class_again(folder):
    config = GenRecConfig("own_tigers:MyTIGER", config_dict={"n_extra_layers": 3})
    assert config.settings()["model"] == "own_tigers:MyTIGER"
    again = GenRecConfig(config_dict=config.settings())
    assert again.model_class is config.model_class
    assert again.settings() == config.settings()


def test_a_recipe_lies_beside_the_class(folder):
    config = GenRecConfig("own_tigers:MyTIGER", config_dict={"recipe": "small"})
    assert (config["n_extra_layers"], config["epochs"]) == (1, 3)
    with pytest.raises(UserError, match=r"'cpu' of MyTIGER does not exist: use one of \['small'\]"):
        GenRecConfig("own_tigers:MyTIGER", config_dict={"recipe": "cpu"})


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("own_tigers:", "is not a path: write module:Class"),
        (":MyTIGER", "is not a path: write module:Class"),
        ("own_tigers.py:MyTIGER", "the module 'own_tigers.py' is neither on the Python path nor"),
        ("own-tigers:MyTIGER", "is not a path: write module:Class"),
        ("nowhere:MyTIGER", "the module 'nowhere' is neither on the Python path nor in"),
        ("own_tigers.more:MyTIGER", "the module 'own_tigers.more' is neither on the Python path"),
        ("own_tigers:MyTiger", "has no class 'MyTiger' .did you mean 'MyTIGER'.+: correct"),
        ("own_tigers:make", "has no class 'make'.*: correct"),
        ("own_tigers:Plain", "is no recommender: derive the class from a model of this package"),
        ("own_tigers:TIGER", "belongs to recbole_genrec: give its name alone, as in --model=TIGER"),
        ("own_tigers:Bare", "has no property file: write its defaults into '.*Bare.yaml'"),
    ],
)
def test_a_path_that_leads_to_no_model_is_refused_with_the_way_out(folder, path, sentence):
    with pytest.raises(UserError, match=sentence):
        import_model(path)


def test_a_module_that_lacks_a_package_is_no_wrong_path(folder):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing"):
        import_model("broken:MyTIGER")


def test_given_settings_are_as_strict_as_those_of_the_package(folder):
    for given, sentence in (
        ({"n_extra_layers": 0}, "n_extra_layers is 0, but has to be a whole number of at least 1"),
        ({"n_extra_layer": 1}, "not known to MyTIGER .did you mean 'n_extra_layers'"),
        ({"scheduler": "step"}, "scheduler is 'step', but has to be one of"),
    ):
        with pytest.raises(UserError, match=sentence):
            GenRecConfig("own_tigers:MyTIGER", config_dict=given)


def test_every_setting_of_the_class_is_declared_and_has_a_default(folder):
    (folder / "MyTIGER.yaml").write_text("n_extra_layers: 1\nhiden_size: 3\n")
    with pytest.raises(
        UserError, match=r"'hiden_size' of .* is not declared .did you mean 'hidden"
    ):
        GenRecConfig("own_tigers:MyTIGER")
    (folder / "MyTIGER.yaml").write_text("")
    with pytest.raises(UserError, match=r"'n_extra_layers' that MyTIGER declares has no default"):
        GenRecConfig("own_tigers:MyTIGER")
    known = {*GenRecConfig("TIGER").settings(), "n_extra_layers"}
    check_property_files(find_model("own_tigers:MyTIGER"), known)


def test_a_class_is_described_by_path_files_and_inherited_name(folder):
    other = import_model("own_tigers:MyOther")
    assert path_of(other) == "own_tigers:MyOther"
    assert property_files(other) == [folder / "MyTIGER.yaml", folder / "MyOther.yaml"]
    assert (name_of_defaults(other), is_outside(other)) == ("TIGER", True)
    for name in ("TIGER", "SASRec", "Pop", "Random"):
        assert (name_of_defaults(find_model(name)), is_outside(find_model(name))) == (name, False)


def test_a_class_given_as_such_needs_no_property_file(folder):
    import_model("own_tigers:MyTIGER")
    bare = sys.modules["own_tigers"].Bare
    config = GenRecConfig(bare, config_dict={"anything": 1})
    assert (config["model"], config["anything"]) == ("Bare", 1)
    assert config["group_sizes"] == GenRecConfig("LETTER")["group_sizes"]
    assert config.settings()["model"] == "own_tigers:Bare"
