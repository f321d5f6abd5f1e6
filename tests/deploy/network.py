"""Decides what NetworkPolicies let through, as Kubernetes' documentation defines it; no packet is sent.

A pod that no policy selects for a direction is open in it; one that is selected gets what any of its policies allows.
Both ends are asked where both are pods.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Final

Labels = dict[str, str]
UNNAMED: Final = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class End:
    """A pod with its namespace, or an address outside of the cluster."""

    labels: Labels = field(default_factory=dict)
    namespace: str = ""
    namespace_labels: Labels = field(default_factory=dict)
    address: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    """Named ports of the pod."""


def selects(selector: dict[str, Any], labels: Labels) -> bool:
    """Whether labels match; an empty selector matches all."""
    if unknown := selector.keys() - {"matchLabels"}:
        message = f"{sorted(unknown)} of a selector is not understood here"
        raise ValueError(message)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def allows(policies: list[dict[str, Any]], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether `source` may open a connection to this port of `target`."""
    return _lets(policies, "Egress", source, target, target, port, protocol) and _lets(
        policies, "Ingress", target, source, target, port, protocol
    )


def _lets(
    policies: list[dict[str, Any]], direction: str, pod: End, other: End, target: End, port: int, protocol: str
) -> bool:
    if pod.address:
        return True
    mine = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    ]
    side = "to" if direction == "Egress" else "from"
    return not mine or any(
        _is_peer(rule.get(side), other, pod.namespace) and _is_port(rule.get("ports"), target, port, protocol)
        for policy in mine
        for rule in policy["spec"].get(direction.lower(), [])
    )


def _is_peer(peers: list[dict[str, Any]] | None, other: End, namespace: str) -> bool:
    return peers is None or any(_matches(peer, other, namespace) for peer in peers)


def _matches(peer: dict[str, Any], other: End, namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        return (
            bool(other.address)
            and _is_in(block["cidr"], other)
            and not any(_is_in(away, other) for away in block.get("except", []))
        )
    if other.address:
        return False
    near = (
        selects(peer["namespaceSelector"], other.namespace_labels | {UNNAMED: other.namespace})
        if "namespaceSelector" in peer
        else other.namespace == namespace
    )
    return near and selects(peer.get("podSelector", {}), other.labels)


def _is_in(network: str, other: End) -> bool:
    return ip_address(other.address) in ip_network(network)


def _is_port(ports: list[dict[str, Any]] | None, target: End, port: int, protocol: str) -> bool:
    return ports is None or any(
        entry.get("protocol", "TCP") == protocol and target.ports.get(entry["port"], entry["port"]) == port
        for entry in ports
    )
