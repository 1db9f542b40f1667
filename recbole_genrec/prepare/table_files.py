"""Read a user's own tables piece by piece, with every value as text.

Formats: CSV, TSV, JSON lines and Parquet.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import itertools
import json
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from recbole_genrec.errors import MissingFileError, MissingPackageError, UserError

_KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "json lines",
    ".parquet": "parquet",
}
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_PIECE_ROWS = 500_000
_LINES_FOR_KEYS = 1000


def is_table_name(path: Path) -> bool:
    """Return True if TableFile reads files with this ending."""
    return _kind(path) is not None


def as_text(value: Any) -> str:
    """Return a value as text.

    None and NaN are the empty string; entries of lists and values of mappings are joined by spaces.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return " ".join(filter(None, map(as_text, value)))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


class TableFile:
    """A file of rows with named columns.

    Args:
        path: .csv, .tsv, .jsonl, .ndjson or .json (one object per line), any of these with .gz;
            .parquet.
        separator: column separator of a CSV or TSV file; None for comma or tab, by its name.

    Attributes:
        path: as given.
        columns: names of the columns in file order; for JSON lines, the keys of the first 1000
            lines.

    Raises:
        MissingFileError: there is no such file.
        MissingPackageError: the file is Parquet and pyarrow is not installed.
        UserError: the file is of another kind, empty, damaged or not UTF-8, it has only one column,
            or two columns share a name.
    """

    def __init__(self, path: Path, separator: str | None = None):
        if not path.is_file():
            raise MissingFileError(f"there is no file {str(path)!r}: check the path")
        self.path, kind = path, _kind(path)
        if kind is None:
            raise UserError(
                f"{str(path)!r} is no table that can be read: give a file that ends with "
                f"{', '.join(_KINDS)} (text also .gz)"
            )
        if separator is not None and (kind not in _SEPARATORS or len(separator) != 1):
            raise UserError(
                f"the separator {separator!r} for {str(path)!r} is not one character of a CSV or "
                "TSV file: leave it out"
            )
        if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise MissingPackageError(
                f"{str(path)!r} is Parquet, and pyarrow is not installed: "
                "run `pip install pyarrow`, or write it as CSV"
            )
        self._kind, self._separator = kind, separator or _SEPARATORS.get(kind, ",")
        with self._in_one_sentence():
            self.columns = self._read_columns()
        self._check_columns()

    def pieces(self, columns: list[str] | None = None) -> Iterator[pd.DataFrame]:
        """Yield the rows in file order, at most 500,000 per table; a missing value is "".

        The index continues from one piece to the next; describe_row() translates it for messages.

        Args:
            columns: names of the columns to read; None for all, including keys that appear only
                in late JSON lines.
        """
        with self._in_one_sentence():
            if self._kind == "parquet":
                yield from self._parquet_pieces(columns)
            elif self._kind == "json lines":
                yield from self._json_pieces(columns)
            else:
                yield from self._csv_pieces(columns)

    def describe_row(self, row: int) -> str:
        """Return words for a row, which is counted from 0 as in the index of pieces()."""
        if self._kind in _SEPARATORS:
            return f"row {row + 1} below the header of {str(self.path)!r}"
        return f"row {row + 1} of {str(self.path)!r}"

    def _read_columns(self) -> list[str]:
        if self._kind == "parquet":
            from pyarrow import parquet

            return list(parquet.ParquetFile(self.path).schema_arrow.names)
        if self._kind == "json lines":
            first = itertools.islice(self._records(), _LINES_FOR_KEYS)
            return list(dict.fromkeys(key for record in first for key in record))
        with self._open() as file:
            return next(csv.reader(file, delimiter=self._separator), [])

    def _check_columns(self) -> None:
        names = self.columns
        if not names:
            raise UserError(f"{str(self.path)!r} is empty: it needs a header and rows")
        if len(names) == 1:
            advice = (
                'name its separator, such as --separator=";"'
                if self._kind in _SEPARATORS
                else "give one with more"
            )
            raise UserError(f"{str(self.path)!r} has one column only, {names[0]!r}: {advice}")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise UserError(
                f"{str(self.path)!r} has more than one column {repeated[0]!r}: "
                "give each a name of its own"
            )

    def _open(self) -> TextIO:
        opener = gzip.open if self.path.suffix.lower() == ".gz" else open
        return opener(self.path, "rt", encoding="utf-8-sig", newline="")

    def _csv_pieces(self, columns: list[str] | None) -> Iterator[pd.DataFrame]:
        with self._open() as file:
            quoted = self._kind == "csv" or '"' in file.readline()
        with self._open() as file:
            # All columns are read: pandas overlooks rows that are too long if it reads only some.
            reader = pd.read_csv(
                file,
                sep=self._separator,
                header=0,
                names=self.columns,
                index_col=False,
                dtype=str,
                na_filter=False,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                chunksize=_PIECE_ROWS,
            )
            while True:
                with warnings.catch_warnings():
                    # pandas only warns about a first row that is longer than the header.
                    warnings.simplefilter("error", pd.errors.ParserWarning)
                    piece = next(reader, None)
                if piece is None:
                    return
                yield piece if columns is None else piece[columns]

    def _json_pieces(self, columns: list[str] | None) -> Iterator[pd.DataFrame]:
        records, n_rows = self._records(), 0
        if columns is not None:
            # Drop long texts beside the requested columns at once, to save memory.
            records = ({name: record.get(name) for name in columns} for record in records)
        while True:
            rows = list(itertools.islice(records, _PIECE_ROWS))
            if not rows:
                return
            names = columns or list(dict.fromkeys(key for row in rows for key in row))
            index = range(n_rows, n_rows + len(rows))
            yield pd.DataFrame(
                {name: [as_text(row.get(name)) for row in rows] for name in names},
                index=index,
                dtype=object,
            )
            n_rows += len(rows)

    def _records(self) -> Iterator[dict[str, Any]]:
        with self._open() as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    # Numbers stay as they are written: 1.0 may be an id.
                    record = json.loads(line, parse_int=str, parse_float=str)
                except json.JSONDecodeError as error:
                    raise UserError(
                        f"line {number} of {str(self.path)!r} is no JSON ({error.msg}): "
                        "write one JSON object per line"
                    ) from error
                if not isinstance(record, dict):
                    raise UserError(
                        f"line {number} of {str(self.path)!r} is no JSON object: "
                        "write one object with named values per line"
                    )
                yield record

    def _parquet_pieces(self, columns: list[str] | None) -> Iterator[pd.DataFrame]:
        from pyarrow import parquet

        n_rows = 0
        for batch in parquet.ParquetFile(self.path).iter_batches(
            batch_size=_PIECE_ROWS, columns=columns
        ):
            texts = {
                name: [as_text(value) for value in column.to_pylist()]
                for name, column in zip(batch.schema.names, batch.columns)
            }
            yield pd.DataFrame(texts, index=range(n_rows, n_rows + batch.num_rows), dtype=object)
            n_rows += batch.num_rows

    @contextmanager
    def _in_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(
                f"{str(self.path)!r} is not UTF-8 (it holds the byte 0x{byte:02x}): "
                "save it as UTF-8, for example with `iconv -f latin1 -t utf-8`"
            ) from error
        except (pd.errors.ParserError, pd.errors.ParserWarning, csv.Error) as error:
            reason = (
                str(error).strip().replace("Error tokenizing data. C error: ", "").split("\n")[0]
            )
            raise UserError(
                f"{str(self.path)!r} is no table ({reason}): every row needs as many values as the "
                "header, and values that hold the separator need quotation marks"
            ) from error
        except (EOFError, zlib.error, OSError) as error:
            raise UserError(
                f"{str(self.path)!r} cannot be read to its end ({error}): fetch or write it again"
            ) from error


def _kind(path: Path) -> str | None:
    is_packed = path.suffix.lower() == ".gz"
    kind = _KINDS.get((path.with_suffix("") if is_packed else path).suffix.lower())
    return None if is_packed and kind == "parquet" else kind
