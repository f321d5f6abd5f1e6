"""Writes the JSON schemas that `make lint-argocd` holds Argo CD's objects against, from its own definitions (CRDs).

They come from the Go module at the version below, which Go checks against its log of checksums; the results are
committed, so only `make argocd-schemas` needs Go. It judges no object: kubeconform does.

Invariants: an unknown field is refused wherever the definition lists the fields; apiVersion and kind are the object's.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
MODULE: Final = "github.com/argoproj/argo-cd/v3@v3.4.13"
FILES: Final = ("manifests/crds/application-crd.yaml", "manifests/crds/appproject-crd.yaml")
VERSION: Final = "v1alpha1"
# Prose, and marks of the API server's own that no validator knows.
LEFT_OUT: Final = ("description", "default", "format", "x-kubernetes-")


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without prose, every list of fields closed."""
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: strict(field) for name, field in value.items()}
        elif isinstance(value, Mapping):
            made[key] = strict(value)
        elif not key.startswith(LEFT_OUT):
            made[key] = value
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def converted(definition: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the file, as kubeconform asks for it, and its content."""
    spec = definition["spec"]
    group, kind = spec["group"], spec["names"]["kind"]
    (version,) = [each for each in spec["versions"] if each["name"] == VERSION and each["served"]]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {
        "apiVersion": {"enum": [f"{group}/{VERSION}"]},
        "kind": {"enum": [kind]},
        # Of Kubernetes, which checks it itself.
        "metadata": {"type": "object"},
    }
    # Argo CD's to write.
    schema["properties"].pop("status", None)
    schema["required"] = sorted({"apiVersion", "kind", *schema["required"]})
    return f"{kind.lower()}-{group.partition('.')[0]}-{VERSION}.json", {"$comment": MODULE} | schema


def main() -> None:
    """Write all of them anew."""
    asked = subprocess.run(  # noqa: S603 - Go, and a module named above
        ["go", "mod", "download", "-json", MODULE],  # noqa: S607 - Go as it is on the path
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"GOTOOLCHAIN": "local"},
    )
    module = Path(json.loads(asked.stdout)["Dir"])
    for file in FILES:
        name, content = converted(yaml.safe_load((module / file).read_text(encoding="utf-8")))
        (FOLDER / name).write_text(json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
