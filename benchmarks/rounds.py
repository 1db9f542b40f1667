"""Runs contenders in turns: each in a process of its own, which is ready before the first round and waits between its turns."""

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
    """All rounds of a case; every other round goes through the contenders in the opposite order.

    Raises:
        RuntimeError: a contender ended before it was asked to.
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
    """The process of a contender; as a context it is started and ended. `more` is added to its environment."""

    def __init__(
        self, name: str, case: Case, options: Options, more: Mapping[str, str] | None = None
    ) -> None:
        request = json.dumps({"contender": name, "case": asdict(case), "options": asdict(options)})
        self.name, self.title = name, case.title
        self.command = [sys.executable, "-m", "benchmarks.contender", request]
        self.environment = {**environment(options.threads), **(more or {})}

    def start(self) -> None:
        """Start the process; the first that is received from it are its facts."""
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
            self.process.stdin.close()  # which tells it to end
        self.process.stdout.close()
        self.process.wait()

    def measure(self, number: int) -> dict[str, float]:
        """What the contender measures in this round."""
        self.ask(number)
        return self.receive()

    def ask(self, number: int) -> None:
        """Let it measure this round."""
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which receive says

    def receive(self) -> dict[str, Any]:
        """What it has to say next; RuntimeError if it has ended."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.title}: the process of {self.name} ended with {self.process.wait()}; its messages stand above"
            )
        return json.loads(line)


def environment(threads: int) -> dict[str, str]:
    """Environment of a process that finds this package and computes with so many threads."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
