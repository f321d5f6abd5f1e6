"""The gRPC listener: services behind the gate, health and reflection, over the edge that the settings name.

It knows no method, and nothing of HTTP/2: grpcio (`server/grpcio_edge.py`) or the native edge (`server/native`) does.

Invariants: health says SERVING only between `serving` and `drain`; over either edge the same handlers serve.
"""

import asyncio
import errno
import socket
from collections.abc import Sequence
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import (
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from engine.config_checks import split_address
from engine.corridor import Corridor
from longwave import contract
from longwave.v1 import admin_pb2_grpc, compliance_pb2_grpc, registry_pb2_grpc
from server.auth import Authenticator
from server.call_spans import CallSpans
from server.compliance import ComplianceService
from server.gate import COMPLIANCE, MESSAGING, REGISTRY, SERVER, UNARY_S_MAX, Gate
from server.grpcio_edge import GrpcioEdge
from server.info import ServerService
from server.messaging import Messaging
from server.native.listener import NativeEdge
from server.native.together import Submits
from server.registry import RegistryService
from server.stream import Streams
from server.watch import WRITE_S_MAX, Watches

INGEST: Final = (MESSAGING, COMPLIANCE)
# Taken in so that the refusal has a number; gRPC itself cuts off what is larger, without one.
RECEIVE_BYTES_MAX: Final = 16 * 1024 * 1024
# Where this machine reaches what listens on all of its addresses.
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - listens on nothing
# A connection of its own each time, by no proxy.
_PROBE_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


def services_of(roles: Sequence[str]) -> tuple[str, ...]:
    """Names of the services that a process of these roles has; that of the server itself is always there."""
    ingest = INGEST if "ingest" in roles else ()
    admin = (REGISTRY,) if "admin" in roles else ()
    return (*ingest, *admin, SERVER)


class GrpcServer:
    """All methods belong to the loop's thread."""

    def __init__(
        self,
        corridor: Corridor,
        authenticator: Authenticator,
        registry: RegistryService,
        *,
        unary_s_max: float = UNARY_S_MAX,
        write_s_max: float = WRITE_S_MAX,
    ) -> None:
        """Assemble; nothing is bound before `start`."""
        settings = corridor.settings
        self._settings = settings
        self.gate = Gate(
            authenticator,
            corridor.clock,
            corridor.metrics,
            calls_max=settings.max_concurrent_calls,
            request_bytes_max=settings.request_bytes_max,
            unary_s_max=unary_s_max,
            spans=None if corridor.traces is None else CallSpans(corridor.traces),
        )
        self.watches = Watches(corridor, write_s_max=write_s_max)
        self.streams = Streams(
            corridor,
            credit_messages=settings.stream_credit_messages,
            request_bytes_max=settings.request_bytes_max,
            check_bytes=self.gate.check_bytes,
        )
        self._health = health.aio.HealthServicer()
        message_bytes_max = max(RECEIVE_BYTES_MAX, 2 * settings.request_bytes_max)
        self.edge: GrpcioEdge | NativeEdge = (
            NativeEdge(
                settings,
                self.gate,
                corridor.clock,
                submits=Submits(self.gate, corridor, contract.SUBMIT_MESSAGE.path),
                unary_paths=self._unary_paths,
                message_bytes_max=message_bytes_max,
                unary_s_max=unary_s_max,
            )
            if settings.edge == "native"
            else GrpcioEdge(settings, self.gate, message_bytes_max=message_bytes_max)
        )
        # Generated code and the libraries know a server only; the gate takes handlers like one.
        door = cast("grpc.aio.Server", self.gate)
        if "ingest" in settings.roles:
            door.add_generic_rpc_handlers((Messaging(corridor, self.streams, self.watches).handlers(),))
            compliance_pb2_grpc.add_ComplianceServiceServicer_to_server(ComplianceService(corridor), door)
        if "admin" in settings.roles:
            registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, door)
        admin_pb2_grpc.add_ServerServiceServicer_to_server(ServerService(corridor), door)
        self._services = services_of(settings.roles)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, door)
        if settings.reflection:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            servicer = reflection.aio.ReflectionServicer(names)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, door)  # type: ignore[no-untyped-call]
        self.port = 0

    async def start(self) -> None:
        """Listen; calls are refused with NOT_READY until `serving`. Raises OSError or ConfigError with a sentence."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        address = self._settings.grpc_address
        try:
            self.port = await self.edge.start()
        except (RuntimeError, OSError) as error:
            raise bind_error(address) from error

    async def serving(self) -> None:
        """Let callers in."""
        self.gate.open()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def set_ready(self, *, ready: bool) -> None:
        """Say by health whether work may be sent here; ignored once draining."""
        status = health_pb2.HealthCheckResponse
        await self._set_health(status.SERVING if ready else status.NOT_SERVING)

    async def drain(self) -> None:
        """Say NOT_SERVING for good, and end streams and watches when they have answered what is in."""
        await self._health.enter_graceful_shutdown()
        self.streams.drain()
        self.watches.drain()

    async def answers(self, wait_s: float) -> bool:
        """Whether someone new is answered within so many seconds: by health, or, behind TLS, by a connection alone.

        While a flooder of this very address has its connections held back, ours are too, and no answer says nothing.
        """
        host, _ = split_address(self._settings.grpc_address)
        host = _EVERYWHERE.get(host, host)
        return await self._answers(host, wait_s) or self.edge.holds(host)

    async def _answers(self, host: str, wait_s: float) -> bool:
        try:
            async with asyncio.timeout(wait_s):
                if self._settings.grpc_tls_cert_file is not None:
                    _, writer = await asyncio.open_connection(host, self.port)
                    writer.transport.abort()
                    return True
                target = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
                async with grpc.aio.insecure_channel(target, options=_PROBE_OPTIONS) as channel:
                    stub: Any = health_pb2_grpc.HealthStub(channel)
                    await stub.Check(health_pb2.HealthCheckRequest(), timeout=wait_s)
                return True
        except (OSError, TimeoutError, grpc.aio.AioRpcError):
            return False

    async def stop(self, grace_s: float) -> None:
        """GOAWAY; let calls end, cut those off that have not after `grace_s`. Safe to call before `start`."""
        await self.edge.stop(grace_s)

    def _unary_paths(self) -> list[str]:
        """Methods of one request, of every service that is served."""
        served = [*self._services, health.SERVICE_NAME]
        described = [descriptor_pool.Default().FindServiceByName(name) for name in served]
        return [
            f"/{service.full_name}/{method.name}"
            for service in described
            for method in service.methods
            if not method.client_streaming
        ]

    async def _set_health(self, status: int) -> None:
        for service in ("", *self._services):
            await self._health.set(service, status)


def bind_error(address: str) -> OSError:
    """Why gRPC could not listen there: its own error does not say, so the address is tried once more."""
    host, port = split_address(address)
    reason, number = "the address cannot be used", errno.EADDRNOTAVAIL
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(resolved)
            probe.listen(1)
    except OSError as error:
        reason, number = error.strerror or str(error), error.errno or number
    return OSError(number, f"cannot listen for gRPC on {address}: {reason} (LONGWAVE_GRPC_ADDRESS)")
