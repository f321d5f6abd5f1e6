"""Queries of rules and dashboards: which metrics they name, and how they read with the variables of a page filled in.

It runs none of them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import promql_parser
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
GRAFANA: Final = ROOT / "deploy" / "grafana"
RULES: Final = tuple(sorted((PROMETHEUS / "rules").glob("*.yml")))
TESTS: Final = tuple(sorted((PROMETHEUS / "tests").glob("*.yml")))
VARIABLES: Final = {"namespace": ".*", "instance": ".*"}

# Of what others export: names as their documentation has them. Nothing here can be scraped on one machine.
EXPORTED_ELSEWHERE: Final = {
    # cert-manager
    "certmanager_certificate_expiration_timestamp_seconds",
    # cAdvisor, in the kubelet
    "container_cpu_usage_seconds_total",
    "container_memory_usage_bytes",
    "container_spec_memory_limit_bytes",
    # the kubelet
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    # kube-state-metrics
    "kube_horizontalpodautoscaler_spec_max_replicas",
    "kube_horizontalpodautoscaler_status_desired_replicas",
    "kube_job_failed",
    "kube_pod_container_status_restarts_total",
    # mysqld_exporter
    "mysql_global_status_innodb_row_lock_time_avg",
    "mysql_global_status_innodb_row_lock_waits",
    "mysql_global_status_threads_connected",
    "mysql_global_variables_max_connections",
}
# What Prometheus makes itself.
MADE_BY_PROMETHEUS: Final = {"ALERTS", "up"}


class Panel(NamedTuple):
    """One query of a dashboard."""

    page: str
    title: str
    query: str
    """As Prometheus gets it."""


def dashboards() -> dict[str, dict[str, Any]]:
    """File name → dashboard."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (GRAFANA / "dashboards").glob("*.json")}


def filled(query: str, rate_interval: str) -> str:
    """A query of a dashboard with its variables replaced, as Grafana does before it asks."""
    query = query.replace("$__rate_interval", rate_interval)
    for name, value in VARIABLES.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query, f"an unknown variable: {query}"
    return query


def queries(page: str, dashboard: dict[str, Any], rate_interval: str) -> Iterator[Panel]:
    """All queries of a dashboard."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield Panel(page, panel["title"], filled(target["expr"], rate_interval))


def parsed(query: str) -> promql_parser.Expr:
    """The tree of a query. Raises ValueError where it is none."""
    return promql_parser.parse(query)


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """What a query reads. Raises ValueError for what is no query."""
    found: list[promql_parser.VectorSelector] = []
    _collect(parsed(query), found)
    return found


def metric_names(query: str) -> set[str]:
    """Metrics that a query reads. Raises ValueError for a selector without a name, and for what is no query."""
    names: set[str] = set()
    for selector in selectors(query):
        if not selector.name:
            raise ValueError("a selector without a metric")
        names.add(selector.name)
    return names


def label_values(query: str) -> set[tuple[str, str]]:
    """(label, value) of everything that a query compares a label with; of `a|b` each part, without other patterns."""
    return {
        (matcher.name, value)
        for selector in selectors(query)
        for matcher in selector.matchers.matchers
        for value in matcher.value.split("|")
        if re.fullmatch(r"\w+", value)
    }


def _collect(node: Any, found: list[promql_parser.VectorSelector]) -> None:
    match node:
        case promql_parser.VectorSelector():
            found.append(node)
        case promql_parser.MatrixSelector():
            _collect(node.vector_selector, found)
        case promql_parser.BinaryExpr():
            _collect(node.lhs, found)
            _collect(node.rhs, found)
        case promql_parser.Call():
            for argument in node.args:
                _collect(argument, found)
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.SubqueryExpr():
            _collect(node.expr, found)
        case promql_parser.UnaryExpr():
            _collect(node.expr, found)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            pass
        case _:
            raise ValueError(f"not looked into: {type(node).__name__}")


def rules() -> list[dict[str, Any]]:
    """All rules, in order."""
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """Names that rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def exposed(metrics_text: str) -> set[str]:
    """Names of series on a page of metrics, `_bucket`, `_sum` and `_count` included, those without a value yet, too."""
    names = set(re.findall(r"^([a-zA-Z_:][\w:]*)[{ ]", metrics_text, re.MULTILINE))
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", metrics_text, re.MULTILINE):
        names |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names
