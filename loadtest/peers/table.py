"""The figures side by side: a row for each system. It measures nothing."""

from collections.abc import Sequence
from typing import Final

from loadtest.benchmarks.figures import Figure
from loadtest.benchmarks.report import shown
from loadtest.peers.measure import ACCEPTED, ACKNOWLEDGED, AGAIN, CALL, CPU, DELIVERED, LISTED, NEVER, QUEUED, UNCERTAIN

ABSENT: Final = "-"
# Heading and figure, in this order.
SPEED: Final = (
    ("accepted/s", ACCEPTED),
    ("delivered/s", DELIVERED),
    ("call p50 ms", f"{CALL}, p50"),
    ("call p99 ms", f"{CALL}, p99"),
    ("processor s/1,000", CPU),
    ("bytes/queued message", QUEUED),
)
KILL: Final = (
    ("acknowledged before the kill", ACKNOWLEDGED),
    ("never arrived", NEVER),
    ("of those listed as uncertain", UNCERTAIN),
    ("arrived twice or more", AGAIN),
    ("listed as uncertain", LISTED),
)


def side_by_side(figures: Sequence[Figure], systems: Sequence[str]) -> list[str]:
    """Both tables as Markdown: medians of what flows, all runs of what a kill leaves."""
    by_name = {figure.name: figure for figure in figures}

    def median(figure: Figure) -> str:
        return shown(figure.median)

    def runs(figure: Figure) -> str:
        return " / ".join(f"{sample:,.0f}" for sample in figure.samples)

    lines: list[str] = []
    for columns, cell in ((SPEED, median), (KILL, runs)):
        lines += ["| system | " + " | ".join(heading for heading, _ in columns) + " |"]
        lines += ["| --- |" + " ---: |" * len(columns)]
        for system in systems:
            found = [by_name.get(f"{system}: {name}") for _, name in columns]
            if any(found):
                cells = [cell(figure) if figure else ABSENT for figure in found]
                lines.append(f"| {system} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]
