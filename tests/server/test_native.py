"""The native edge alone: what grpcio does inside of its library, or does otherwise."""

import asyncio
import contextlib
import gc
import gzip
import socket
import ssl
import weakref
import zlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2
from server.native import connection as connections
from server.native.listener import EXPIRE_S, NativeEdge
from tests.proof.abuse import wire
from tests.server.conftest import NATIVE, WAIT_S, Server, StartServer, refused
from tests.server.test_floods import works
from tests.server.test_gate import gone, submit
from tests.server.test_listener import Authority, write

pytestmark = NATIVE
SUBMIT = contract.SUBMIT_MESSAGE.path
GOAWAY = 7
# 12, 13, 8 and 4 as strings in a header block, by the codes of RFC 7541, appendix B.
UNIMPLEMENTED, INTERNAL = b"\x82\x08\xbf", b"\x82\x0b\x3f"
RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED = b"\x81\x7b", b"\x81\x6b"


def edge_of(server: Server) -> NativeEdge:
    assert isinstance(server.grpc.edge, NativeEdge)
    return server.grpc.edge


class Peer:
    """One connection in frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """The next frame of such a kind: kind, flags, stream, payload."""
        async with asyncio.timeout(WAIT_S):
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3]))
                if not kinds or head[3] in kinds:
                    return head[3], head[4], int.from_bytes(head[5:]), payload

    def call(self, stream: int, body: bytes, *more: tuple[bytes, bytes], key: str = "", path: str = SUBMIT) -> None:
        headers = wire.call_fields(path, key=key, more=more)
        self.writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers))
        for start in range(0, len(body), wire.FRAME_BYTES_MAX):
            self.writer.write(wire.frame(wire.DATA, 0, stream, body[start : start + wire.FRAME_BYTES_MAX]))
        self.writer.write(wire.frame(wire.DATA, wire.END_STREAM, stream))

    async def trailers(self, stream: int) -> bytes:
        """The last header block of a call."""
        while True:
            _, flags, found, payload = await self.frame(wire.HEADERS)
            if found == stream and flags & wire.END_STREAM:
                return payload


@pytest.fixture
async def peer(server: Server) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    writer.write(wire.opening())
    yield Peer(reader, writer)
    writer.transport.abort()


def message(payload: bytes, *, compressed: bool = False) -> bytes:
    return bytes((compressed,)) + len(payload).to_bytes(4) + payload


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
async def test_a_compressed_request_is_unpacked(server: Server, peer: Peer, encoding: bytes, pack: Any) -> None:
    body = message(pack(submit("packed").SerializeToString()), compressed=True)
    peer.call(1, body, (b"grpc-encoding", encoding), key=server.tenant_key)
    await peer.trailers(1)
    assert [each.text for each in server.corridor.stored] == ["packed"]


@pytest.mark.parametrize(
    ("encoding", "payload", "status"),
    [
        (b"snappy", b"x", UNIMPLEMENTED),
        (b"identity", b"x", INTERNAL),
        (b"gzip", b"no gzip", INTERNAL),
        (b"gzip", gzip.compress(b"x" * 100)[:-9], INTERNAL),
        (b"gzip", gzip.compress(bytes(17 << 20)), RESOURCE_EXHAUSTED),
    ],
    ids=["unknown", "none", "garbage", "cut", "bomb"],
)
async def test_what_cannot_be_unpacked_has_a_status(
    server: Server, peer: Peer, encoding: bytes, payload: bytes, status: bytes
) -> None:
    peer.call(1, message(payload, compressed=True), (b"grpc-encoding", encoding), key=server.tenant_key)
    trailers = await peer.trailers(1)
    assert status in trailers
    await works(server.client())
    assert len(server.corridor.stored) == 1


async def test_nothing_is_unpacked_for_whoever_shows_no_key(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*_: object) -> None:
        pytest.fail("unpacked")

    monkeypatch.setattr("server.native.packed._unpack", unpack)
    peer.call(1, message(gzip.compress(b"x"), compressed=True), (b"grpc-encoding", b"gzip"))
    await peer.trailers(1)


async def test_the_first_call_of_a_key_and_those_after_it_are_served_alike(server: Server) -> None:
    client = server.client()
    for _ in range(3):
        await asyncio.gather(*(works(client) for _ in range(20)))
    assert server.grpc.gate.calls == 0
    labels = {"method": SUBMIT, "code": "OK"}
    assert server.corridor.metrics.registry.get_sample_value("longwave_grpc_requests_total", labels) == 60
    assert server.grpc.gate.served == 60


async def test_refusals_of_calls_that_came_together_are_errors_of_their_own(server: Server) -> None:
    client = server.client()
    await works(client)
    texts = ["a", "refuse", "b", "refuse"]
    calls = [client.call(client.messaging.SubmitMessage, submit(text)) for text in texts]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, grpc.aio.AioRpcError) for answer in answers] == [False, True, False, True]
    refusal = await refused(client.call(client.messaging.SubmitMessage, submit("refuse")))
    assert (refusal.verdict, refusal.fields) == ("RECIPIENT_OPTED_OUT", ["submission.recipient"])
    assert server.grpc.gate.calls == 0


async def test_a_key_that_is_no_more_is_refused_on_an_open_connection(server: Server) -> None:
    client = server.client()
    await works(client)
    server.grpc.gate._authenticator.replace(2, [])
    refusal = await refused(client.call(client.messaging.SubmitMessage, submit()))
    assert refusal.verdict == "UNAUTHENTICATED"


async def test_a_client_that_goes_gives_up_all_of_its_calls(server: Server) -> None:
    client = server.client()
    await works(client)
    await server.corridor.arrived.acquire()
    server.corridor.held = True
    sent = [asyncio.ensure_future(client.call(client.messaging.SubmitMessage, submit())) for _ in range(20)]
    for _ in sent:
        await server.corridor.arrived.acquire()
    await client.channel.close(None)
    await asyncio.gather(*sent, return_exceptions=True)
    for waiting in server.corridor.waiting:
        await gone(waiting.future)
    assert server.grpc.gate.calls == 0


async def test_pings_that_come_too_often_end_the_connection_in_grpcs_words(server: Server, peer: Peer) -> None:
    peer.writer.write(wire.frame(wire.PING, 0, 0, bytes(8)) * 5)
    *_, payload = await peer.frame(GOAWAY)
    assert payload.endswith(b"too_many_pings")
    async with asyncio.timeout(WAIT_S):
        assert await peer.reader.read() == b""
    assert edge_of(server).ended == 0


async def test_a_silent_peer_is_asked_and_then_cut_off(
    server: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await peer.frame(wire.SETTINGS)
    peer.writer.write(wire.frame(wire.SETTINGS, wire.ACK, 0))
    monkeypatch.setattr(connections, "KEEPALIVE_S", 0.01)
    kind, _, _, payload = await peer.frame(wire.PING)
    assert kind == wire.PING
    peer.writer.write(wire.frame(wire.PING, wire.ACK, 0, payload))
    await peer.frame(wire.PING)
    monkeypatch.setattr(connections, "KEEPALIVE_WAIT_S", 0.01)
    async with asyncio.timeout(WAIT_S):
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await peer.frame(GOAWAY)
    assert not edge_of(server)._connections


async def test_who_says_nothing_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "OPENING_S", 0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    async with asyncio.timeout(WAIT_S):
        while not reader.at_eof():
            try:
                await reader.read(100)
            except ConnectionError:
                break
    writer.close()


async def test_one_connection_too_many_is_not_taken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.native.listener.CONNECTIONS_MAX", 1)
    client = server.client()
    await works(client)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    writer.write(wire.opening())
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(9)
    writer.close()
    await works(client)


async def test_what_is_no_grpc_is_told_by_http(peer: Peer) -> None:
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"x")]
    for stream, more in ((1, [(b"content-type", b"text/html")]), (3, [])):
        fields = wire.fields([*headers, *more])
        peer.writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS | wire.END_STREAM, stream, fields))
        _, flags, found, payload = await peer.frame(wire.HEADERS)
        assert (found, flags & wire.END_STREAM) == (stream, wire.END_STREAM)
        assert b"grpc" not in payload


async def test_a_watch_that_is_not_read_holds_one_answer(server: Server) -> None:
    """Slow readers: the window stays shut, and what waits is bounded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    writer.write(wire.opening(window=0))
    peer = Peer(reader, writer)
    peer.call(1, wire.message(b""), key=server.tenant_key, path=contract.WATCH_EVENTS.path)
    _, flags, _, _ = await peer.frame(wire.HEADERS)
    assert not flags & wire.END_STREAM
    writer.write(wire.frame(8, 0, 1, (1 << 20).to_bytes(4)))
    *_, payload = await peer.frame(wire.DATA)
    assert pb.WatchEventsResponse.FromString(payload[5:]).cursor
    writer.transport.abort()


async def test_requests_that_never_end_are_bounded_in_bytes(server: Server, peer: Peer) -> None:
    """Of one connection: the call that goes beyond is refused, and the others go on."""
    await peer.frame(wire.SETTINGS)
    peer.writer.write(wire.frame(wire.SETTINGS, wire.ACK, 0))
    piece = bytes(wire.FRAME_BYTES_MAX)
    head = b"\0" + (16_000_000).to_bytes(4)
    windows = asyncio.ensure_future(peer.frame(wire.HEADERS))
    for stream in (1, 3, 5):
        headers = wire.call_fields(SUBMIT, key=server.tenant_key)
        peer.writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, stream, headers))
        peer.writer.write(wire.frame(wire.DATA, 0, stream, head))
    # What the windows let through is the peer's own business; here it takes them as they come.
    async with asyncio.timeout(WAIT_S):
        for _ in range(15_000_000 // len(piece)):
            for stream in (1, 3, 5):
                if windows.done():
                    break
                peer.writer.write(wire.frame(wire.DATA, 0, stream, piece))
                await peer.writer.drain()
                await asyncio.sleep(0)
    assert windows.done()
    windows.result()


async def test_calls_in_flight_are_answered_after_goaway_and_new_ones_go_elsewhere(server: Server) -> None:
    client = server.client()
    await works(client)
    await server.corridor.arrived.acquire()
    server.corridor.held = True
    sent = asyncio.ensure_future(client.call(client.messaging.SubmitMessage, submit()))
    await server.corridor.arrived.acquire()
    stopping = asyncio.ensure_future(server.grpc.stop(WAIT_S))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    server.corridor.release()
    assert (await sent).result.verdict == verdict_pb2.VERDICT_ACCEPTED
    async with asyncio.timeout(WAIT_S):
        await stopping


async def test_who_reads_no_http2_is_refused_behind_tls(start_server: StartServer, tmp_path: Path) -> None:
    authority = Authority()
    server = await start_server(**write(tmp_path, authority.issue("localhost")))
    for offered in (["http/1.1"], []):
        context = ssl.create_default_context(cadata=authority.pem.decode())
        if offered:
            context.set_alpn_protocols(offered)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.grpc.port, ssl=context, server_hostname="localhost"
        )
        writer.write(wire.opening())
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.transport.abort()


async def test_a_connection_without_calls_is_not_looked_at_for_deadlines(
    server: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await peer.frame(wire.SETTINGS)
    looked: list[object] = []
    monkeypatch.setattr(connections.NativeConnection, "expire", lambda self, _: looked.append(self))
    for _ in range(3):  # deadlines of another one are looked at meanwhile
        await works(server.client())
        await asyncio.sleep(2 * EXPIRE_S)
    assert len(set(looked)) == 3
    assert len(edge_of(server)._connections) == 4


async def test_metadata_beyond_the_bound_is_refused_with_a_status(server: Server, peer: Peer) -> None:
    """As grpcio does; a 431 of HTTP is something that clients have no name for."""
    block = wire.call_fields(SUBMIT, key=server.tenant_key, more=((b"x", b"a" * 17_000),))
    peer.writer.write(wire.frame(wire.HEADERS, wire.END_STREAM, 1, block[:16_000]))
    peer.writer.write(wire.frame(wire.CONTINUATION, wire.END_HEADERS, 1, block[16_000:]))
    assert RESOURCE_EXHAUSTED in await peer.trailers(1)
    await works(server.client())


@pytest.mark.parametrize(
    ("more", "path", "body", "status"),
    [
        ((b"grpc-timeout", b"abc"), SUBMIT, wire.message(b""), INTERNAL),
        ((b"x", b"y"), SUBMIT + "?a=b", wire.message(b""), UNIMPLEMENTED),
        ((b"x", b"y"), SUBMIT, b"\x02" + bytes(4), INTERNAL),
    ],
    ids=["deadline", "query", "message"],
)
async def test_what_breaks_grpcs_rules_has_a_status(
    server: Server, peer: Peer, more: tuple[bytes, bytes], path: str, body: bytes, status: bytes
) -> None:
    peer.call(1, body, more, key=server.tenant_key, path=path)
    assert status in await peer.trailers(1)
    await works(server.client())


async def test_a_request_that_does_not_come_whole_in_time_is_refused(
    server: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = wire.call_fields(SUBMIT, key=server.tenant_key)
    peer.writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, 1, headers) + wire.frame(wire.DATA, 0, 1, b"\0"))
    await works(server.client())
    now_us = server.corridor.clock.mono_us
    monkeypatch.setattr(server.corridor.clock, "mono_us", lambda: now_us() + 60_000_000)
    assert DEADLINE_EXCEEDED in await peer.trailers(1)


async def test_of_all_connections_together_the_oldest_unfinished_requests_are_refused(
    server: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.native.listener.HELD_BYTES_MAX", 50_000)
    monkeypatch.setattr("server.native.listener.HELD_BYTES_KEPT", 48_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    writer.write(wire.opening())
    second = Peer(reader, writer)
    headers = wire.frame(wire.HEADERS, wire.END_HEADERS, 1, wire.call_fields(SUBMIT, key=server.tenant_key))
    whole = wire.message(submit("a" * 60_000).SerializeToString())
    edge = edge_of(server)
    for each in (peer, second):
        each.writer.write(headers + wire.frame(wire.DATA, 0, 1, whole[:15_000]))
        async with asyncio.timeout(WAIT_S):
            while edge._held_bytes < (1 if each is peer else 2) * 15_000:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
    for start in (15_000, 31_000):
        second.writer.write(wire.frame(wire.DATA, 0, 1, whole[start : start + 16_000]))
    assert RESOURCE_EXHAUSTED in await peer.trailers(1)
    second.writer.write(wire.frame(wire.DATA, wire.END_STREAM, 1, whole[47_000:]))
    assert RESOURCE_EXHAUSTED not in await second.trailers(1)
    assert edge._held_bytes == 0
    writer.transport.abort()


async def test_a_connection_that_is_gone_is_freed_without_the_collector(server: Server) -> None:
    """Which comes seldom, by the process' own wish."""
    edge = edge_of(server)
    gc.disable()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
        writer.write(wire.opening())
        peer = Peer(reader, writer)
        peer.call(1, wire.message(b""), key=server.tenant_key)
        peer.call(3, wire.message(submit().SerializeToString()), key=server.tenant_key)
        await peer.trailers(3)
        [connection] = map(weakref.ref, edge._connections)
        writer.transport.abort()
        async with asyncio.timeout(WAIT_S):
            while connection() is not None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
    finally:
        gc.enable()


async def test_an_end_behind_tls_is_said(start_server: StartServer, tmp_path: Path) -> None:
    """Node's client waits for it: its calls hung for their whole deadline."""
    authority = Authority()
    server = await start_server(**write(tmp_path, authority.issue("localhost")))
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])

    def talk() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", server.grpc.port), WAIT_S) as plain,
            context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as secured,
        ):
            secured.sendall(wire.opening() + wire.frame(wire.PING, 0, 0, bytes(8)) * 5)
            came = b""
            while piece := secured.recv(1 << 16):
                came += piece
            return came

    assert (await asyncio.to_thread(talk)).endswith(b"too_many_pings")


async def test_what_ends_a_connection_is_heard_by_a_peer_that_still_sends(peer: Peer) -> None:
    """A socket that is closed over what was not read takes back what its peer has not read."""
    await peer.frame(wire.SETTINGS)
    peer.writer.write(wire.frame(wire.PING, 0, 0, bytes(8)) * 5)
    for _ in range(300):
        peer.writer.write(wire.frame(wire.DATA, 0, 1, bytes(wire.FRAME_BYTES_MAX)))
    await peer.writer.drain()
    *_, payload = await peer.frame(GOAWAY)
    assert payload.endswith(b"too_many_pings")
    async with asyncio.timeout(WAIT_S):
        assert await peer.reader.read() == b""
