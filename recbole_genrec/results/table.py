"""The table of several models on one split, in Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any


def table(records: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: test metrics, parameters, seconds per stage, users per second.

    Args:
        records: one per model, as record.write_record writes them, or {"model", "refusal"} for a
            model that could not run.
    """
    results = [record["test_result"] for record in records if "test_result" in record]
    metrics = list(results[0]) if results else []
    header = ["model", *metrics, "parameters", "seconds by stage", "test users/s"]
    return header, [_row(record, metrics) for record in records]


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return comma-separated values with a header; every line ends with a line feed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _row(record: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    if "refusal" in record:
        return [record["model"], *[""] * (len(metrics) + 1), f"not run: {record['refusal']}", ""]
    stages = "; ".join(f"{name} {seconds:.0f}" for name, seconds in record["stage_seconds"].items())
    figures = [f"{record['test_result'][metric]:.4f}" for metric in metrics]
    return [
        record["model"],
        *figures,
        f"{record['n_parameters']}",
        stages,
        f"{record['test_users_per_second']:.0f}",
    ]
