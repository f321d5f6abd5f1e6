"""Connections that cost much and call nothing are ended; whoever calls is served, watched or not."""

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import pytest

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2
from server import connections, floods
from server.connections import Connections, peer_of
from server.floods import Floods
from server.gate import MESSAGING
from server.native import police
from tests.proof.abuse import wire
from tests.server.conftest import GRPCIO, WAIT_S, Client, Server, StartServer, refused
from tests.server.test_listener import NAMES, SERVING, healths, listed

if TYPE_CHECKING:
    from server.gate import Gate

SUBMIT = f"/{MESSAGING}/SubmitMessage"
CALLS = 100


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long silence before the end, so that a client hears of it; any byte is worth a look."""
    monkeypatch.setattr(connections, "SILENT_S", 0.01)
    monkeypatch.setattr(police, "SILENT_S", 0.01)
    monkeypatch.setattr(floods, "TICK_S", 0.02)
    monkeypatch.setattr(floods, "BEGUN_S", 0.0)
    monkeypatch.setattr(floods, "BUSY_SHARE", -1.0)


def resets(key: str) -> Iterator[bytes]:
    headers = wire.call_fields(SUBMIT, key=key)
    stream = 1
    while True:
        yield b"".join(
            wire.frame(wire.HEADERS, wire.END_HEADERS, each, headers) + wire.reset(each)
            for each in range(stream, stream + 2 * CALLS, 2)
        )
        stream += 2 * CALLS


async def send(server: Server, blocks: Iterator[bytes], first: bytes = b"") -> None:
    """Open a connection and send these on it until it is ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    reading = asyncio.ensure_future(reader.read())
    writer.write(wire.opening() + first)
    try:
        async with asyncio.timeout(WAIT_S):
            # A lost connection is known to the transport a turn before the reader is told.
            while not reading.done() and not writer.transport.is_closing():
                writer.write(next(blocks))
                drained = asyncio.ensure_future(writer.drain())
                await asyncio.wait((drained, reading), return_when=asyncio.FIRST_COMPLETED)
                if not drained.cancel():
                    drained.result()
                await asyncio.sleep(0)
    except OSError:
        pass  # ended while it was being written
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.transport.abort()


async def works(client: Client) -> None:
    reply = await client.call(client.messaging.SubmitMessage, pb.SubmitMessageRequest())
    assert reply.result.verdict == verdict_pb2.VERDICT_ACCEPTED


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("first", [b"", wire.frame(wire.SETTINGS, wire.ACK, 0)], ids=["unsettled", "settled"])
async def test_a_connection_that_resets_calls_is_ended_and_its_neighbour_is_not(
    start_server: StartServer, first: bytes
) -> None:
    server = await start_server()
    neighbour = server.client()
    await works(neighbour)
    await send(server, resets(server.tenant_key), first)
    assert server.grpc.edge.ended == 1
    await works(neighbour)
    await works(server.client())
    assert server.grpc.edge.ended == 1


@pytest.mark.usefixtures("quick")
async def test_a_connection_whose_bytes_are_of_no_call_is_ended(start_server: StartServer) -> None:
    server = await start_server(request_bytes_max=64 * 1024)
    await send(server, itertools.repeat(wire.frame(wire.WINDOW_UPDATE, 0, 0, (1).to_bytes(4)) * 1000))
    assert server.grpc.edge.ended == 1
    await works(server.client())


@GRPCIO
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("dear", [True, False])
async def test_small_frames_of_no_call_are_found_long_before_a_large_request_would_be(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, *, dear: bool
) -> None:
    if not dear:
        monkeypatch.setattr(floods, "DEAR_S_A_BYTE", float("inf"))
    server = await start_server(request_bytes_max=256 * 1024 * 1024)
    flood = wire.frame(wire.SETTINGS, 0, 0) * 1000
    sending = asyncio.ensure_future(send(server, itertools.repeat(flood)))
    if dear:
        await sending
        assert server.grpc.edge.ended == 1
        return
    await asyncio.sleep(1)
    assert server.grpc.edge.ended == 0
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def watching(server: Server) -> None:
    """Give it reason to watch, and wait until it does."""
    client = server.client()
    async with asyncio.timeout(WAIT_S):
        while not server.floods.watching:
            call = client.raw(SUBMIT)(b"", metadata=client.headers, timeout=WAIT_S)
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)


@pytest.fixture
async def watched(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that watches its calls."""
    monkeypatch.setattr(floods, "TICK_S", 0.01)
    monkeypatch.setattr(floods, "GIVEN_UP_A_SECOND", -1)
    server = await start_server()
    await watching(server)
    return server


@GRPCIO
async def test_calls_are_served_alike_while_they_are_watched(watched: Server) -> None:
    client = watched.client()
    await works(client)
    stranger = watched.client("")
    refusal = await refused(stranger.call(stranger.messaging.SubmitMessage, pb.SubmitMessageRequest()))
    assert refusal.verdict == "UNAUTHENTICATED"
    refusal = await refused(client.raw(f"/{MESSAGING}/ListMessages")(b"\xff", metadata=client.headers, timeout=WAIT_S))
    assert refusal.verdict == "UNDECODABLE"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.raw(f"/{MESSAGING}/Nothing")(b"", metadata=client.headers, timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await healths(client) == {SERVING}
    assert set(NAMES[1:]) < set(await listed(client))
    assert watched.grpc.edge.ended == 0


@GRPCIO
async def test_streams_are_served_alike_while_they_are_watched(watched: Server) -> None:
    client = watched.client()
    stream: Any = client.stream()
    assert (await stream.read()).credit > 0
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    watch: Any = client.watch(pb.WatchEventsRequest())
    await watch.initial_metadata()
    watch.cancel()
    assert watched.grpc.edge.ended == 0


@GRPCIO
async def test_a_client_that_gives_up_fewer_calls_than_the_bound_is_served(watched: Server) -> None:
    client = watched.client()
    await works(client)
    watched.corridor.held = True
    calls = [client.raw(SUBMIT)(b"", metadata=client.headers, timeout=WAIT_S) for _ in range(CALLS)]
    for _ in calls:
        await watched.corridor.arrived.acquire()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    watched.corridor.held = False
    await works(client)
    assert watched.grpc.edge.ended == 0


def test_beside_an_abuser_of_the_same_address_whoever_calls_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Floods, "_set_timer", lambda _self, _wait_s: None)
    looked = Floods(cast("Gate", None), given_up_a_second=256, request_bytes_max=1 << 20)
    until_s = looked._suspects["10.1.2.3"] = time.perf_counter() + 60
    good, idle, flood = (("10.1.2.3", port) for port in (1, 2, 3))
    accounts = looked._accounts = {good: floods._Account(served_lately=300.0), idle: floods._Account()}
    for _ in range(30):
        looked._given_up(good)
        looked._given_up(idle)
    assert not accounts[good].ended
    assert accounts[idle].ended
    # That was no breach of the bound for everyone.
    assert looked._suspects["10.1.2.3"] == until_s
    accounts[flood] = floods._Account(served_lately=1e9)
    for _ in range(257):
        looked._given_up(flood)
    assert accounts[flood].ended
    assert looked._suspects["10.1.2.3"] > until_s


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("x:y", "x:y"),
    ],
)
def test_a_host_has_a_whole_network_of_addresses(address: str, network: str) -> None:
    assert floods.network_of(address) == network


@pytest.mark.parametrize(
    ("written", "peer"),
    [
        ("ipv4:10.1.2.3:4567", ("10.1.2.3", 4567)),
        ("ipv6:%5B2001:db8::1%5D:4567", ("2001:db8::1", 4567)),
        ("ipv6:[fe80::1%25eth0]:4567", ("fe80::1", 4567)),
        ("ipv6:%5B::ffff:10.1.2.3%5D:4567", ("10.1.2.3", 4567)),
        ("unix:socket", None),
        ("", None),
    ],
)
def test_peers_are_read_as_grpc_writes_them(written: str, peer: tuple[str, int] | None) -> None:
    assert peer_of(written) == peer


@pytest.mark.parametrize("silent_max", [0, 1])
async def test_the_connection_of_a_peer_is_counted_and_ended_and_no_other(
    monkeypatch: pytest.MonkeyPatch, silent_max: int
) -> None:
    monkeypatch.setattr(connections, "SILENT_MAX", silent_max)
    monkeypatch.setattr(connections, "SILENT_S", 0.01)
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put((reader, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listener:
        found = Connections()
        found.port = listener.sockets[0].getsockname()[1]
        clients = [await asyncio.open_connection("127.0.0.1", found.port) for _ in range(2)]
        servers = [await accepted.get() for _ in clients]
        clients[0][1].write(b"12345")
        assert await servers[0][0].readexactly(5) == b"12345"
        peers = [client[1].get_extra_info("sockname") for client in clients]
        assert found.received() == {peers[0]: 5, peers[1]: 0}
        descriptor = servers[0][1].get_extra_info("socket").fileno()
        assert found.end({peers[0]}) == 1
        assert silent_max == 0 or not os.get_blocking(descriptor), "its owner's reads would wait"
        async with asyncio.timeout(WAIT_S):
            assert await clients[0][0].read() == b""
            assert await servers[0][0].read() == b""
        assert found.silent == 0
        clients[1][1].write(b"6")
        assert await servers[1][0].readexactly(1) == b"6"
        for _, writer in (*clients, *servers):
            writer.close()
