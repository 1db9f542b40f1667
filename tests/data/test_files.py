from __future__ import annotations

import logging
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recbole_genrec import prepare
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.data import files
from recbole_genrec.data.files import InteractionFile, ensure_folder, read_header
from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.quick_start import create_dataset
from recbole_genrec.runtime import distributed

COLUMNS = {"u:token": True, "i:token": True, "t:float": False}


def read_columns(path, columns, separator="\t", encoding="utf-8"):
    """Read a file whose columns are u, i and t."""
    fields = {"USER_ID_FIELD": "u", "ITEM_ID_FIELD": "i", "TIME_FIELD": "t"}
    with InteractionFile(
        path, {"field_separator": separator, "encoding": encoding, **fields}
    ) as file:
        return file.read_columns(columns)


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "some.inter"
        path.write_bytes(text.encode(encoding))
        return str(path)

    return write


def by_pandas_python_engine(path, columns, separator="\t", encoding="utf-8"):
    """RecBole's call."""
    types = {name: str if is_token else np.float64 for name, is_token in columns.items()}
    return pd.read_csv(
        path,
        delimiter=separator,
        usecols=list(columns),
        dtype=types,
        encoding=encoding,
        engine="python",
    )


def assert_same_table(ours, theirs):
    assert list(ours.columns) == list(theirs.columns)
    assert ours.index.tolist() == theirs.index.tolist()
    for name in theirs:
        assert ours[name].isna().tolist() == theirs[name].isna().tolist()
        assert ours[name].dropna().tolist() == theirs[name].dropna().tolist(), name


def random_table(n_rows):
    generator = np.random.default_rng(0)
    users = [f"u{number}" for number in generator.integers(1 + n_rows // 3, size=n_rows)]
    items = [
        ["NA", "", "0012", "12", "a b", " a", "nön", "x'y"][number]
        for number in generator.integers(8, size=n_rows)
    ]
    times = [f"{time:.4f}" for time in 10 ** generator.uniform(0, 10, n_rows)]
    lines = ["\t".join(row) for row in zip(users, items, times)]
    return "u:token\ti:token\tt:float\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize("rows_at_once", [1, 7, 100, 10**6])
def test_tables_equal_those_of_recboles_reader(write, monkeypatch, rows_at_once):
    monkeypatch.setattr(files, "_ROWS_AT_ONCE", rows_at_once)
    path = write(random_table(500))
    ours = read_columns(path, COLUMNS, "\t", "utf-8")
    assert_same_table(ours, by_pandas_python_engine(path, COLUMNS))
    for name in ("u:token", "i:token"):
        assert ours[name].cat.categories.tolist() == ours[name].dropna().unique().tolist(), (
            "in the order of their first appearance"
        )


def test_numbers_are_those_of_python(write):
    texts = [
        "1400000000.1",
        "0.1",
        "11072287190.462679",
        "1e3",
        "9007199254740993",
        "123456789012345678901",
        "-0.0",
        "inf",
        "3.5751599441431876e-13",
    ]
    path = write("u:token\ti:token\tt:float\n" + "".join(f"a\tx\t{text}\n" for text in texts))
    ours = read_columns(path, {"u:token": True, "t:float": False})["t:float"]
    assert ours.tolist() == [float(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "u:token\ti:token\tt:float\r\na\tx\t1\r\nb\ty\t2\r\n",
        "u:token\ti:token\tt:float\na\tx\t1\n\nb\ty\t2",
        "t:float\textra:float_seq\ti:token\tu:token\n1\t1 2\tx\ta\n2\t\ty\tb\n",
        "u:token\ti:token\tt:float\na\tx\nnull\t\t\nb\ty\t2\n",
        "u:token\ti:token\tt:float\n",
    ],
)
def test_unusual_files_equal_those_of_recboles_reader(write, text):
    path = write(text)
    order = {name: COLUMNS[name] for name in read_header(path, "\t", "utf-8") if name in COLUMNS}
    assert_same_table(
        read_columns(path, order, "\t", "utf-8"), by_pandas_python_engine(path, order)
    )


def test_surplus_fields_are_ignored(write, recwarn):
    path = write("u:token\ti:token\tt:float\na\tx\t1\t\nb\ty\t2\t\n")
    table = read_columns(path, COLUMNS, "\t", "utf-8")
    assert table["u:token"].tolist() == ["a", "b"] and table["t:float"].tolist() == [1, 2]


def test_other_separators_and_encodings(write):
    path = write("u:token,i:token,t:float\nü,x,1\n", encoding="latin-1")
    assert read_columns(path, COLUMNS, ",", "latin-1")["u:token"].tolist() == ["ü"]


def test_unreadable_files_are_one_sentence(write):
    for text, encoding, reason in (
        ("a\tx\tsoon\n", "utf-8", "soon"),
        ("ü\tx\t1\n", "latin-1", "utf-8"),
    ):
        path = write("u:token\ti:token\tt:float\n" + text, encoding)
        with pytest.raises(
            UserError,
            match=f"some.inter' cannot be read .*{reason}.*: check how the file was written",
        ):
            read_columns(path, COLUMNS, "\t", "utf-8")


@pytest.mark.parametrize(
    "text, separator",
    [
        ('u:token\ti:token\tt:float\na\tthe "x"\t1\n', "\t"),
        ('u:token\ti:token\tt:float\t"r":float\na\tx\t1\t1\n', "\t"),
        ("u:token::i:token::t:float\na::x::1\n", "::"),
    ],
)
def test_quotes_and_long_separators_are_left_to_recbole(write, text, separator):
    assert read_columns(write(text), COLUMNS, separator) is None


def test_an_unknown_encoding_is_refused(write):
    with pytest.raises(UserError, match="encoding is 'utf-9', but Python knows no such encoding"):
        read_columns(write("u:token\ti:token\tt:float\n"), COLUMNS, encoding="utf-9")


def test_a_quote_at_the_end_of_a_large_file_is_found(write):
    rows = "a\tx\t1\n" * 100_000
    assert read_columns(write(f'u:token\ti:token\tt:float\n{rows}a\t"x"\t1\n'), COLUMNS) is None


def test_headers_are_checked(write):
    read_columns(write("u:token\ti:token\tt:float\tr:float\na\tx\t1\t1\n"), COLUMNS)
    wrong = {
        "u:token\ti:token\n": r"lacks \['t'\]",
        "u:token\ti:token\tt:token\n": "declares 't' as 'token'",
        "u\n": "'name:type'",
        "u:token\tu:token\ti:token\tt:float\n": "'name:type'",
    }
    for header, message in wrong.items():
        with pytest.raises(UserError, match=message):
            read_columns(write(header), COLUMNS)
    with pytest.raises(MissingFileError, match=r"has no file 'other.inter'"):
        read_columns(write("").replace("some", "other"), COLUMNS)


class Calls(list):
    """Stands in for recbole_genrec.prepare.named."""

    @staticmethod
    def is_known(name):
        return name.startswith("public")

    def prepare(self, name, data_path, mirror, show_progress):
        self.append((name, str(data_path), mirror, show_progress))


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(prepare, "named", calls, raising=False)
    return calls


def settings(folder, **others):
    return {
        "data_path": str(folder),
        "dataset": folder.name,
        "mirror": None,
        "show_progress": False,
        "local_rank": 0,
        **others,
    }


def test_a_missing_public_data_set_is_prepared_and_one_that_is_there_is_left_alone(calls, tmp_path):
    ensure_folder(
        settings(tmp_path / "public-toys", mirror="http://127.0.0.1:1/raw", show_progress=True)
    )
    assert calls == [("public-toys", str(tmp_path), "http://127.0.0.1:1/raw", True)]
    (tmp_path / "public-games").mkdir()
    ensure_folder(settings(tmp_path / "public-games"))
    ensure_folder({**settings(tmp_path / "public-games"), "data_path": f"{tmp_path}/public-games/"})
    assert len(calls) == 1


def test_only_the_first_process_of_a_machine_prepares_and_all_wait(calls, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(distributed, "barrier", lambda: waits.append(len(calls)))
    ensure_folder(settings(tmp_path / "public-toys", local_rank=1))
    ensure_folder(settings(tmp_path / "public-toys"))
    with pytest.raises(MissingFileError):
        ensure_folder(settings(tmp_path / "nowhere"))
    assert waits == [0, 1, 1], "also if the folder cannot be made"


@pytest.mark.parametrize("model", ["SASRec", "Pop", "TIGER"])
def test_every_model_has_its_missing_data_prepared(calls, tmp_path, monkeypatch, caplog, model):
    def prepare(name, data_path, mirror, show_progress):
        folder = tmp_path / name
        folder.mkdir()
        rows = "".join(f"u{user}\ti{item}\t{item}\n" for user in range(3) for item in range(5))
        (folder / f"{name}.inter").write_text(
            "user_id:token\titem_id:token\ttimestamp:float\n" + rows
        )
        assert mirror == "some/folder"

    monkeypatch.setattr(calls, "prepare", prepare, raising=False)
    given = {"data_path": str(tmp_path), "mirror": "some/folder", "show_progress": False}
    with caplog.at_level(logging.ERROR):
        data = create_dataset(GenRecConfig(model, "public-toys", config_dict=given))
    assert (data.user_num, data.item_num, data.inter_num) == (4, 6, 15)


def test_a_name_that_nobody_knows_is_one_sentence(calls, tmp_path):
    with pytest.raises(
        MissingFileError,
        match=re.escape(
            f"{tmp_path / 'nowhere'}' does not exist and RecBole knows no download for it"
        ),
    ):
        ensure_folder(settings(tmp_path / "nowhere"))
    assert calls == [] and list(tmp_path.iterdir()) == []


def test_models_import_no_downloader():
    """The downloader is imported by the first run that lacks a folder."""
    code = (
        "import sys, recbole_genrec.model.tiger; sys.exit('recbole_genrec.prepare' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
