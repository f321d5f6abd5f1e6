"""How many messages a second are to be handed in, at each moment of a run. It knows nothing of Locust.

Rates are messages a second, times are seconds since the run began.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

DAY_MESSAGES: Final = 1_000_000
DAY_S: Final = 86_400
HOUR_S: Final = 3600
# The busiest hour is 15:00 with 1.9 times the mean, the quietest 03:00 with a tenth.
QUIETEST_H: Final = 3.0
SWING: Final = 0.9
SPIKE_TIMES: Final = 10
SPIKE_RISE_S: Final = 10.0
# Above this a day is handed in by batches alone: unary calls would measure Locust.
BATCHES_ABOVE: Final = 60.0
RAMP_STEP: Final = 1.25


@dataclass(frozen=True, slots=True)
class Profile:
    """One run."""

    name: str
    seconds: float
    rate: Callable[[float], float]
    """At a time of the run."""
    peak: float
    """The highest rate."""
    batches_only: bool = False

    def messages(self, until_s: float | None = None) -> float:
        """To be handed in by then; by the end without a time."""
        end_s = self.seconds if until_s is None else max(0.0, min(until_s, self.seconds))
        steps = max(1, math.ceil(end_s))
        width_s = end_s / steps
        return sum(self.rate((step + 0.5) * width_s) for step in range(steps)) * width_s


def steady(rate: float, seconds: float, name: str = "steady") -> Profile:
    """The same rate throughout; a soak is one of hours."""
    return Profile(name, seconds, lambda _: rate, rate)


def day(factor: float, first_h: float, hours: float) -> Profile:
    """Hours of a day with 1,000,000 messages, replayed `factor` times as fast."""
    mean = DAY_MESSAGES / DAY_S * factor

    def rate(at_s: float) -> float:
        hour = first_h + at_s * factor / HOUR_S
        return mean * (1 - SWING * math.cos(2 * math.pi * (hour - QUIETEST_H) / 24))

    seconds = hours * HOUR_S / factor
    peak = max(rate(seconds * step / 288) for step in range(289))
    return Profile("day", seconds, rate, peak, batches_only=factor > BATCHES_ABOVE)


def spike(rate: float, seconds: float) -> Profile:
    """A third of the time the rate, ten times as much within 10 s and for a third, then the rate again."""
    third_s = seconds / 3
    rise_s = min(SPIKE_RISE_S, third_s / 2)

    def at(at_s: float) -> float:
        if at_s < third_s or at_s >= 2 * third_s:
            return rate
        return rate * (1 + (SPIKE_TIMES - 1) * min(1.0, (at_s - third_s) / rise_s))

    return Profile("spike", seconds, at, rate * SPIKE_TIMES)


def ramp(rate: float, seconds: float, step_s: float) -> Profile:
    """From a rate on, a quarter more each step; whoever runs it stops it at the knee."""
    steps = max(1, math.ceil(seconds / step_s))
    return Profile(
        "ramp", seconds, lambda at_s: rate * RAMP_STEP ** int(at_s / step_s), rate * RAMP_STEP ** (steps - 1)
    )
