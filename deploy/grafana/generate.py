"""Writes deploy/grafana/dashboards/*.json from dashboards.toml: pages, rows and panels laid out in 24 columns.

It asks no Grafana and judges no query; tests/observe does. Run it as `make dashboards`.

Invariants: two runs give the same bytes; every panel has an id of its own, a unit and the page's data source; panels
never overlap.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = HERE / "dashboards.toml"
FOLDER: Final = HERE / "dashboards"
COLUMNS: Final = 24
PANEL_WIDTH: Final = 8
PANEL_HEIGHT: Final = 8
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
# What stands for @ and $r in an expression.
SELECTORS: Final = 'namespace=~"$namespace", instance=~"$instance"'
RATE_INTERVAL: Final = "$__rate_interval"
# One machine's series have no label `namespace`: everything must match its absence, too.
EVERYTHING: Final = ".*"
# Grafana 11's; newer ones convert it when they load it.
SCHEMA_VERSION: Final = 39


def expression(text: str) -> str:
    """An expression of the source as Grafana gets it."""
    return text.replace("@", SELECTORS).replace("[$r]", f"[{RATE_INTERVAL}]")


def variable(name: str, query: str) -> dict[str, Any]:
    """A variable of the page with the values of a label."""
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": EVERYTHING,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def targets(panel: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The queries of a panel."""
    made = []
    for letter, (query, legend) in zip("ABCDEFGHIJ", panel["queries"], strict=False):
        target = {"refId": letter, "datasource": DATASOURCE, "expr": expression(query), "legendFormat": legend}
        if panel.get("kind") in {"stat", "table"}:
            target |= {"instant": True, "range": False}
        if panel.get("kind") == "table":
            target["format"] = "table"
        made.append(target)
    return made


def drawn(panel: Mapping[str, Any], number: int, x: int, y: int) -> dict[str, Any]:
    """One panel at its place."""
    text = panel["text"]
    if "needs" in panel:
        text += f" Needs {panel['needs']}: empty without."
    return {
        "id": number,
        "type": panel.get("kind", "timeseries"),
        "title": panel["title"],
        "description": text,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.get("width", PANEL_WIDTH), "h": PANEL_HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel["unit"]}, "overrides": []},
        "options": {},
        "targets": targets(panel),
    }


def laid_out(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Heads of rows and panels, from left to right and down."""
    number = y = 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row["title"],
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        }
        y, x = y + 1, 0
        for panel in row["panel"]:
            width = panel.get("width", PANEL_WIDTH)
            if x + width > COLUMNS:
                y, x = y + PANEL_HEIGHT, 0
            number += 1
            yield drawn(panel, number, x, y)
            x += width
        y += PANEL_HEIGHT


def page(dashboard: Mapping[str, Any]) -> dict[str, Any]:
    """One dashboard as Grafana reads it."""
    return {
        "uid": dashboard["uid"],
        "title": dashboard["title"],
        "description": dashboard["text"],
        "tags": ["longwave"],
        "editable": False,
        "schemaVersion": SCHEMA_VERSION,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "current": {}},
                variable("namespace", "label_values(longwave_build_info, namespace)"),
                variable("instance", 'label_values(longwave_build_info{namespace=~"$namespace"}, instance)'),
            ]
        },
        "links": [{"type": "dashboards", "title": "Longwave", "tags": ["longwave"], "asDropdown": True}],
        "panels": list(laid_out(dashboard["row"])),
    }


def files() -> dict[Path, str]:
    """Path → text of every dashboard."""
    source = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    return {
        FOLDER / f"{dashboard['uid']}.json": json.dumps(page(dashboard), indent=2, ensure_ascii=False) + "\n"
        for dashboard in source["dashboard"]
    }


def main() -> None:
    """Write them, and remove what the source no longer has."""
    made = files()
    FOLDER.mkdir(exist_ok=True)
    for old in set(FOLDER.glob("*.json")) - set(made):
        old.unlink()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
