"""Shows what came of an overload: a line, a table, a drawing.

It measures nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadtest import svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.overload.__main__ import Row

WIDTH: Final = 720
HEIGHT: Final = 400
MARGIN: Final = 60
TICKS: Final = (0, 1, 2, 3, 4, 5)
SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def line(row: Row) -> str:
    """One phase, for people who wait."""
    classes = ", ".join(f"{name.lower()} {percent:.1f} %" for name, percent in row.by_class.items())
    return (
        f"{row.mode:12} {row.name:10} offered {row.offered:10,.0f}/s, stored in time {row.stored:10,.0f}/s "
        f"({row.share:.2f} of capacity), p50 {row.p50_ms:.0f} ms, p99 {row.p99_ms:.0f} ms; {classes}; "
        f"driver late {row.driver_late}, lost {row.driver_lost}, {row.memory_mib} MiB, "
        f"steady after {row.steady_after_s} s"
    )


def table(rows: Sequence[Row]) -> str:
    """All phases, as Markdown."""
    names = list(rows[0].by_class)
    head = ["", "offered/s", "stored in time/s", "of capacity", "p50 ms", "p99 ms", *(f"{name} %" for name in names)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [f"{row.mode}, {row.name}", f"{row.offered:,.0f}", f"{row.stored:,.0f}", f"{row.share:.2f}"]
        cells += [f"{row.p50_ms:.0f}", f"{row.p99_ms:.0f}", *(f"{row.by_class[name]:.1f}" for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drawn(rows: Sequence[Row], capacity: float) -> str:
    """Offered over stored in time, both in parts of the capacity, a line for each mode; an SVG."""
    parts = [svg.text(_x(tick), HEIGHT - MARGIN + 18, f"{tick} x", "middle") for tick in TICKS]
    parts += [svg.rule((MARGIN, _y(share)), (WIDTH - MARGIN, _y(share))) for share in SHARES]
    parts += [svg.text(MARGIN - 8, _y(share) + 4, f"{share:.0%}", "end") for share in SHARES]
    offered = f"offered, times the capacity of {capacity:,.0f} messages/s"
    parts.append(svg.text(WIDTH / 2, HEIGHT - 12, offered, "middle"))
    parts.append(svg.text(MARGIN, 24, "stored within a second, of the capacity"))
    for place, mode in enumerate(dict.fromkeys(row.mode for row in rows)):
        # The last phase is the first one's load again; in a line over the offered it has no place of its own.
        of_mode = sorted(
            (row for row in rows if row.mode == mode and "again" not in row.name), key=lambda row: row.offered
        )
        points = [(_x(row.offered / capacity), _y(row.share)) for row in of_mode]
        colour = svg.COLOURS[place % len(svg.COLOURS)]
        parts.append(svg.path(points, colour))
        parts += [svg.dot(x, y, colour) for x, y in points]
        parts.append(svg.square(WIDTH - 170, 14 + 18 * place, colour))
        parts.append(svg.text(WIDTH - 152, 24 + 18 * place, mode))
    return svg.drawing(WIDTH, HEIGHT, parts)


def _x(times: float) -> float:
    return MARGIN + times / TICKS[-1] * (WIDTH - 2 * MARGIN)


def _y(share: float) -> float:
    return HEIGHT - MARGIN - min(1.1, share) * (HEIGHT - 2 * MARGIN)
