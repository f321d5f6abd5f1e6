"""Draws the figures of a report, a panel for each unit: the median as a point, the runs as the line it lies on.

It measures nothing. A unit whose figures lie further apart than a factor of fifty is drawn in powers of ten; therefore
points and not bars, whose length would mean nothing there.
"""

from collections.abc import Sequence
from typing import Final

from loadtest import svg
from loadtest.benchmarks.figures import Figure

WIDTH: Final = 960
LABELS: Final = 470
RIGHT: Final = 90
ROW: Final = 20
HEAD: Final = 56
FACTOR_MAX: Final = 50.0


def drawn(figures: Sequence[Figure], shown: str) -> str:
    """All figures; `shown` says of what."""
    parts, top = [svg.text(12, 20, shown)], 30.0
    for unit in dict.fromkeys(figure.unit for figure in figures):
        of_unit = [figure for figure in figures if figure.unit == unit]
        parts += _panel(of_unit, unit, top)
        top += HEAD + ROW * len(of_unit)
    return svg.drawing(WIDTH, top, parts)


def _panel(figures: Sequence[Figure], unit: str, top: float) -> list[str]:
    values = [sample for figure in figures for sample in figure.samples]
    place = svg.from_zero(values, LABELS, WIDTH - RIGHT)
    if min(values) > 0 and max(values) > FACTOR_MAX * min(values):
        place = svg.by_powers(values, LABELS, WIDTH - RIGHT)
    bottom = top + HEAD + ROW * len(figures) - 24
    parts = [svg.text(12, top + 14, unit)]
    for tick in place.ticks():
        parts.append(svg.rule((place.at(tick), top + 22), (place.at(tick), bottom)))
        parts.append(svg.text(place.at(tick), top + 16, svg.number(tick), "middle"))
    # What is below zero (memory over an empty engine may be) is drawn at zero, with its number beside it.
    for row, figure in enumerate(figures):
        y = top + 36 + ROW * row
        ends = [(place.at(figure.lowest), y), (place.at(figure.highest), y)]
        parts.append(svg.text(LABELS - 12, y + 4, figure.name, "end"))
        parts.append(svg.path(ends, svg.COLOURS[2], width=4))
        parts.append(svg.dot(place.at(figure.median), y, svg.COLOURS[1]))
        parts.append(svg.text(WIDTH - RIGHT + 10, y + 4, svg.number(figure.median)))
    return parts
