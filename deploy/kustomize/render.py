"""Writes the objects of the Kustomize tree that are the chart's, so that each has one home: the templates.

Each folder of base and components that holds rendered.yaml gets its share; kustomization.yaml, patches and overlays
are written by hand, and `tests/deploy/test_equal.py` compares what comes out with what Helm renders. Call it with
helm's path: `make chart-docs` does. `--check` writes nothing and fails when a file is stale.

What is left out: the namespace, which overlays set; Helm's hooks; the checksum of settings and the ConfigMaps, whose
part Kustomize's generator plays with a hash in the name.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
CHART: Final = FOLDER.parent / "helm" / "longwave"
# Everything that a component brings is off; what is left is what all environments have.
BASE: Final = (
    "autoscaling.kind=none",
    "grpc.security=secret",
    "ingress.enabled=false",
    "istio.enabled=false",
    "monitoring.serviceMonitor.meshCertificate=false",
    "nlb.enabled=false",
    "secrets.kind=existing",
)
# Kind → component.
COMPONENTS: Final = {
    "HorizontalPodAutoscaler": "autoscaling",
    "Certificate": "certificate",
    "ExternalSecret": "external-secret",
    "Ingress": "ingress",
    "PeerAuthentication": "istio",
    "AuthorizationPolicy": "istio",
    "DestinationRule": "istio",
}
# What the balancer adds to the mesh: its callers come from outside.
BALANCER: Final = {("Service", "longwave-nlb"), ("PeerAuthentication", "longwave-ingest")}
# Their contents are the generator's.
SETTINGS: Final = "longwave-settings"
MIGRATE: Final = "longwave-migrate"


def rendered(helm: str, *switches: str) -> list[dict[str, Any]]:
    """What the chart renders by its defaults and these switches."""
    command = [helm, "template", "longwave", str(CHART), "--namespace", "production"]
    made = subprocess.run(  # noqa: S603 - the caller's own helm
        [*command, *(f"--set={switch}" for switch in switches)], check=True, capture_output=True, text=True
    )
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def bare(document: dict[str, Any]) -> dict[str, Any]:
    """The object without what is Helm's or an overlay's."""
    metadata = document["metadata"]
    metadata.pop("namespace")
    _without(metadata, "helm.sh/")
    if document["kind"] == "Deployment":
        _without(document["spec"]["template"]["metadata"], "checksum/")
    return document


def _without(metadata: dict[str, Any], prefix: str) -> None:
    metadata["annotations"] = {
        key: value for key, value in metadata.get("annotations", {}).items() if not key.startswith(prefix)
    }
    if not metadata["annotations"]:
        del metadata["annotations"]


def shares(helm: str) -> dict[str, str]:
    """Path → content of every file."""
    base = [bare(document) for document in rendered(helm, *BASE)]
    settings = next(entry for entry in base if (entry["kind"], entry["metadata"]["name"]) == ("ConfigMap", SETTINGS))
    sorted_out: dict[str, list[dict[str, Any]]] = {
        "base": [entry for entry in base if entry["kind"] != "ConfigMap"],
        "components/nlb": [],
    }
    # The balancer is beside the mesh in the first and away in the second: what differs is the balancer's component.
    for document in map(bare, rendered(helm)):
        if (document["kind"], document["metadata"]["name"]) in BALANCER:
            sorted_out["components/nlb"].append(document)
    for document in map(bare, rendered(helm, "nlb.enabled=false")):
        if document["kind"] in COMPONENTS:
            sorted_out.setdefault(f"components/{COMPONENTS[document['kind']]}", []).append(document)
    head = "# Made from the chart by `make chart-docs`; not to be edited.\n"
    files = {
        f"{folder}/rendered.yaml": head + yaml.safe_dump_all(documents, sort_keys=False, width=4096)
        for folder, documents in sorted_out.items()
    }
    lines = "".join(f"{name}={value}\n" for name, value in sorted(settings["data"].items()))
    return files | {"base/settings.env": head + lines}


def main() -> None:
    """Write all, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("helm", help="path of helm")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    arguments = parser.parse_args()
    for name, text in shares(arguments.helm).items():
        path = FOLDER / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments.check:
            sys.exit(f"deploy/kustomize/{name} is stale: run make chart-docs")
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
