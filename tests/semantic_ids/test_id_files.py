from __future__ import annotations

import json

import pytest
import torch

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.semantic_ids.id_files import read_semantic_ids, write_semantic_ids

CODES = torch.tensor([[3, 0, 1], [0, 2, 1], [3, 0, 0]])
TOKENS = ["b", "a", "007"]


@pytest.fixture
def written(tmp_path):
    """Return a function that writes content to a file and returns its path."""

    def write(content) -> str:
        path = tmp_path / "ids.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.mark.parametrize("style", ["own", "letter"])
def test_round_trip_in_another_order_of_items(tmp_path, style):
    path = str(tmp_path / "folder" / "ids.json")
    write_semantic_ids(path, TOKENS, CODES, (4, 4, 4), "shop", style)
    codes = read_semantic_ids(path, ["007", "b"], n_levels=3, codebook_size=4, counter_size=0)
    assert codes.tolist() == [[3, 0, 0], [3, 0, 1]]
    assert codes.dtype == torch.long


def test_index_json_has_the_format_of_the_letter_family(tmp_path):
    path = tmp_path / "shop.index.json"
    write_semantic_ids(str(path), TOKENS, CODES, (4, 4, 4), "shop", "letter")
    expected = {
        "b": ["<a_3>", "<b_0>", "<c_1>"],
        "a": ["<a_0>", "<b_2>", "<c_1>"],
        "007": ["<a_3>", "<b_0>", "<c_0>"],
    }
    assert json.loads(path.read_text()) == expected


def test_own_format_names_itself(tmp_path):
    path = tmp_path / "ids.json"
    write_semantic_ids(str(path), TOKENS[:1], CODES[:1], (4, 4, 4), "shop", "own")
    assert json.loads(path.read_text()) == {
        "format": "recbole_genrec.semantic_ids 1",
        "dataset": "shop",
        "level_sizes": [4, 4, 4],
        "ids": {"b": [3, 0, 1]},
    }


def test_plain_lists_are_read(written):
    path = written({"0": [1, 2], "1": [2, 1], "9": [0, 0]})
    assert read_semantic_ids(
        path, ["1", "0"], n_levels=2, codebook_size=3, counter_size=0
    ).tolist() == [[2, 1], [1, 2]]


def test_a_counter_in_the_file_is_left_out(written):
    path = written({"0": [1, 2, 0], "1": [1, 2, 1]})
    assert read_semantic_ids(
        path, ["0", "1"], n_levels=2, codebook_size=3, counter_size=2
    ).tolist() == [[1, 2], [1, 2]]


def test_a_last_code_that_counts_nothing_is_never_left_out(written):
    """Refuse ids that are one code too long, if that code numbers nothing, even with a counter."""
    for last in ((1, 0), (0, 2), (2, 2)):
        path = written(
            {"0": [1, 2, last[0]], "1": [1, 2, last[1]], "2": [0, 0, 1], "elsewhere": [5, 5]}
        )
        with pytest.raises(
            UserError,
            match=r"ids of \[3\] codes, but n_levels is 2: set n_levels to the length of the ids",
        ):
            read_semantic_ids(path, ["0", "1", "2"], n_levels=2, codebook_size=3, counter_size=9)


def test_a_counter_may_have_gaps_where_the_data_set_lacks_items(written):
    path = written(
        {"0": [1, 2, 2], "gone": [1, 2, 0], "1": [1, 2, 1], "2": [0, 0, 0], "elsewhere": [5, 5]}
    )
    assert read_semantic_ids(
        path, ["0", "1", "2"], n_levels=2, codebook_size=3, counter_size=2
    ).tolist() == [[1, 2], [1, 2], [0, 0]]


def test_equal_ids_need_a_counter(written):
    path = written({"0": [1, 2], "1": [1, 2], "2": [1, 2], "3": [0, 0]})
    tokens = ["0", "1", "2", "3"]
    assert len(read_semantic_ids(path, tokens, n_levels=2, codebook_size=3, counter_size=3)) == 4
    for counter_size in (0, 2):
        message = f"2 items have the id .* up to 3 the same one, .* counter_size is {counter_size}"
        with pytest.raises(UserError, match=message):
            read_semantic_ids(path, tokens, n_levels=2, codebook_size=3, counter_size=counter_size)


@pytest.mark.parametrize("counter_size", [0, 1])
def test_two_equal_ids_are_refused_without_a_counter(written, counter_size):
    path = written({"0": [1, 2], "1": [1, 2]})
    with pytest.raises(UserError, match="1 items have the id of another item, up to 2"):
        read_semantic_ids(path, ["0", "1"], n_levels=2, codebook_size=3, counter_size=counter_size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": [1, 2]}, r"no id for 1 of 2 items \(such as 1\)"),
        ({"0": [1, 2, 0], "1": [1, 1, 0]}, r"ids of \[3\] codes, but n_levels is 2"),
        ({"0": [1, 2], "1": [1]}, r"ids of \[1, 2\] codes, but n_levels is 2"),
        (
            {"0": [1, 3], "1": [1, 1]},
            "codes from 1 to 3, but codebook_size is 3, which allows 0 to 2",
        ),
        ({"0": [1, -1], "1": [1, 1]}, "codes from -1 to 1"),
        ({"0": ["<a_1>", "<c_1>"], "1": [1, 1]}, "the entry '<c_1>' at level 1 is no code"),
        ({"0": [1.5, 1], "1": [1, 1]}, "is not a file of semantic ids"),
        ("[1, 2]", "is not a file of semantic ids"),
        ('{"0": [1, 2', "is not a file of semantic ids"),
    ],
)
def test_bad_files_are_refused(written, content, message):
    with pytest.raises(UserError, match=message):
        read_semantic_ids(written(content), ["0", "1"], n_levels=2, codebook_size=3, counter_size=0)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="semantic_ids_file names it: correct the path"):
        read_semantic_ids(
            str(tmp_path / "no.json"), ["0"], n_levels=2, codebook_size=3, counter_size=0
        )


def test_unknown_styles_and_too_many_levels_are_refused(tmp_path):
    with pytest.raises(UserError, match="'json', but it must be one of own, letter"):
        write_semantic_ids(str(tmp_path / "a"), TOKENS, CODES, (4, 4, 4), "shop", "json")
    with pytest.raises(UserError, match=r"27 levels, but an index\.json has letters for 26"):
        write_semantic_ids(
            str(tmp_path / "a"),
            ["b"],
            torch.zeros(1, 27, dtype=torch.long),
            (1,) * 27,
            "shop",
            "letter",
        )
    assert not list(tmp_path.iterdir())
