"""The example for Filebeat: its settings exist, and what our lines are is what it is told to expect.

Filebeat itself, which is built from its sources, is run by `make lint-filebeat` (`check_filebeat.py`). It passes over a
setting that it does not know: so the names are compared with those in its sources.
"""

import io
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from engine.trace_context import Sampling
from server import logs

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy" / "filebeat" / "filebeat.yml"
KEYS = ROOT / "tests" / "golden" / "filebeat_keys.tsv"
# Of sections whose items name their kind by their only key.
NAMED = ("parsers", "processors", "matchers")


def known() -> dict[str, set[str]]:
    """Section → its keys."""
    found: dict[str, set[str]] = {}
    for row in KEYS.read_text(encoding="utf-8").splitlines():
        if not row.startswith("#"):
            section, key = row.split("\t")
            found.setdefault(section, set()).add(key)
    return found


def unknown(config: Mapping[str, Any]) -> list[str]:
    """Settings that are none, as `section: key`."""
    keys = known()

    def wrong(section: str, values: Mapping[str, Any]) -> Iterator[str]:
        for key, value in values.items():
            first = key.partition(".")[0]
            if first not in keys[section]:
                yield f"{section}: {key}"
            if first in NAMED:
                for item in value:
                    [(kind, inner)] = item.items()
                    yield from wrong(kind, inner or {}) if kind in keys else [f"{first}: {kind}"]

    found = []
    for name, value in config.items():
        section = next((each for each in keys[""] if name == each or name.startswith(f"{each}.")), None)
        if section is None:
            found.append(f": {name}")
        elif section == "filebeat.inputs":
            for each in value:
                found += wrong(each["type"], each)
        elif section == "processors":
            found += wrong("", {"processors": value})
        else:
            inner = name.removeprefix(section).removeprefix(".")
            found += wrong(section, {inner: value} if inner else value)
    return found


@pytest.fixture
def example() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    return config


def test_every_setting_of_the_example_is_one(example: dict[str, Any]) -> None:
    assert unknown(example) == []


def test_a_misspelt_setting_is_found_in_every_section(example: dict[str, Any]) -> None:
    example["filebeat.inputs"][0]["parsers"][1]["ndjson"]["overwrite_key"] = True
    example["filebeat.inputs"][0]["parsers"].append({"jsonnd": {}})
    example["processors"][0]["add_kubernetes_metadata"]["hosts"] = "x"
    example["setup.ilm.policyname"] = "x"
    example["output.elasticsearch"]["apikey"] = "x"
    example["output.elastic"] = {}
    assert sorted(unknown(example)) == [
        ": output.elastic",
        "add_kubernetes_metadata: hosts",
        "ndjson: overwrite_key",
        "output.elasticsearch: apikey",
        "parsers: jsonnd",
        "setup.ilm: policyname",
    ]


def test_the_policy_that_it_names_is_there(example: dict[str, Any]) -> None:
    name = Path(example["setup.ilm.policy_file"]).name
    phases = json.loads((EXAMPLE.parent / name).read_text(encoding="utf-8"))["policy"]["phases"]
    assert set(phases) == {"hot", "delete"}


def expanded(line: Mapping[str, Any]) -> dict[str, Any]:
    """What `expand_keys` makes of a line. Raises TypeError where a key is both a value and the way to another."""
    document: dict[str, Any] = {}
    for name, value in line.items():
        *way, last = name.split(".")
        place = document
        for step in way:
            place = place.setdefault(step, {})
        if last in place:
            message = f"{name} is there already"
            raise TypeError(message)
        place[last] = value
    return document


def test_a_line_becomes_a_document_of_the_schema() -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    try:
        logs.configure("info", stream, Sampling(1))
        try:
            int("x")
        except ValueError:
            structlog.stdlib.get_logger("t").exception("failed", message_id="0am9afzbw0400", stage="record")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()
    document = expanded(json.loads(stream.getvalue()))
    assert document["log"] == {"level": "error", "logger": "t"}
    assert document["error"]["type"] == "ValueError"
    assert set(document["trace"]) == set(document["span"]) == {"id"}
    assert document["longwave"] == {"message_id": "0am9afzbw0400", "stage": "record"}
