"""Helm's own lint passes, the schema refuses what cannot work, and what is generated is fresh."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.rendering import (
    CHART,
    ENVIRONMENTS,
    RENDERINGS,
    ROOT,
    TOOLS,
    VARIANTS,
    RefusedError,
    helm_arguments,
    of_kind,
    rendered,
    run,
    template,
)


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_helm_lint_passes(rendering: str) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in run(
        "helm", "lint", "--strict", *helm_arguments(*VARIANTS.get(rendering, (rendering, ())))
    )


def test_helm_lint_refuses_a_broken_template(tmp_path: Path) -> None:
    shutil.copytree(CHART, tmp_path / "longwave")
    (tmp_path / "longwave/templates/planted.yaml").write_text("a: {{ .Values.nothing.there }}\n")
    with pytest.raises(RefusedError, match="nil pointer"):
        run("helm", "lint", "--strict", str(tmp_path / "longwave"))


@pytest.mark.parametrize(
    ("environment", "switches"),
    [
        ("production", ("unknown=1",)),
        ("production", ("roles.dispatch.unknown=1",)),
        ("production", ("roles.extra.replicas=1",)),
        ("production", ("image.tag=latest",)),
        ("production", ("environment=test",)),
        ("production", ("grpc.security=plain",)),
        ("production", ("grpc.security=mesh",)),  # beside the balancer
        ("staging", ("istio.enabled=false", "monitoring.serviceMonitor.meshCertificate=false")),  # mesh without one
        ("development", ("nlb.enabled=true",)),
        ("production", ("probes.readiness=grpc",)),
        ("staging", ("grpc.clientCertificates=true",)),
        ("production", ("autoscaling.kind=both",)),
        ("production", ("verticalPodAutoscaler.enabled=true", "verticalPodAutoscaler.updateMode=Auto")),
        ("production", ("verticalPodAutoscaler.enabled=true", "verticalPodAutoscaler.updateMode=Initial")),
        (
            "production",
            ("autoscaling.kind=keda", "verticalPodAutoscaler.enabled=true", "verticalPodAutoscaler.updateMode=Auto"),
        ),
        ("production", ("secrets.kind=sealed",)),
        ("production", ("secrets.kind=plain",)),
        ("production", ("monitoring.serviceMonitor.meshCertificate=false",)),
        ("development", ("monitoring.serviceMonitor.meshCertificate=true",)),
        ("production", ("drain.drainSeconds=10",)),
        ("production", ("istio.callers={somebody}",)),
        ("production", ("networkPolicy.callers=[]",)),
    ],
)
def test_the_schema_refuses(environment: str, switches: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError, match="schema"):
        template(environment, switches)


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        (("ingress.host=hooks.example.com",), "receipts would go where nobody takes them"),
        (("settings.LONGWAVE_WEBHOOK_BASE_URL=https://hooks.example.com",), "receipts would go"),
        (("autoscaling.minReplicas=10", "autoscaling.maxReplicas=5"), r"minReplicas \(10\) is above"),
    ],
)
def test_values_that_contradict_each_other_are_refused(switches: tuple[str, ...], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        template("production", switches)


@pytest.mark.parametrize("script", [["deploy/helm/generate.py"], ["deploy/kustomize/render.py", str(TOOLS / "helm")]])
def test_generated_files_are_fresh(script: list[str]) -> None:
    ran = subprocess.run([sys.executable, *script, "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_stale_page_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy/helm", tmp_path / "helm")
    values = tmp_path / "helm/longwave/values.yaml"
    values.write_text(values.read_text().replace("maxReplicas: 20", "maxReplicas: 30"))
    script = [sys.executable, str(tmp_path / "helm/generate.py"), "--check"]
    ran = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "README.md of the chart is stale" in ran.stderr


def test_a_value_without_a_comment_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy/helm", tmp_path / "helm")
    with (tmp_path / "helm/longwave/values.yaml").open("a") as values:
        values.write("planted: 1\n")
    script = [sys.executable, str(tmp_path / "helm/generate.py"), "--check"]
    ran = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "planted has no comment" in ran.stderr


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    """The schema requires what it knows, so an absent value fails; here, that a value is known at all."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == sorted(values)


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_there_is_one_autoscaler_or_none(rendering: str) -> None:
    horizontal = of_kind(rendered(rendering), "HorizontalPodAutoscaler")
    scaled = of_kind(rendered(rendering), "ScaledObject")
    fixed = ["replicas" in entry["spec"] for entry in of_kind(rendered(rendering), "Deployment")]
    assert (len(horizontal), len(scaled), set(fixed)) in [(4, 0, {False}), (0, 4, {False}), (0, 0, {True})]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_secret_is_in_what_is_rendered(environment: str) -> None:
    assert of_kind(rendered(environment), "Secret") == []
