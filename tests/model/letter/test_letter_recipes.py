"""The recipes of LETTER."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.model.letter.letter import LETTER

RECIPES = Path(__file__).parents[3] / "properties" / "recipe"


def test_numbers_of_parameters_at_the_papers_sizes(make_experiment, monkeypatch):
    """The sizes of TIGER's generator without user tokens, and of the released tokenizer."""
    monkeypatch.setattr(
        LETTER, "_check_catalogue", lambda model: None
    )  # ten items fill no codebook of 256
    settings = yaml.safe_load((RECIPES / "letter_paper.yaml").read_text())
    sizes = {
        key: settings[key]
        for key in (
            "tokenizer_hidden_sizes",
            "hidden_size",
            "inner_size",
            "n_layers",
            "n_heads",
            "head_size",
        )
    }
    sizes.update(
        n_levels=4,
        codebook_size=256,
        code_dim=32,
        teacher_hidden_size=32,
        group_sizes=[10, 60],
        n_groups=10,
    )
    model = make_experiment("LETTER", **sizes).model
    counts = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in model.named_children()
    }
    widths = [6, 2048, 1024, 512, 256, 128, 64, 32]
    encoder = sum(a * b + b for a, b in itertools.pairwise(widths))
    decoder = sum(a * b + a for a, b in itertools.pairwise(widths))
    assert counts["tokenizer"] == encoder + decoder + 4 * 256 * 32
    assert (counts["seq2seq"], counts["token_table"]) == (4_459_648, 128 * 1025)


@pytest.mark.parametrize("recipe", ["paper", "code", "cpu"])
def test_recipes_are_allowed_and_every_line_has_its_source(small_settings, recipe):
    own = ("dataset", "data_path", "checkpoint_dir", "topk", "valid_metric", "n_beams")
    config = GenRecConfig(
        "LETTER",
        config_dict={**{key: small_settings("LETTER")[key] for key in own}, "recipe": recipe},
    )
    file = RECIPES / f"letter_{recipe}.yaml"
    for key, value in yaml.safe_load(file.read_text()).items():
        assert config[key] == value
    settings = [line for line in file.read_text().splitlines() if line[0] not in "# "]
    sources = ("author, issue", "ours", "RQ-VAE/", "LETTER-TIGER/")
    assert not [line for line in settings if not line.split("# ")[1].startswith(sources)]


def test_the_code_recipe_is_the_paper_recipe_with_quirks():
    paper, code = ((RECIPES / f"letter_{name}.yaml").read_text() for name in ("paper", "code"))
    quirks = yaml.safe_load(code.split("# Quirks")[1])
    before = {key: value for key, value in yaml.safe_load(code).items() if key not in quirks}
    assert before == {
        key: value for key, value in yaml.safe_load(paper).items() if key not in quirks
    }
    assert set(yaml.safe_load(paper)) - set(before) == {
        "collaborative_weight",
        "diversity_weight",
        "generation_temperature",
    }
