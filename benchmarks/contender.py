"""Process of one contender: prepare, report facts, then measure for each round number it reads."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import tempfile
from typing import Any, TextIO
from warnings import simplefilter

import torch

from benchmarks.plan import Case, Options
from recbole_genrec.runtime.memory import keep_freed_memory

OTHERS = ("transformers", "plain loop", "RecBole")  # contenders outside this package


def serve(request: dict[str, Any], asks: TextIO, answers: TextIO) -> None:
    """Write the contender's facts, then one measurement per round number, a line of JSON each."""
    case, options = Case(**request["case"]), Options(**request["options"])
    torch.set_num_threads(options.threads)
    if not request["contender"].startswith(OTHERS):
        keep_freed_memory()  # as a run of this package does; a plain loop does not
    subject = importlib.import_module(f"benchmarks.{case.subject}")
    facts, measure = subject.prepare(request["contender"], case, options)
    # Importing RecBole's models switches it on, for contenders of other libraries too.
    torch.autograd.set_detect_anomaly(False)
    answers.write(f"{json.dumps(facts)}\n")
    answers.flush()
    for line in iter(asks.readline, ""):
        answers.write(f"{json.dumps(measure(int(line)))}\n")
        answers.flush()


def main() -> None:
    # Keep the output of libraries out of the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable(logging.INFO)
    simplefilter("ignore")  # RecBole calls pandas and torch in deprecated ways
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # logs and checkpoints go there
        try:
            serve(json.loads(sys.argv[1]), sys.stdin, answers)
        finally:
            os.chdir(here)


if __name__ == "__main__":
    main()
