"""The gRPC listener: services behind the gate, health, reflection, TLS, and the options of its connections.

It knows no method. One process serves one port.

Invariants: health says SERVING only between `serving` and `drain`; a certificate that is replaced on disk is served to
the next connection, and one that cannot be read leaves the last good one in use.
"""

import asyncio
import errno
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import (
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import reflection

from engine.config import Settings
from engine.config_checks import split_address
from engine.corridor import Corridor
from engine.errors import ConfigError
from longwave.v1 import admin_pb2_grpc, compliance_pb2_grpc, registry_pb2_grpc
from server.auth import Authenticator
from server.compliance import ComplianceService
from server.floods import Floods
from server.gate import COMPLIANCE, MESSAGING, REGISTRY, SERVER, UNARY_S_MAX, Gate
from server.info import ServerService
from server.messaging import Messaging
from server.registry import RegistryService
from server.stream import Streams
from server.watch import WRITE_S_MAX, Watches

_log = structlog.get_logger("longwave.grpc")

INGEST: Final = (MESSAGING, COMPLIANCE)
# Taken in so that the refusal has a number; gRPC itself cuts off what is larger, without one.
RECEIVE_BYTES_MAX: Final = 16 * 1024 * 1024
# Ten thousand calls at once met a bound of a hundred such, and none of one for each call being served. A new connection
# can leave so many more calls behind, reset, than it may make at once.
LETTING_GO: Final = 1
READ_PIECE_BYTES: Final = 64 * 1024
# Above the gate's own limit, so that a refusal there has its number, and probes of health still pass.
CALLS_BEYOND: Final = 1000
# Where this machine reaches what listens on all of its addresses.
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - listens on nothing
# A connection of its own each time, by no proxy.
_PROBE_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


def options(settings: Settings) -> list[tuple[str, int]]:
    """The channel arguments of every connection."""
    return [
        # One process serves the port: a second one is to fail, not to share.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max(RECEIVE_BYTES_MAX, 2 * settings.request_bytes_max)),
        # A client holds back what is beyond it. It also bounds what resets leave behind: a stream that was reset counts
        # until its call was taken up and let go.
        ("grpc.max_concurrent_streams", settings.connection_calls_max),
        # Calls that were answered and not let go yet count too; a client that keeps to the bound must not be refused.
        ("grpc.http2.max_deallocating_streams", LETTING_GO * settings.connection_calls_max),
        # A connection is read in such pieces, by turns with the others: in one of megabytes, hundreds of thousands of
        # frames without content would keep a thread of two for a second.
        ("grpc.experimental.tcp_max_read_chunk_size", READ_PIECE_BYTES),
        # Calls that came faster than the loop took them up wait for it; gRPC would drop those beyond 1,000, by chance
        # and without a number. The gate's limit is the one that counts.
        ("grpc.server.max_pending_requests", settings.max_concurrent_calls),
        ("grpc.server.max_pending_requests_hard_limit", settings.max_concurrent_calls + CALLS_BEYOND),
        # A dead client is found out after 70 s, whether or not a call of its is open.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ping every 30 s; a little less, or an early timer counts as abuse and ends the connection.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 25_000),
        # Behind a layer-4 balancer new nodes get clients only when old connections end. Watches and streams get ten
        # minutes to end by themselves; the client resumes them.
        ("grpc.max_connection_age_ms", int(settings.connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", 600_000),
    ]


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
        )
        self.watches = Watches(corridor, write_s_max=write_s_max)
        self.streams = Streams(
            corridor,
            credit_messages=settings.stream_credit_messages,
            request_bytes_max=settings.request_bytes_max,
            check_bytes=self.gate.check_bytes,
        )
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=options(settings),
            maximum_concurrent_rpcs=settings.max_concurrent_calls + CALLS_BEYOND,
        )
        self.floods = Floods(
            self.gate,
            given_up_a_second=settings.connection_given_up_max,
            request_bytes_max=settings.request_bytes_max,
        )
        self._server.add_generic_rpc_handlers((self.floods,))
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
            reflection.enable_server_reflection(names, door)
        self.port = 0

    async def start(self) -> None:
        """Listen; calls are refused with NOT_READY until `serving`. Raises OSError or ConfigError with a sentence."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        credentials = server_credentials(self._settings)
        address = self._settings.grpc_address
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise bind_error(address) from error
        await self._server.start()
        self.floods.start(self.port)

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
        return await self._answers(host, wait_s) or self.floods.holds(host)

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
        self.floods.stop()
        await self._server.stop(grace_s)

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


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS as the settings say; None for none. Raises ConfigError when a file cannot be read."""
    if settings.grpc_tls_cert_file is None or settings.grpc_tls_key_file is None:
        return None
    files = _TlsFiles(settings.grpc_tls_cert_file, settings.grpc_tls_key_file, settings.grpc_tls_client_ca_file)
    try:
        initial = files.read()
    except OSError as error:
        message = f"{error.filename}: {error.strerror} (LONGWAVE_GRPC_TLS_CERT_FILE and the settings beside it)"
        raise ConfigError([message]) from None
    return grpc.dynamic_ssl_server_credentials(
        initial,
        files.changed,  # type: ignore[arg-type] # None means unchanged, says gRPC's documentation
        require_client_authentication=settings.grpc_tls_client_ca_file is not None,
    )


class _TlsFiles:
    """Certificate, key and authorities on disk; asked at each handshake, on a thread of gRPC's."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._paths: Sequence[Path] = [path for path in (key, certificate, client_ca) if path is not None]
        self._has_ca = client_ca is not None
        self._lock = threading.Lock()
        self._seen: list[tuple[int, int, int]] = []

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read all. Raises OSError."""
        with self._lock:
            seen = self._stamps()
            contents = [path.read_bytes() for path in self._paths]
            self._seen = seen
        ca = contents[2] if self._has_ca else None
        return grpc.ssl_server_certificate_configuration([(contents[0], contents[1])], ca)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What is on disk now; None when it is what was read last, or cannot be read."""
        try:
            with self._lock:
                same = self._stamps() == self._seen
            return None if same else self.read()
        except OSError as error:
            _log.warning("TLS files cannot be read: the last good ones stay in use", error=str(error.strerror))
            return None

    def _stamps(self) -> list[tuple[int, int, int]]:
        stats = [path.stat() for path in self._paths]
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]
