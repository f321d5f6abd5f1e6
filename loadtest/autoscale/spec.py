"""Reads a HorizontalPodAutoscaler (autoscaling/v2) and fills in what the API server would.

It decides nothing. Metrics of the kinds Resource and Pods are read; another kind, or a field that Kubernetes 1.34
ignores unless a feature is switched on (`tolerance`), is refused rather than left out.

Values are in thousandths, as the controller counts them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import yaml

RESOURCE: Final = "Resource"
PODS: Final = "Pods"
PERCENT: Final = "Percent"
DISABLED: Final = "Disabled"
MIN: Final = "Min"
CPU_DEFAULT_PERCENT: Final = 80
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?")
_UNITS: Final = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal("1e3"), "M": Decimal("1e6"),
    "G": Decimal("1e9"), "T": Decimal("1e12"), "P": Decimal("1e15"), "E": Decimal("1e18"),
    **{f"{name}i": Decimal(1024) ** power for power, name in enumerate("KMGTPE", 1)},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Policy:
    """How far replicas may change within a period."""

    kind: str
    """`Pods` or `Percent`."""
    value: int
    period_s: int


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one direction."""

    stabilization_s: int
    select: str
    """`Max`, `Min` or `Disabled`."""
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """One metric and what it is to be."""

    name: str
    resource: bool
    """Of a container (cpu, memory), else a custom metric of the pod."""
    percent: int | None
    """Of what the pod requests; else None."""
    average_milli: int | None
    """Of a pod; else None."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One autoscaler."""

    name: str
    target: str
    """The Deployment it scales."""
    replicas_min: int
    replicas_max: int
    metrics: tuple[Target, ...]
    up: Rules | None
    """None, as `down`: the file has no behaviour, and the rules from before there was one hold."""
    down: Rules | None


_UP: Final = Rules(0, "Max", (Policy(PODS, 4, 15), Policy(PERCENT, 100, 15)))
# The window is the controller's own (`--horizontal-pod-autoscaler-downscale-stabilization`).
DOWN_WINDOW_S: Final = 300
_DOWN: Final = Rules(DOWN_WINDOW_S, "Max", (Policy(PERCENT, 100, 15),))


def milli(quantity: str | float) -> int:
    """A quantity such as `500m`, `1Gi` or `10` in thousandths, rounded up as Kubernetes does."""
    match = _QUANTITY.fullmatch(str(quantity).strip())
    if match is None:
        raise ValueError(f"not a quantity: {quantity}")
    number, unit = match.groups()
    factor = Decimal(1) if unit is None else _UNITS.get(unit) or Decimal(f"1{unit}")
    return math.ceil(Decimal(number) * factor * 1000)


def read(text: str, name: str | None = None) -> Spec:
    """The autoscaler of this name in a YAML text of any number of documents; without a name there must be only one."""
    documents = [document for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    found = [
        document
        for document in documents
        if document.get("kind") == "HorizontalPodAutoscaler" and name in {None, document["metadata"]["name"]}
    ]
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} HorizontalPodAutoscalers {name or ''} here: give the name of one".replace("  ", " ")
        )
    [document] = found
    if document.get("apiVersion") != "autoscaling/v2":
        raise ValueError(f"apiVersion {document.get('apiVersion')}: autoscaling/v2 is read")
    spec = document["spec"]
    behavior = spec.get("behavior")
    metrics = [_target(metric) for metric in spec.get("metrics") or ()]
    return Spec(
        name=document["metadata"]["name"],
        target=spec["scaleTargetRef"]["name"],
        replicas_min=int(spec.get("minReplicas", 1)),
        replicas_max=int(spec["maxReplicas"]),
        metrics=tuple(metrics) or (Target("cpu", resource=True, percent=CPU_DEFAULT_PERCENT, average_milli=None),),
        up=None if behavior is None else _rules(behavior.get("scaleUp"), _UP),
        down=None if behavior is None else _rules(behavior.get("scaleDown"), _DOWN),
    )


def _target(metric: Mapping[str, Any]) -> Target:
    kind = metric["type"]
    if kind == RESOURCE:
        name, target = metric["resource"]["name"], metric["resource"]["target"]
    elif kind == PODS:
        name, target = metric["pods"]["metric"]["name"], metric["pods"]["target"]
    else:
        raise ValueError(f"a metric of the kind {kind} is not read, only {RESOURCE} and {PODS}")
    percent, average = target.get("averageUtilization"), target.get("averageValue")
    if (percent is None) == (average is None) or (percent is not None and kind == PODS):
        raise ValueError(f"{name}: needs an averageValue, or a resource its averageUtilization")
    return Target(
        name=name,
        resource=kind == RESOURCE,
        percent=None if percent is None else int(percent),
        average_milli=None if average is None else milli(average),
    )


def _rules(given: Mapping[str, Any] | None, default: Rules) -> Rules:
    if given is None:
        return default
    if "tolerance" in given:
        raise ValueError("tolerance is ignored by Kubernetes 1.34 unless HPAConfigurableTolerance is on: not read")
    policies = given.get("policies")
    return Rules(
        stabilization_s=int(given.get("stabilizationWindowSeconds", default.stabilization_s)),
        select=str(given.get("selectPolicy", default.select)),
        policies=default.policies
        if policies is None
        else tuple(Policy(one["type"], int(one["value"]), int(one["periodSeconds"])) for one in policies),
    )
