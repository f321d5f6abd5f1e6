"""Pods as they are deployed start over one MariaDB: each role's command, environment and probes, from deploy/kustomize.

A process of this machine plays the pod: paths below /etc/longwave and ports are this test's, TLS to the database and
Redis are left out, all else is what the objects say. Needs no tool but Python, so it is part of `make test`.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.config import PREFIX
from loadtest.ports import free_ports
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.mariadb import PASSWORD

ROOT: Final = Path(__file__).resolve().parents[2]
BASE: Final = ROOT / "deploy" / "kustomize" / "base"
SERVES: Final = ("ingest", "admin")
ROLES: Final = (*SERVES, "dispatch", "receipts")
MOUNTS: Final = "/etc/longwave/"
NAME: Final = "longwave-ingest.production.svc.cluster.local"
WAIT_S: Final = 60
# Of the database and Redis that there are: the test's has neither TLS nor a companion.
ELSEWHERE: Final = ("STORE_URL", "STORE_TLS", "STORE_TLS_CA_FILE", "REDIS_URL", "REDIS_PASSWORD_FILE")
# The operator's own, in place of the placeholder: here the simulated carrier's.
PUBLIC_KEY: Final = "i6CE2q244wP1ulWa+MuzS6eGCDqsPTJV7N0ity2Ntus="


@dataclass
class Pod:
    """A process in a pod's place."""

    container: dict[str, Any]
    grace_s: int
    process: subprocess.Popen[str]
    ports: dict[int, int]
    """Of the container → of this machine."""

    def until_ready(self) -> str:
        """The line that says so."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "is ready" in line:
                return line
        raise AssertionError(self.process.communicate(timeout=WAIT_S))

    def get(self, probe: str) -> dict[str, Any]:
        """What an HTTP probe is answered, as the kubelet asks it."""
        asked = self.container[probe]["httpGet"]
        (port,) = (entry["containerPort"] for entry in self.container["ports"] if entry["name"] == asked["port"])
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.ports[port]}{asked['path']}", timeout=self.container[probe]["timeoutSeconds"]
        ) as answer:
            made: dict[str, Any] = json.load(answer)
            return made

    def close(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=WAIT_S)


def deployments() -> dict[str, dict[str, Any]]:
    """Role → Deployment."""
    documents = yaml.safe_load_all((BASE / "rendered.yaml").read_text(encoding="utf-8"))
    found = {entry["metadata"]["name"]: entry for entry in documents if entry["kind"] == "Deployment"}
    return {role: found[f"longwave-{role}"] for role in ROLES}


def settings_of(container: dict[str, Any]) -> dict[str, str]:
    """Its environment: the ConfigMap's file, then what the container names itself."""
    lines = (BASE / "settings.env").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    found = {name: value for name, value in pairs if name.removeprefix(PREFIX) not in ELSEWHERE}
    named = {entry["name"]: entry.get("value", "stand-in") for entry in container["env"]}
    return found | named | {f"{PREFIX}TELNYX_PUBLIC_KEY": PUBLIC_KEY}


def moved(value: str, folder: Path, ports: dict[int, int]) -> str:
    """A path or an address of the container, as it is here."""
    host, _, port = value.rpartition(":")
    if host in {"127.0.0.1", "0.0.0.0"} and port.isdecimal():  # noqa: S104 - read, not listened on
        return f"127.0.0.1:{ports[int(port)]}"
    return str(folder / value.removeprefix(MOUNTS)) if value.startswith(MOUNTS) else value


@pytest.fixture
def mounts(tmp_path: Path) -> tuple[Path, Certificates]:
    """What Kubernetes would mount, but for the secret file, which bootstrap makes."""
    made = make_certificates(tmp_path / "made", NAME)
    (tmp_path / "grpc").mkdir()
    (tmp_path / "grpc" / "tls.crt").write_bytes(made.certificate.read_bytes())
    (tmp_path / "grpc" / "tls.key").write_bytes(made.key.read_bytes())
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "store-password").write_text(PASSWORD + "\n")
    return tmp_path, made


@pytest.fixture
def start(mounts: tuple[Path, Certificates], new_database: Callable[[], str]) -> Iterator[Callable[[str], Pod]]:
    """Starts a role over a store that was bootstrapped."""
    folder, _ = mounts
    url, pods = new_database(), []

    def run(container: dict[str, Any], *command: str) -> tuple[subprocess.Popen[str], dict[int, int]]:
        ports = dict(zip((50051, 8080, 8081), free_ports(3), strict=True))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        settings = {name: moved(value, folder, ports) for name, value in settings_of(container).items()}
        process = subprocess.Popen(
            [sys.executable, "-m", "server", *command],
            env=environment | settings | {f"{PREFIX}STORE_URL": url},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return process, ports

    found = deployments()
    made, _ = run(found["admin"]["spec"]["template"]["spec"]["containers"][0], "bootstrap")
    _, said = made.communicate(timeout=WAIT_S)
    assert made.returncode == 0, said

    def begin(role: str) -> Pod:
        spec = found[role]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        pods.append(Pod(container, spec["terminationGracePeriodSeconds"], *run(container, "serve")))
        return pods[-1]

    yield begin
    for pod in pods:
        pod.close()


def health(target: str, credentials: grpc.ChannelCredentials) -> int:
    """What gRPC's health service says, asked as a client of the cluster asks: by the Service's name."""
    options = (("grpc.ssl_target_name_override", NAME), ("grpc.enable_http_proxy", 0))
    with grpc.secure_channel(target, credentials, options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
    return int(answer.status)


def test_every_role_starts_is_probed_and_ends_within_its_grace(
    start: Callable[[str], Pod], mounts: tuple[Path, Certificates]
) -> None:
    _, certificates = mounts
    pods = {role: start(role) for role in ROLES}
    for role, pod in pods.items():
        said = pod.until_ready()
        assert pod.get("startupProbe") == pod.get("livenessProbe") == {"alive": True}
        assert pod.get("readinessProbe") == {"ready": True, "reasons": []}
        assert ("webhooks" in said) == (role == "receipts")
    believed = grpc.ssl_channel_credentials(certificates.authority.read_bytes())
    for role in SERVES:
        assert health(f"127.0.0.1:{pods[role].ports[50051]}", believed) == health_pb2.HealthCheckResponse.SERVING
    for role in ("dispatch", "receipts"):
        # No certificate is mounted there, and none is needed: nobody but the pod itself reaches this port.
        with pytest.raises(ssl.SSLError):
            ssl.get_server_certificate(("127.0.0.1", pods[role].ports[50051]), timeout=10)
    for pod in pods.values():
        pod.process.send_signal(signal.SIGTERM)
    for pod in pods.values():
        # The kubelet counts the seconds of preStop as part of the grace.
        left_s = pod.grace_s - pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod.process.wait(left_s) == 0
