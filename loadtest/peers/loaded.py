"""What a load generator saw: which messages were acknowledged, how long each call took. It sends nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.benchmarks.children import BenchmarkError


@dataclass(slots=True)
class Loaded:
    """All calls of one load; times are of the machine's monotonic clock."""

    began_s: float = 0.0
    ended_s: float = 0.0
    """When the last answer came."""
    acknowledged: list[int] = field(default_factory=list)
    """The numbers of messages that the system said it has."""
    latencies_s: list[float] = field(default_factory=list)
    """Of calls that were answered."""
    refused: list[str] = field(default_factory=list)
    """What was said instead."""
    unanswered: int = 0
    """Calls that were on their way when their connection ended."""

    def check_all(self, messages: int) -> None:
        """Raise BenchmarkError unless so many were acknowledged, and nothing else happened."""
        if len(self.acknowledged) != messages or self.refused or self.unanswered:
            said = f", the first: {self.refused[0]}" if self.refused else ""
            raise BenchmarkError(
                f"{len(self.acknowledged)} of {messages} messages were acknowledged, {len(self.refused)} calls refused"
                f"{said}; {self.unanswered} unanswered"
            )


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of the messages that were acknowledged before a system was killed."""

    acknowledged: int
    never: list[int]
    """Acknowledged, and not seen by the sink."""
    several_times: int
    """Seen by the sink twice or more, acknowledged or not."""


def fate_of(acknowledged: Sequence[int], seen: bytes) -> Fate:
    """Compare what was acknowledged with how often each message came. Raises ValueError for a number given twice."""
    if doubled := [place for place, count in Counter(acknowledged).items() if count > 1]:
        message = f"acknowledged more than once: {doubled[:5]}"
        raise ValueError(message)
    never = [place for place in acknowledged if not seen[place]]
    # What came once is the most by far; deleting it is quicker than looking at each.
    return Fate(len(acknowledged), never, len(seen.translate(None, b"\x00\x01")))
