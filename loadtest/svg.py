"""Draws lines, points and words as SVG, and axes that count evenly or in powers of ten.

It knows nothing of what is drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLOURS: Final = ("#1b7837", "#762a83", "#2166ac", "#b2182b", "#8c510a")
TICKS: Final = 5
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `lowest` to `highest`, drawn from the pixel `start` to the pixel `end`."""

    lowest: float
    highest: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; one outside the axis is drawn at its end."""
        part = (self._on(value) - self._on(self.lowest)) / (self._on(self.highest) - self._on(self.lowest))
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Values to write at the axis."""
        if self.logarithmic:
            first, last = round(math.log10(self.lowest)), round(math.log10(self.highest))
            return [10.0**power for power in range(first, last + 1)]
        return [self.lowest + place * (self.highest - self.lowest) / TICKS for place in range(TICKS + 1)]

    def _on(self, value: float) -> float:
        return math.log10(max(value, self.lowest)) if self.logarithmic else value


def from_zero(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis from zero to a round number that no value exceeds."""
    highest = max([*values, 0.0])
    step = 10.0 ** math.floor(math.log10(highest)) if highest > 0 else 1.0
    return Axis(0.0, next(step * times for times in (1, 2, 2.5, 5, 10) if step * times >= highest), start, end)


def by_powers(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis of powers of ten around all values, which are above zero."""
    lowest, highest = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Axis(10.0**lowest, 10.0 ** max(highest, lowest + 1), start, end, logarithmic=True)


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Words that begin, end or have their middle at a place."""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="#333333">{escape(words)}</text>'


def path(points: Sequence[Point], colour: str, *, width: float = 2) -> str:
    """A line through points."""
    way = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>'


def dot(x: float, y: float, colour: str, *, hollow: bool = False) -> str:
    """A point."""
    fill = "#ffffff" if hollow else colour
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{fill}" stroke="{colour}"/>'


def square(x: float, y: float, colour: str) -> str:
    """The colour of a line, beside its name."""
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="12" height="12" fill="{colour}"/>'


def rule(start: Point, end: Point) -> str:
    """A line of a grid."""
    return f'<path d="M{start[0]:.0f} {start[1]:.0f}L{end[0]:.0f} {end[1]:.0f}" stroke="#dddddd"/>'


def drawing(width: float, height: float, parts: Sequence[str]) -> str:
    """The whole, on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" '
        'font-size="12">'
    )
    return "\n".join([head, f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>', *parts, "</svg>\n"])


def number(value: float) -> str:
    """A number at an axis."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"  # noqa: PLR2004 - digits that fit
