"""The command `recbole-genrec`: prepare a data set, run experiments, export ids, compare runs.

Each command parses its arguments, calls the package and prints. Heavy modules are imported by the
commands that need them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from recbole_genrec.errors import UserError, disk_errors

USAGE = """\
usage: recbole-genrec prepare NAME
           make a public data set, downloaded
       recbole-genrec prepare my.csv --items items.csv --name NAME
           make a data set from files of your own
       recbole-genrec prepare folder/NAME.inter.json --name NAME
           make a data set from files of the LC-Rec and LETTER family
       recbole-genrec run --model=NAME --dataset=NAME [--setting=value ...]
           train and test a model, or several models and their table
       recbole-genrec ids saved/MODEL.pth --out ids.json
           write the semantic ids of a trained model
       recbole-genrec compare saved/ONE.json saved/OTHER.json
           compare two runs user by user, with intervals

recbole-genrec COMMAND --help says more.
"""
RUN_USAGE = """\
usage: recbole-genrec run [--model=NAME[,NAME...]] [--dataset=NAME]
                          [--config_files "a.yaml b.yaml"] [--any_setting=value ...]

Trains and tests models of this package or of RecBole; several models end in one table. Settings
and their defaults: properties/*.yaml. In a checkout, python run_recbole_genrec.py is the same.
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
    """An argument parser that refuses with one sentence, like everything else."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see {self.prog} --help")


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command and its arguments; None takes the arguments of the process.

    Returns:
        0; 2 after one sentence on stderr if the input does not allow it, or if one of several
        models could not run; 130 after an interruption from the keyboard.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    try:
        if name not in _COMMANDS:
            raise UserError(
                f"there is no command {name!r}: use {', '.join(_COMMANDS)}, or see --help"
            )
        return _COMMANDS[name](rest)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        way_out = "add --resume=auto to continue" if name == "run" else "start it again to continue"
        sys.stderr.write(f"interrupted: {way_out}\n")
        return 130


def _run(arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(RUN_USAGE)
        return 0
    from recbole_genrec import quick_start
    from recbole_genrec.config.reading import parse_command_line
    from recbole_genrec.runtime import distributed

    models = parse_command_line(arguments).get("model", "").split(",")
    if len(models) == 1:
        quick_start.run(command_line=arguments)
        return 0
    records, path = quick_start.compare(models, command_line=arguments)
    if distributed.is_main():
        sys.stdout.write(f"{path.read_text(encoding='utf-8')}\n{path} (and .csv)\n")
    return 2 if any("refusal" in record for record in records) else 0


def _prepare(arguments: list[str]) -> int:
    from recbole_genrec.prepare import named
    from recbole_genrec.prepare.letter_files import is_letter_source
    from recbole_genrec.prepare.table_files import is_table_name

    given = _prepare_parser().parse_args(arguments)
    source, data_path = Path(given.source).expanduser(), Path(given.data_path).expanduser()
    is_file = is_letter_source(source) or is_table_name(source) or source.is_file()
    is_own = is_file or os.sep in given.source
    with _console_log(), disk_errors(given.source):
        if is_own or (given.name is not None and not named.is_known(given.source)):
            target = _prepare_own(given, source, data_path)
        else:
            reason = f"{given.source!r} is prepared under its own name and filter"
            _refuse(given, ("name", "k_core", *_OWN_FLAGS), reason)
            target = named.prepare(
                given.source, data_path, given.mirror, show_progress=sys.stderr.isatty()
            )
    _report(target, given.data_path)
    return 0


def _prepare_own(given: argparse.Namespace, source: Path, data_path: Path) -> Path:
    from recbole_genrec.prepare import letter_files, own_files
    from recbole_genrec.prepare.column_names import ColumnNames

    if given.name is None:
        raise UserError(f"{given.source!r} is a file of your own and needs a name: add --name")
    _refuse(given, ("mirror",), f"nothing is downloaded for {given.source!r}")
    target = data_path / given.name
    if target.parent != data_path:
        raise UserError(
            f"the name {given.name!r} is not the name of a folder: choose the folder above it with "
            "--data_path"
        )
    if source.is_dir() or letter_files.is_letter_source(source):
        _refuse(given, _OWN_FLAGS, f"the files beside {given.source!r} say everything")
        letter_files.prepare_letter_files(source, target, given.k_core)
    else:
        columns = ColumnNames(
            given.user_column,
            given.item_column,
            given.time_column,
            given.rating_column,
            given.item_id_column,
        )
        items = None if given.items is None else Path(given.items).expanduser()
        own_files.prepare_own_files(source, items, target, columns, given.k_core, given.separator)
    return target


def _refuse(given: argparse.Namespace, flags: tuple[str, ...], reason: str) -> None:
    used = [f"--{flag}" for flag in flags if getattr(given, flag) is not None]
    if used:
        raise UserError(f"{reason}, so {' and '.join(used)} cannot be given: leave it out")


def _report(target: Path, data_path: str) -> None:
    """Print the files and counts of a prepared data set, and the command that comes next."""
    from recbole_genrec.prepare.folder import CARD_NAME

    counts = json.loads((target / CARD_NAME).read_text(encoding="utf-8"))["counts"]
    files = ", ".join(sorted(file.name for file in target.iterdir()))
    script = "run_recbole_genrec.py"
    start = f"python {script}" if os.path.isfile(script) else "recbole-genrec run"
    is_default = data_path == _default_data_path()
    elsewhere = "" if is_default else f" {shlex.quote(f'--data_path={data_path}')}"
    sys.stdout.write(
        f"{target}: {files}\n"
        f"{counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions\n"
        f"next: {start} --model=TIGER --dataset={target.name}{elsewhere}\n"
    )


def _default_data_path() -> str:
    import yaml

    from recbole_genrec.config.reading import properties_folder

    file = properties_folder() / "overall.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))["data_path"]


def _prepare_parser() -> argparse.ArgumentParser:
    from recbole_genrec.prepare import catalog

    parser = _Parser(
        prog="recbole-genrec prepare",
        allow_abbrev=False,
        description="Make a data set: a public one by its name, or one from files of your own "
        "(docs/data.md has examples).",
        epilog=f"Public data sets: {', '.join(catalog.dump_names())}.",
    )
    parser.add_argument(
        "source",
        help="NAME of a public data set; .csv, .tsv, .jsonl (also .gz) or .parquet; "
        "NAME.inter.json or its folder",
    )
    parser.add_argument("--name", help="name of the data set made from your files")
    parser.add_argument("--items", help="table with one row per item: its id and text")
    for role in ("user", "item", "time", "rating"):
        parser.add_argument(
            f"--{role}_column", help=f"column of the {role}, if it cannot be guessed"
        )
    parser.add_argument("--item_id_column", help="column of the item ids in --items")
    parser.add_argument("--separator", help="column separator of CSV and TSV files, such as ';'")
    parser.add_argument(
        "--k_core",
        type=int,
        help="keep only users and items with at least this many interactions (default: all)",
    )
    parser.add_argument(
        "--data_path",
        default=_default_data_path(),
        help="folder of the data sets (default: %(default)s)",
    )
    parser.add_argument("--mirror", help="address to try first for a public data set")
    return parser


def _write_ids(arguments: list[str]) -> int:
    given = _ids_parser().parse_args(arguments)
    from recbole_genrec.quick_start import load
    from recbole_genrec.semantic_ids.id_files import write_semantic_ids

    changed = {} if given.data_path is None else {"data_path": given.data_path}
    with _console_log():
        _, model, dataset, *_ = load(given.checkpoint, changed, given.model)
    ids = model.semantic_ids
    if not ids.is_assigned:
        raise UserError(
            f"{given.checkpoint!r} was written before its items had ids: train on, or give the "
            ".pth file of a whole run"
        )
    name, n_levels, codebook_size = dataset.dataset_name, ids.n_code_levels, ids.level_sizes[0]
    tokens, codes = model.item_tokens, ids.codes[1:]
    write_semantic_ids(given.out, tokens, codes, ids.level_sizes, name, given.style)
    counter = f" and a counter of {ids.level_sizes[-1]}" if ids.n_levels > n_levels else ""
    sys.stdout.write(
        f"{given.out}: {len(tokens):,} items of {name}, {n_levels} levels of {codebook_size} codes"
        f"{counter}\nnext: --semantic_ids_file={shlex.quote(given.out)} --n_levels={n_levels} "
        f"--codebook_size={codebook_size} --counter_size={model.config['counter_size']}\n"
    )
    return 0


def _ids_parser() -> argparse.ArgumentParser:
    about = "Write the semantic ids of a trained model, for semantic_ids_file or other programs."
    parser = _Parser(prog="recbole-genrec ids", allow_abbrev=False, description=about)
    parser.add_argument("checkpoint", help="the .pth file of a run of a generative model")
    parser.add_argument("--model", help="module:Class of a model that is not of this package")
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


def _compare(arguments: list[str]) -> int:
    given = _compare_parser().parse_args(arguments)
    from recbole_genrec.results.significance import compare_records

    metrics = given.metrics and given.metrics.split(",")
    sys.stdout.write(compare_records(Path(given.first), Path(given.second), metrics))
    return 0


def _compare_parser() -> argparse.ArgumentParser:
    about = (
        "Compare two runs on the same users: differences of the test metrics with 95 %% bootstrap "
        "intervals over users."
    )
    parser = _Parser(prog="recbole-genrec compare", allow_abbrev=False, description=about)
    parser.add_argument("first", help="the .json file that a run wrote beside its checkpoint")
    parser.add_argument("second", help="the same file of the other run; shown is second - first")
    parser.add_argument(
        "--metrics",
        help="such as recall@10,ndcg@10 (default: all metrics of ranked lists in the first run)",
    )
    return parser


@contextmanager
def _console_log() -> Iterator[None]:
    """Show the log of this package on stderr; afterwards the loggers are as before."""
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


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "prepare": _prepare,
    "run": _run,
    "ids": _write_ids,
    "compare": _compare,
}
