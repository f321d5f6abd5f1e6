"""Writes the JSON schemas that `make lint-deploy` holds objects of a cluster against, from the projects' own modules.

Kubernetes' kinds come from its OpenAPI file, custom resources from their definitions (CRD), each at the version below;
only the kinds that are under deploy are kept. It needs Go and its module proxy (`make chart-schemas`); nothing else
does, since the results are committed. It judges no object: kubeconform does.

Invariants: an unknown field is refused wherever a schema lists the fields; apiVersion and kind are the file's own;
status is nobody's to write, so it is unknown.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
KUBERNETES: Final = ("k8s.io/kubernetes", "v1.36.3", "api/openapi-spec/swagger.json")
KINDS: Final = (
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.ServiceAccount",
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.batch.v1.Job",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.networking.v1.Ingress",
    "io.k8s.api.networking.v1.NetworkPolicy",
)
ISTIO: Final = ("istio.io/api", "v1.32.0", "kubernetes/customresourcedefinitions.gen.yaml")
OPERATOR: Final = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
ARGO: Final = ("github.com/argoproj/argo-cd/v3", "v3.4.13")
# Module, version, file of definitions, kind and its version.
CUSTOM: Final = (
    (*ISTIO, "PeerAuthentication", "v1"),
    (*ISTIO, "AuthorizationPolicy", "v1"),
    (*ISTIO, "DestinationRule", "v1"),
    (*OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "ServiceMonitor", "v1"),
    (*OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml", "PrometheusRule", "v1"),
    (*ARGO, "manifests/crds/application-crd.yaml", "Application", "v1alpha1"),
    (*ARGO, "manifests/crds/appproject-crd.yaml", "AppProject", "v1alpha1"),
    (
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "config/crd/bases/keda.sh_scaledobjects.yaml",
        "ScaledObject",
        "v1alpha1",
    ),
    (
        "github.com/external-secrets/external-secrets",
        "v1.3.2",
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
        "ExternalSecret",
        "v1",
    ),
    (
        "github.com/bitnami-labs/sealed-secrets",
        "v0.40.0",
        "helm/sealed-secrets/crds/bitnami.com_sealedsecrets.yaml",
        "SealedSecret",
        "v1alpha1",
    ),
    (
        "github.com/cert-manager/cert-manager",
        "v1.21.2",
        "deploy/crds/cert-manager.io_certificates.yaml",
        "Certificate",
        "v1",
    ),
    (
        "k8s.io/autoscaler/vertical-pod-autoscaler",
        "v1.8.1",
        "deploy/vpa-v1-crd-gen.yaml",
        "VerticalPodAutoscaler",
        "v1",
    ),
)
META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
# OpenAPI 2 calls these strings; the API server takes numbers as well.
LOOSE: Final = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}
KEPT: Final = frozenset(
    {
        "$ref",
        "type",
        "enum",
        "required",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "pattern",
    }
)


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without prose, and with every list of fields closed."""
    made: dict[str, Any] = {key: value for key, value in schema.items() if key in KEPT}
    if "properties" in schema:
        made["properties"] = {name: strict(field) for name, field in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), Mapping):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if "items" in schema:
        made["items"] = strict(schema["items"])
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            # Branches say what else must hold of the same fields; they do not list them all.
            made[key] = [_branch(branch) for branch in schema[key]]
    if "not" in schema:
        made["not"] = _branch(schema["not"])
    return made


def _branch(schema: Mapping[str, Any]) -> dict[str, Any]:
    made = strict(schema)
    _open(made)
    return made


def _open(schema: Any) -> None:
    """Take the closing away, at any depth."""
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]
        for inner in schema.values():
            _open(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _open(inner)


def references(schema: Any) -> Iterator[str]:
    """Names of the definitions that a schema refers to."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def with_definitions(schema: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with all that it refers to."""
    needed: dict[str, Any] = {}
    waiting = list(references(schema))
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = LOOSE.get(name) or strict(definitions[name])
            waiting += references(needed[name])
    return schema | {"definitions": dict(sorted(needed.items()))}


def of_kind(name: str, definitions: Mapping[str, Any]) -> tuple[str, str, str, dict[str, Any]]:
    """Group, version, kind and schema of one of Kubernetes' own kinds."""
    source = definitions[name]
    (which,) = source["x-kubernetes-group-version-kind"]
    return which["group"], which["version"], which["kind"], strict(source)


def of_custom(text: str, kind: str, version: str) -> tuple[str, str, str, dict[str, Any]]:
    """The same of a custom resource."""
    for document in yaml.safe_load_all(text):
        if (
            document
            and document.get("kind") == "CustomResourceDefinition"
            and document["spec"]["names"]["kind"] == kind
        ):
            spec = document["spec"]
            served = next(entry for entry in spec["versions"] if entry["name"] == version and entry["served"])
            schema = strict(served["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"$ref": f"#/definitions/{META}"}
            return spec["group"], version, kind, schema
    message = f"no {kind} {version} is defined there"
    raise LookupError(message)


def finished(
    group: str, version: str, kind: str, schema: dict[str, Any], definitions: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """A file's content: closed, with its own apiVersion and kind."""
    fields = dict(schema["properties"])
    fields.pop("status", None)
    fields["apiVersion"] = {"enum": [f"{group}/{version}" if group else version]}
    fields["kind"] = {"enum": [kind]}
    required = sorted({"apiVersion", "kind", "metadata", *schema.get("required", [])})
    content = schema | {"$comment": source, "properties": fields, "required": required, "additionalProperties": False}
    return with_definitions(content, definitions)


def module(name: str, version: str) -> Path:
    """The folder of a module, fetched into Go's cache and checked against Go's log of checksums."""
    asked = subprocess.run(  # noqa: S603 - a name and a version of the list above
        ["go", "mod", "download", "-json", f"{name}@{version}"],  # noqa: S607 - Go as it is on the path
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"GOTOOLCHAIN": "local"},
    )
    return Path(json.loads(asked.stdout)["Dir"])


def main() -> None:
    """Write all of them anew."""
    name, version, file = KUBERNETES
    definitions = json.loads((module(name, version) / file).read_text(encoding="utf-8"))["definitions"]
    made = [(*of_kind(kind, definitions), f"{name}@{version}: {file}") for kind in KINDS]
    for name, version, file, kind, served in CUSTOM:
        text = (module(name, version) / file).read_text(encoding="utf-8")
        made.append((*of_custom(text, kind, served), f"{name}@{version}: {file}"))
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for group, version, kind, schema, source in made:
        # As kubeconform names them: {{ .ResourceKind }}{{ .KindSuffix }}.
        parts = (kind.lower(), group.partition(".")[0], version)
        content = finished(group, version, kind, schema, definitions, source)
        path = FOLDER / ("-".join(part for part in parts if part) + ".json")
        path.write_text(
            json.dumps(content, indent=None, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
