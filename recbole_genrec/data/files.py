"""The files of a data set: found or fetched, checked and read."""

# Shapes: N interactions.

from __future__ import annotations

import codecs
import io
import os
import shutil
import tempfile
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recbole
import yaml
from recbole.utils.url import decide_download, download_url, extract_zip, rename_atomic_files

from recbole_genrec.errors import MissingFileError, UserError
from recbole_genrec.runtime import distributed

_ROWS_AT_ONCE = 2**19  # rows of a file that are held as Python strings at once


def ensure_folder(config: Any) -> None:
    """Make the data set's folder if it is missing: from a public dump, or by RecBole's download.

    Reads data_path (the data set's own folder), dataset, mirror, show_progress and local_rank. Of
    several processes the first of each machine makes the folder and the others wait.

    Raises:
        MissingFileError: the folder is missing and cannot be made.
        UserError: a file of the public dump is not what it should be.
    """
    folder = os.path.normpath(config["data_path"])
    with distributed.machine_first(config["local_rank"]) as is_first:
        if not is_first or os.path.exists(folder):
            return
        from recbole_genrec.prepare import named  # a downloader that few runs need

        parent = os.path.dirname(folder) or "."
        if named.is_known(config["dataset"]):
            named.prepare(config["dataset"], parent, config["mirror"], config["show_progress"])
        else:
            _download(config["dataset"], folder, parent)


def _download(name: str, folder: str, parent: str) -> None:
    """Fetch a data set that RecBole knows; its folder appears only when it is complete."""
    addresses = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
    url = yaml.safe_load(addresses.read_text(encoding="utf-8")).get(name)
    advice = (
        f"put {name}.inter into it, or set --data_path to the folder that holds the folder of "
        "this data set"
    )
    if url is None:
        raise MissingFileError(
            f"the data folder {folder!r} does not exist and RecBole knows no download for it: "
            f"{advice}"
        )
    unfinished = None
    try:
        os.makedirs(parent, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix=f".{name}-", dir=parent)
        if not decide_download(url):
            raise OSError("the download was declined")
        archive = download_url(url, unfinished)
        extract_zip(archive, unfinished)
        os.unlink(archive)
        rename_atomic_files(unfinished, os.path.splitext(os.path.basename(archive))[0], name)
        os.chmod(unfinished, 0o755)
        os.replace(unfinished, folder)
    # TypeError: RecBole's download needs a Content-Length; the log-in page of a network may have
    # none.
    except (OSError, RuntimeError, EOFError, HTTPException, zipfile.BadZipFile, TypeError) as error:
        if os.path.exists(folder):
            return  # another process was faster
        raise MissingFileError(
            f"the data folder {folder!r} does not exist and {url} cannot be downloaded ({error}): "
            f"{advice}"
        ) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def read_header(path: str, separator: str, encoding: str) -> list[str]:
    """Return the columns of an atomic file, each 'name:type', as its first line names them.

    Bytes of another encoding are replaced: whatever reads the lines below refuses them.
    """
    with open(path, encoding=encoding, errors="replace") as file:
        return file.readline().rstrip("\r\n").split(separator)


class _Quoted(Exception):
    """The file has a quotation mark."""


class InteractionFile(io.TextIOWrapper):
    """An .inter file, opened once: its header is checked, then its columns are read.

    Attributes:
        header: its columns, each 'name:type'.

    Raises:
        MissingFileError: there is no such file.
        UserError: the encoding is unknown, or the header is malformed, lacks users, items or times,
            or declares the time as something else than a number.
    """

    def __init__(self, path: str, config: Any) -> None:
        if not os.path.isfile(path):
            raise MissingFileError(
                f"the folder {os.path.dirname(path)!r} has no file {os.path.basename(path)!r}: put "
                "RecBole's atomic interaction file there, or point --data_path at the folder that "
                "holds the data set"
            )
        encoding = config["encoding"] or "utf-8"  # RecBole sets none; pandas takes UTF-8
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise UserError(
                f"encoding is {encoding!r}, but Python knows no such encoding: "
                "name one such as utf-8"
            ) from error
        super().__init__(open(path, "rb"), encoding=encoding, newline="")  # noqa: SIM115
        self.path, self.separator = path, config["field_separator"]
        try:
            self.header = super().readline().rstrip("\r\n").split(self.separator)
            _check_header(path, self.header, config)
        except BaseException as error:
            self.close()
            if isinstance(error, UnicodeDecodeError):
                raise _unreadable(path, error) from error
            raise

    def read(self, size: int | None = -1) -> str:
        """Read text without quotation marks, which only RecBole's reader understands."""
        text = super().read(size)
        if '"' in text:
            raise _Quoted
        return text

    def read_columns(self, columns: dict[str, bool]) -> pd.DataFrame | None:
        """Read columns in blocks.

        Values are as read by RecBole, in a fraction of its time and memory. Tokens
        stay the strings of the file, except where pandas sees a missing value, such as an empty
        string, NA or null. Numbers are exact; RecBole's reader may lose digits after the 15th.
        Fields beyond the header's are ignored.

        Args:
            columns: 'name:type' of the header -> whether it holds tokens (or else numbers), in the
                order of the file.

        Returns:
            DataFrame [N] with tokens as Categorical and numbers as float64. None for a file with a
            quotation mark or a separator of several characters, which only RecBole's reader
            understands.

        Raises:
            UserError: the file cannot be decoded, or a number is none.
        """
        if len(self.separator) != 1:
            return None
        parts = {name: _TokenColumn() if columns[name] else _NumberColumn() for name in columns}
        layout: dict[str, Any] = {
            "sep": self.separator,
            "usecols": list(columns),
            "dtype": {name: object if columns[name] else np.float64 for name in columns},
            "float_precision": "round_trip",  # or times that differ in a late digit become equal
        }
        self.seek(0)
        try:
            with pd.read_csv(self, engine="c", chunksize=_ROWS_AT_ONCE, **layout) as blocks:
                for block in blocks:
                    for name, part in parts.items():
                        part.append(block[name].to_numpy())
        except _Quoted:
            return None
        except ValueError as error:
            raise _unreadable(self.path, error) from error
        return pd.DataFrame({name: part.join() for name, part in parts.items()}, copy=False)


def _unreadable(path: str, error: ValueError) -> UserError:
    return UserError(f"{path!r} cannot be read ({error}): check how the file was written")


def _check_header(path: str, header: list[str], config: Any) -> None:
    time_field = config["TIME_FIELD"]
    fields = dict(column.split(":") for column in header if column.count(":") == 1)
    if len(fields) != len(header):
        raise UserError(
            f"the first line of {path!r} is {config['field_separator'].join(header)!r}, but "
            "RecBole needs columns named 'name:type': write a header such as "
            "'user_id:token<TAB>item_id:token<TAB>timestamp:float'"
        )
    needed = (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], time_field)
    missing = [field for field in needed if field not in fields]
    if missing:
        raise UserError(
            f"{path!r} has the columns {list(fields)} and lacks {missing}: add them, or name your "
            "columns with USER_ID_FIELD, ITEM_ID_FIELD and TIME_FIELD"
        )
    if fields[time_field] != "float":
        raise UserError(
            f"{path!r} declares {time_field!r} as {fields[time_field]!r}, but time order needs a "
            f"number: write '{time_field}:float' in its header"
        )


class _NumberColumn:
    """Blocks of numbers."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []

    def append(self, numbers: np.ndarray) -> None:
        """Add a block, float64 [rows]."""
        self._blocks.append(numbers)

    def join(self) -> np.ndarray:
        """Return all blocks as one."""
        return np.concatenate(self._blocks)


class _TokenColumn:
    """Blocks of tokens as integers; each distinct token is held once or twice."""

    def __init__(self) -> None:
        self._codes: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []
        self._n_tokens = self._n_joined = 0

    def append(self, tokens: np.ndarray) -> None:
        """Add a block, object [rows]."""
        codes, uniques = pd.factorize(tokens)
        self._codes.append(np.where(codes < 0, -1, codes + self._n_tokens).astype(np.int32))
        self._tokens.append(uniques)
        self._n_tokens += len(uniques)
        # Joining whenever the tokens have doubled costs no more than reading them.
        if self._n_tokens > 2 * self._n_joined + _ROWS_AT_ONCE:
            self._join_tokens()

    def _join_tokens(self) -> None:
        codes, tokens = pd.factorize(np.concatenate(self._tokens))
        # The code -1 of a missing token takes the last entry.
        codes = np.append(codes, -1).astype(np.int32)
        self._codes = [codes[block] for block in self._codes]
        self._tokens, self._n_tokens, self._n_joined = [tokens], len(tokens), len(tokens)

    def join(self) -> pd.Categorical:
        """Return all blocks as one, the tokens in the order in which they first appear."""
        self._join_tokens()
        return pd.Categorical.from_codes(
            np.concatenate(self._codes), pd.Index(self._tokens[0], dtype=object)
        )
