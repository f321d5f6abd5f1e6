"""grpcio's listener: its options, TLS, and the look-out for floods.

It knows no method. One process serves one port.

Invariant: a certificate that is replaced on disk is served to the next connection, and one that cannot be read leaves
the last good one in use.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
import structlog

from engine.config import Settings
from engine.errors import ConfigError
from server.floods import Floods
from server.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = structlog.get_logger("longwave.grpc")

# Ten thousand calls at once met a bound of a hundred such, and none of one for each call being served. A new connection
# can leave so many more calls behind, reset, than it may make at once.
LETTING_GO: Final = 1
READ_PIECE_BYTES: Final = 64 * 1024
# Above the gate's own limit, so that a refusal there has its number, and probes of health still pass.
CALLS_BEYOND: Final = 1000


def options(settings: Settings, message_bytes_max: int) -> list[tuple[str, int]]:
    """The channel arguments of every connection."""
    return [
        # One process serves the port: a second one is to fail, not to share.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", message_bytes_max),
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


class GrpcioEdge:
    """All methods belong to the loop's thread."""

    def __init__(self, settings: Settings, gate: Gate, *, message_bytes_max: int) -> None:
        """Serve the gate's handlers; nothing is bound before `start`."""
        self._settings = settings
        self._server = grpc.aio.server(
            options=options(settings, message_bytes_max),
            maximum_concurrent_rpcs=settings.max_concurrent_calls + CALLS_BEYOND,
        )
        self.floods = Floods(
            gate,
            given_up_a_second=settings.connection_given_up_max,
            request_bytes_max=settings.request_bytes_max,
        )
        self._server.add_generic_rpc_handlers((self.floods,))

    @property
    def ended(self) -> int:
        """Connections that were ended for what they cost."""
        return self.floods.ended

    def holds(self, address: str) -> bool:
        """Whether new connections from this address are held back."""
        return self.floods.holds(address)

    async def start(self) -> int:
        """Listen; returns the port. Raises RuntimeError when it cannot, ConfigError with a sentence."""
        credentials = server_credentials(self._settings)
        address = self._settings.grpc_address
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        self.floods.start(port)
        return port

    async def stop(self, grace_s: float) -> None:
        """GOAWAY; let calls end, cut those off that have not after `grace_s`. Safe to call before `start`."""
        self.floods.stop()
        await self._server.stop(grace_s)


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
