"""Pods as a model: each passes so many messages a second, owns its share of 64 shards, and takes time to start.

What a pod can do is measured of one engine (`ability_of`). What is not modelled: that a shard that moves rests for
moments, and that a node has fewer processors than its pods may use. Time is an argument, in seconds.

Invariants: no message is lost or made; a shard is owned by one ready pod, and a pod that goes leaves its own to others.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtest.autoscale.hpa import PENDING, RUNNING, Pod, Sample
from loadtest.autoscale.record import Row

SHARDS: Final = 64
QUEUE: Final = "custom_queue_length"
CPU_EVERY_S: Final = 15.0
BUSY_QUEUE: Final = 500


@dataclass(frozen=True, slots=True)
class Ability:
    """Of one pod."""

    messages_a_second: float
    cpu_s_a_message: float
    idle_cpu: float
    """Processors."""
    memory_bytes: float
    """Without a backlog."""
    bytes_a_message: float
    """Of memory, for each that waits."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the cluster is like."""

    requests: dict[str, int] = field(default_factory=lambda: {"cpu": 250, "memory": 256 * 1024**2 * 1000})
    starts_s: float = 30.0
    """From the decision to a pod that is ready and owns shards: image there, probes, leases."""
    scrape_s: float = 30.0
    """What the ServiceMonitor says: so old may the queue length be that the autoscaler reads."""


def ability_of(rows: Sequence[Row]) -> Ability:
    """What a recorded run says of one engine; it must have had a backlog, and times without one."""
    pairs = list(itertools.pairwise(rows))
    busy = [(a, b) for a, b in pairs if min(a.queue_length, b.queue_length) > BUSY_QUEUE]
    calm = [row for row in rows if row.queue_length < BUSY_QUEUE]
    if not busy or not calm:
        raise ValueError("needs times with a backlog and times without one")
    seconds = sum(b.at_s - a.at_s for a, b in busy)
    passed = sum(b.sent - a.sent for a, b in busy)
    first, last = rows[0], rows[-1]
    most = max(rows, key=lambda row: row.backlog)
    least = calm[0].memory_bytes
    return Ability(
        messages_a_second=passed / seconds,
        cpu_s_a_message=(last.cpu_s - first.cpu_s) / (last.sent - first.sent),
        idle_cpu=0.01,
        memory_bytes=least,
        bytes_a_message=max(0.0, (most.memory_bytes - least) / most.backlog),
    )


@dataclass(slots=True)
class _Pod:
    name: str
    made_s: float
    ready_s: float
    shards: list[int] = field(default_factory=list)
    used_cpu_s: float = 0.0
    scraped: Sample | None = None
    cpu: Sample | None = None
    memory: Sample | None = None


class Pods:
    """All pods of one Deployment."""

    def __init__(self, replicas: int, ability: Ability, terms: Terms) -> None:
        """So many that run already."""
        self._ability = ability
        self._terms = terms
        self._made = 0
        self._queues = [0.0] * SHARDS
        self._pods: list[_Pod] = []
        self._scraped_s = self._cpu_s = 0.0
        for _ in range(replicas):
            self._start(0.0, 0.0)
        self._spread(0.0)

    @property
    def queued(self) -> float:
        """Messages that wait and may leave."""
        return sum(self._queues)

    @property
    def ready(self) -> int:
        """Pods that own shards."""
        return sum(bool(pod.shards) for pod in self._pods)

    def scale(self, now_s: float, replicas: int) -> None:
        """Start pods, or end the youngest."""
        for _ in range(replicas - len(self._pods)):
            self._start(now_s, now_s + self._terms.starts_s)
        del self._pods[replicas:]
        self._spread(now_s)

    def pass_time(self, now_s: float, seconds: float, arrived: float) -> None:
        """Messages come in, pods pass what they can, and are scraped when that is due."""
        self._spread(now_s)
        for shard in range(SHARDS):
            self._queues[shard] += arrived / SHARDS
        for pod in self._pods:
            waiting = sum(self._queues[shard] for shard in pod.shards)
            passed = min(waiting, self._ability.messages_a_second * seconds)
            left = 1 - passed / waiting if waiting else 0.0
            for shard in pod.shards:
                self._queues[shard] *= left
            pod.used_cpu_s += passed * self._ability.cpu_s_a_message + self._ability.idle_cpu * seconds
        self._sample(now_s + seconds)

    def seen(self, replicas: int) -> list[Pod]:
        """As the controller sees them."""
        return [self._seen(pod) for pod in self._pods[:replicas]]

    def _start(self, now_s: float, ready_s: float) -> None:
        self._made += 1
        self._pods.append(_Pod(f"pod-{self._made}", now_s, ready_s))

    def _spread(self, now_s: float) -> None:
        ready = [pod for pod in self._pods if pod.ready_s <= now_s]
        for pod in self._pods:
            pod.shards = []
        for shard in range(SHARDS):
            ready[shard % len(ready)].shards.append(shard)

    def _sample(self, now_s: float) -> None:
        if now_s - self._scraped_s >= self._terms.scrape_s:
            self._scraped_s = now_s
            for pod in self._ready_pods():
                waiting = sum(self._queues[shard] for shard in pod.shards)
                pod.scraped = Sample(int(waiting) * 1000, now_s)
                held = self._ability.memory_bytes + waiting * self._ability.bytes_a_message
                pod.memory = Sample(int(held) * 1000, now_s)
        if now_s - self._cpu_s >= CPU_EVERY_S:
            window_s, self._cpu_s = now_s - self._cpu_s, now_s
            for pod in self._ready_pods():
                pod.cpu = Sample(int(pod.used_cpu_s / window_s * 1000), now_s, window_s)
                pod.used_cpu_s = 0.0

    def _ready_pods(self) -> list[_Pod]:
        return [pod for pod in self._pods if pod.shards]

    def _seen(self, pod: _Pod) -> Pod:
        ready = bool(pod.shards)
        named = {QUEUE: pod.scraped, "cpu": pod.cpu, "memory": pod.memory}
        return Pod(
            name=pod.name,
            samples={name: sample for name, sample in named.items() if sample is not None},
            requests=self._terms.requests,
            phase=RUNNING if ready else PENDING,
            ready=ready,
            started_s=pod.made_s,
            ready_changed_s=pod.ready_s,
        )
