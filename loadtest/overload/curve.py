"""Shows what came of an overload: a line, a table, a drawing.

It measures nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.overload.__main__ import Row

WIDTH: Final = 720
HEIGHT: Final = 400
MARGIN: Final = 60
COLOURS: Final = ("#1b7837", "#762a83", "#2166ac")
TICKS: Final = (0, 1, 2, 3, 4, 5)
SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def quantile(ascending: Sequence[float], part: float) -> float:
    """The value below which this part lies; 0 without values."""
    return ascending[min(len(ascending) - 1, int(part * len(ascending)))] if ascending else 0.0


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
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            'font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    parts += [_text(_x(tick), HEIGHT - MARGIN + 18, f"{tick} x", "middle") for tick in TICKS]
    parts += [f'<path d="M{MARGIN} {_y(share):.0f}H{WIDTH - MARGIN}" stroke="#dddddd"/>' for share in SHARES]
    parts += [_text(MARGIN - 8, _y(share) + 4, f"{share:.0%}", "end") for share in SHARES]
    parts.append(_text(WIDTH / 2, HEIGHT - 12, f"offered, times the capacity of {capacity:,.0f} messages/s", "middle"))
    parts.append(_text(MARGIN, 24, "stored within a second, of the capacity", "start"))
    for place, mode in enumerate(dict.fromkeys(row.mode for row in rows)):
        # The last phase is the first one's load again; in a line over the offered it has no place of its own.
        of_mode = sorted(
            (row for row in rows if row.mode == mode and "again" not in row.name), key=lambda row: row.offered
        )
        points = [(_x(row.offered / capacity), _y(row.share)) for row in of_mode]
        path = "L".join(f"{x:.0f} {y:.0f}" for x, y in points)
        colour = COLOURS[place % len(COLOURS)]
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(f'<rect x="{WIDTH - 170}" y="{14 + 18 * place}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(WIDTH - 152, 24 + 18 * place, mode, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(times: float) -> float:
    return MARGIN + times / TICKS[-1] * (WIDTH - 2 * MARGIN)


def _y(share: float) -> float:
    return HEIGHT - MARGIN - min(1.1, share) * (HEIGHT - 2 * MARGIN)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="#333333">{text}</text>'
