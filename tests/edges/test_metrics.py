"""The metrics registry: the guide's names, bounded labels, and a description of everything that is exposed."""

from __future__ import annotations

import re

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engine.metrics import LABEL_VALUES_MAX, STAGES, Metrics

# Name -> labels, as the operations guide has them.
GUIDE = {
    "messages_processed_total": ("direction", "status", "campaign_id"),
    "message_queue_length": (),
    "active_connections": (),
    "http_requests_total": ("method", "route", "status_code"),
    "http_request_duration_seconds": ("method", "route"),
}


def rows(metrics: Metrics) -> dict[str, tuple[str, tuple[str, ...], str]]:
    """The described metrics: name -> type, labels, meaning."""
    found = {}
    for line in metrics.describe().splitlines()[2:]:
        name, kind, labels, text = (cell.strip() for cell in line.strip("|").split("|"))
        found[name.strip("`")] = (kind, tuple(re.findall(r"`(\w+)`", labels)), text)
    return found


def test_the_guides_names_and_labels_are_kept(metrics: Metrics) -> None:
    described = rows(metrics)
    assert {name: described[name][1] for name in GUIDE} == GUIDE


def test_the_guides_buckets_are_kept(metrics: Metrics) -> None:
    metrics.count_http("GET", "/health", 200, 0.3)
    text = generate_latest(metrics.registry).decode()
    edges = re.findall(r'http_request_duration_seconds_bucket\{le="([^"]+)"', text)
    assert {"0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "0.005"} <= set(edges)


def test_every_exposed_metric_is_described_and_the_reverse(metrics: Metrics) -> None:
    described = rows(metrics)
    families = {family.name: family for family in metrics.registry.collect()}
    exposed = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    own = {name for name in exposed if not name.startswith(("process_", "python_gc_"))}
    assert own == {name for name in described if not name.endswith("*")}
    assert all(family.documentation for family in families.values())
    assert {"process_*", "python_gc_*"} <= set(described)


def test_every_stage_has_time_and_messages(metrics: Metrics) -> None:
    for number, stage in enumerate(STAGES, start=1):
        metrics.stages[stage].record(0.01, number)
        assert metrics.registry.get_sample_value(f"longwave_{stage}_messages_total") == number
        assert metrics.registry.get_sample_value(f"longwave_{stage}_seconds_count") == 1


def test_label_values_beyond_their_number_fold_into_other(metrics: Metrics) -> None:
    campaigns = LABEL_VALUES_MAX["campaign_id"]
    for number in range(campaigns + 50):
        metrics.count_processed("outbound", "DELIVERED", f"C{number}", 2)
    metrics.count_processed("outbound", "DELIVERED", "C0")
    value = metrics.registry.get_sample_value

    def delivered(campaign: str) -> float | None:
        labels = {"direction": "outbound", "status": "DELIVERED", "campaign_id": campaign}
        return value("messages_processed_total", labels)

    assert delivered("C0") == 3
    assert delivered(f"C{campaigns - 1}") == 2
    assert delivered(f"C{campaigns}") is None
    assert delivered("other") == 100


@pytest.mark.parametrize("label", sorted(LABEL_VALUES_MAX))
def test_every_bounded_label_is_bounded(metrics: Metrics, label: str) -> None:
    given = {metrics.bounded(label, f"v{number}") for number in range(LABEL_VALUES_MAX[label] * 2)}
    assert len(given) == LABEL_VALUES_MAX[label] + 1
    assert "other" in given


def test_counting_helpers_reach_their_series(metrics: Metrics) -> None:
    metrics.count_verdict("ACCEPTED", 3)
    metrics.count_attempts("telnyx", "taken", 4)
    metrics.count_grpc("/longwave.v1.Messaging/SubmitMessage", "OK", 0.002)
    value = metrics.registry.get_sample_value
    assert value("longwave_admit_verdicts_total", {"verdict": "ACCEPTED"}) == 3
    assert value("longwave_attempts_total", {"provider": "telnyx", "outcome": "taken"}) == 4
    method = {"method": "/longwave.v1.Messaging/SubmitMessage"}
    assert value("longwave_grpc_requests_total", {**method, "code": "OK"}) == 1
    assert value("longwave_grpc_request_duration_seconds_count", method) == 1
    assert value("longwave_build_info", {"version": "0.0.0", "store": "memory"}) == 1


def test_two_registries_do_not_share_and_the_global_one_is_untouched() -> None:
    one, two = Metrics("1", "sqlite"), Metrics("2", "sqlite")
    one.unknown_attempts.inc()
    assert two.registry.get_sample_value("longwave_unknown_attempts_total") == 0
    assert REGISTRY.get_sample_value("longwave_unknown_attempts_total") is None


def test_openmetrics_is_valid_and_has_no_created_series(metrics: Metrics) -> None:
    metrics.count_processed("outbound", "DELIVERED", "C1")
    text = generate_openmetrics(metrics.registry).decode()  # type: ignore[no-untyped-call]
    assert "_created" not in text
    assert "messages_processed" in {family.name for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
