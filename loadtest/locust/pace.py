"""When a user calls: at fixed times of its own, whatever its calls take.

Locust's `constant_throughput` counts from when the last call was made. There whatever holds several users up makes them
call together from then on, and a loop with many users ends as a choir: the time in which they wait for each other is
measured as the server's.
"""

import time
from typing import Final

# Of what a user missed it makes up for so many calls at once; the rest is the shape's, which adds users.
BEHIND_MAX: Final = 1.0


class Pace:
    """Times of one user's calls, seconds on the monotonic clock."""

    def __init__(self, period_s: float, phase: float) -> None:
        """A call every `period_s`, the first after this part (0 to 1) of one."""
        self._period_s = period_s
        self._due_s = time.monotonic() + (phase - 1) * period_s

    def wait_s(self) -> float:
        """Seconds until the next call is due; asked once a call, and once before the first."""
        now_s = time.monotonic()
        self._due_s = max(self._due_s + self._period_s, now_s - BEHIND_MAX * self._period_s)
        return max(0.0, self._due_s - now_s)
