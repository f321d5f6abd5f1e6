"""The only place that reads a clock or draws randomness, so that a simulation can stand in for both.

It schedules nothing. Wall time is for what people and carriers see (validity, schedules, events); time since boot,
which nobody sets and which counts suspend, is for rates, leases and everything else that measures.
"""

import secrets
import time
from typing import Final

_US_NS: Final = 1000


class Clock:
    """Wall and boot time in microseconds, and seeds."""

    def __init__(self, offset_ms: int = 0) -> None:
        """`offset_ms` is added to the wall clock: how a test sets it wrong."""
        self._offset_us = offset_ms * 1000

    def now_us(self) -> int:
        """Wall time, µs since 1970-01-01T00:00:00Z."""
        return time.time_ns() // _US_NS + self._offset_us

    def mono_us(self) -> int:
        """Time since boot, µs (CLOCK_BOOTTIME)."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _US_NS

    def seed(self) -> int:
        """64 random bits for jitter."""
        return secrets.randbits(64)
