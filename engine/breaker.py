"""The circuit breaker and the retry budget of one provider.

They send nothing. Time is an argument, in microseconds since boot.

Invariants: open, nothing leaves; half-open, one probe is out at a time; a budget never lends more than its
reserve.
"""

from collections import deque
from typing import Final

_US: Final = 1_000_000


class Breaker:
    """Opens when too many attempts of the window failed; lets one probe through after a pause."""

    def __init__(self, *, window_s: float, attempts_min: int, failure_percent: float, open_s: float) -> None:
        """Bounds as in the settings."""
        self._window_us = int(window_s * _US)
        self._attempts_min = attempts_min
        self._failure_percent = failure_percent
        self._open_us = int(open_s * _US)
        self._results: deque[tuple[int, int, int]] = deque()  # (second, attempts, failures)
        self._opened_us: int | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether attempts are being held back."""
        return self._opened_us is not None

    def room(self, room: int, mono_us: int) -> int:
        """How many of `room` attempts may start now."""
        if self._opened_us is None:
            return room
        if self._probing or mono_us - self._opened_us < self._open_us:
            return 0
        return min(1, room)

    def wait_us(self, mono_us: int) -> int:
        """Until it is worth asking again; 0 when closed."""
        if self._opened_us is None:
            return 0
        return max(1000, self._opened_us + self._open_us - mono_us)

    def started(self, attempts: int) -> None:
        """Attempts were started."""
        if self._opened_us is not None and attempts:
            self._probing = True

    def ended(self, attempts: int, failures: int, mono_us: int) -> None:
        """Attempts came to an end, some of them failed for reasons of the provider or the way to it."""
        if not attempts:
            return
        if self._opened_us is not None:
            self._probing = False
            if failures < attempts:
                self._opened_us = None
                self._results.clear()
            else:
                self._opened_us = mono_us
            return
        second = mono_us // _US
        if self._results and self._results[-1][0] == second:
            _, before, failed = self._results.pop()
            self._results.append((second, before + attempts, failed + failures))
        else:
            self._results.append((second, attempts, failures))
        while self._results and (second - self._results[0][0]) * _US > self._window_us:
            self._results.popleft()
        total = sum(row[1] for row in self._results)
        failed = sum(row[2] for row in self._results)
        if total >= self._attempts_min and failed * 100 >= self._failure_percent * total:
            self._opened_us = mono_us
            self._probing = False

    def nothing_started(self) -> None:
        """The probe was not sent after all."""
        self._probing = False


class RetryBudget:
    """A retry costs one token, a first attempt earns `percent` of one; overdrawn, retries wait."""

    def __init__(self, *, percent: float, reserve: int = 100) -> None:
        """Start with `reserve` tokens, which is also the most it holds: quiet hours do not pile up a storm."""
        self._earned = percent / 100
        self._reserve = float(reserve)
        self._tokens = float(reserve)
        self._refilled_us: int | None = None

    def first_attempts(self, count: int) -> None:
        """Messages were attempted for the first time."""
        self._tokens = min(self._reserve, self._tokens + count * self._earned)

    def retries_wait_us(self, count: int, mono_us: int) -> int:
        """Take `count` tokens; how long these retries are to wait beyond their own back-off."""
        # Ten tokens a second come back on their own, or a provider without first attempts would never be retried.
        if self._refilled_us is not None:
            self._tokens = min(self._reserve, self._tokens + (mono_us - self._refilled_us) * 10 / _US)
        self._refilled_us = mono_us
        self._tokens -= count
        return 0 if self._tokens >= 0 else int(-self._tokens * _US / 10)
