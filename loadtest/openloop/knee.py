"""Finds the knee: the highest rate that is still stored in time, by steps up and then by halves.

It sends nothing itself; whoever calls says how a rate is tried. A step that was missed is tried once more, so that one
slow fsync is no knee.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loadtest.openloop.driver import Came

STEP: Final = 1.25
HALVINGS: Final = 3
STEPS_MAX: Final = 40

KEPT: Final = "kept"
SLOW: Final = "slow"
SHORT: Final = "short"
DRIVER: Final = "driver"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a rate must keep."""

    p99_ms: float = 200.0
    goodput: float = 0.99
    """Of the offered, stored in time."""

    def judge(self, came: Came) -> str:
        """How a step went; the driver is looked at first, because one that is behind makes an engine look slow."""
        if came.driver_behind:
            return DRIVER
        if came.stored < self.goodput * came.offered:
            return SHORT
        return SLOW if came.latencies().quantile_ms(0.99) > self.p99_ms else KEPT


@dataclass(frozen=True, slots=True)
class Knee:
    """What was found."""

    kept: float
    """Messages a second; 0 when not even the first step was kept."""
    missed: float | None
    """The lowest rate that was not kept; None when none was missed."""
    why: str
    """How that one went: `slow`, `short`, or `driver`: then the engine's knee may lie above what was kept."""


def search(begin: float, bounds: Bounds, offer: Callable[[float], Came], halvings: int = HALVINGS) -> Knee:
    """Try rates from `begin` messages a second on."""
    kept, missed, why = 0.0, None, ""
    rate = begin
    for _ in range(STEPS_MAX):
        verdict = _tried_twice(rate, bounds, offer)
        if verdict != KEPT:
            missed, why = rate, verdict
            break
        kept, rate = rate, rate * STEP
    for _ in range(halvings):
        if missed is None or not kept:
            break
        rate = (kept + missed) / 2
        verdict = _tried_twice(rate, bounds, offer)
        if verdict == KEPT:
            kept = rate
        else:
            missed, why = rate, verdict
    return Knee(kept, missed, why)


def _tried_twice(rate: float, bounds: Bounds, offer: Callable[[float], Came]) -> str:
    verdict = bounds.judge(offer(rate))
    return verdict if verdict == KEPT else bounds.judge(offer(rate))
