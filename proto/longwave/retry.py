"""Decides whether and when a failed call is made again.

It makes no call, reads no clock and sleeps nowhere: times are seconds of a monotonic clock and come in as arguments.

Invariants:
- what may have been done is repeated only where doing it twice is safe (`repeatable`: request ids, reads, settings);
- waits are exponential with full jitter, never shorter than the server asked for;
- tries, total time and the share of retries among calls are bounded.
"""

import enum
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from longwave import errors
from longwave.v1 import verdict_pb2

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""Trailing metadata by which a server delays retries, or with a negative value forbids them (gRPC proposal A6)."""

_LATER_VERDICTS: Final = (*range(60, 70), verdict_pb2.VERDICT_NOT_READY, verdict_pb2.VERDICT_DEADLINE_PASSED)


class Fate(enum.Enum):
    """What an answer means for trying again."""

    DONE = enum.auto()
    REFUSED = enum.auto()
    """Never again: the answer would be the same."""
    LATER = enum.auto()
    """Definitely not stored: any call may be made again."""
    UNKNOWN = enum.auto()
    """Perhaps stored: only a repeatable call may be made again."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of trying again.

    `attempts_max` counts tries that failed without the server naming a delay: ten with these waits cover about 8 s on
    average, a restart of the engine. Tries that the server asked to be made later are bounded by the deadline alone.
    `budget_ratio` retries are allowed for each first try, after `budget_burst` saved ones, so that a fleet of clients
    adds at most a tenth to the load of a server in trouble.
    """

    attempts_max: int = 10
    backoff_initial_s: float = 0.1
    backoff_max_s: float = 3.0
    budget_ratio: float = 0.1
    budget_burst: int = 50
    reconnect_max_s: float = 300.0
    """How long a watch or stream goes on trying without a single answer."""

    def __post_init__(self) -> None:
        if self.attempts_max < 1 or self.budget_burst < 0 or self.budget_ratio < 0:
            raise ValueError("attempts_max must be at least 1, budget_burst and budget_ratio at least 0")
        if not 0 < self.backoff_initial_s <= self.backoff_max_s:
            raise ValueError("backoff_initial_s must be positive and at most backoff_max_s")

    def backoff_s(self, failures: int, random: float) -> float:
        """Return the wait after so many failures (1 or more): full jitter, `random` in [0, 1)."""
        exponent = min(failures - 1, 30)  # 2^30 initial waits exceed any sensible maximum
        return random * min(self.backoff_max_s, self.backoff_initial_s * 2.0**exponent)

    def delay_s(self, failure: "Failure", failures: int, random: float) -> float:
        """Return the wait after a failure: the server's delay with a little jitter on top, else the back-off."""
        if failure.delay_s is None:
            return self.backoff_s(failures, random)
        return failure.delay_s + self.backoff_s(1, random)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call or refused submission: its error, what it means, and what the server said about coming back."""

    error: errors.LongwaveError
    fate: Fate
    delay_s: float | None = None
    forbidden: bool = False
    """The server forbade retries (a negative pushback)."""

    @property
    def server_paced(self) -> bool:
        """The server took nothing and named the delay: such a retry costs neither attempts nor budget."""
        return self.fate is Fate.LATER and self.delay_s is not None


def fate_of_verdict(verdict: int) -> Fate:
    """Return what a verdict means for trying again, by the ranges of verdict.proto."""
    if verdict == verdict_pb2.VERDICT_ACCEPTED:
        return Fate.DONE
    if verdict in _LATER_VERDICTS:
        return Fate.LATER
    return Fate.UNKNOWN if errors.outcome_unknown(verdict, "") else Fate.REFUSED


def failure_of_call(status: str, detail: str, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> Failure:
    """Classify a failed call by its gRPC status name, text and trailing metadata."""
    trailing = list(trailing_metadata)
    error = errors.from_call(status, detail, trailing)
    if error.verdict:
        fate = fate_of_verdict(error.verdict)
        if fate is Fate.DONE:
            fate = Fate.UNKNOWN  # an error that says ACCEPTED contradicts itself
    elif isinstance(error, errors.Throttled):
        fate = Fate.LATER
    else:
        fate = Fate.UNKNOWN if error.outcome_unknown else Fate.REFUSED
    delay_s, forbidden = error.retry_delay_s, False
    for key, value in trailing:
        if key == PUSHBACK_KEY:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            # Proposal A6: a value that is negative or no number means "do not retry".
            if text.isascii() and text.isdigit() and len(text) <= 9:  # noqa: PLR2004  at most 11 days
                delay_s = max(delay_s or 0.0, int(text) / 1000)
            else:
                forbidden = True
    return Failure(error, fate, delay_s, forbidden)


class RetryBudget:
    """Bounds retries to a share of first tries, over all calls of a client; safe to share between threads."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._ratio = policy.budget_ratio
        self._tokens_max = float(policy.budget_burst)
        self._tokens = self._tokens_max
        self._lock = threading.Lock()

    def first_try(self) -> None:
        """Note a first try."""
        with self._lock:
            self._tokens = min(self._tokens_max, self._tokens + self._ratio)

    def take(self) -> bool:
        """Take leave for one retry; False when the budget is used up."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class CallAttempts:
    """The tries of one unary call.

    `failed` returns how long to wait before the next try, or raises the call's error when there is none.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        random: Callable[[], float],
        *,
        deadline_at: float,
        attempt_deadline_s: float,
        repeatable: bool,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._random = random
        self._deadline_at = deadline_at
        self._attempt_deadline_s = attempt_deadline_s
        self._repeatable = repeatable
        self._failures = 0
        self._unknown = False
        budget.first_try()

    def attempt_deadline_s(self, now: float) -> float:
        """Return the deadline of a try that starts now."""
        return max(0.0, min(self._attempt_deadline_s, self._deadline_at - now))

    def failed(self, now: float, failure: Failure) -> float:
        """Note a failed try and return the wait before the next one, in seconds.

        Raises:
            LongwaveError: there is no next one.
        """
        self._unknown = self._unknown or failure.fate is Fate.UNKNOWN
        if not failure.server_paced:
            self._failures += 1
        delay_s = self._policy.delay_s(failure, self._failures, self._random())
        if (
            failure.forbidden
            or failure.fate is Fate.REFUSED
            or (failure.fate is Fate.UNKNOWN and not self._repeatable)
            or self._failures >= self._policy.attempts_max
            or now + delay_s >= self._deadline_at
            or not (failure.server_paced or self._budget.take())
        ):
            raise failure.error.about("", outcome_unknown=self._unknown)
        return delay_s


class Reconnect:
    """The connection attempts of one long-lived call (a watch, a stream), which renews itself whenever it ends."""

    def __init__(self, policy: RetryPolicy, random: Callable[[], float], now: float) -> None:
        self._policy = policy
        self._random = random
        self._failures = 0
        self._progress_at = now

    def progressed(self, now: float) -> None:
        """Note an answer on the connection: the next failure starts a new count."""
        self._failures = 0
        self._progress_at = now

    def failed(self, now: float, failure: Failure | None) -> float:
        """Note the end of the connection (None: the server ended it in order) and return the wait, in seconds.

        Raises:
            LongwaveError: connecting again is of no use, or none succeeded for `reconnect_max_s`.
        """
        self._failures += 1
        if failure is None:
            failure = Failure(errors.Unavailable("the server keeps ending the call", status="OK"), Fate.UNKNOWN)
        given_up = now - self._progress_at >= self._policy.reconnect_max_s
        if failure.forbidden or failure.fate is Fate.REFUSED or given_up:
            raise failure.error
        return self._policy.delay_s(failure, self._failures, self._random())
