"""Mints request ids: 32 lower-case hexadecimal digits, 12 of the time in milliseconds and 20 of randomness.

It does not remember which ids were used: 80 random bits in each millisecond make a repetition a matter of luck beyond
any fleet (2^40 ids in one millisecond for an even chance), also after a fork, which a counter would not survive.

Invariants:
- ids of one client never run backwards in time, so the server's unique index grows at its end;
- every id is 1 to 64 printable ASCII characters.
"""

from collections.abc import Callable
from typing import Final

TIME_BITS: Final = 48
RANDOM_BITS: Final = 80


class RequestIds:
    """Mints ids from a wall clock in milliseconds and a source of random bits; safe to share between threads."""

    def __init__(self, wall_ms: Callable[[], int], random_bits: Callable[[int], int]) -> None:
        self._wall_ms = wall_ms
        self._random_bits = random_bits
        # Two threads may write it at once: the older time may win, which costs order within a millisecond only.
        self._last_ms = 0

    def mint(self) -> str:
        """Return a new id."""
        now_ms = self._wall_ms() & ((1 << TIME_BITS) - 1)
        self._last_ms = last_ms = max(now_ms, self._last_ms)
        return f"{last_ms:012x}{self._random_bits(RANDOM_BITS):020x}"
