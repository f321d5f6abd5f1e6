"""kube-score and checkov find nothing in what is rendered but what is waived, with a reason, in waivers.py."""

import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendering import ENVIRONMENTS, ROOT, TOOLS, built, container, objects, rendered
from tests.deploy.waivers import CHECKOV, KUBE_SCORE

CHECKOV_PROGRAM = ROOT / ".tools" / "checkov" / "bin" / "checkov"
# Below this grade kube-score has a warning or worse.
GOOD = 10
Findings = set[tuple[str, str]]


def scored(text: str) -> Findings:
    ran = subprocess.run(
        [TOOLS / "kube-score", "score", "--output-format=json", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    found = set()
    for entry in json.loads(ran.stdout):
        name = f"{entry['type_meta']['kind']} {entry['object_meta']['name']}"
        found |= {
            (check["check"]["id"], name) for check in entry["checks"] if not check["skipped"] and check["grade"] < GOOD
        }
    assert ran.returncode in {0, 1}, ran.stderr
    return found


@cache
def checked() -> dict[str, Findings]:
    """Findings by environment: one run over all, since the start of the program takes longer than its work."""
    found: dict[str, Findings] = {environment: set() for environment in ENVIRONMENTS}
    for check in checkov("\n---\n".join(rendered(environment) for environment in ENVIRONMENTS)):
        kind, environment, name = check["resource"].split(".")
        found[environment].add((check["check_id"], f"{kind} {name}"))
    return found


def checkov(text: str) -> list[dict[str, Any]]:
    """Failed checks of a stream."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rendered.yaml"
        file.write_text(text, encoding="utf-8")
        ran = subprocess.run(
            [CHECKOV_PROGRAM, "--framework=kubernetes", f"--file={file}", "--compact", "--quiet", "--output=json"],
            capture_output=True,
            text=True,
            check=False,
        )
    made = json.loads(ran.stdout)
    assert made["summary"]["passed"] > 50, "checkov looked at nothing"
    failed: list[dict[str, Any]] = made["results"]["failed_checks"]
    return failed


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_kube_score_finds_what_is_waived(environment: str) -> None:
    assert scored(rendered(environment)) == KUBE_SCORE[environment]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_kube_score_finds_the_same_in_what_kustomize_builds(environment: str) -> None:
    assert scored(built(environment)) == KUBE_SCORE[environment]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_checkov_finds_what_is_waived(environment: str) -> None:
    assert checked()[environment] == CHECKOV


# What one role loses, and which check of each tool must say so; kube-score takes one probe of two for enough.
LOST = {
    "ingest": ("livenessProbe", None, "CKV_K8S_8"),
    "dispatch": ("readinessProbe", "pod-probes", "CKV_K8S_9"),
    "receipts": ("resources", "container-resources", "CKV_K8S_13"),
    "admin": ("securityContext", "container-security-context-readonlyrootfilesystem", "CKV_K8S_22"),
}


def test_what_is_missing_is_found() -> None:
    entries = objects(rendered("production"))
    for entry in entries:
        if entry["kind"] == "Deployment":
            lost, _, _ = LOST[entry["metadata"]["name"].removeprefix("longwave-")]
            del container(entry)[lost]
    planted = yaml.safe_dump_all(entries)
    by_score = scored(planted)
    by_checkov = {(check["check_id"], check["resource"]) for check in checkov(planted)}
    for role, (_, score, check) in LOST.items():
        assert score is None or (score, f"Deployment longwave-{role}") in by_score
        assert (check, f"Deployment.production.longwave-{role}") in by_checkov
