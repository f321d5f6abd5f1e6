"""The dispatch edge over TLS: what verifies, what does not, and what a cut connection is called there."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine.http_client import Exchange, HttpPool, Phase, PoolLimits, render_request, verified_tls

if TYPE_CHECKING:
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LIMITS = PoolLimits(connect_s=2, first_byte_s=2, total_s=4)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "carrier")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "carrier.pem"
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(key_pem + made.public_bytes(serialization.Encoding.PEM))
    return path


class TlsCarrier:
    """Answers every request on a connection until told to cut it in the middle of one."""

    def __init__(self, certificate: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self.connections = 0
        self.cut = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                if self.cut:
                    writer.transport.abort()
                    return
                writer.write(OK)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()


def unexpected(batch: list[Exchange]) -> None:
    raise AssertionError(batch)


async def test_trusted_certificate_answers_and_reuses_the_connection(certificate: Path) -> None:
    carrier = TlsCarrier(certificate)
    url = await carrier.start()
    context = verified_tls()
    context.load_verify_locations(certificate)
    pool = HttpPool(url, unexpected, limits=LIMITS, ssl_context=context)
    request = render_request(pool.origin, "GET", "/messages/1", {})
    for _ in range(3):
        exchange = await pool.request(request)
        assert (exchange.phase, exchange.body) == (Phase.ANSWERED, b"{}")
    assert carrier.connections == 1
    carrier.cut = True
    assert (await pool.request(request)).phase is Phase.RESET
    await pool.close(0)
    await carrier.stop()


async def test_untrusted_certificate_is_not_connected(certificate: Path) -> None:
    carrier = TlsCarrier(certificate)
    pool = HttpPool(await carrier.start(), unexpected, limits=LIMITS)
    exchange = await pool.request(render_request(pool.origin, "GET", "/", {}))
    assert (exchange.phase, exchange.detail) == (Phase.NOT_CONNECTED, "SSLCertVerificationError")
    await pool.close(0)
    await carrier.stop()


async def test_certificate_of_another_name_is_not_connected(certificate: Path) -> None:
    carrier = TlsCarrier(certificate)
    url = (await carrier.start()).replace("127.0.0.1", "localhost")
    context = verified_tls()
    context.load_verify_locations(certificate)
    pool = HttpPool(url, unexpected, limits=LIMITS, ssl_context=context)
    exchange = await pool.request(render_request(pool.origin, "GET", "/", {}))
    assert exchange.phase is Phase.NOT_CONNECTED
    await pool.close(0)
    await carrier.stop()


async def test_contexts_that_verify_nothing_are_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(ValueError, match="verify"):
        HttpPool("https://127.0.0.1", unexpected, ssl_context=context)


def test_own_context_is_at_least_tls_1_2() -> None:
    assert verified_tls().minimum_version >= ssl.TLSVersion.TLSv1_2
