"""Figures and their arithmetic: samples of several runs, their median and spread, percentiles, ratios.

It measures nothing and writes no file.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Figure:
    """One thing that was measured, a sample for each run."""

    name: str
    unit: str
    wanted: str = ""
    """What it is measured against, in words; empty without a bar."""
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Middle of the runs."""
        return statistics.median(self.samples)

    @property
    def lowest(self) -> float:
        """Least of the runs."""
        return min(self.samples)

    @property
    def highest(self) -> float:
        """Most of the runs."""
        return max(self.samples)


class Sheet:
    """All figures, in the order in which they were first measured."""

    def __init__(self) -> None:
        """Start empty."""
        self._figures: dict[str, Figure] = {}

    def add(self, name: str, unit: str, value: float, *, wanted: str = "") -> None:
        """Put in the sample of one run. Raises ValueError for a value that is no number or a name of another unit."""
        if not math.isfinite(value):
            message = f"{name}: {value} is not a measurement"
            raise ValueError(message)
        figure = self._figures.setdefault(name, Figure(name, unit, wanted))
        if figure.unit != unit:
            message = f"{name} is measured in {figure.unit}, not in {unit}"
            raise ValueError(message)
        figure.samples.append(value)

    def add_latencies(self, name: str, seconds: Sequence[float], *, wanted_p99: str = "") -> None:
        """Put in p50 and p99 of one run's latencies, in milliseconds."""
        self.add(f"{name}, p50", "ms", percentile(seconds, 50) * 1e3)
        self.add(f"{name}, p99", "ms", percentile(seconds, 99) * 1e3, wanted=wanted_p99)

    def figures(self) -> list[Figure]:
        """All of them."""
        return list(self._figures.values())


def percentile(samples: Sequence[float], percent: float) -> float:
    """The least sample that at least `percent` of all samples do not exceed (nearest rank; never interpolated).

    Raises ValueError for no samples or a percentage outside 0 to 100.
    """
    if not samples or not 0 <= percent <= 100:  # noqa: PLR2004 - a percentage
        message = f"no {percent}th percentile of {len(samples)} samples"
        raise ValueError(message)
    rank = max(1, math.ceil(len(samples) * percent / 100))
    return sorted(samples)[rank - 1]


def per_second(count: int, seconds: float) -> float:
    """So many a second. Raises ValueError when no time passed."""
    if seconds <= 0:
        message = f"{count} in {seconds} s is not a rate"
        raise ValueError(message)
    return count / seconds
