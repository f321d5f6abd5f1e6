"""Networks that flooded open few connections, and bring little on each until it is seen what it is; others are free."""

import asyncio
import errno
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2
from server import connections, floods, newcomers
from server.connections import Connections
from server.floods import Floods
from server.gate import MESSAGING
from server.newcomers import MODULUS, PIECE_BYTES, WIDTH_MAX, WIDTH_MIN, Newcomers, program
from tests.proof.abuse import wire
from tests.server.conftest import GRPCIO, WAIT_S, Client, Server, StartServer
from tests.server.test_floods import resets, send

SHUT = (0, 0)
OPEN = (0, MODULUS)
WIDE = (0, WIDTH_MAX)
# Of so many, some begin in the widest range: all but one in four thousand million times.
TRIES = 32
# In `struct tcp_info` of linux/tcp.h: how often what was sent has timed out in a row.
BACKOFF_AT = 4
ESTABLISHED = 1


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Of IPv4 and IPv6."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=TRIES) as listening:
        yield listening


@pytest.fixture
def held(listener: socket.socket) -> Iterator[Connections]:
    found = Connections()
    found.port = listener.getsockname()[1]
    yield found
    found.stop()


def opening(port: int, host: str, source: str | None = None) -> socket.socket:
    """A connection on its way."""
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    client.settimeout(WAIT_S)
    if source is not None:
        client.bind((source, 0))
    client.setblocking(False)
    assert client.connect_ex((host, port)) in {0, errno.EINPROGRESS}
    return client


def is_open(client: socket.socket) -> bool:
    """Over loopback the kernel has answered, or dropped, before `connect` returns."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED


def network(host: str) -> str:
    return floods.network_of(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_opens_a_connection_is_dropped_and_comes_through_later(
    host: str, listener: socket.socket, held: Connections
) -> None:
    # The ends of the list are where a step too many or too few would show.
    suspects = ["10.9.8.7", "2001:db8:1:2::", "x:y", network(host), "10.9.8.6", "2001:db8:1:3::"]
    assert held.hold(program(suspects, SHUT, SHUT))
    with opening(held.port, host) as client:
        assert not is_open(client)
        others = [opening(held.port, other) for other in {"127.0.0.1", "::1"} - {host}]
        others.append(opening(held.port, "127.0.0.1", "127.0.0.2"))
        for other in others:
            with other:
                assert is_open(other)
        assert not is_open(client)
        held.let_go()
        client.settimeout(WAIT_S)
        client.sendall(b"through")
        for _ in range(len(others) + 1):
            accepted, (address, *_) = listener.accept()
            with accepted:
                if address.removeprefix("::ffff:") == host:
                    accepted.settimeout(WAIT_S)
                    assert accepted.recv(7) == b"through"
        with opening(held.port, host) as again:
            assert is_open(again)


def test_a_filter_takes_as_many_networks_as_are_held(held: Connections) -> None:
    many = [f"2001:db8:0:{number:x}::" for number in range(newcomers.NETWORKS_MAX - 1)]
    assert held.hold(program([*many, "127.0.0.1"], SHUT, SHUT))
    with opening(held.port, "127.0.0.1") as client:
        assert not is_open(client)
    held.let_go()
    # And no more of them are.
    made = Newcomers().renewed(0.0, (f"10.0.{number >> 8}.{number & 255}" for number in itertools.count()))
    assert made is not None
    assert held.hold(made)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_little_is_kept_of_a_new_connection_until_it_is_let_on(
    host: str, listener: socket.socket, held: Connections
) -> None:
    assert held.hold(program([network(host)], WIDE, SHUT))
    clients = [opening(held.port, host) for _ in range(TRIES)]
    opened = [client for client in clients if is_open(client)]
    assert 0 < len(opened) < TRIES
    client = opened[0]
    with listener.accept()[0] as accepted:
        said = bytes(range(256)) * 64
        assert client.send(said) == len(said)
        wait_until(lambda: client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)[BACKOFF_AT] > 1)
        [(peer, kept)] = held.received().items()
        assert PIECE_BYTES <= kept < MODULUS
        held.let_on({peer})
        held.received()
        client.shutdown(socket.SHUT_WR)
        assert all_of(accepted) == said
    for each in clients:
        each.close()


def test_an_end_does_not_overtake_what_is_held_back(listener: socket.socket, held: Connections) -> None:
    assert held.hold(program(["127.0.0.1"], WIDE, SHUT))
    clients = [opening(held.port, "127.0.0.1") for _ in range(TRIES)]
    client = next(client for client in clients if is_open(client))
    with listener.accept()[0] as accepted:
        said = bytes(range(256)) * 64
        # A socket that is corked sends its last bytes with its end.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        assert client.send(said) == len(said)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)[BACKOFF_AT] > 1)
        held.let_all_on()
        assert all_of(accepted) == said
    for each in clients:
        each.close()


def all_of(accepted: socket.socket) -> bytes:
    """What comes until its peer's end."""
    accepted.settimeout(WAIT_S)
    with accepted.makefile("rb") as reading:
        return reading.read()


def wait_until(condition: Callable[[], bool]) -> None:
    """A kernel gives no signal of what it counts."""
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_many_newcomers_make_the_range_narrow_and_few_make_it_wide_again() -> None:
    made = Newcomers()
    widths = []
    for turn in range(40):
        before = made._now
        for _ in range(newcomers.NEWCOMERS_MAX + (turn < 20)):
            made.came()
        assert made.renewed(float(turn), ["10.1.2.3"]) is not None
        assert made.renewed(turn + newcomers.RENEW_S / 2, ["10.1.2.3"]) is None
        widths.append(made._now[1])
        # Who was let in by the range before is kept in it.
        assert made._before == before
    assert widths[:20] == sorted(widths[:20], reverse=True)
    assert widths[0] == WIDTH_MAX // 2
    assert widths[19] == WIDTH_MIN
    assert widths[39] == WIDTH_MAX


def test_a_new_suspect_is_held_at_once() -> None:
    made = Newcomers()
    first, second = (made.renewed(now_s, suspects) for now_s, suspects in ((0.0, ["10.1.2.3"]), (0.1, ["10.1.2.4"])))
    assert first is not None
    assert second is not None
    assert first != second


def test_what_is_kept_never_becomes_everything() -> None:
    made = Newcomers()
    for turn in range(1000):
        made.renewed(float(turn), ["10.1.2.3"])
        kept = {
            (start + number) % MODULUS
            for start, width in (made._now, made._before)
            for number in range(width + 2 * PIECE_BYTES)
        }
        assert len(kept) < MODULUS


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long silence before the end; any byte is worth a look."""
    monkeypatch.setattr(connections, "SILENT_S", 0.01)
    monkeypatch.setattr(floods, "TICK_S", 0.02)
    monkeypatch.setattr(floods, "BUSY_SHARE", -1.0)


async def works(client: Client) -> None:
    reply = await client.call(client.messaging.SubmitMessage, pb.SubmitMessageRequest())
    assert reply.result.verdict == verdict_pb2.VERDICT_ACCEPTED


async def greeted(server: Server, source: str) -> None:
    """Connected from there, and answered as HTTP/2."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port, local_addr=(source, 0))
    writer.write(wire.opening())
    assert (await reader.readexactly(9))[3] == wire.SETTINGS
    writer.transport.abort()


@GRPCIO
@pytest.mark.usefixtures("quick")
async def test_a_flooders_network_is_held_back_and_nobody_else(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "program", lambda networks, _now, _before: program(networks, SHUT, SHUT))
    server = await start_server()
    neighbour = server.client()
    await works(neighbour)
    assert not server.floods.holds("127.0.0.1")
    await send(server, resets(server.tenant_key))
    assert server.floods.holds("127.0.0.1")
    assert not server.floods.holds("127.0.0.2")
    late = asyncio.ensure_future(greeted(server, "127.0.0.1"))
    for _ in range(3):
        await greeted(server, "127.0.0.2")
        await works(neighbour)
    assert not late.done()
    assert await server.grpc.answers(0.01), "it tells nothing now"
    monkeypatch.setattr(newcomers, "program", lambda networks, _now, _before: program(networks, OPEN, OPEN))
    async with asyncio.timeout(WAIT_S):
        await late


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("calls", [50, 1], ids=["many calls", "a long call"])
async def test_a_good_newcomer_of_that_network_is_served(start_server: StartServer, calls: int) -> None:
    server = await start_server()
    await send(server, resets(server.tenant_key))
    assert server.grpc.edge.holds("127.0.0.1")
    newcomer = server.client()
    path = f"/{MESSAGING}/SubmitMessage"
    request = pb.SubmitMessageRequest(submission=pb.Submission(client_reference="x" * (5 * MODULUS // calls)))
    replies = (
        newcomer.raw(path)(request.SerializeToString(), metadata=newcomer.headers, timeout=WAIT_S) for _ in range(calls)
    )
    await asyncio.gather(*replies)
    assert server.grpc.edge.holds("127.0.0.1")
    assert server.grpc.edge.ended == 1


@GRPCIO
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not accepted before"])
async def test_what_is_held_back_comes_through_when_suspicion_ends(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, *, seen: bool
) -> None:
    monkeypatch.setattr(newcomers, "program", lambda networks, _now, _before: program(networks, WIDE, SHUT))
    monkeypatch.setattr(floods, "SUSPECT_S", 2.0)
    if seen:
        # So that it is not let on before.
        monkeypatch.setattr(floods, "PIECE_BYTES", 1 << 30)
    else:
        monkeypatch.setattr(Floods, "_examine", lambda *_: None)
    server = await start_server()
    await send(server, resets(server.tenant_key))
    assert server.floods.holds("127.0.0.1")
    clients = [opening(server.grpc.port, "127.0.0.1") for _ in range(TRIES)]
    client = next(client for client in clients if is_open(client))
    reader, writer = await asyncio.open_connection(sock=client)
    frames = wire.frame(wire.WINDOW_UPDATE, 0, 0, (1).to_bytes(4)) * (MODULUS // 13) + wire.frame(
        wire.PING, 0, 0, bytes(8)
    )
    writer.write(wire.opening() + frames)
    async with asyncio.timeout(WAIT_S):
        while (head := await reader.readexactly(9))[3] != wire.PING:
            await reader.readexactly(int.from_bytes(head[:3]))
    assert not server.floods.holding
    writer.transport.abort()
    for each in clients:
        each.close()


@GRPCIO
@pytest.mark.usefixtures("quick")
async def test_after_the_last_suspicion_nobody_is_held_back(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "program", lambda networks, _now, _before: program(networks, SHUT, SHUT))
    monkeypatch.setattr(floods, "SUSPECT_S", 2.0)
    server = await start_server()
    await send(server, resets(server.tenant_key))
    assert server.floods.holds("127.0.0.1")
    async with asyncio.timeout(WAIT_S):
        while server.floods.holds("127.0.0.1"):
            await greeted(server, "127.0.0.2")
        while server.floods.holding:
            await greeted(server, "127.0.0.2")
    for _ in range(TRIES):
        with opening(server.grpc.port, "127.0.0.1") as client:
            assert is_open(client)
    await works(server.client())


@GRPCIO
@pytest.mark.usefixtures("quick")
async def test_a_flooder_that_comes_back_brings_few_calls(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_server()
    await send(server, resets(server.tenant_key))
    assert server.floods.ended == 1
    looked_up = 0
    service = server.grpc.gate.service
    ranges = 1  # a machine with other things to do ends the connection some ranges later, and each keeps as much again

    def count(details: object) -> object:
        nonlocal looked_up
        looked_up += 1
        return service(details)

    def made(*parts: Any) -> bytes:
        nonlocal ranges
        ranges += 1
        return program(*parts)

    monkeypatch.setattr(server.grpc.gate, "service", count)
    monkeypatch.setattr(newcomers, "program", made)
    await send(server, resets(server.tenant_key))
    assert server.floods.ended == 2
    assert 0 < looked_up < ranges * MODULUS // 150, "each is some 150 bytes"


@GRPCIO
@pytest.mark.usefixtures("quick")
async def test_a_server_that_is_stopped_holds_nothing(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "RENEW_S", 0.0)
    server = await start_server()
    await send(server, resets(server.tenant_key))
    assert server.floods.holds("127.0.0.1")
    server.floods.stop()
    # As where a call that is cut off is one too many.
    server.floods._tick()
    assert not server.floods.holding
    await server.grpc.stop(0)
    with opening(server.grpc.port, "127.0.0.1") as client:
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@GRPCIO
@pytest.mark.usefixtures("quick")
async def test_where_the_kernel_has_no_filters_it_works_as_without(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_ours: object, _program: bytes) -> None:
        raise OSError(92, "Protocol not available")

    monkeypatch.setattr(connections, "_attach", refused)
    server = await start_server()
    await send(server, resets(server.tenant_key))
    assert server.floods.ended == 1
    assert not server.floods.holds("127.0.0.1")
    await works(server.client())
    await send(server, resets(server.tenant_key))
    assert server.floods.ended == 2
