"""The circuit breaker and the retry budget of one provider.

They send nothing. Time is an argument, in microseconds since boot.

Invariants: open, nothing leaves; half-open, one probe is out at a time, and only its own end opens or closes; a budget
lends nothing, so what a provider refused in bad times is no debt of better ones.
"""

from collections import deque
from typing import Final

_US: Final = 1_000_000
# Tokens a second that a retry budget gets on its own.
REFILL_S: Final = 10


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
        self.generation = 0
        """Rises each time it opens. An attempt that began in an earlier one tells nothing of the provider of now."""

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

    def started(self, attempts: int) -> int:
        """Attempts were started; returns the generation that they are of."""
        if self._opened_us is not None and attempts:
            self._probing = True
        return self.generation

    def ended(self, generation: int, attempts: int, failures: int, mono_us: int) -> None:
        """Attempts of a generation ended, some of them failed for reasons of the provider or the way to it."""
        if not attempts or generation != self.generation:
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
            self.generation += 1

    def nothing_started(self, generation: int) -> None:
        """What was started in this generation was not sent after all."""
        if generation == self.generation:
            self._probing = False


class RetryBudget:
    """Bounds how much of what a provider refuses for now it is offered again, whoever the messages belong to.

    An attempt that must be tried again costs one token, one that ended for good earns `percent` of one. Without tokens
    the budget is *strained*: then each attempt takes a token before it leaves, and gets it back, with what it earned,
    when the provider takes it. So the provider is offered what it takes, `percent` more, and ten a second; who goes
    first is the scheduler's to say, the urgent before the others. It ends when the reserve is full again: with a
    provider that takes everything after a few round trips, however long it had refused.
    """

    def __init__(self, *, percent: float, reserve: int = 100) -> None:
        """Start with `reserve` tokens, which is also the most it holds: quiet hours do not pile up a storm."""
        self._earned = percent / 100
        self._reserve = float(reserve)
        self._tokens = float(reserve)
        self._strained = False
        self._refilled_us: int | None = None

    def room(self, room: int, mono_us: int) -> int:
        """How many of `room` attempts may start now."""
        self._refill(mono_us)
        return min(room, int(self._tokens)) if self._strained else room

    def wait_us(self, mono_us: int) -> int:
        """Until one may start; 0 when one may."""
        self._refill(mono_us)
        return 0 if not self._strained or self._tokens >= 1 else max(1000, int((1 - self._tokens) * _US / REFILL_S))

    def started(self, attempts: int) -> None:
        """Attempts were started."""
        if self._strained:
            self._tokens = max(0.0, self._tokens - attempts)

    def not_started(self, attempts: int) -> None:
        """So many of those were not sent after all."""
        if self._strained:
            self._tokens += attempts

    def ended(self, attempts: int) -> None:
        """The provider took attempts, or refused them for good."""
        self._tokens += attempts * (self._earned + self._strained)
        if self._tokens >= self._reserve:
            self._tokens = self._reserve
            self._strained = False

    def again(self, attempts: int) -> None:
        """So many have to be tried again."""
        if not self._strained:
            self._tokens -= attempts
            if self._tokens < 1:
                self._tokens = 0.0
                self._strained = True

    def _refill(self, mono_us: int) -> None:
        # On their own tokens come back at this rate, or a provider that refused everything would never be asked again;
        # strained, up to a second's worth: whoever was refused for long begins with few.
        before_us, self._refilled_us = self._refilled_us, mono_us
        most = REFILL_S if self._strained else self._reserve
        if before_us is not None and self._tokens < most:
            self._tokens = min(most, self._tokens + (mono_us - before_us) * REFILL_S / _US)
