"""Plays recorded arrivals to an autoscaler over model pods, and says what came of it.

It measures no engine. A recorded run is one engine's and minutes long: a replay says how many times its rate arrives,
and how much slower it passes.
"""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtest.autoscale.hpa import SYNC_S, Autoscaler
from loadtest.autoscale.pods import Ability, Pods, Terms
from loadtest.autoscale.record import Row
from loadtest.autoscale.spec import Spec

# A queue that the pods pass within a second is none.
DRAINED_S: Final = 1.0


class Replay:
    """How recorded rows become arrivals: so many messages, and so many seconds, for each recorded one."""

    def __init__(self, rows: Sequence[Row], times: float, slower: float) -> None:
        """Of rows in order."""
        pairs = list(itertools.pairwise(rows))
        self._until_s = [row.at_s * slower for _, row in pairs]
        rates = [(row.accepted - before.accepted) / (row.at_s - before.at_s) for before, row in pairs]
        self._rates = [times * rate for rate in [*rates, rows[-1].offered_per_s]]

    def rate(self, at_s: float) -> float:
        """Messages a second; after the end, those that were offered last."""
        return self._rates[bisect_right(self._until_s, at_s)]


@dataclass(frozen=True, slots=True)
class Moment:
    """At one sync."""

    at_s: float
    arriving_per_s: float
    queued: float
    ready: int
    replicas: int


@dataclass(slots=True)
class Came:
    """What came of a replay."""

    moments: list[Moment] = field(default_factory=list)

    @property
    def replicas(self) -> list[int]:
        """By sync."""
        return [moment.replicas for moment in self.moments]

    @property
    def turns(self) -> int:
        """How often replicas that rose fell, or the other way round."""
        steps = [
            after - before for before, after in zip(self.replicas, self.replicas[1:], strict=False) if after != before
        ]
        return sum((one > 0) != (other > 0) for one, other in itertools.pairwise(steps))

    def first_rise_s(self, after_s: float) -> float | None:
        """When there were more replicas than at a time; None: never."""
        before = next(moment.replicas for moment in self.moments if moment.at_s >= after_s)
        rises = (moment.at_s for moment in self.moments if moment.at_s > after_s and moment.replicas > before)
        return next(rises, None)

    def drained_s(self, ability: Ability, after_s: float) -> float | None:
        """From when on less waits than the ready pods pass in a second, for good; None: never."""
        small = ability.messages_a_second * DRAINED_S
        waiting = [moment.at_s for moment in self.moments if moment.queued > small * moment.ready]
        last_s = max(waiting, default=after_s)
        after = (moment.at_s for moment in self.moments if moment.at_s > last_s)
        return next(after, None)

    def lost_in(self, seconds: float) -> list[tuple[int, int]]:
        """Of every window: (replicas at its beginning, how many were taken away within it)."""
        syncs = int(seconds / SYNC_S)
        pairs = zip(self.replicas, self.replicas[syncs:], strict=False)
        return [(before, before - after) for before, after in pairs if after < before]


def simulate(
    spec: Spec, ability: Ability, rate: Callable[[float], float], seconds: float, terms: Terms | None = None
) -> Came:
    """So long, from the least replicas on."""
    autoscaler, replicas, came = Autoscaler(spec), spec.replicas_min, Came()
    pods = Pods(replicas, ability, terms or Terms())
    at_s = 0.0
    while at_s < seconds:
        for _ in range(int(SYNC_S)):
            pods.pass_time(at_s, 1.0, rate(at_s))
            at_s += 1.0
        wanted = autoscaler.sync(at_s, replicas, pods.seen(replicas))
        pods.scale(at_s, wanted)
        replicas = wanted
        came.moments.append(Moment(at_s, rate(at_s), pods.queued, pods.ready, replicas))
    return came
