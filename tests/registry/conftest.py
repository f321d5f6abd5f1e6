"""A real store in a temporary folder, and a RegistryService over it on a free port of loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc.aio
import pytest
import sqlalchemy as sa

from engine.registry import api_keys
from engine.registry.records import Role
from engine.registry.version import read_version
from engine.secrets import Secrets, open_secrets
from engine.stores.connection import Connection, StoreLock, engine_over, open_writer
from engine.stores.migrate import migrate
from longwave.v1 import registry_pb2 as pb
from longwave.v1 import registry_pb2_grpc
from server.auth import Authenticator
from server.registry import RegistryService

NOW_US = 1_700_000_000_000_000
T = TypeVar("T")


@dataclass
class Store:
    path: Path
    connection: Connection
    engine: sa.Engine
    secrets: Secrets

    def run(self, act: Callable[[sa.Connection], T]) -> T:
        with self.engine.begin() as control:
            return act(control)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an empty migrated store; copying it is much cheaper than migrating."""
    path = tmp_path_factory.mktemp("migrated") / "longwave.db"
    connection = open_writer(path)
    migrate(connection, path, now_us=NOW_US)
    connection.close()
    return path.read_bytes()


@pytest.fixture
def store(tmp_path: Path, migrated: bytes) -> Iterator[Store]:
    path = tmp_path / "longwave.db"
    path.write_bytes(migrated)
    lock = StoreLock(path)
    connection = open_writer(path)
    secrets = open_secrets(tmp_path / "secrets", create=True, now_us=NOW_US)
    yield Store(path, connection, engine_over(connection), secrets)
    connection.close()
    lock.release()


@dataclass
class Server:
    store: Store
    authenticator: Authenticator
    stub: "registry_pb2_grpc.RegistryServiceAsyncStub"
    admin: str
    run: Callable[[Callable[[sa.Connection], object]], Awaitable[object]]
    changes: list[int]

    async def as_admin(self, method: str, request: object) -> object:
        return await self.call(self.admin, method, request)

    async def call(self, key: str, method: str, request: object) -> object:
        headers = (("authorization", f"Bearer {key}"),)
        return await getattr(self.stub, method)(request, metadata=headers, timeout=20)

    async def tenant_key(self, tenant_id: str) -> str:
        request = pb.CreateApiKeyRequest(tenant=f"tenants/{tenant_id}", role=pb.ROLE_TENANT)
        response = await self.as_admin("CreateApiKey", request)
        assert isinstance(response, pb.CreateApiKeyResponse)
        return response.secret


@pytest.fixture
async def server(store: Store) -> AsyncIterator[Server]:
    authenticator = Authenticator(store.secrets)
    changes: list[int] = []
    # As in the engine: control-plane work runs on the writer's thread, one piece at a time.
    with ThreadPoolExecutor(1) as writer:

        async def run(act: Callable[[sa.Connection], T]) -> T:
            return await asyncio.get_running_loop().run_in_executor(writer, store.run, act)

        async def refresh() -> None:
            version, rows = await run(lambda c: (read_version(c), api_keys.load_keys(c, now_us=NOW_US)))
            authenticator.replace(version, rows)
            changes.append(version)

        _, admin = await run(
            lambda c: api_keys.create_api_key(
                c, store.secrets, role=Role.ADMIN, tenant=None, display_name="", expire_us=None, now_us=NOW_US
            )
        )
        await refresh()
        service = RegistryService(run, refresh, authenticator, store.secrets, lambda: NOW_US)
        listener = grpc.aio.server()
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(service, listener)
        port = listener.add_insecure_port("127.0.0.1:0")
        await listener.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = registry_pb2_grpc.RegistryServiceStub(channel)
            yield Server(store, authenticator, stub, admin.text, run, changes)
        await listener.stop(None)
