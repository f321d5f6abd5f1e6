"""compose.yaml acted out without Docker: its own commands and settings, with a database and ports of this machine.

What Docker alone can show stays unseen: images, networks, rights, and the order in which it starts things.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.benchmarks.children import Process, clean_environment, first_line, start, stop, wait_ready
from loadtest.ports import free_ports
from longwave.client import Client
from server.cli import demo_registry
from tests.servers.mariadb import PASSWORD

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"


@dataclass
class Acted:
    """The services of the file, in a folder."""

    folder: Path
    services: dict[str, Any]
    places: dict[str, str]
    """What stands in the file → what it is here."""

    def here(self, text: str) -> str:
        for theirs, ours in self.places.items():
            text = text.replace(theirs, ours)
        return text.replace("$$", "$")

    def environment(self, name: str) -> dict[str, str]:
        given = {variable: self.here(str(value)) for variable, value in self.services[name]["environment"].items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Redis needs a server with a password: tests/hints has them, and nothing here depends on it.
        given = {variable: value for variable, value in given.items() if "REDIS" not in variable}
        return clean_environment(given | {"PATH": path})

    def command(self, name: str) -> list[str]:
        return [self.here(word) for word in self.services[name]["entrypoint"]]

    def bootstrap(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command("bootstrap"),
            env=self.environment("bootstrap") | {"LONGWAVE_STORE_TLS": "off"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def acted(tmp_path: Path, new_database: Callable[[], str]) -> Acted:
    subprocess.run(["cp", DOCKER / "prepare.sh", tmp_path], check=True)
    subprocess.run([tmp_path / "prepare.sh"], check=True, capture_output=True)
    (tmp_path / "secrets/store_password").write_text(PASSWORD, encoding="ascii")
    (tmp_path / "secrets/longwave.toml").rename(tmp_path / "secrets/longwave_toml")
    (tmp_path / "lib").mkdir()
    carrier, webhooks = free_ports(2)
    places = {
        "/run/secrets": str(tmp_path / "secrets"),
        "/var/lib/longwave": str(tmp_path / "lib"),
        "mysql://longwave@mysql:3306/longwave": new_database(),
        "http://carrier:8090": f"http://127.0.0.1:{carrier}",
        "--host 0.0.0.0 --port 8090": f"--port {carrier}",
        "http://longwave:8081": f"http://127.0.0.1:{webhooks}",
    }
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return Acted(tmp_path, services, places)


@pytest.fixture
def running(acted: Acted) -> Iterator[tuple[Acted, str]]:
    """Carrier and engine, bootstrapped before; with the address of gRPC."""
    children: list[Process] = []
    done = acted.bootstrap()
    assert done.returncode == 0, done.stderr
    try:
        log = acted.folder / "carrier.log"
        children.append(start(acted.command("carrier"), acted.environment("carrier"), log, piped=True))
        first_line(children[0], log)
        grpc, ops = free_ports(2)
        webhooks = acted.places["http://longwave:8081"].removeprefix("http://")
        addresses = {
            "LONGWAVE_STORE_TLS": "off",
            "LONGWAVE_GRPC_ADDRESS": f"127.0.0.1:{grpc}",
            "LONGWAVE_HTTP_ADDRESS": f"127.0.0.1:{ops}",
            "LONGWAVE_WEBHOOK_ADDRESS": webhooks,
        }
        log = acted.folder / "engine.log"
        children.append(start(["longwave", "serve"], acted.environment("longwave") | addresses, log))
        wait_ready(children[1], ops, log)
        yield acted, f"127.0.0.1:{grpc}"
    finally:
        for child in reversed(children):
            stop(child)  # killed, the command would leave the carrier that it started


def test_bootstrap_makes_the_store_once_and_finds_it_again(acted: Acted) -> None:
    first = acted.bootstrap()
    assert first.returncode == 0, first.stderr
    made = (acted.folder / "lib/admin.json").read_bytes()
    assert json.loads(made)["api_key"].startswith("lw_a_")
    for name in ("admin.json", "longwave.secrets"):
        assert (acted.folder / "lib" / name).stat().st_mode & 0o777 == 0o600
    assert json.loads(made)["api_key"] not in first.stdout + first.stderr
    again = acted.bootstrap()
    assert again.returncode == 0, again.stderr
    assert (acted.folder / "lib/admin.json").read_bytes() == made


def test_a_message_is_delivered_by_its_services(running: tuple[Acted, str]) -> None:
    acted, address = running
    admin = json.loads((acted.folder / "lib/admin.json").read_bytes())["api_key"]
    with Client(address, api_key=admin) as client:
        demo_registry.make(client.registry)
        key = demo_registry.make_tenant_key(client.registry)
    done = subprocess.run(
        ["longwave", "--address", address, "smoke", "--campaign", "notices", "--to", "+12025550123", "--json"],
        env=acted.environment("carrier") | {"LONGWAVE_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"]
