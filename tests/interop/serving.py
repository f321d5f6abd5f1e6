"""`longwave serve` with one of its two gRPC edges, over a store of its own, with TLS or without.

It knows no client.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from engine.stores.connection import open_writer
from loadtest.benchmarks.children import HOST, Process, clean_environment, get, kill, module_command, start, wait_ready
from loadtest.ports import free_ports
from longwave.v1 import admin_pb2, compliance_pb2, messaging_pb2, registry_pb2
from tests.server.process_fixture import make_store
from tests.server.test_listener import Authority, write

EDGES: Final = ("grpcio", "native")
CAMPAIGN: Final = "campaigns/notices"
_kept = itertools.count(1)


@dataclass
class Served:
    """An engine that may be stopped and started again; it holds what it accepts."""

    folder: Path
    edge: str
    ca: Path | None
    key: str
    port: int
    http_port: int
    environment: dict[str, str]
    process: Process | None = None

    @property
    def target(self) -> str:
        """By a name that its certificate has."""
        return f"localhost:{self.port}"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "engine.log"

    def start(self) -> None:
        """Until it is ready."""
        self.process = start(module_command("server", "serve"), self.environment, self.log)
        wait_ready(self.process, self.http_port, self.log)

    def ended(self) -> int:
        """Wait for its end after a signal; its exit code."""
        assert self.process is not None
        return self.process.wait(60)

    def stored(self) -> int:
        """How many messages its store has, while it does not run."""
        connection = open_writer(self.folder / "longwave.db")
        try:
            [count] = connection.execute("SELECT count(*) FROM messages").fetchone()
        finally:
            connection.close()
        return int(count)

    def metrics(self) -> dict[str, float]:
        """What it counts, by name and labels."""
        lines = get(self.http_port, "/metrics")[1].decode().splitlines()
        rows = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in rows}


@contextlib.contextmanager
def served(parent: Path, edge: str, *, tls: bool) -> Iterator[Served]:
    """One that is ready."""
    folder = parent / f"{edge}-{next(_kept)}"
    folder.mkdir()
    key = make_store(folder)
    port, http_port, webhook_port = free_ports(3)
    settings: dict[str, Any] = {
        "store_url": f"sqlite:///{folder / 'longwave.db'}",
        "grpc_address": f"{HOST}:{port}",
        "http_address": f"{HOST}:{http_port}",
        "webhook_address": f"{HOST}:{webhook_port}",
        "reserve_file_mib": 0,
        "edge": edge,
    }
    ca = None
    if tls:
        authority = Authority()
        ca = folder / "ca.pem"
        ca.write_bytes(authority.pem)
        settings |= write(folder, authority.issue("localhost"))
    environment = clean_environment({f"LONGWAVE_{name.upper()}": str(value) for name, value in settings.items()})
    made = Served(folder, edge, ca, key, port, http_port, environment)
    try:
        made.start()
        yield made
    finally:
        if made.process is not None:
            kill(made.process)


def descriptors() -> bytes:
    """Of everything that is called, as clients without generated code read them."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for each in file.dependencies:
            add(each)
        found.setdefault(file.name, file)

    for module in (messaging_pb2, admin_pb2, compliance_pb2, registry_pb2, health_pb2):
        add(module.DESCRIPTOR)
    files = [descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb) for file in found.values()]
    return descriptor_pb2.FileDescriptorSet(file=files).SerializeToString()
