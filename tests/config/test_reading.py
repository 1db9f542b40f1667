from __future__ import annotations

import pytest

from recbole_genrec.config.reading import parse_command_line, parse_value, properties_folder
from recbole_genrec.errors import UserError


def test_command_line_takes_both_forms_and_splits_at_the_first_equals_sign():
    arguments = ["--model=SASRec", "--data_path", "a=b", "--note=x=y", "--shift", "-1", "--gpu_id="]
    assert parse_command_line(arguments) == {
        "model": "SASRec",
        "data_path": "a=b",
        "note": "x=y",
        "shift": "-1",
        "gpu_id": "",
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["SASRec"], "'SASRec' is not a setting"),
        (["--epochs"], "'--epochs' has no value"),
        (["--epochs", "--seed=1"], "'--epochs' has no value"),
        (["--seed=1", "--seed=2"], "--seed is given twice"),
    ],
)
def test_command_line_refuses(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_command_line(arguments)


@pytest.mark.parametrize(
    "text, value",
    [
        ("{text: tfidf}", {"text": "tfidf"}),
        ("{'max_norm': 1.0}", {"max_norm": 1.0}),
        ("[5,inf)", "[5,inf)"),
        ("{a: b", "{a: b"),
    ],
)
def test_mappings_may_be_written_as_in_yaml(text, value):
    assert parse_value(text) == value


def test_property_files_are_found_in_a_checkout():
    assert (properties_folder() / "overall.yaml").is_file()
