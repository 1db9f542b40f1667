"""Run contenders in turns, each in its own process that waits between its turns."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.plan import Case, Options, Result

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent


def run_case(case: Case, options: Options) -> Result:
    """Run all rounds of a case; every other round has the contenders in reverse order.

    Raises:
        RuntimeError: a contender ended early.
    """
    with ExitStack() as stack:
        running: dict[str, Contender] = {}
        for name in case.contenders:
            logger.info("%s: %s gets ready", case.title, name)
            running[name] = stack.enter_context(Contender(name, case, options))
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in case.contenders}
        for number in range(options.rounds):
            for name in case.contenders[:: -1 if number % 2 else 1]:
                rounds[name].append(running[name].measure(number))
                logger.info(
                    "%s: round %d of %s: %s", case.title, number + 1, name, rounds[name][-1]
                )
        return Result(case, {name: contender.facts for name, contender in running.items()}, rounds)


class Contender:
    """Process of a contender, started and ended as a context; `more` extends its environment."""

    def __init__(
        self, name: str, case: Case, options: Options, more: Mapping[str, str] | None = None
    ) -> None:
        request = json.dumps({"contender": name, "case": asdict(case), "options": asdict(options)})
        self.name, self.title = name, case.title
        self.command = [sys.executable, "-m", "benchmarks.contender", request]
        self.environment = {**environment(options.threads), **(more or {})}

    def start(self) -> None:
        """Start the process; it sends its facts first."""
        self.process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Contender:
        self.start()
        try:
            self.facts = self.receive()
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        with suppress(BrokenPipeError):  # it has ended by itself
            self.process.stdin.close()  # ends it
        self.process.stdout.close()
        self.process.wait()

    def measure(self, number: int) -> dict[str, float]:
        """Return the figures of this round."""
        self.ask(number)
        return self.receive()

    def ask(self, number: int) -> None:
        """Start the measurement of this round."""
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which receive() reports

    def receive(self) -> dict[str, Any]:
        """Return its next answer; RuntimeError if it has ended."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.title}: the process of {self.name} ended with {self.process.wait()}; "
                "its messages are above"
            )
        return json.loads(line)


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that finds this package and uses `threads` threads."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
