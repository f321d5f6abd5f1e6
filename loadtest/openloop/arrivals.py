"""When each call is due: fixed gaps, or the random ones of callers who know nothing of each other (Poisson), by a seed.

It sends nothing. Times are an argument away from the clock: seconds from the beginning of a phase.

Invariant: the arrivals of all processes together are those of one, whatever their number: at fixed gaps the same times,
each with one process; at random ones the same rate.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

FIXED: Final = "fixed"
POISSON: Final = "poisson"
UNARY: Final = "unary"
BATCH: Final = "batch"
STREAM: Final = "stream"
KINDS: Final = (UNARY, BATCH, STREAM)

# Ten calls of the largest batch that the contract allows.
ROUND_MESSAGES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Flow:
    """Calls of one kind."""

    name: str
    kind: str
    message_class: str
    """Without its prefix: CRITICAL, TRANSACTIONAL, BULK."""
    share: float
    """Of all messages."""
    call_messages: int
    """1 where the kind is unary."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What is to be sent."""

    name: str
    messages_a_second: float
    """Of all processes together. 0: as many as are answered, with `closed_calls` on their way; that is the capacity."""
    seconds: float
    arrivals: str = FIXED
    seed: int = 0
    deadline_s: float = 1.0
    closed_calls: int = 6


def due_times(phase: Phase, flows: Sequence[Flow], process: int, processes: int) -> Iterator[tuple[float, Flow]]:
    """When each call of one process is due, in order, and of which flow."""
    each = [_of_flow(phase, flow, process, processes) for flow in flows]
    return heapq.merge(*each, key=lambda due: due[0])


def _of_flow(phase: Phase, flow: Flow, process: int, processes: int) -> Iterator[tuple[float, Flow]]:
    gap_s = flow.call_messages / (flow.share * phase.messages_a_second)
    if phase.arrivals == FIXED:
        for place in range(process, int(phase.seconds / gap_s), processes):
            yield (place + 0.5) * gap_s, flow
        return
    chance = random.Random(f"{phase.seed} {flow.name} {process} of {processes}")
    at_s = chance.expovariate(1 / (gap_s * processes))
    while at_s < phase.seconds:
        yield at_s, flow
        at_s += chance.expovariate(1 / (gap_s * processes))


def round_of(flows: Sequence[Flow]) -> list[Flow]:
    """The mix by messages as a round of calls, for whoever sends one after the other."""
    return [flow for _, flow in due_times(Phase("", ROUND_MESSAGES, 1), flows, 0, 1)]
