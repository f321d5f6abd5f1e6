"""What the HorizontalPodAutoscaler controller of Kubernetes 1.34 decides: how many pods there are to be.

It reads no clock, starts no pod and reads no file (`spec.py` does). The rules are those of
`k8s.io/kubernetes/pkg/controller/podautoscaler`, in their integer and float arithmetic: `tests/autoscale` compares each
decision with those that the controller's own code took.

Invariants: a decision depends on the spec, the pods that are shown, and what this object decided before. Among metrics
the largest proposal counts; one that cannot be read forbids to scale down.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtest.autoscale.spec import DISABLED, DOWN_WINDOW_S, MIN, PERCENT, Policy, Rules, Spec, Target

SYNC_S: Final = 15.0
TOLERANCE: Final = 0.1
# The controller's defaults: cpu of a pod that has just started says nothing of its load.
CPU_INITIALIZATION_S: Final = 300.0
INITIAL_READINESS_S: Final = 30.0
PENDING: Final = "Pending"
FAILED: Final = "Failed"
RUNNING: Final = "Running"
# Before there were behaviours: at most twice as many at once, or four.
_LEGACY_FACTOR: Final = 2
_LEGACY_LEAST: Final = 4
_CPU: Final = "cpu"


@dataclass(frozen=True, slots=True)
class Sample:
    """A metric of a pod."""

    milli: int
    at_s: float = 0.0
    window_s: float = 0.0
    """What it is the mean of; ends at `at_s`."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the controller sees it."""

    name: str
    samples: Mapping[str, Sample]
    """By metric; what is missing is not there."""
    requests: Mapping[str, int]
    """By resource, in thousandths."""
    phase: str = RUNNING
    deleting: bool = False
    ready: bool = True
    started_s: float = 0.0
    ready_changed_s: float = 0.0
    """When it became ready, or stopped being so."""


class MetricUnavailableError(Exception):
    """No pod has this metric."""


@dataclass(slots=True)
class Autoscaler:
    """The controller of one autoscaler."""

    spec: Spec
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _added: list[tuple[float, int]] = field(default_factory=list)
    _removed: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now_s: float, replicas: int, pods: Sequence[Pod]) -> int:
        """How many replicas there are to be from now on; called every `SYNC_S`."""
        if not self._recommended:
            self._recommended.append((now_s, replicas))
        wanted = self._wanted(now_s, replicas, pods)
        if wanted > replicas:
            self._added.append((now_s, wanted - replicas))
        elif wanted < replicas:
            self._removed.append((now_s, replicas - wanted))
        return wanted

    def _wanted(self, now_s: float, replicas: int, pods: Sequence[Pod]) -> int:
        spec = self.spec
        if replicas == 0 and spec.replicas_min != 0:
            return 0  # switched off by hand
        if replicas > spec.replicas_max:
            return spec.replicas_max
        if replicas < spec.replicas_min:
            return spec.replicas_min
        proposed = self._proposed(now_s, replicas, pods)
        if proposed is None:
            return replicas
        if spec.up is None or spec.down is None:
            return self._normalized_without_behavior(now_s, replicas, proposed)
        stable = self._stabilized(now_s, replicas, proposed, spec.up, spec.down)
        if stable > replicas:
            limit = max(replicas, self._limit(now_s, replicas, spec.up, up=True))
            return min(stable, spec.replicas_max, limit)
        if stable < replicas:
            limit = min(replicas, self._limit(now_s, replicas, spec.down, up=False))
            return max(stable, spec.replicas_min, limit)
        return stable

    def _proposed(self, now_s: float, replicas: int, pods: Sequence[Pod]) -> int | None:
        """The largest of all metrics; None when nothing may be decided."""
        proposed, unavailable = 0, 0
        for target in self.spec.metrics:
            try:
                proposed = max(proposed, replicas_for(target, now_s, replicas, pods))
            except MetricUnavailableError:
                unavailable += 1
        if unavailable == len(self.spec.metrics) or (unavailable and proposed < replicas):
            return None
        return proposed

    def _stabilized(self, now_s: float, replicas: int, proposed: int, up: Rules, down: Rules) -> int:
        """Up no further than the least proposal of its window, down no further than the greatest of its own."""
        least = min([proposed, *(count for at_s, count in self._recommended if at_s > now_s - up.stabilization_s)])
        most = max([proposed, *(count for at_s, count in self._recommended if at_s > now_s - down.stabilization_s)])
        self._recommend(now_s, proposed, max(up.stabilization_s, down.stabilization_s))
        return min(max(replicas, least), most)

    def _normalized_without_behavior(self, now_s: float, replicas: int, proposed: int) -> int:
        window = [count for at_s, count in self._recommended if at_s >= now_s - DOWN_WINDOW_S]
        stable = max([proposed, *window])
        self._recommend(now_s, proposed, DOWN_WINDOW_S)
        at_most = min(self.spec.replicas_max, max(_LEGACY_FACTOR * replicas, _LEGACY_LEAST))
        return min(max(stable, self.spec.replicas_min), at_most)

    def _recommend(self, now_s: float, proposed: int, kept_s: float) -> None:
        self._recommended = [one for one in self._recommended if one[0] >= now_s - kept_s]
        self._recommended.append((now_s, proposed))

    def _limit(self, now_s: float, replicas: int, rules: Rules, *, up: bool) -> int:
        if rules.select == DISABLED:
            return replicas
        allowed = [self._allowed(now_s, replicas, policy, up=up) for policy in rules.policies]
        return max(allowed) if up == (rules.select != MIN) else min(allowed)

    def _allowed(self, now_s: float, replicas: int, policy: Policy, *, up: bool) -> int:
        after_s = now_s - policy.period_s
        added = sum(count for at_s, count in self._added if at_s > after_s)
        removed = sum(count for at_s, count in self._removed if at_s > after_s)
        before = replicas - added + removed
        if policy.kind != PERCENT:
            return before + policy.value if up else before - policy.value
        if up:
            return math.ceil(before * (1 + policy.value / 100))
        return int(before * (1 - policy.value / 100))


def replicas_for(target: Target, now_s: float, replicas: int, pods: Sequence[Pod]) -> int:
    """What one metric proposes. Raises MetricUnavailableError."""
    alive = [pod for pod in pods if not pod.deleting and pod.phase != FAILED]
    pending = [pod for pod in alive if pod.phase == PENDING]
    running = [pod for pod in alive if pod.phase != PENDING]
    missing = [pod for pod in running if target.name not in pod.samples]
    shown = [pod for pod in running if target.name in pod.samples]
    early = [pod for pod in shown if target.resource and target.name == _CPU and _too_early(pod, now_s)]
    counted = {pod.name: pod.samples[target.name].milli for pod in shown if pod not in early}
    if not counted:
        raise MetricUnavailableError(target.name)
    requests = {pod.name: pod.requests.get(target.name, 0) for pod in pods}
    ratio = _ratio(target, counted, requests)
    unready = [*pending, *early]
    up_with_unready = bool(unready) and ratio > 1
    if not up_with_unready and not missing:
        return replicas if _is_within(ratio) else math.ceil(ratio * len(counted))
    for pod in missing:
        if ratio < 1:
            counted[pod.name] = _full(target, requests[pod.name])
        elif ratio > 1:
            counted[pod.name] = 0
    if up_with_unready:
        counted |= dict.fromkeys((pod.name for pod in unready), 0)
    again = _ratio(target, counted, requests)
    if _is_within(again) or (ratio < 1 < again) or (again < 1 < ratio):
        return replicas
    proposed = math.ceil(again * len(counted))
    if (again < 1 and proposed > replicas) or (again > 1 and proposed < replicas):
        return replicas
    return proposed


def _is_within(ratio: float) -> bool:
    return 1.0 - TOLERANCE <= ratio <= 1.0 + TOLERANCE


def _full(target: Target, request: int) -> int:
    """What a pod whose metric is missing is taken for where that would let others go."""
    if target.percent is None:
        return target.average_milli or 0
    return request * max(100, target.percent) // 100


def _ratio(target: Target, counted: Mapping[str, int], requests: Mapping[str, int]) -> float:
    if target.percent is None:
        return (sum(counted.values()) // len(counted)) / (target.average_milli or 0)
    requested = sum(requests[name] for name in counted)
    if not requested:
        raise MetricUnavailableError(f"{target.name}: no requests")
    return (sum(counted.values()) * 100 // requested) / target.percent


def _too_early(pod: Pod, now_s: float) -> bool:
    """Whether a pod's cpu tells of its start and not of its load."""
    sample = pod.samples[_CPU]
    if pod.started_s + CPU_INITIALIZATION_S > now_s:
        return not pod.ready or sample.at_s < pod.ready_changed_s + sample.window_s
    return not pod.ready and pod.started_s + INITIAL_READINESS_S > pod.ready_changed_s
