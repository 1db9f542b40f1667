"""The files of a data set: found or fetched, checked and read."""

# Shapes: N interactions.

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from http.client import HTTPException
from pathlib import Path

import numpy as np
import pandas as pd
import recbole
import torch
import yaml
from recbole.utils.url import decide_download, download_url, extract_zip, rename_atomic_files

from recbole_genrec.errors import MissingFileError, UserError

_ROWS_AT_ONCE = 2**19  # of a file: what is read at once is held as Python strings
_BYTES_AT_ONCE = 2**24


def ensure_folder(config) -> None:
    """Make the data set's folder if it is missing: from a public dump, or by RecBole's download.

    Reads data_path (the data set's own folder), dataset, mirror and show_progress. In a distributed
    run the first process of the
    machine does it and the others wait.

    Raises:
        FileNotFoundError, ValueError: the folder is missing and cannot be made.
    """
    # Imported here: only this function needs the download, and prepare imports from this room.
    from recbole_genrec.prepare import named

    folder = os.path.normpath(config["data_path"])
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    try:
        if config["local_rank"] == 0 and not os.path.exists(folder):
            parent = os.path.dirname(folder) or "."
            if named.is_known(config["dataset"]):
                named.prepare(config["dataset"], parent, config["mirror"], config["show_progress"])
            else:
                _download(config["dataset"], folder, parent)
    finally:
        # RecBole waits here even when there is no process group, which ends the first run of a
        # single process.
        if distributed:
            torch.distributed.barrier()


def _download(name: str, folder: str, parent: str) -> None:
    """Fetch a data set that RecBole knows. The folder appears only when it is complete: what is interrupted is tried again."""
    addresses = Path(recbole.__file__).parent / "properties" / "dataset" / "url.yaml"
    url = yaml.safe_load(addresses.read_text(encoding="utf-8")).get(name)
    advice = f"put {name}.inter into it, or set --data_path to the folder that holds the folder of this data set"
    if url is None:
        raise MissingFileError(
            f"the data folder {folder!r} does not exist and RecBole knows no download for it: {advice}"
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
    # TypeError: RecBole's download wants a Content-Length, which the log-in page of a network may
    # lack.
    except (OSError, RuntimeError, EOFError, HTTPException, zipfile.BadZipFile, TypeError) as error:
        if os.path.exists(folder):
            return  # another process was faster
        raise MissingFileError(
            f"the data folder {folder!r} does not exist and {url} cannot be downloaded ({error}): {advice}"
        ) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def read_header(path: str, separator: str, encoding: str) -> list[str]:
    """The columns of an atomic file as its first line names them, each 'name:type'.

    Bytes of another encoding are no error here: it is in the lines below that they matter, and what
    reads these refuses them.
    """
    with open(path, encoding=encoding, errors="replace") as file:
        return file.readline().rstrip("\r\n").split(separator)


def check_inter_file(path: str, config) -> None:
    """Check that an interaction file is there and has users, items and times.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its header is malformed, lacks a column, or declares the time as something else
            than a number.
    """
    if not os.path.isfile(path):
        raise MissingFileError(
            f"the folder {os.path.dirname(path)!r} has no file {os.path.basename(path)!r}: "
            "put RecBole's atomic interaction file there, or point --data_path at the folder that holds the data set"
        )
    separator, time_field = config["field_separator"], config["TIME_FIELD"]
    header = read_header(path, separator, config["encoding"])
    fields = dict(column.split(":") for column in header if column.count(":") == 1)
    if len(fields) != len(header):
        raise UserError(
            f"the first line of {path!r} is {separator.join(header)!r}, but RecBole needs columns named "
            "'name:type': write a header such as 'user_id:token<TAB>item_id:token<TAB>timestamp:float'"
        )
    missing = [
        field
        for field in (config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], time_field)
        if field not in fields
    ]
    if missing:
        raise UserError(
            f"{path!r} has the columns {list(fields)} and lacks {missing}: "
            "add them, or name your columns with USER_ID_FIELD, ITEM_ID_FIELD and TIME_FIELD"
        )
    if fields[time_field] != "float":
        raise UserError(
            f"{path!r} declares {time_field!r} as {fields[time_field]!r}, but time order needs a number: "
            f"write '{time_field}:float' in its header"
        )


def is_plain(path: str, separator: str) -> bool:
    """Whether read_columns reads a file exactly as RecBole does: one separating character, and no quotes to be understood."""
    if len(separator) != 1:
        return False
    with open(path, "rb") as file:
        return not any(b'"' in block for block in iter(lambda: file.read(_BYTES_AT_ONCE), b""))


def read_columns(
    path: str, columns: dict[str, bool], separator: str, encoding: str
) -> pd.DataFrame:
    """Read columns of a large atomic file; values are those of RecBole's reader, in a fraction of its time and memory.

    Tokens stay the strings of the file, except for those that pandas takes for a missing value,
    such as an empty one, NA or null.
    Numbers are exact, where RecBole's reader may lose the digits after the 15th. Fields beyond the
    header's are ignored.

    Args:
        columns: 'name:type' of the header -> whether it holds tokens (or else numbers), in the
            order of the file.

    Returns:
        DataFrame [N]: tokens as Categorical, numbers as float64.

    Raises:
        ValueError: the file cannot be decoded, or a number is none.
    """
    parts: dict[str, list[np.ndarray] | _TokenColumn] = {
        name: _TokenColumn() if columns[name] else [] for name in columns
    }
    types = {name: object if columns[name] else np.float64 for name in columns}
    layout = {"sep": separator, "encoding": encoding, "usecols": list(columns), "dtype": types}
    try:
        # Only round_trip keeps times apart that differ in a late digit.
        with pd.read_csv(
            path, engine="c", float_precision="round_trip", chunksize=_ROWS_AT_ONCE, **layout
        ) as blocks:
            for block in blocks:
                for name, part in parts.items():
                    part.append(block[name].to_numpy())
    except ValueError as error:
        raise UserError(
            f"{path!r} cannot be read ({error}): check how the file was written"
        ) from error
    return pd.DataFrame(
        {
            name: part.join() if columns[name] else np.concatenate(part)
            for name, part in parts.items()
        },
        copy=False,
    )


class _TokenColumn:
    """Blocks of tokens as integers, each different token held once or twice."""

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
        """All blocks in one; the tokens in the order in which they first appear."""
        self._join_tokens()
        return pd.Categorical.from_codes(
            np.concatenate(self._codes), pd.Index(self._tokens[0], dtype=object)
        )
