"""Dashboards as they are committed: fresh, laid out, and made of queries that parse and name metrics that exist.

Whether they return data is asked in `test_live.py`, and by promtool for what an engine alone does not export.
"""

import copy
import importlib.util
import json
import tomllib
from itertools import combinations
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from engine.metrics import Metrics
from tests.observe import promql

DASHBOARDS = promql.dashboards()
SOURCE = tomllib.loads((promql.GRAFANA / "dashboards.toml").read_text(encoding="utf-8"))
GUIDE_PANELS = ["Request Rate", "Response Time", "Message Processing Rate", "System Resources"]
# Grafana's names of units, as far as they are used here.
UNITS = {"short", "s", "percentunit", "reqps", "cps", "bytes"}
COLUMNS = 24


def generator() -> Any:
    """The script that writes them."""
    spec = importlib.util.spec_from_file_location("dashboards_generator", promql.GRAFANA / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def known_names() -> set[str]:
    """Metrics that a query may name."""
    own = promql.exposed(generate_latest(Metrics("", "").registry).decode())
    return own | promql.EXPORTED_ELSEWHERE | promql.MADE_BY_PROMETHEUS | promql.recorded()


def complaints(page: str, dashboard: dict[str, Any], known: set[str]) -> list[str]:
    """What is wrong with the queries of a dashboard."""
    found = []
    for panel in promql.queries(page, dashboard, "5m"):
        try:
            missing = promql.metric_names(panel.query) - known
        except ValueError as error:
            found.append(f"{panel.title}: {error}")
        else:
            found += [f"{panel.title}: no metric {name}" for name in sorted(missing)]
    return found


def test_they_are_what_the_source_makes() -> None:
    made = {path.name: text for path, text in generator().files().items()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (promql.GRAFANA / "dashboards").glob("*.json")}
    assert committed == made, "run make dashboards"


def test_the_five_pages_are_there() -> None:
    titles = {dashboard["title"] for dashboard in DASHBOARDS.values()}
    assert titles == {
        "10DLC SMS System - Production",
        "Longwave: carriers and limits",
        "Longwave: stores",
        "Longwave: tenants",
        "Longwave: capacity",
    }
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_the_guides_panels_keep_their_titles_and_metrics() -> None:
    panels = {panel["title"]: panel for panel in DASHBOARDS["longwave-overview.json"]["panels"]}
    assert set(GUIDE_PANELS) <= set(panels)
    named = {
        title: {name for target in panels[title]["targets"] for name in promql.metric_names(filled(target["expr"]))}
        for title in GUIDE_PANELS
    }
    assert "http_requests_total" in named["Request Rate"]
    assert "http_request_duration_seconds_bucket" in named["Response Time"]
    assert "messages_processed_total" in named["Message Processing Rate"]
    assert named["System Resources"] >= {
        "container_cpu_usage_seconds_total",
        "container_memory_usage_bytes",
        "container_spec_memory_limit_bytes",
    }


def filled(query: str) -> str:
    return promql.filled(query, "5m")


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_a_page_is_well_formed(name: str) -> None:
    dashboard = DASHBOARDS[name]
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert next(variable["name"] for variable in dashboard["templating"]["list"]) == "datasource"
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= COLUMNS
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["description"]
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), f"{one['title']} lies over {other['title']}"


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two panels share a place."""
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_panels_that_overlap_are_noticed() -> None:
    assert overlap({"x": 0, "y": 0, "w": 8, "h": 8}, {"x": 7, "y": 7, "w": 8, "h": 8})
    assert not overlap({"x": 0, "y": 0, "w": 8, "h": 8}, {"x": 8, "y": 0, "w": 8, "h": 8})


def test_every_panel_of_the_source_shows_all_its_queries() -> None:
    shown = [
        len(panel["targets"])
        for dashboard in SOURCE["dashboard"]
        for panel in DASHBOARDS[f"{dashboard['uid']}.json"]["panels"]
        if panel["type"] != "row"
    ]
    wanted = [len(panel["queries"]) for page in SOURCE["dashboard"] for row in page["row"] for panel in row["panel"]]
    assert shown == wanted


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_every_query_parses_and_names_metrics_that_exist(name: str) -> None:
    assert complaints(name, DASHBOARDS[name], known_names()) == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("message_queue_length", "message_queue_lenght", "no metric message_queue_lenght"),
        ("sum by (state) (longwave", "sum by (state (longwave", "Queue"),
        ("active_connections{", "{", "Database connections"),
    ],
)
def test_a_planted_mistake_is_noticed(right: str, wrong: str, said: str) -> None:
    text = json.dumps(DASHBOARDS["longwave-overview.json"])
    assert right in text
    planted = copy.deepcopy(json.loads(text.replace(right, wrong)))
    assert said in " ".join(complaints("planted", planted, known_names()))


def test_what_an_engine_alone_does_not_export_is_marked_and_run_on_recorded_series() -> None:
    """Panels marked `needs` are those whose queries stand in dashboards_test.yml, which promtool runs."""
    marked = {
        promql.filled(query.replace("@", generator().SELECTORS).replace("[$r]", "[5m]"), "5m")
        for page in SOURCE["dashboard"]
        for row in page["row"]
        for panel in row["panel"]
        if "needs" in panel
        for query, _ in panel["queries"]
    }
    tests = yaml.safe_load((promql.PROMETHEUS / "tests" / "dashboards_test.yml").read_text(encoding="utf-8"))["tests"]
    run = {check["expr"] for test in tests for check in test["promql_expr_test"] if check["exp_samples"]}
    assert run == marked
    elsewhere = {
        panel.query
        for name, dashboard in DASHBOARDS.items()
        for panel in promql.queries(name, dashboard, "5m")
        if promql.metric_names(panel.query) & promql.EXPORTED_ELSEWHERE
    }
    assert elsewhere <= marked


def test_every_listed_metric_of_others_is_used() -> None:
    named = {
        name
        for page, dashboard in DASHBOARDS.items()
        for panel in promql.queries(page, dashboard, "5m")
        for name in promql.metric_names(panel.query)
    }
    named |= {name for rule in promql.rules() for name in promql.metric_names(rule["expr"])}
    assert named >= promql.EXPORTED_ELSEWHERE


def test_provisioning_names_the_folder_and_the_data_source() -> None:
    folder = promql.GRAFANA / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    [provider] = yaml.safe_load((folder / "dashboards" / "longwave.yml").read_text(encoding="utf-8"))["providers"]
    assert source["type"] == "prometheus"
    configuration = yaml.safe_load((promql.PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == configuration["global"]["scrape_interval"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]
