"""The recipes of ETEGRec."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.model.etegrec.etegrec import ETEGRec
from recbole_genrec.model.etegrec.released import ReleasedETEGRec

RECIPES = Path(__file__).parents[3] / "properties" / "recipe"


@pytest.mark.parametrize(
    "recipe, model_class", [("paper", ETEGRec), ("code", ReleasedETEGRec), ("cpu", ETEGRec)]
)
def test_recipes_are_allowed_and_reach_the_settings(small_settings, recipe, model_class):
    own = ("dataset", "data_path", "checkpoint_dir", "topk", "valid_metric")
    settings = {key: small_settings("ETEGRec")[key] for key in own}
    config = GenRecConfig("ETEGRec", config_dict={**settings, "recipe": recipe})
    assert config.model_class is model_class
    for key, value in yaml.safe_load((RECIPES / f"etegrec_{recipe}.yaml").read_text()).items():
        assert config[key] == value


def test_the_released_recipe_is_the_papers_with_quirks():
    paper, code = ((RECIPES / f"etegrec_{name}.yaml").read_text() for name in ("paper", "code"))
    quirks = yaml.safe_load(code.split("# Quirks")[1])
    rest = {key: value for key, value in yaml.safe_load(code).items() if key not in quirks}
    weights = {"sia_weight", "psa_weight"}
    assert set(quirks) == {"model_class", *weights}
    paper = yaml.safe_load(paper)
    assert rest == {key: value for key, value in paper.items() if key not in weights}
    assert all(paper[key] != quirks[key] for key in weights)
