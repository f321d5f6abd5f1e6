"""A histogram of times in microseconds, exact to three digits, that processes hand on and merge (HdrHistogram).

It judges nothing. Invariant: merging and handing on lose no count and change no quantile.
"""

from typing import Any, Final, Self

from hdrh.histogram import HdrHistogram

LOWEST_US: Final = 1
# Above any deadline of a driver with what a call may take to end after it.
HIGHEST_US: Final = 600_000_000
DIGITS: Final = 3


class Latencies:
    """Times of calls."""

    def __init__(self) -> None:
        """Start empty."""
        self._histogram: Any = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)

    @property
    def count(self) -> int:
        """How many were recorded."""
        return int(self._histogram.get_total_count())

    def record(self, took_s: float) -> None:
        """Count one; what is beyond the bounds counts as the bound."""
        self._histogram.record_value(min(HIGHEST_US, max(LOWEST_US, round(took_s * 1e6))))

    def add(self, other: Self) -> None:
        """Count another's, too."""
        self._histogram.add(other._histogram)

    def quantile_ms(self, part: float) -> float:
        """The time that this part did not exceed; 0 without any."""
        return float(self._histogram.get_value_at_percentile(100 * part)) / 1e3 if self.count else 0.0

    def encoded(self) -> str:
        """As any HdrHistogram reads it (V2, compressed, base64)."""
        text: bytes = self._histogram.encode()
        return text.decode("ascii")

    @classmethod
    def of(cls, encoded: str) -> Self:
        """Those that were encoded."""
        read = cls()
        read._histogram.decode_and_add(encoded)
        return read
