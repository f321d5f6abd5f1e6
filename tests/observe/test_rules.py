"""Rules of Prometheus: the real tools take them, each alert is fired by one test and kept quiet by another.

It runs no server; `test_live.py` does.
"""

import re
import subprocess
from collections import defaultdict
from pathlib import Path

import grpc
import pytest
import yaml
from prometheus_client import generate_latest

from engine import _core
from engine.errors import Verdict
from engine.meter import STATE_NAMES
from engine.metrics import Metrics
from tests.observe import promql

SEVERITIES = {"critical", "warning", "info"}


def promtool(*arguments: str, folder: Path = promql.PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_the_configuration_and_the_rules_are_taken() -> None:
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == len(promql.RULES)


def test_the_custom_resource_holds_the_rules() -> None:
    resource = yaml.safe_load((promql.PROMETHEUS / "prometheusrule.yaml").read_text(encoding="utf-8"))
    assert (resource["apiVersion"], resource["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    held = [rule for group in resource["spec"]["groups"] for rule in group["rules"]]
    assert held == promql.rules(), "run make dashboards"
    names = [group["name"] for group in resource["spec"]["groups"]]
    assert len(set(names)) == len(names)


def test_a_rule_that_is_none_is_refused(tmp_path: Path) -> None:
    wrong = promql.RULES[0].read_text(encoding="utf-8").replace("sum by", "summ by").replace("expr: up", "expr: up{")
    (tmp_path / "wrong.yml").write_text(wrong, encoding="utf-8")
    assert promtool("check", "rules", str(tmp_path / "wrong.yml")).returncode != 0


@pytest.mark.parametrize("path", promql.TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_quiet_as_their_tests_say(path: Path) -> None:
    done = promtool("test", "rules", path.name, folder=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_fired_by_a_test_and_kept_quiet_by_another() -> None:
    seen: defaultdict[str, set[bool]] = defaultdict(set)
    for path in promql.TESTS:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in test.get("alert_rule_test", ()):
                assert test["input_series"]
                seen[check["alertname"]].add(bool(check["exp_alerts"]))
    assert dict(seen) == {name: {True, False} for name in promql.alerts()}


def test_a_threshold_that_moved_fails_the_tests(tmp_path: Path) -> None:
    """The guide's 80 % of memory, planted at 99 %."""
    rules = (promql.PROMETHEUS / "rules" / "alerts.yml").read_text(encoding="utf-8")
    moved = rules.replace("longwave_memory_limit_bytes > 0.8", "longwave_memory_limit_bytes > 0.99")
    assert moved != rules
    tests = yaml.safe_load((promql.PROMETHEUS / "tests" / "alerts_test.yml").read_text(encoding="utf-8"))
    tests["tests"] = [test for test in tests["tests"] if test["name"].startswith("HighMemoryUsage")]
    for folder, name, text in (
        ("rules", "alerts.yml", moved),
        ("tests", "alerts_test.yml", yaml.safe_dump(tests)),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text, encoding="utf-8")
    done = promtool("test", "rules", "alerts_test.yml", folder=tmp_path / "tests")
    assert done.returncode != 0
    assert "HighMemoryUsage" in done.stdout + done.stderr


def test_every_rule_reads_metrics_that_exist() -> None:
    known = promql.exposed(generate_latest(Metrics("", "").registry).decode())
    known |= promql.EXPORTED_ELSEWHERE | promql.MADE_BY_PROMETHEUS | promql.recorded()
    unknown = {
        rule.get("alert", rule.get("record")): missing
        for rule in promql.rules()
        if (missing := promql.metric_names(rule["expr"]) - known)
    }
    assert unknown == {}


def test_every_alert_says_how_bad_it_is_and_what_it_is_about() -> None:
    for name, alert in promql.alerts().items():
        assert alert["labels"]["severity"] in SEVERITIES, name
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert alert["annotations"]["runbook_url"].endswith(f"/docs/operations/runbooks/{name}.md"), name


def known_values() -> dict[str, set[str]]:
    """The values of labels that the engine makes, from where it makes them."""
    outcomes = (promql.ROOT / "rust_core" / "src" / "outcome.rs").read_text(encoding="utf-8")
    helps = {family.name: family.documentation for family in Metrics("", "").registry.collect()}
    scheduler = _core.Scheduler({}, _core.Registry(0, [], [], []), 0)
    return {
        "code": {code.name for code in grpc.StatusCode},
        "verdict": {verdict.name for verdict in Verdict},
        "status": {*STATE_NAMES.values(), "accepted", "refused", "received", "conflict"},
        "state": set(STATE_NAMES.values()),
        "outcome": set(re.findall(r'Self::\w+ \{ \.\. \} => "(\w+)"', outcomes)),
        "reason": {reason for reason, _ in scheduler.waiting()} | {"stored"},
        "result": set(re.findall(r"\w+", helps["longwave_receipts"] + helps["longwave_hints"])),
        "kind": set(re.findall(r"\w+", helps["longwave_quota_parks"].partition("by kind:")[2])),
        "direction": {"inbound", "outbound"},
        "condition": {"true", "false", "unknown"},  # of kube-state-metrics
    }


def test_every_label_is_compared_with_values_that_it_has() -> None:
    """A misspelt value would select nothing, and the alert would never fire."""
    known = known_values()
    assert len(known["outcome"]) == 5
    # Of others: alerts of Prometheus itself, volumes, containers, methods.
    foreign = {"alertstate", "container", "le", "method", "persistentvolumeclaim", "slo", "route", "job"}
    compared = {pair for rule in promql.rules() for pair in promql.label_values(rule["expr"])}
    compared |= {
        pair
        for name, dashboard in promql.dashboards().items()
        for panel in promql.queries(name, dashboard, "5m")
        for pair in promql.label_values(panel.query)
    }
    assert len(compared) > 30
    assert {pair for pair in compared if pair[0] not in foreign and pair[1] not in known.get(pair[0], ())} == set()


def test_a_misspelt_value_is_read() -> None:
    query = 'sum(rate(longwave_attempts_total{outcome=~"takn|unknown"}[5m]))'
    assert promql.label_values(query) == {("outcome", "takn"), ("outcome", "unknown")}
