"""The recipes of UniGRec."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recbole_genrec.config.settings import GenRecConfig

RECIPES = Path(__file__).parents[3] / "properties" / "recipe"


@pytest.mark.parametrize("recipe", ["paper", "code", "cpu"])
def test_recipes_are_allowed_and_reach_the_settings(small_settings, recipe):
    own = ("dataset", "data_path", "checkpoint_dir", "topk", "valid_metric")
    config = GenRecConfig(
        "UniGRec",
        config_dict={**{key: small_settings("UniGRec")[key] for key in own}, "recipe": recipe},
    )
    for key, value in yaml.safe_load((RECIPES / f"unigrec_{recipe}.yaml").read_text()).items():
        assert config[key] == value


def test_every_line_of_the_released_recipe_has_its_source():
    settings = [
        line
        for line in (RECIPES / "unigrec_code.yaml").read_text().splitlines()
        if line[0] not in "# "
    ]
    sources = (
        "run_train_rqvae.sh",
        "run_train_unigrec.sh",
        "run_finetune.sh",
        "model/train.py",
        "unigrec.py",
        "t5.py",
        "released ",
    )
    assert not [line for line in settings if not line.split("# ")[1].startswith(sources)]


def test_the_released_recipe_is_the_papers_with_quirks():
    paper, code = ((RECIPES / f"unigrec_{name}.yaml").read_text() for name in ("paper", "code"))
    quirks = yaml.safe_load(code.split("# Quirks")[1])
    rest = {key: value for key, value in yaml.safe_load(code).items() if key not in quirks}
    assert rest == yaml.safe_load(paper)
    assert quirks == {
        "model_class": "recbole_genrec.model.unigrec.released:ReleasedUniGRec",
        "seed": 42,
        "constrained": False,
    }
