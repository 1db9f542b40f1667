from __future__ import annotations

import pytest

from recbole_genrec.config.models import find_model, find_variant
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.errors import UserError


@pytest.mark.parametrize("name", ["sasrec", "SASrec", "SASRek"])
def test_unknown_model_gives_the_nearest_name(name):
    with pytest.raises(UserError, match=f"'{name}' is not known .did you mean 'SASRec'"):
        find_model(name)


@pytest.mark.parametrize("name", ["Stage", "Generation", "", "os.path", "../secret", "Nothing"])
def test_what_is_no_model_is_refused(name):
    with pytest.raises(UserError, match="is not known"):
        find_model(name)


def test_a_variant_is_a_subclass_from_this_package():
    letter = find_model("LETTER")
    variant = find_variant("recbole_genrec.model.letter.released:ReleasedLETTER", letter)
    assert issubclass(variant, letter) and variant is not letter


@pytest.mark.parametrize(
    "path",
    [
        "recbole_genrec.model.unger.unger:UNGER",
        "recbole_genrec.model.letter.letter:LETTER",
        "recbole_genrec.model.letter.released:ReleasedLETTER",
        "recbole_genrec.model.tiger:Nothing",
        "recbole_genrec.model.tiger:hashed_users",
        "recbole_genrec.model.nowhere:TIGER",
        "recbole_genrec.model.tiger",
        "collections:OrderedDict",
        "TIGER",
        "",
        3,
    ],
)
def test_what_is_no_variant_is_refused_with_the_way_out(path):
    with pytest.raises(UserError, match=r"variant of TIGER in this package.*--model=module:Class"):
        find_variant(path, find_model("TIGER"))


def test_modules_elsewhere_are_not_imported_as_variants(tmp_path, monkeypatch):
    (tmp_path / "intruder.py").write_text("raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="model_class is 'intruder:TIGER'"):
        find_variant("intruder:TIGER", find_model("TIGER"))


def test_a_recipe_or_a_saved_setting_picks_the_variant():
    path = "recbole_genrec.model.letter.released:ReleasedLETTER"
    config = GenRecConfig(config_dict={"model": "LETTER", "model_class": path})
    assert config.model_class.__name__ == "ReleasedLETTER"
    assert config["model"] == "LETTER", "files and property files keep the name of the model"
    assert GenRecConfig(config_dict=config.settings()).model_class is config.model_class
    assert GenRecConfig("LETTER", config_dict={"recipe": "code"}).model_class is config.model_class
    assert GenRecConfig("LETTER").model_class is find_model("LETTER")
