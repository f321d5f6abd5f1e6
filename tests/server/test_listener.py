"""The listener: health, reflection, TLS, addresses, draining."""

import asyncio
import datetime as dt
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engine.errors import ConfigError
from longwave.channels import channel_options
from longwave.v1 import admin_pb2, admin_pb2_grpc, verdict_pb2
from longwave.v1 import messaging_pb2 as pb
from server.gate import COMPLIANCE, MESSAGING, REGISTRY, SERVER
from tests.proof.abuse import wire
from tests.server.conftest import WAIT_S, Client, Server, StartServer, refused

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = ("", MESSAGING, COMPLIANCE, REGISTRY, SERVER)


async def healths(client: Client) -> set[int]:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    return {(await stub.Check(health_pb2.HealthCheckRequest(service=n), timeout=WAIT_S)).status for n in NAMES}


async def test_health_follows_the_server(start_server: StartServer) -> None:
    server = await start_server(serving=False)
    client = server.client("")
    health: Any = health_pb2_grpc.HealthStub(client.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=MESSAGING), timeout=WAIT_S)
    assert (await watch.read()).status == NOT_SERVING
    assert await healths(client) == {NOT_SERVING}
    await server.grpc.serving()
    assert (await watch.read()).status == SERVING
    assert await healths(client) == {SERVING}
    await server.grpc.set_ready(ready=False)
    assert (await watch.read()).status == NOT_SERVING
    await server.grpc.set_ready(ready=True)
    assert (await watch.read()).status == SERVING
    await server.grpc.drain()
    assert (await watch.read()).status == NOT_SERVING
    await server.grpc.set_ready(ready=True)
    assert await healths(client) == {NOT_SERVING}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="x"), timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def listed(client: Client) -> list[str]:
    channel: Any = client.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(timeout=WAIT_S)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    await call.done_writing()
    return [service.name for service in answer.list_services_response.service]


async def test_reflection_lists_every_service_without_a_key(server: Server) -> None:
    names = await listed(server.client(""))
    assert set(names) == {*NAMES[1:], "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_reflection_can_be_turned_off(start_server: StartServer) -> None:
    server = await start_server(reflection=False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await listed(server.client(""))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_method_that_does_not_exist_is_unimplemented(server: Server) -> None:
    client = server.client()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.raw(f"/{MESSAGING}/SubmitEverything")(b"", metadata=client.headers, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_small_request_that_unpacks_to_a_huge_one_is_refused(server: Server) -> None:
    client = server.client()
    submit = client.raw(f"/{MESSAGING}/SubmitMessage")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(bytes(32 << 20), metadata=client.headers, timeout=WAIT_S, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Decompressed message larger than max" in (caught.value.details() or "")


async def test_a_path_that_is_not_utf_8_ends_nothing(server: Server) -> None:
    """GRPC from 1.84 on ends the whole server at it; no key is needed to send it."""
    headers = wire.fields([(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/\xff"), (b":authority", b"x"),
                           (b"te", b"trailers"), (b"content-type", b"application/grpc")])  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    writer.write(wire.opening() + wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, 1, headers))
    try:
        async with asyncio.timeout(WAIT_S):
            kind = -1
            while kind not in {wire.HEADERS, wire.RST_STREAM}:
                head = await reader.readexactly(9)
                kind = head[3]
                await reader.readexactly(int.from_bytes(head[:3], "big"))
    finally:
        writer.close()
    client = server.client()
    await client.call(client.messaging.ListMessages, pb.ListMessagesRequest(), WAIT_S)


async def test_a_taken_port_is_told(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=rf"cannot listen for gRPC on {address}: Address already in use .*_GRPC_ADDR"):
            await start_server(grpc_address=address)


async def test_two_servers_never_share_a_port(start_server: StartServer) -> None:
    first = await start_server()
    with pytest.raises(OSError, match="already in use"):
        await start_server(grpc_address=first.target)


async def test_after_draining_calls_in_flight_end_and_new_ones_are_refused(server: Server) -> None:
    client = server.client()
    await server.grpc.drain()
    server.corridor.closed = "the server drains"
    refusal = await refused(client.call(client.messaging.SubmitMessage, pb.SubmitMessageRequest()))
    assert refusal.verdict == "NOT_READY"
    server.corridor.closed = None
    server.corridor.held = True
    sent = client.messaging.SubmitMessage(pb.SubmitMessageRequest(), metadata=client.headers, timeout=WAIT_S)
    await server.corridor.arrived.acquire()
    await server.corridor.arrived.acquire()
    server.corridor.release()
    await server.grpc.stop(WAIT_S)
    assert (await sent).result.verdict == verdict_pb2.VERDICT_ACCEPTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call(client.messaging.SubmitMessage, pb.SubmitMessageRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"])
async def test_it_knows_whether_it_answers(start_server: StartServer, address: str) -> None:
    server = await start_server(grpc_address=address, insecure=True)
    assert await server.grpc.answers(WAIT_S)
    await server.grpc.stop(0)
    assert not await server.grpc.answers(WAIT_S)


async def test_behind_tls_it_knows_whether_it_takes_connections(start_server: StartServer, tmp_path: Path) -> None:
    server = await start_server(**write(tmp_path, Authority().issue("localhost")))
    assert await server.grpc.answers(WAIT_S)
    await server.grpc.stop(0)
    assert not await server.grpc.answers(WAIT_S)


class Authority:
    """Signs certificates for localhost."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign("authority", self.key, ca=True)

    def sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        issuer = self.certificate.subject if hasattr(self, "certificate") else _named(name)
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Key and certificate in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private, self.sign(name, key).public_bytes(serialization.Encoding.PEM)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def write(folder: Path, pair: tuple[bytes, bytes]) -> dict[str, Any]:
    """Replace the files as a certificate manager does."""
    names = {"grpc_tls_key_file": folder / "key.pem", "grpc_tls_cert_file": folder / "cert.pem"}
    for path, content in zip(names.values(), pair, strict=True):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)
    return names


async def info(server: Server, roots: bytes, pair: tuple[bytes, bytes] | None = None) -> str:
    """Ask over TLS, on a connection of its own."""
    credentials = grpc.ssl_channel_credentials(roots, *(pair or (None, None)))
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    async with grpc.aio.secure_channel(server.target, credentials, options=options) as channel:
        answer = await admin_pb2_grpc.ServerServiceStub(channel).GetServerInfo(
            admin_pb2.GetServerInfoRequest(),
            metadata=(("authorization", f"Bearer {server.tenant_key}"),),
            timeout=WAIT_S,
        )
        return str(answer.store)


async def test_a_replaced_certificate_is_served_to_the_next_connection(
    start_server: StartServer, tmp_path: Path
) -> None:
    first, second = Authority(), Authority()
    server = await start_server(**write(tmp_path, first.issue("localhost")))
    assert await info(server, first.pem) == "memory 1"
    write(tmp_path, second.issue("localhost"))
    assert await info(server, second.pem) == "memory 1"
    with pytest.raises(grpc.aio.AioRpcError):
        await info(server, first.pem)
    (tmp_path / "cert.pem").unlink()
    assert await info(server, second.pem) == "memory 1"


async def test_with_an_authority_clients_need_a_certificate(start_server: StartServer, tmp_path: Path) -> None:
    authority, strange = Authority(), Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    files = write(tmp_path, authority.issue("localhost"))
    server = await start_server(**files, grpc_tls_client_ca_file=tmp_path / "ca.pem")
    assert await info(server, authority.pem, authority.issue("client")) == "memory 1"
    for pair in (None, strange.issue("client")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await info(server, authority.pem, pair)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_missing_certificate_is_told(start_server: StartServer, tmp_path: Path) -> None:
    files = {"grpc_tls_key_file": tmp_path / "key.pem", "grpc_tls_cert_file": tmp_path / "cert.pem"}
    with pytest.raises(ConfigError, match=r"key\.pem: No such file or directory \(LONGWAVE_GRPC_TLS_CERT_FILE"):
        await start_server(**files)


def client_ports(port: int) -> set[int]:
    """Of the connections that are open to a port of this machine."""
    tables = [Path(f"/proc/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    ends = [(int(row[1].partition(":")[2], 16), int(row[2].partition(":")[2], 16)) for row in rows if row[3] == "01"]
    return {near for near, far in ends if far == port}


async def test_an_old_connection_is_replaced_and_no_call_fails(start_server: StartServer) -> None:
    server = await start_server(connection_age_s=1)
    client = server.client()
    seen: set[int] = set()
    async with asyncio.timeout(WAIT_S * 3):
        while len(seen) < 3:
            await client.call(client.server.GetServerInfo, admin_pb2.GetServerInfoRequest())
            seen |= client_ports(server.grpc.port)
            await asyncio.sleep(0.02)


async def test_the_clients_options_spread_calls_over_all_addresses(start_server: StartServer) -> None:
    """Each server knows its own keys alone, so the status says which one answered."""
    first, second = await start_server(), await start_server()
    options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
    target = f"ipv4:127.0.0.1:{first.grpc.port},127.0.0.1:{second.grpc.port}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        stub: Any = admin_pb2_grpc.ServerServiceStub(channel)
        headers = (("authorization", f"Bearer {first.tenant_key}"),)

        async def codes(calls: int) -> Counter[str]:
            found = Counter[str]()
            for _ in range(calls):
                try:
                    await stub.GetServerInfo(admin_pb2.GetServerInfoRequest(), metadata=headers, timeout=WAIT_S)
                    found["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    found[error.code().name] += 1
            return found

        async with asyncio.timeout(WAIT_S * 3):
            while len(await codes(2)) < 2:  # both are connected
                pass
        assert await codes(40) == {"OK": 20, "UNAUTHENTICATED": 20}
        await second.grpc.drain()
        await second.grpc.stop(1)
        assert (await codes(40))["OK"] == 40


async def test_a_name_is_listened_on_at_all_of_its_addresses(start_server: StartServer) -> None:
    server = await start_server(grpc_address="localhost:0")
    for _, _, _, _, address in socket.getaddrinfo("localhost", server.grpc.port, type=socket.SOCK_STREAM):
        _, writer = await asyncio.open_connection(str(address[0]), server.grpc.port)
        writer.close()
