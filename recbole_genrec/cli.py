"""The command `recbole-genrec`: prepare a data set, run an experiment, write the semantic ids of a model."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import yaml

from recbole_genrec.config.settings import properties_folder
from recbole_genrec.errors import UserError
from recbole_genrec.prepare import catalog, named
from recbole_genrec.prepare.column_names import ColumnNames
from recbole_genrec.prepare.folder import CARD_NAME
from recbole_genrec.prepare.letter_files import is_letter_source, prepare_letter_files
from recbole_genrec.prepare.own_files import prepare_own_files
from recbole_genrec.prepare.table_files import is_table_name

USAGE = """usage: recbole-genrec prepare NAME                                      a public data set, downloaded
       recbole-genrec prepare my.csv --items items.csv --name NAME      files of your own
       recbole-genrec prepare folder/NAME.inter.json --name NAME        files of the LC-Rec and
       LETTER family
       recbole-genrec run --model=NAME --dataset=NAME [--setting=value ...]
       recbole-genrec ids saved/MODEL.pth --out ids.json                the semantic ids of a
       trained model
       recbole-genrec compare saved/ONE.json saved/OTHER.json           two runs, user by user, with
       intervals

recbole-genrec prepare --help says more; run takes the arguments of run_recbole_genrec.py.
"""
_OWN_FLAGS = (
    "items",
    "user_column",
    "item_column",
    "time_column",
    "rating_column",
    "item_id_column",
    "separator",
)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are one sentence, as those of all other bad input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see {self.prog} --help")


def main(arguments: list[str]) -> int:
    """Do what the arguments say.

    Returns:
        0; 2 after one sentence on stderr if the input does not allow it; 130 if it is interrupted
        from the keyboard.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    if arguments[0] == "run":
        from recbole_genrec import (
            quick_start,
        )  # imports torch, RecBole's models and more, which prepare can do without

        return quick_start.main(arguments[1:])
    try:
        with _console_log():
            _dispatch(arguments)
    except (ValueError, KeyError, ImportError, OSError) as error:
        from recbole_genrec.quick_start import refusal

        sentence = refusal(error)
        if sentence is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: the same command goes on or starts again\n")
        return 130
    return 0


def main_from_shell() -> int:
    """What the installed command calls."""
    return main(sys.argv[1:])


def _dispatch(arguments: list[str]) -> None:
    if arguments[0] == "ids":
        return _write_ids(_ids_parser().parse_args(arguments[1:]))
    if arguments[0] == "compare":
        return _compare(_compare_parser().parse_args(arguments[1:]))
    if arguments[0] != "prepare":
        raise UserError(
            f"there is no command {arguments[0]!r}: use prepare, run, ids or compare, or --help"
        )
    given = _parser().parse_args(arguments[1:])
    source, data_path = Path(given.source).expanduser(), Path(given.data_path).expanduser()
    looks_own = (
        is_letter_source(source)
        or is_table_name(source)
        or os.sep in given.source
        or source.is_file()
    )
    if looks_own or (given.name is not None and not named.is_known(given.source)):
        target = _prepare_own(given, source, data_path)
    else:
        _refuse(
            given,
            ("name", "k_core", *_OWN_FLAGS),
            f"{given.source!r} is prepared under its own name and filter",
        )
        target = named.prepare(
            given.source, data_path, given.mirror, show_progress=sys.stderr.isatty()
        )
    _report(target, given.data_path)


def _prepare_own(given: argparse.Namespace, source: Path, data_path: Path) -> Path:
    if given.name is None:
        raise UserError(
            f"{given.source!r} is a file of your own and needs a name as a data set: add --name"
        )
    _refuse(given, ("mirror",), f"nothing is downloaded for {given.source!r}")
    target = data_path / given.name
    if target.parent != data_path:
        raise UserError(
            f"the name {given.name!r} is no name of a folder: choose the folder above it with --data_path"
        )
    if source.is_dir() or is_letter_source(source):
        _refuse(given, _OWN_FLAGS, f"all of {given.source!r} has its place in files beside it")
        prepare_letter_files(source, target, given.k_core)
    else:
        columns = ColumnNames(
            given.user_column,
            given.item_column,
            given.time_column,
            given.rating_column,
            given.item_id_column,
        )
        items = None if given.items is None else Path(given.items).expanduser()
        prepare_own_files(source, items, target, columns, given.k_core, given.separator)
    return target


def _refuse(given: argparse.Namespace, flags: tuple[str, ...], reason: str) -> None:
    used = [f"--{flag}" for flag in flags if getattr(given, flag) is not None]
    if used:
        raise UserError(f"{reason}, so {' and '.join(used)} cannot be given: leave it out")


def _report(target: Path, data_path: str) -> None:
    counts = json.loads((target / CARD_NAME).read_text(encoding="utf-8"))["counts"]
    files = ", ".join(sorted(file.name for file in target.iterdir()))
    start = (
        "python run_recbole_genrec.py"
        if os.path.isfile("run_recbole_genrec.py")
        else "recbole-genrec run"
    )
    elsewhere = (
        "" if data_path == _default_data_path() else f" {shlex.quote(f'--data_path={data_path}')}"
    )
    sys.stdout.write(
        f"{target}: {files}\n"
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions\n"
        f"next: {start} --model=TIGER --dataset={target.name}{elsewhere}\n"
    )


def _write_ids(given: argparse.Namespace) -> None:
    from recbole_genrec.quick_start import load
    from recbole_genrec.semantic_ids.id_files import write_semantic_ids

    _, model, data, *_ = load(
        given.checkpoint, {} if given.data_path is None else {"data_path": given.data_path}
    )
    ids = model.semantic_ids
    if not ids.is_assigned:
        raise UserError(
            f"{given.checkpoint!r} was written before its items had names: train on, or give the .pth file of a whole run"
        )
    write_semantic_ids(
        given.out, model.item_tokens, ids.codes[1:], ids.level_sizes, data.dataset_name, given.style
    )
    counter = f" and a counter of {ids.level_sizes[-1]}" if ids.n_levels > ids.n_code_levels else ""
    sys.stdout.write(
        f"{given.out}: {len(model.item_tokens):,} items of {data.dataset_name}, {ids.n_code_levels} levels of {ids.level_sizes[0]} codes"
        f"{counter}\nnext: --semantic_ids_file={shlex.quote(given.out)} --n_levels={ids.n_code_levels} "
        f"--codebook_size={ids.level_sizes[0]} --counter_size={model.config['counter_size']}\n"
    )


def _ids_parser() -> argparse.ArgumentParser:
    about = "Write the semantic ids of a trained model, for semantic_ids_file or other programs."
    parser = _Parser(prog="recbole-genrec ids", allow_abbrev=False, description=about)
    parser.add_argument("checkpoint", help="the .pth file of a run of a generative model")
    parser.add_argument("--out", required=True, help="the JSON file to write")
    parser.add_argument(
        "--style",
        choices=("own", "letter"),
        default="own",
        help="letter: an index.json as LC-Rec and LETTER have them",
    )
    parser.add_argument(
        "--data_path", help="folder of the data sets, if it has moved since the run"
    )
    return parser


def _compare(given: argparse.Namespace) -> None:
    from recbole_genrec.results.significance import compare_records

    sys.stdout.write(
        compare_records(
            Path(given.first), Path(given.second), given.metrics and given.metrics.split(",")
        )
    )


def _compare_parser() -> argparse.ArgumentParser:
    about = "Compare two runs on the same users: differences of the test metrics with 95 %% bootstrap intervals over users."
    parser = _Parser(prog="recbole-genrec compare", allow_abbrev=False, description=about)
    parser.add_argument("first", help="the .json file that a run wrote beside its checkpoint")
    parser.add_argument(
        "second", help="that of the other run; the differences are this one's minus the first one's"
    )
    parser.add_argument(
        "--metrics",
        help="such as recall@10,ndcg@10 (default: all metrics of ranked lists that the first run has)",
    )
    return parser


def _default_data_path() -> str:
    return yaml.safe_load((properties_folder() / "overall.yaml").read_text(encoding="utf-8"))[
        "data_path"
    ]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="recbole-genrec prepare",
        allow_abbrev=False,
        description="Make a data set: a public one by its name, or one of your own files (docs/data.md has examples).",
        epilog=f"Public data sets: {', '.join(catalog.dump_names())}.",
    )
    parser.add_argument(
        "source",
        help="NAME of a public data set; .csv, .tsv, .jsonl (also .gz) or .parquet; NAME.inter.json or its folder",
    )
    parser.add_argument("--name", help="name of the data set that your files become")
    parser.add_argument("--items", help="table with one row per item: its id and text")
    for role in ("user", "item", "time", "rating"):
        parser.add_argument(
            f"--{role}_column", help=f"column of the {role} where it is not to be guessed"
        )
    parser.add_argument("--item_id_column", help="column of the item ids in --items")
    parser.add_argument(
        "--separator", help="what separates the columns of CSV and TSV files, such as ';'"
    )
    parser.add_argument(
        "--k_core",
        type=int,
        help="leave only users and items with this many interactions or more (default: all)",
    )
    parser.add_argument(
        "--data_path",
        default=_default_data_path(),
        help="folder of the data sets (default: %(default)s)",
    )
    parser.add_argument("--mirror", help="address that is asked first for a public data set")
    return parser


@contextmanager
def _console_log() -> Iterator[None]:
    """Show what this package logs on stderr; afterwards all is as before."""
    log = logging.getLogger("recbole_genrec")
    level, handler = log.level, logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
