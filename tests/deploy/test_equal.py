"""Helm and Kustomize render the same objects for each environment, field by field.

What is each tool's own is taken away first, and only that: Helm's hooks and its checksum of the settings; the hash that
Kustomize puts behind the names of ConfigMaps. That both restart pods when a setting changes is a test below.
"""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.rendering import (
    ENVIRONMENTS,
    OVERLAYS,
    Object,
    built,
    container,
    objects,
    of_kind,
    one,
    rendered,
    run,
    template,
)

HASH = re.compile(r"^(longwave-(?:settings|migrate))-[a-z0-9]{10}$")
Key = tuple[str, str, str, str]


def without_hashes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_hashes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_hashes(inner) for inner in value]
    return HASH.sub(r"\1", value) if isinstance(value, str) else value


def forget(metadata: Object, prefix: str) -> None:
    kept = {key: value for key, value in metadata.pop("annotations", {}).items() if not key.startswith(prefix)}
    if kept:
        metadata["annotations"] = kept


def by_key(entries: list[Object]) -> dict[Key, Object]:
    found = {}
    for entry in map(without_hashes, entries):
        forget(entry["metadata"], "helm.sh/")
        if entry["kind"] == "Deployment":
            forget(entry["spec"]["template"]["metadata"], "checksum/")
        metadata = entry["metadata"]
        key = (entry["apiVersion"], entry["kind"], metadata["namespace"], metadata["name"])
        assert key not in found, f"{key} twice"
        found[key] = entry
    return found


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Paths at which the two differ. Lists are compared in order."""
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            line
            for key in sorted(left.keys() | right.keys())
            for line in differences(left.get(key, "(absent)"), right.get(key, "(absent)"), f"{where}/{key}")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [line for number, (one, two) in pairs for line in differences(one, two, f"{where}/{number}")]
    return [] if left == right else [f"{where}: {left!r} by Helm, {right!r} by Kustomize"]


def compared(helm: list[Object], kustomize: list[Object]) -> list[str]:
    left, right = by_key(helm), by_key(kustomize)
    found = [f"{key}: by Helm alone" for key in left.keys() - right.keys()]
    found += [f"{key}: by Kustomize alone" for key in right.keys() - left.keys()]
    for key in left.keys() & right.keys():
        found += differences(in_order(left[key]), in_order(right[key]), str(key))
    return sorted(found)


def in_order(entry: Object) -> Object:
    """Environment variables by name: none of ours refers to another, so their order says nothing."""
    made = copy.deepcopy(entry)
    if made["kind"] in {"Deployment", "Job"}:
        container(made).get("env", []).sort(key=lambda setting: str(setting["name"]))
    return made


def helm_for(environment: str) -> list[Object]:
    """With the image that the overlay names: a release writes it there."""
    image = container(of_kind(built(environment), "Deployment")[0])["image"]
    name, _, tag = image.partition(":")
    assert name == "ghcr.io/your-org/longwave"
    return objects(template(environment, (f"image.tag={tag}",)))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_helm_and_kustomize_render_the_same(environment: str) -> None:
    assert compared(helm_for(environment), objects(built(environment))) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_difference_anywhere_is_found(environment: str) -> None:
    """Each leaf of each object, one after the other, is made different."""
    left = by_key(objects(rendered(environment)))
    for key, entry in left.items():
        for path in leaves(entry):
            other = copy.deepcopy(entry)
            inner = other
            for part in path[:-1]:
                inner = inner[part]
            inner[path[-1]] = "planted"
            assert differences(in_order(entry), in_order(other)), f"{key} {path}"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for number, inner in enumerate(value) for leaf in leaves(inner, (*path, number))]
    return [path]


def test_a_planted_difference_in_an_overlay_is_found(tmp_path: Path) -> None:
    shutil.copytree(OVERLAYS.parent, tmp_path / "kustomize")
    settings = tmp_path / "kustomize/overlays/staging/settings.env"
    settings.write_text(settings.read_text().replace("rediss://", "redis://"))
    planted = objects(run("kustomize", "build", str(tmp_path / "kustomize/overlays/staging")))
    assert {line.partition(":")[0].rpartition("/")[2] for line in compared(helm_for("staging"), planted)} == {
        "LONGWAVE_REDIS_URL"
    }


def test_an_object_that_only_one_renders_is_found() -> None:
    whole = objects(built("production"))
    fewer = [entry for entry in whole if entry["kind"] != "PodDisruptionBudget"]
    assert len(compared(helm_for("production"), fewer)) == len(whole) - len(fewer) == 4


def test_other_settings_are_other_pods_for_both(tmp_path: Path) -> None:
    shutil.copytree(OVERLAYS.parent, tmp_path / "kustomize")
    with (tmp_path / "kustomize/overlays/staging/settings.env").open("a") as settings:
        settings.write("LONGWAVE_LOG_LEVEL=WARNING\n")
    changed = run("kustomize", "build", str(tmp_path / "kustomize/overlays/staging"))
    names = [of_kind(text, "Deployment")[0]["spec"]["template"] for text in (built("staging"), changed)]
    assert names[0] != names[1]
    other = template("staging", ("settings.LONGWAVE_LOG_LEVEL=WARNING",))
    pods = [one(text, "Deployment", "longwave-ingest")["spec"]["template"] for text in (rendered("staging"), other)]
    assert pods[0] != pods[1]
