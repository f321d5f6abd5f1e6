"""A real gRPC server on a free port of loopback over a corridor in memory, and clients of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import pytest
import uvloop
from google.rpc import error_details_pb2, status_pb2

from engine.config import Settings
from engine.errors import Refused, Verdict
from engine.registry.api_keys import KeyRow
from engine.registry.keys import keyed_hash, mint
from engine.registry.records import Role
from engine.secrets import NamedKey, Secrets
from longwave.v1 import admin_pb2_grpc, compliance_pb2_grpc, messaging_pb2_grpc, registry_pb2_grpc
from server.auth import Authenticator
from server.grpc_server import GrpcServer
from server.registry import RegistryService
from tests.server.fake_corridor import FakeCorridor

if TYPE_CHECKING:
    from engine.corridor import Corridor
    from server.floods import Floods
    from server.grpcio_edge import GrpcioEdge

WAIT_S = 20
SECRETS = Secrets((NamedKey("k1", b"a" * 32, 0),), (NamedKey("k1", b"c" * 32, 0),))
TENANT, OTHER = 1, 2


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of production."""
    return {"uvloop": uvloop.new_event_loop}


def make_key(authenticator_rows: list[KeyRow], role: Role, tenant: int | None) -> str:
    token = mint(role)
    digest = keyed_hash(SECRETS.api_key[0].secret, token)
    authenticator_rows.append(KeyRow(token.prefix, tenant, role, digest, "k1", None))
    return token.text


class Client:
    """Stubs over one connection with one key."""

    def __init__(self, target: str, key: str, options: list[tuple[str, Any]] | None = None) -> None:
        settings = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), *(options or [])]
        self.channel = grpc.aio.insecure_channel(target, options=settings)
        self.headers = (("authorization", f"Bearer {key}"),) if key else ()
        self.messaging = messaging_pb2_grpc.MessagingServiceStub(self.channel)
        self.compliance = compliance_pb2_grpc.ComplianceServiceStub(self.channel)
        self.server = admin_pb2_grpc.ServerServiceStub(self.channel)
        self.registry = registry_pb2_grpc.RegistryServiceStub(self.channel)

    async def call(self, method: Any, request: Any, timeout_s: float | None = WAIT_S) -> Any:
        return await method(request, metadata=self.headers, timeout=timeout_s)

    def raw(self, path: str) -> Any:
        return self.channel.unary_unary(path)

    def watch(self, request: Any) -> Any:
        return self.messaging.WatchEvents(request, metadata=self.headers, timeout=WAIT_S)

    def stream(self) -> Any:
        return self.messaging.StreamMessages(metadata=self.headers, timeout=WAIT_S)


@dataclass
class Server:
    corridor: FakeCorridor
    grpc: GrpcServer
    tenant_key: str
    other_key: str
    admin_key: str
    clients: list[Client]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.grpc.port}"

    @property
    def floods(self) -> "Floods":
        """Of grpcio's edge."""
        return cast("GrpcioEdge", self.grpc.edge).floods

    def client(self, key: str | None = None, options: list[tuple[str, Any]] | None = None) -> Client:
        made = Client(self.target, self.tenant_key if key is None else key, options)
        self.clients.append(made)
        return made


StartServer = Callable[..., Awaitable[Server]]


# For what only grpcio's edge has, or only the native one.
GRPCIO = pytest.mark.parametrize("edge", ["grpcio"])
NATIVE = pytest.mark.parametrize("edge", ["native"])


@pytest.fixture(params=["grpcio", "native"])
def edge(request: pytest.FixtureRequest) -> str:
    """What serves: everything holds over both."""
    return str(request.param)


@pytest.fixture
async def start_server(edge: str) -> AsyncIterator[StartServer]:
    """Start servers that are stopped at the end; names of settings and of GrpcServer's arguments."""
    running: list[Server] = []

    async def start(
        *, serving: bool = True, unary_s_max: float = 30, write_s_max: float = 30, **settings: Any
    ) -> Server:
        values: dict[str, Any] = {"grpc_address": "127.0.0.1:0", "edge": edge}
        corridor = FakeCorridor(Settings(**(values | settings)))
        rows: list[KeyRow] = []
        tenant, other = make_key(rows, Role.TENANT, TENANT), make_key(rows, Role.TENANT, OTHER)
        admin = make_key(rows, Role.ADMIN, None)
        authenticator = Authenticator(SECRETS)
        authenticator.replace(1, rows)

        async def run(_act: object) -> Any:
            raise Refused(Verdict.NOT_FOUND, "no such resource for this key")

        async def changed() -> None:
            return

        registry = RegistryService(run, changed, authenticator, SECRETS, corridor.clock.now_us)
        server = GrpcServer(
            cast("Corridor", corridor), authenticator, registry, unary_s_max=unary_s_max, write_s_max=write_s_max
        )
        await server.start()
        if serving:
            await server.serving()
        made = Server(corridor, server, tenant, other, admin, [])
        running.append(made)
        return made

    yield start
    for server in running:
        for client in server.clients:
            await client.channel.close(None)
        await server.grpc.stop(0)


@pytest.fixture
async def server(start_server: StartServer) -> Server:
    return await start_server()


@dataclass(frozen=True)
class Refusal:
    """What a failed call said, taken apart. Making one asserts the form that every error has."""

    code: grpc.StatusCode
    verdict: str
    detail: str
    fields: list[str]
    metadata: dict[str, str]
    retry_s: float
    pushback_ms: str


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    trailers = dict(error.trailing_metadata() or ())
    assert "grpc-status-details-bin" in trailers, f"{error.code()}: {error.details()}"
    status = status_pb2.Status.FromString(cast("bytes", trailers["grpc-status-details-bin"]))
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    infos: list[Any] = []
    requests: list[Any] = []
    retries: list[Any] = []
    for detail in status.details:
        for kind, found in (
            (error_details_pb2.ErrorInfo, infos),
            (error_details_pb2.BadRequest, requests),
            (error_details_pb2.RetryInfo, retries),
        ):
            made = kind()
            if detail.Unpack(made):
                found.append(made)
    assert len(infos) == 1
    assert max(len(requests), len(retries)) <= 1
    info = infos[0]
    assert info.domain == "longwave.dev"
    assert int(info.metadata["number"]) == Verdict[info.reason]
    return Refusal(
        error.code(),
        info.reason,
        status.message,
        [violation.field for request in requests for violation in request.field_violations],
        {name: value for name, value in info.metadata.items() if name != "number"},
        retries[0].retry_delay.ToMicroseconds() / 1e6 if retries else 0,
        str(trailers.get("grpc-retry-pushback-ms", "")),
    )


async def refused(call: Awaitable[Any]) -> Refusal:
    """Await a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)
