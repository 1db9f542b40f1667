"""Compare the speed of this package with common alternatives and with the machine's peak.

    python -m benchmarks [SUBJECT ...] --data_path=folder/of/data/sets [--rounds 5] [--threads 2]
        [--output saved/benchmarks.json]

Without a subject all are measured; `exact`, the exact ranking of a trained model, needs
--checkpoint. Contenders run in their own processes, in alternating rounds. The table has medians,
the JSON file every round. docs/performance.md describes the measurements. Run it from a checkout,
with nothing else on the machine; add --quick to try it in minutes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import sys
import time
from pathlib import Path

from benchmarks.plan import Options, Result, Row
from benchmarks.report import table, write_json
from benchmarks.rounds import run_case

SUBJECTS = (
    "matmul",
    "training",
    "scaling",
    "decoding",
    "exact",
    "catalogue",
    "evaluation",
    "tokenizer",
    "teacher",
    "start",
)
DATASETS = ("amazon-instruments", "amazon-beauty")
WITH_TRANSFORMERS = {"training", "decoding"}
WITH_DATA = {"training", "scaling", "decoding", "evaluation", "start"}


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line; exit with one sentence where it asks for something impossible."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    arguments.subjects = arguments.subjects or [
        name for name in SUBJECTS if name != "exact" or arguments.checkpoint
    ]
    fault = fault_of(arguments)
    if fault is not None:
        parser.error(fault)
    return arguments


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"any of {', '.join(SUBJECTS)}; none: all"
    )
    parser.add_argument(
        "--data_path", help="the folder that holds the folders amazon-instruments and amazon-beauty"
    )
    parser.add_argument(
        "--only", choices=DATASETS, help="training and decoding on this data set alone"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every contender")
    parser.add_argument(
        "--threads",
        type=int,
        default=n_cores(),
        help="threads of a contender; by default one per core",
    )
    parser.add_argument(
        "--checkpoint",
        help="of a trained generative model, for the subject exact; needs its data set in "
        "--data_path",
    )
    parser.add_argument("--output", type=Path, default=Path("saved/benchmarks.json"))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes and ml-100k, only to see that everything works",
    )
    return parser


def fault_of(arguments: argparse.Namespace) -> str | None:
    """Return one sentence about the first fault of the arguments, or None."""
    subjects = set(arguments.subjects)
    unknown = [subject for subject in arguments.subjects if subject not in SUBJECTS]
    if unknown:
        return f"there is no subject {unknown[0]!r}: choose any of {', '.join(SUBJECTS)}"
    if "exact" in subjects and arguments.checkpoint is None:
        return "exact measures a trained model: give --checkpoint, the .pth file of a run"
    if arguments.rounds < 1 or arguments.threads < 1:
        return (
            f"--rounds is {arguments.rounds} and --threads is {arguments.threads}, but both must "
            "be at least 1: raise them"
        )
    if WITH_DATA & subjects and arguments.data_path is None and not arguments.quick:
        return (
            "the data sets have no default folder: give --data_path, the folder that holds "
            "amazon-instruments and amazon-beauty"
        )
    if WITH_TRANSFORMERS & subjects and importlib.util.find_spec("transformers") is None:
        return (
            "transformers, the yardstick of training and decoding, is not installed: "
            "run `pip install 'transformers>=4.41,<5'`"
        )
    return None


def main(argv: list[str]) -> None:
    """Measure the subjects, write the JSON file and print the table."""
    arguments = read_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    started = time.time()
    data_path, checkpoint = (
        path and os.path.abspath(path) for path in (arguments.data_path, arguments.checkpoint)
    )
    options = Options(
        data_path, arguments.threads, arguments.rounds, arguments.quick, checkpoint, arguments.only
    )
    results: list[Result] = []
    rows: list[Row] = []
    for name in arguments.subjects:
        subject = importlib.import_module(f"benchmarks.{name}")
        measured = [run_case(case, options) for case in subject.cases(options)]
        results += measured
        rows += subject.rows(measured)
        # After every subject: a later one may fail.
        write_json(arguments.output, started, options, results, rows)
    sys.stdout.write(
        f"{table(rows)}\n{arguments.output} has every round, the machine and the versions\n"
    )
    if options.quick:
        sys.stdout.write("these figures are of tiny sizes and mean nothing\n")


if __name__ == "__main__":
    main(sys.argv[1:])
