"""Writes what of the chart is made from other things: README.md from values.yaml, names in the schema from settings.

`--check` writes nothing and fails when a file is stale. It renders no template.

How values.yaml is read: the comment right above a key is that key's description; keys below `settings`, and lists, are
values, not keys of ours. What a role's keys are stands above `roles`; any other key without a comment is an error.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from engine.config import Settings, variable

CHART: Final = Path(__file__).parent / "longwave"
# What the chart itself decides, from other values or for all; and what belongs to an embedded store or to tests.
DECIDED: Final = frozenset(
    {
        "api_key", "drain_s", "failpoint", "grpc_address", "grpc_tls_cert_file", "grpc_tls_client_ca_file",
        "grpc_tls_key_file", "history_file", "clock_offset_ms", "http_address", "insecure", "migrate_backup_command",
        "migrate_backup_folder", "node", "redis_password", "redis_password_file", "redis_sentinel_password",
        "redis_sentinel_password_file", "redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file",
        "reserve_file_mib", "roles", "secret_file", "store_password", "store_password_file", "store_tls_ca_file",
        "store_tls_cert_file", "store_tls_key_file", "telnyx_api_key", "webhook_address",
    }
)  # fmt: skip
KEY: Final = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+):(?: (?P<value>.*))?$")
# Values whose own keys are the operator's, or Kubernetes'.
OPAQUE: Final = frozenset(
    {
        "settings",
        "resources",
        "autoscaling.behavior",
        "verticalPodAutoscaler.minAllowed",
        "verticalPodAutoscaler.maxAllowed",
        "monitoring.serviceMonitor.labels",
    }
)

HEAD: Final = """# The chart `longwave`

<!-- Made from values.yaml by `make chart-docs`. -->

Longwave on Kubernetes: a Deployment for each role over one MySQL store, with what protects, scales and watches it. The
same objects come from the tree of Kustomize (`deploy/kustomize`); `make lint-chart` compares the two.

```sh
helm upgrade longwave ./deploy/helm/longwave --install --namespace production --create-namespace \\
  --values deploy/helm/longwave/values-production.yaml
```

It needs Kubernetes 1.30 or newer and, as values ask for them: cert-manager (`grpc.security: certificate`, `ingress`),
External Secrets or Sealed Secrets (`secrets.kind`), the Prometheus Operator (`monitoring`), prometheus-adapter or KEDA
(`autoscaling`), Istio with native sidecars (`istio`), ingress-nginx (`ingress`), the Vertical Pod Autoscaler.

**The Secret** that `secrets.name` names has four keys: `store-password`, `redis-password`, `telnyx-api-key`, and
`secret-file`, the file that `longwave bootstrap` writes when it makes the store. Each pod gets what it needs: only
`dispatch` has the carrier's key, and the migration has the store's password alone.

**Who ends TLS.** With `certificate` or `secret` the engine itself; a mesh carries it as bytes, and where there is a
balancer, port 50051 of `ingest` may be called from outside of the mesh. With `mesh` the sidecar ends it, and Istio
reads the calls. Pods of `dispatch` and `receipts` listen for gRPC on loopback alone.

**Beyond development** everything is encrypted and checked, to the database, Redis and the carrier, too: the schema
refuses anything less, because `LONGWAVE_INSECURE`, which a mesh needs, would let the engine pass over it.

**Upgrades.** A Job runs `longwave migrate` before pods of the new version start. Under `kubectl apply` without Argo CD
delete the Job `longwave-migrate` of the version before first: a Job's pod cannot be changed.

## How it is checked

`make lint-chart` renders every environment and every variant of a value and runs helm lint, kubeconform against the
schemas in `deploy/schemas` (Kubernetes' and those of every custom resource; an unknown kind fails), kube-score and
checkov. What those two find all the same is waived line by line with its reason in `tests/deploy/waivers.py`. The API
server's own code of Kubernetes 1.36 (defaults, validation, warnings, pod security "restricted") judges each object of
its own kinds (`tests/deploy/admission`). The engine's own reader accepts the environment of every pod, who may speak to
whom is decided for all pairs by the rules of NetworkPolicies, and `tests/cluster/test_rendered_pods.py` starts, probes
and ends each role as a process over MariaDB. **Nothing of it ran on a cluster**: no kubelet, Istio, KEDA or
ingress-nginx was to be had, so rollouts, enforcement of policies and the mesh itself are unproved.

## Values

| value | default | what it is |
| --- | --- | --- |
"""


def described(text: str) -> Iterator[tuple[str, str]]:
    """Dotted key and description of each value, in the file's order."""
    around: list[tuple[int, str, str]] = []  # indent, dotted key, description
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        if found := KEY.match(line):
            indent = len(found["indent"])
            while around and around[-1][0] >= indent:
                around.pop()
            key = f"{around[-1][1]}.{found['key']}" if around else found["key"]
            # What the keys of each role are is said above all roles.
            inherited = "see `roles`" if around and around[-1][1].startswith("roles.") else ""
            description = " ".join(comment) or inherited
            around.append((indent, key, description))
            yield key, description
        comment = []


def at(values: Any, key: str) -> Any:
    """The value of a dotted key; LookupError for one that is none."""
    for part in key.split("."):
        values = values[part]
    return values


def rows(text: str) -> list[str]:
    """The table's rows: values that an operator sets, settings one by one. Raises ValueError for one uncommented."""
    values = yaml.safe_load(text)
    made = []
    for key, description in described(text):
        inside = next((name for name in OPAQUE if key.startswith(f"{name}.")), None)
        try:
            value = at(values, key)
        except (LookupError, TypeError):
            continue  # a key inside a list
        group = isinstance(value, dict) and bool(value) and key not in OPAQUE
        if inside not in {None, "settings"} or (group and not description):
            continue
        if not description:
            message = f"values.yaml: {key} has no comment"
            raise ValueError(message)
        shown = (
            "below"
            if group
            else "in the file"
            if isinstance(value, (dict, list)) and value
            else f"`{json.dumps(value)}`"
        )
        made.append(f"| `{key}` | {shown} | {description} |")
    return made


def readme() -> str:
    """The page."""
    return HEAD + "\n".join(rows((CHART / "values.yaml").read_text(encoding="utf-8"))) + "\n"


def schema() -> str:
    """The schema, with the settings that there are now."""
    content = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    names = sorted(variable(field) for field in Settings.model_fields if field not in DECIDED)
    content["properties"]["settings"]["propertyNames"]["enum"] = names
    return json.dumps(content, indent=2) + "\n"


def main() -> None:
    """Write both, or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    check = parser.parse_args().check
    for name, text in {"README.md": readme(), "values.schema.json": schema()}.items():
        path = CHART / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            sys.exit(f"{name} of the chart is stale: run make chart-docs")
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
