"""Kubernetes' own schemas and those of the custom resources accept everything that is rendered, and nothing else.

The schemas are committed (deploy/schemas, with their sources and versions), so nothing is fetched and an unknown kind
is an error, never passed over.
"""

import copy
import json

import pytest
import yaml

from tests.deploy.rendering import (
    BESIDE,
    ENVIRONMENTS,
    RENDERINGS,
    ROOT,
    Object,
    RefusedError,
    built,
    objects,
    one,
    rendered,
    run,
)

SCHEMAS = ROOT / "deploy" / "schemas"
LOCATION = str(SCHEMAS / "{{ .ResourceKind }}{{ .KindSuffix }}.json")


def conform(text: str) -> str:
    return run("kubeconform", "-strict", "-summary", "-schema-location", LOCATION, "-", given=text)


def everything() -> list[Object]:
    """One of each kind, from whichever rendering or file has it."""
    texts = (*map(rendered, RENDERINGS), *(file.read_text(encoding="utf-8") for file in BESIDE))
    kinds = {entry["kind"]: entry for text in texts for entry in objects(text)}
    return list(kinds.values())


def test_all_that_helm_renders_is_valid() -> None:
    text = "\n---\n".join(rendered(name) for name in RENDERINGS)
    assert ", Invalid: 0, Errors: 0, Skipped: 0" in conform(text)


def test_all_that_kustomize_builds_is_valid() -> None:
    text = "\n---\n".join(built(environment) for environment in ENVIRONMENTS)
    assert ", Invalid: 0, Errors: 0, Skipped: 0" in conform(text)


def test_all_that_nobody_renders_is_valid() -> None:
    text = "\n---\n".join(file.read_text(encoding="utf-8") for file in BESIDE)
    assert f"{len(BESIDE)} resources found" in (said := conform(text))
    assert ", Invalid: 0, Errors: 0, Skipped: 0" in said


def test_every_schema_is_used_and_names_its_source() -> None:
    files = sorted(SCHEMAS.glob("*.json"))
    assert {path.name.partition("-")[0].removesuffix(".json") for path in files} == {
        entry["kind"].lower() for entry in everything()
    }
    for path in files:
        assert "@v" in json.loads(path.read_text(encoding="utf-8"))["$comment"]


def test_an_unknown_kind_fails() -> None:
    for planted in (
        {"apiVersion": "longwave.example.com/v1", "kind": "Planted", "metadata": {"name": "planted"}},
        {"apiVersion": "apps/v1beta1", "kind": "Deployment", "metadata": {"name": "of-an-old-version"}},
    ):
        with pytest.raises(RefusedError, match="could not find schema"):
            conform(yaml.safe_dump(planted))


def test_an_unknown_field_fails_in_every_kind() -> None:
    for entry in everything():
        places: list[list[str]] = [[], ["metadata"]]
        if "spec" in entry:
            places.append(["spec"])
        for place in places:
            planted = copy.deepcopy(entry)
            inner = planted
            for part in place:
                inner = inner[part]
            inner["planted"] = "x"
            with pytest.raises(RefusedError, match="planted"):
                conform(yaml.safe_dump(planted))


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "longwave-ingest", "spec.template.spec.containers.0.resource", {}),
        ("Deployment", "longwave-ingest", "spec.template.spec.containers.0.ports.0.containerPort", "grpc"),
        ("Deployment", "longwave-ingest", "spec.strategy.rollingUpdate.maxsurge", 1),
        ("HorizontalPodAutoscaler", "longwave-ingest", "spec.metrics.0.resource.target.averageUtilisation", 70),
        ("HorizontalPodAutoscaler", "longwave-ingest", "spec.behavior.scaleUp.policies.0.value", "all"),
        ("NetworkPolicy", "longwave-ingest", "spec.ingress.0.ports.0.name", "grpc"),
        ("ServiceMonitor", "longwave", "spec.endpoints.0.interval", "thirty"),
        ("ServiceMonitor", "longwave", "spec.endpoints.0.timeout", "3s"),
        ("PeerAuthentication", "longwave", "spec.mtls.mode", "SOMETIMES"),
        ("AuthorizationPolicy", "longwave-ingest", "spec.rules.0.from.0.source.principles", ["x"]),
        ("DestinationRule", "longwave-ingest", "spec.trafficPolicy.tls.mode", "MUTUALLY"),
        ("ExternalSecret", "longwave-secrets", "spec.secretStoreRef.kind", "Anything"),
        ("Certificate", "longwave-grpc", "spec.usages.0", "everything"),
    ],
)
def test_a_planted_error_fails(kind: str, name: str, path: str, value: object) -> None:
    planted = one(rendered("production"), kind, name)
    *way, last = path.split(".")
    inner: Object | list[Object] = planted
    for part in way:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    if isinstance(inner, list):
        inner[int(last)] = value  # type: ignore[call-overload]
    else:
        inner[last] = value
    with pytest.raises(RefusedError, match="is invalid"):
        conform(yaml.safe_dump(planted))
