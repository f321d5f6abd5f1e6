"""How much is measured of each system: the counts of a full and of a quick run.

It measures nothing. Every count bounds a run, and `MEASUREMENT_S_MAX` its time.
"""

from dataclasses import dataclass
from typing import Self

# One measurement of one system; beyond it something hangs and the figure would mean nothing.
MEASUREMENT_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Messages handed to one system."""

    warm: int
    sent: int
    """While throughput is measured."""
    queued: int
    """While the sink answers nothing."""
    offered: int
    """At most, until it is killed."""
    before_kill: int
    """Of which so many have arrived when it is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts of one run."""

    runs: int = 3
    in_flight: int = 64
    """Calls of one message on their way, of every system."""
    batch_messages: int = 500
    batches_in_flight: int = 4
    """As many as the SDK keeps on their way."""
    kill_delay_ms: float = 50.0
    """After which the sink answers before the kill, so that something is on its way and something waits."""
    settle_s: float = 1.0
    """Behind the last arrival, so that what is recorded then is counted too."""
    batches: Counts = Counts(warm=1_000, sent=40_000, queued=40_000, offered=200_000, before_kill=2_000)
    singles: Counts = Counts(warm=1_000, sent=40_000, queued=20_000, offered=100_000, before_kill=2_000)
    kannel: Counts = Counts(warm=1_000, sent=40_000, queued=20_000, offered=100_000, before_kill=300)
    """Ten requests at once are 200 a second before the kill; Longwave's 256 are 5,000."""
    slow: Counts = Counts(warm=100, sent=3_000, queued=3_000, offered=20_000, before_kill=300)

    @classmethod
    def quick(cls) -> Self:
        """Only shows that everything works: its figures mean nothing."""
        singles = Counts(warm=20, sent=300, queued=300, offered=50_000, before_kill=100)
        return cls(
            runs=1,
            in_flight=8,
            settle_s=0.2,
            batches=Counts(warm=500, sent=2_000, queued=2_000, offered=200_000, before_kill=100),
            singles=singles,
            kannel=singles,
            slow=Counts(warm=20, sent=100, queued=100, offered=10_000, before_kill=50),
        )
