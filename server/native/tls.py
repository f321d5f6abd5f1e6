"""TLS of the native edge: the certificate on disk, as it is when a client connects.

Invariant: what cannot be read or does not fit together leaves the last good one in use.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final

import structlog

from engine.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from engine.config import Settings

_log = structlog.get_logger("longwave.grpc")

PIECE_BYTES: Final = 64 * 1024
# HTTP/2, as TLS names it.
PROTOCOL: Final = "h2"


class Tls:
    """Asked at each connection, on the loop's thread: three looks at a file's state."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Read all. Raises ConfigError with a sentence."""
        self._paths = (certificate, key, client_ca)
        try:
            self._seen = self._stamps()
            self._context = self._make()
        except OSError as error:
            path = error.filename or key
            reason = error.strerror or "no certificate and key that fit together"
            message = f"{path}: {reason} (LONGWAVE_GRPC_TLS_CERT_FILE and the settings beside it)"
            raise ConfigError([message]) from None

    def secured(self) -> Secured:
        """For one connection."""
        try:
            stamps = self._stamps()
            if stamps != self._seen:
                self._context, self._seen = self._make(), stamps
        except OSError as error:
            _log.warning("TLS files cannot be read: the last good ones stay in use", error=str(error.strerror))
        return Secured(self._context)

    def _make(self) -> ssl.SSLContext:
        certificate, key, client_ca = self._paths
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.options |= ssl.OP_NO_RENEGOTIATION
        made.set_alpn_protocols([PROTOCOL])
        # A key under a password would ask for it on the terminal.
        made.load_cert_chain(certificate, key, password=lambda: "")
        if client_ca is not None:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(client_ca)
        return made

    def _stamps(self) -> list[tuple[int, int, int]]:
        # The key first: of several that are missing, it is told.
        certificate, key, client_ca = self._paths
        stats = [path.stat() for path in (key, certificate, client_ca) if path is not None]
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]


class Secured:
    """TLS of one connection, without a socket: what is read and written passes through it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """Keys are not agreed on yet."""
        self._came, self._leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._leaves, server_side=True)
        self.agreed = False
        """Whether keys are agreed on."""

    def read(self, data: bytes) -> bytes:
        """What the peer says. Raises ssl.SSLError when it is no TLS of ours, is not for HTTP/2, or has come to its end.

        Either way `leaving` may have something to send.
        """
        self._came.write(data)
        said = []
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self.agreed:
                self._tls.do_handshake()
                if self._tls.selected_alpn_protocol() != PROTOCOL:
                    raise ssl.SSLError("the peer does not offer HTTP/2")
                self.agreed = True
            while piece := self._tls.read(PIECE_BYTES):
                said.append(piece)
        return b"".join(said)

    def write(self, data: bytes) -> None:
        """Say it; `leaving` has what that comes to."""
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]

    def end(self) -> None:
        """Say that nothing more will be said; `leaving` has that. Without it some clients do not see an end."""
        # Its answer is not waited for; where keys were not agreed on there is nothing to say.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()

    def leaving(self) -> bytes:
        """What is to be sent."""
        return self._leaves.read()


def tls_of(settings: Settings) -> Tls | None:
    """TLS as the settings say; None for none. Raises ConfigError when a file cannot be read."""
    if settings.grpc_tls_cert_file is None or settings.grpc_tls_key_file is None:
        return None
    return Tls(settings.grpc_tls_cert_file, settings.grpc_tls_key_file, settings.grpc_tls_client_ca_file)
