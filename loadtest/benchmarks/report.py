"""Writes what was measured: `results.json` for programs, `results.md` with `results.svg` for people; a folder a day.

It measures nothing, and overwrites nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from loadtest.benchmarks import plots
from loadtest.benchmarks.figures import Figure
from loadtest.benchmarks.machine import Source
from loadtest.benchmarks.program import new_folder

TEN = 10
THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """All that is told of one execution."""

    began: datetime
    ended: datetime
    command: str
    source: Source
    hardware: dict[str, object]
    versions: dict[str, str]
    plan: dict[str, Any]
    methods: dict[str, str]
    """Of each measurement, in a sentence or two."""
    load_before: list[float]
    load_after: list[float]
    figures: Sequence[Figure]


def write(report: Report, results: Path, machine: str) -> Path:
    """Write all files into a new folder below `results`; returns it. Raises OSError."""
    folder = new_folder(results, f"{report.began:%Y-%m-%d}-{machine}")
    (folder / "results.json").write_text(json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n", "utf-8")
    (folder / "results.md").write_text(as_text(report), "utf-8")
    title = f"Benchmarks at {report.source.commit[:10]}: median (point) and all runs (line) of {report.plan['runs']}"
    (folder / "results.svg").write_text(plots.drawn(report.figures, title), "utf-8")
    return folder


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    plain = {name: getattr(report, name) for name in ("command", "hardware", "versions", "plan", "methods")}
    return {
        "began": report.began.isoformat(timespec="seconds"),
        "ended": report.ended.isoformat(timespec="seconds"),
        **asdict(report.source),
        **plain,
        "load_average_before": report.load_before,
        "load_average_after": report.load_after,
        "figures": [
            asdict(figure) | {"median": figure.median, "min": figure.lowest, "max": figure.highest}
            for figure in report.figures
        ],
    }


def as_text(report: Report) -> str:
    """The report as Markdown."""
    dirty = ", with changes that are in no commit" if report.source.dirty else ""
    lines = [
        f"# Benchmarks of {report.began:%Y-%m-%d %H:%M} UTC",
        "",
        f"- Commit: {report.source.commit}{dirty}",
        f"- Command: `{report.command}`",
        f"- Machine: {', '.join(f'{name} {value}' for name, value in report.hardware.items())}",
        f"- Versions: {', '.join(f'{name} {value}' for name, value in report.versions.items())}",
        f"- Load average before: {_loads(report.load_before)}; after: {_loads(report.load_after)} (1, 5, 15 minutes)",
        f"- Runs: {report.plan['runs']}; a figure is their median, beside it least and most. A ratio is of one run.",
        "",
        *table(report.figures),
        "",
        "![The same, drawn](results.svg)",
        "",
        "## Method",
        "",
        *(f"- {name}: {method}" for name, method in report.methods.items()),
        "- Counts: " + ", ".join(f"{name} {value}" for name, value in report.plan.items()),
        "",
    ]
    return "\n".join(lines)


def table(figures: Sequence[Figure]) -> list[str]:
    """The figures, one a row."""
    rows = ["| what | median | min to max | unit | wanted |", "| --- | ---: | ---: | --- | --- |"]
    for figure in figures:
        spread = f"{shown(figure.lowest)} to {shown(figure.highest)}"
        rows.append(f"| {figure.name} | {shown(figure.median)} | {spread} | {figure.unit} | {figure.wanted} |")
    return rows


def shown(value: float) -> str:
    """A number with as many digits as a measurement deserves: 1,234, 56.7 or 0.89."""
    if abs(value) >= THOUSAND:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= TEN else f"{value:.2f}"


def _loads(loads: list[float]) -> str:
    return " ".join(f"{load:.2f}" for load in loads)
