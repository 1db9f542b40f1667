from __future__ import annotations

import gzip
import sys
import tracemalloc
import types
from datetime import datetime

import pandas as pd
import pytest

from recbole_genrec.errors import MissingFileError, MissingPackageError, UserError
from recbole_genrec.prepare import table_files
from recbole_genrec.prepare.table_files import TableFile, as_text, is_table_name


def write(path, content):
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix.lower() == ".gz" else raw)
    return path


def rows_of(table, columns=None):
    return [tuple(row) for piece in table.pieces(columns) for row in piece.itertuples(index=False)]


@pytest.mark.parametrize("ending", ["", ".gz", ".GZ"])
@pytest.mark.parametrize(
    "name, content",
    [
        ("t.csv", 'user,item,n\n007,"a, b",1.0\nNA,"x ""y""",\n'),
        ("t.csv", '\ufeffuser,item,n\r\n007,"a, b",1.0\r\n\r\nNA,"x ""y""",\r\n'),
        ("t.tsv", 'user\titem\tn\n007\ta, b\t1.0\nNA\tx "y"\t\n'),
        ("t.tsv", '"user"\t"item"\t"n"\n"007"\t"a, b"\t"1.0"\n"NA"\t"x ""y"""\t""\n'),
        (
            "T.JSONL",
            '{"user": "007", "item": "a, b", "n": 1.0}\n\n'
            '{"user": "NA", "n": null, "item": "x \\"y\\""}\n',
        ),
        (
            "t.json",
            '{"user": "007", "item": ["a,", "b"], "n": 1.0}\n{"user": "NA", "item": "x \\"y\\""}\n',
        ),
    ],
)
def test_every_value_is_text_as_it_is_written(tmp_path, name, content, ending):
    table = TableFile(write(tmp_path / f"{name}{ending}", content))
    assert table.columns == ["user", "item", "n"]
    assert rows_of(table) == [("007", "a, b", "1.0"), ("NA", 'x "y"', "")]
    assert rows_of(table, ["n", "user"]) == [("1.0", "007"), ("", "NA")]


def test_a_mark_inside_a_tsv_swallows_nothing(tmp_path):
    table = TableFile(write(tmp_path / "t.tsv", 'item\ttitle\n1\t"Old\n2\tJoe"\n'))
    assert rows_of(table) == [("1", '"Old'), ("2", 'Joe"')]


@pytest.mark.parametrize(
    "name, content",
    [("t.csv", "a,b\n0,x\n1,x\n2,x\n3,x\n4,x\n"), ("t.jsonl", '{"a": 0, "b": "x"}\n' * 5)],
)
def test_the_index_continues_over_pieces(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(table_files, "_PIECE_ROWS", 2)
    table = TableFile(write(tmp_path / name, content))
    assert [list(piece.index) for piece in table.pieces()] == [[0, 1], [2, 3], [4]]
    words = "row 3 below the header of" if name == "t.csv" else "row 3 of"
    assert table.describe_row(2) == f"{words} {str(tmp_path / name)!r}"


def test_keys_of_late_json_lines_are_read_where_all_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "_LINES_FOR_KEYS", 1)
    monkeypatch.setattr(table_files, "_PIECE_ROWS", 1)
    table = TableFile(
        write(tmp_path / "t.jsonl", '{"a": 1, "b": 2}\n{"a": 3, "c": {"x": [4, true]}}\n')
    )
    assert table.columns == ["a", "b"]
    assert pd.concat(list(table.pieces())).fillna("").to_dict("list") == {
        "a": ["1", "3"],
        "b": ["2", ""],
        "c": ["", "4 True"],
    }


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("t.csv", "", ["empty"]),
        ("t.jsonl", "\n", ["empty"]),
        ("t.csv", "user;item\n1;2\n", ["one column", "'user;item'", "--separator"]),
        ("t.jsonl", '{"user": 1}\n', ["one column", "'user'"]),
        ("t.csv", "user,item,user\n1,2,3\n", ["more than one column 'user'"]),
        ("t.csv", "user,item\n1,2\n3,4,5\n", ["line 3, saw 3", "header"]),
        ("t.csv", "user,item\n1,2,3\n4,5\n", ["header"]),
        ("t.csv", 'user,item\n1,"2\n3,4\n', ["EOF inside string", "quotation marks"]),
        (
            "t.csv",
            "user,item\n1,caf\xe9\n".encode("latin-1"),
            ["UTF-8", "0xe9", "iconv -f latin1 -t utf-8"],
        ),
        ("t.csv", "us\xe9r,item\n1,2\n".encode("latin-1"), ["UTF-8", "0xe9"]),
        ("t.jsonl", '{"user": 1, "item": 2}\n{"user": 1, "item"\n', ["line 2", "no JSON"]),
        ("t.json", '[{"user": 1, "item": 2}]\n', ["line 1", "one object"]),
        ("t.txt", "user,item\n", [".csv", ".parquet"]),
        ("t.parquet.gz", "x", [".csv", ".parquet"]),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, words):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as refusal:
        rows_of(TableFile(path))
    message = str(refusal.value)
    assert all(word in message for word in [*words, repr(str(path))]), message
    assert "\n" not in message


def test_long_texts_in_other_columns_are_not_held(tmp_path):
    table = TableFile(
        write(
            tmp_path / "t.jsonl",
            "".join(f'{{"user": "u{row}", "review": "{"x" * 100_000}"}}\n' for row in range(300)),
        )
    )
    tracemalloc.start()
    rows = rows_of(table, ["user"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [(f"u{row}",) for row in range(300)] and peak < 10_000_000


def test_damaged_gzip_is_refused(tmp_path):
    whole = gzip.compress(
        b"user,item\n" + "".join(f"{row},{row * row % 7919}\n" for row in range(5000)).encode()
    )
    for content in (whole[: len(whole) // 2], b"user,item\n1,2\n", whole[:-8] + b"\0" * 8):
        path = tmp_path / "t.csv.gz"
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read to its end"):
            rows_of(TableFile(path))


def test_a_missing_file_and_a_bad_separator(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.csv"):
        TableFile(tmp_path / "nowhere.csv")
    assert rows_of(TableFile(write(tmp_path / "t.csv", "a;b\n1;2,3\n"), ";")) == [("1", "2,3")]
    for name, separator in (("t.csv", "::"), ("t.jsonl", ";")):
        with pytest.raises(UserError, match="separator"):
            TableFile(write(tmp_path / name, '{"a": 1, "b": 2}\n'), separator)


def test_parquet_without_pyarrow_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install pyarrow"):
        TableFile(write(tmp_path / "t.parquet", b"PAR1"))


def test_parquet_through_the_calls_of_pyarrow(tmp_path, monkeypatch):
    """A stand-in has pyarrow's calls where it is not installed; typed columns become text."""
    columns = {
        "user": [7, None],
        "item": ["007", "x"],
        "when": [datetime(2024, 5, 1, 18), None],
        "tags": [["a", "b"], []],
    }

    class Column(list):
        to_pylist = list.copy

    class ParquetFile:
        schema_arrow = types.SimpleNamespace(names=list(columns))

        def __init__(self, path):
            assert path.read_bytes() == b"PAR1"

        def iter_batches(self, batch_size, columns):
            for row in range(2):
                chosen = {
                    name: Column(all_of_them[name][row : row + 1])
                    for name in columns or all_of_them
                }
                yield types.SimpleNamespace(
                    schema=types.SimpleNamespace(names=list(chosen)),
                    columns=list(chosen.values()),
                    num_rows=1,
                )

    all_of_them = columns
    parquet = types.ModuleType("pyarrow.parquet")
    parquet.ParquetFile = ParquetFile
    package = types.ModuleType("pyarrow")
    package.parquet = parquet
    monkeypatch.setitem(sys.modules, "pyarrow", package)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    monkeypatch.setattr(table_files.importlib.util, "find_spec", lambda name: name)
    table = TableFile(write(tmp_path / "t.parquet", b"PAR1"))
    assert rows_of(table) == [("7", "007", "2024-05-01T18:00:00", "a b"), ("", "x", "", "")]
    assert rows_of(table, ["item", "user"]) == [("007", "7"), ("x", "")]
    assert [list(piece.index) for piece in table.pieces()] == [[0], [1]]


def test_real_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"user": ["007", "NA"], "item": [1.0, 2.5], "when": pd.to_datetime(["2024-05-01", None])}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    table = TableFile(tmp_path / "t.parquet")
    assert table.columns == ["user", "item", "when"]
    assert rows_of(table) == [("007", "1.0", "2024-05-01T00:00:00"), ("NA", "2.5", "")]


def test_values_as_text():
    values = [None, float("nan"), 1.0, True, ["a", None, ["b", 2]], {"x": "y", "z": ["w"]}, ""]
    assert [as_text(value) for value in values] == ["", "", "1.0", "True", "a b 2", "y w", ""]


def test_names_of_tables():
    names = [
        "a.csv",
        "a.TSV.gz",
        "a.jsonl",
        "b.parquet",
        "amazon-beauty",
        "a.parquet.gz",
        "a.gz",
        "NAME.inter",
    ]
    assert [is_table_name(table_files.Path(name)) for name in names] == [True] * 4 + [False] * 4
