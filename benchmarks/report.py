"""Table and JSON file of a run of the benchmarks."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.plan import Options, Result, Row
from benchmarks.rounds import ROOT

PACKAGES = ("torch", "transformers", "recbole", "numpy", "pandas", "scipy", "recbole-genrec")


def write_json(
    path: Path, started: float, options: Options, results: list[Result], rows: list[Row]
) -> None:
    """Write machine, versions, command and every round."""
    content = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(started)),
        "seconds": time.time() - started,
        "command": ["python", "-m", "benchmarks", *sys.argv[1:]],
        "options": asdict(options),
        "machine": machine(),
        "versions": versions(),
        "results": [asdict(result) for result in results],
        "table": [{**asdict(row), "ratio": row.ratio, "met": row.met} for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{json.dumps(content, indent=1)}\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Describe the machine and its load, which includes the benchmarks' own processes."""
    return {
        "processor": _proc("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory": _proc("/proc/meminfo", "MemTotal"),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def _proc(path: str, name: str) -> str | None:
    """Return the value of the first line `name: value` of a file of Linux."""
    if not os.path.isfile(path):
        return None
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def versions() -> dict[str, str | None]:
    """Return the versions of Python, of the relevant packages, and of this checkout."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["commit"] = _git("rev-parse", "HEAD")
    found["changed"] = _git("status", "--short", "--untracked-files=no")
    return found


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| what | ours | yardstick | ratio | must reach | reached |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        goal = "" if row.goal is None else f"{row.goal[0]} {row.goal[1]} {row.goal[2]:g}"
        met = {None: "", True: "yes", False: "no"}[row.met]
        yardstick = "" if row.yardstick is None else f"{number(row.yardstick)} {row.unit}"
        lines.append(
            f"| {row.what} | {number(row.ours)} {row.unit} | {yardstick} | {ratio} | {goal} "
            f"| {met} |"
        )
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Format with three significant digits, and all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
