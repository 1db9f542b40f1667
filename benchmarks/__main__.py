"""Speed of this package beside what users would pick instead, and beside what the machine can do.

    python -m benchmarks [SUBJECT ...] --data_path=folder/of/data/sets [--rounds 5] [--threads 2]
    [--output saved/benchmarks.json]

Without a subject all are measured (exact, the exact ranking of a trained model, where --checkpoint
names one). Contenders run in
processes of their own, in alternating rounds; the table has medians, the JSON file every round.
docs/performance.md says what is
measured and how. Run it from a checkout, with nothing else on the machine.
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
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; ends the program with a sentence where it asks for what cannot be had."""
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
        help="threads of a contender; as many as there are cores",
    )
    parser.add_argument(
        "--checkpoint",
        help="of a trained generative model, for the subject exact; its data set has to be in --data_path",
    )
    parser.add_argument("--output", type=Path, default=Path("saved/benchmarks.json"))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes and ml-100k, only to see that everything works",
    )
    arguments = parser.parse_args(argv)
    arguments.subjects = arguments.subjects or [
        name for name in SUBJECTS if name != "exact" or arguments.checkpoint
    ]
    unknown = [subject for subject in arguments.subjects if subject not in SUBJECTS]
    if unknown:
        parser.error(f"there is no subject {unknown[0]!r}: choose any of {', '.join(SUBJECTS)}")
    if "exact" in arguments.subjects and arguments.checkpoint is None:
        parser.error(
            "exact measures a trained model: give --checkpoint, the .pth file that a run has written"
        )
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error(
            f"--rounds is {arguments.rounds} and --threads is {arguments.threads}, but both must be at least 1: raise them"
        )
    if WITH_DATA & set(arguments.subjects) and arguments.data_path is None and not arguments.quick:
        parser.error(
            "the data sets have no default place: give --data_path, the folder that holds amazon-instruments and amazon-beauty"
        )
    if (
        WITH_TRANSFORMERS & set(arguments.subjects)
        and importlib.util.find_spec("transformers") is None
    ):
        parser.error(
            "transformers, the yardstick of training and decoding, is not installed: run `pip install 'transformers>=4.41,<5'`"
        )
    return arguments


def main(argv: list[str]) -> None:
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
        write_json(
            arguments.output, started, options, results, rows
        )  # after every subject: a later one may fail
    sys.stdout.write(
        f"{table(rows)}\n{arguments.output} has every round, the machine and the versions\n"
    )
    if options.quick:
        sys.stdout.write("these figures are of tiny sizes and mean nothing\n")


if __name__ == "__main__":
    main(sys.argv[1:])
