"""What the chart and the Kustomize tree render, each asked once; `make lint-chart` puts the tools into .tools/bin.

It judges nothing: tests do.
"""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ROOT / ".tools" / "bin"
CHART: Final = ROOT / "deploy" / "helm" / "longwave"
OVERLAYS: Final = ROOT / "deploy" / "kustomize" / "overlays"
ENVIRONMENTS: Final = ("development", "staging", "production")
ROLES: Final = ("ingest", "dispatch", "receipts", "admin")
SEALED: Final = tuple(
    f"secrets.sealed.encryptedData.{key}=AgBy3i4OJSWK"
    for key in ("secret-file", "store-password", "redis-password", "telnyx-api-key")
)
# Name → environment and switches: every choice that no environment makes.
VARIANTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "keda": ("production", ("autoscaling.kind=keda",)),
    "sealed": ("production", ("secrets.kind=sealed", *SEALED)),
    "existing": ("production", ("secrets.kind=existing",)),
    "client-certificates": ("production", ("grpc.security=secret", "grpc.clientCertificates=true")),
    "recommended": ("production", ("verticalPodAutoscaler.enabled=true",)),
    "vertical": (
        "staging",
        ("autoscaling.kind=none", "verticalPodAutoscaler.enabled=true", "verticalPodAutoscaler.updateMode=Auto"),
    ),
    "without-mesh": ("production", ("istio.enabled=false", "monitoring.serviceMonitor.meshCertificate=false")),
    "without-redis": ("staging", ("settings.LONGWAVE_REDIS_URL=null",)),
    "bare": (
        "development",
        ("networkPolicy.enabled=false", "migration.enabled=false", "monitoring.serviceMonitor.enabled=false"),
    ),
    "placed": (
        "staging",
        (
            "imagePullSecrets={registry}",
            "nodeSelector.Environment=staging",
            "tolerations[0].key=workload",
            "tolerations[0].operator=Exists",
            "roles.dispatch.resources.requests.cpu=1",
            "roles.dispatch.resources.requests.memory=512Mi",
            "roles.dispatch.resources.requests.ephemeral-storage=16Mi",
            "roles.dispatch.resources.limits.cpu=2",
            "roles.dispatch.resources.limits.memory=1Gi",
            "roles.dispatch.resources.limits.ephemeral-storage=64Mi",
            "networkPolicy.extraEgress[0].ports[0].port=4317",
            "migration.backupCommand=snapshot --wait",
            "image.digest=sha256:" + "0" * 64,
        ),
    ),
}
RENDERINGS: Final = (*ENVIRONMENTS, *VARIANTS)

# Objects that nobody renders.
BESIDE: Final = (
    *sorted((ROOT / "deploy" / "argocd").glob("*.yaml")),
    ROOT / "deploy" / "smoke" / "job.yaml",
    ROOT / "deploy" / "prometheus" / "prometheusrule.yaml",
)

# A safe loader, too, ten times as fast where PyYAML was built with its library.
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Object = dict[str, Any]


class RefusedError(Exception):
    """A tool did not accept what it was given; its words."""


def run(tool: str, *arguments: str, given: str = "") -> str:
    """Output of a tool; raises RefusedError."""
    ran = subprocess.run([TOOLS / tool, *arguments], input=given, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RefusedError(ran.stdout + ran.stderr)
    return ran.stdout


def helm_arguments(environment: str, switches: tuple[str, ...] = ()) -> list[str]:
    """Where, and with which values."""
    values = CHART / f"values-{environment}.yaml"
    return [str(CHART), f"--namespace={environment}", f"--values={values}", *(f"--set={switch}" for switch in switches)]


def template(environment: str, switches: tuple[str, ...] = ()) -> str:
    """What Helm renders; raises RefusedError."""
    chart, *rest = helm_arguments(environment, switches)
    return run("helm", "template", "longwave", chart, *rest)


@cache
def rendered(name: str) -> str:
    """What Helm renders for an environment or a variant."""
    return template(*VARIANTS.get(name, (name, ())))


@cache
def built(environment: str) -> str:
    """What Kustomize builds."""
    return run("kustomize", "build", str(OVERLAYS / environment))


def objects(text: str) -> list[Object]:
    """Fresh copies of the objects of a stream."""
    return [document for document in yaml.load_all(text, Loader=LOADER) if document]


def one(text: str, kind: str, name: str) -> Object:
    """The object of this kind and name."""
    (found,) = (entry for entry in objects(text) if (entry["kind"], entry["metadata"]["name"]) == (kind, name))
    return found


def of_kind(text: str, kind: str) -> list[Object]:
    """All objects of a kind."""
    return [entry for entry in objects(text) if entry["kind"] == kind]


def pod(entry: Object) -> Object:
    """The pod of a Deployment or a Job."""
    spec: Object = entry["spec"]["template"]["spec"]
    return spec


def container(entry: Object) -> Object:
    """Its only container."""
    (only,) = pod(entry)["containers"]
    made: Object = only
    return made


def environment_of(text: str, entry: Object) -> dict[str, str]:
    """The environment of its container: what is named wins over what comes from a ConfigMap; secrets have stand-ins."""
    given: dict[str, str] = {}
    for source in container(entry).get("envFrom", []):
        given |= one(text, "ConfigMap", source["configMapRef"]["name"])["data"]
    for setting in container(entry).get("env", []):
        given[setting["name"]] = setting.get("value", "from-a-secret")
    return given


def workloads(text: str) -> Iterator[Object]:
    """Everything that has pods."""
    return (entry for entry in objects(text) if entry["kind"] in {"Deployment", "Job"})
