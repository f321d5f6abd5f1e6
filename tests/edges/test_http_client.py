"""Each phase of an exchange provoked by a scripted server; reuse, batching, back-off and closing of the pool."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine.http_client import (
    Exchange,
    HttpPool,
    NoFreeSlotError,
    Phase,
    PoolLimits,
    parse_origin,
    render_request,
)

# Fixtures of conftest.py; its types cannot be imported from a folder without a package.
Scripted = Callable[..., Awaitable[Any]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
QUICK = PoolLimits(
    connections_max=8, connect_s=0.5, first_byte_s=0.3, total_s=0.6, idle_s=0.5, tick_s=0.02, backoff_first_s=0.1
)
WAIT_S = 10


class Results:
    """Collects batches and lets a test wait for a number of exchanges."""

    def __init__(self) -> None:
        self.batches: list[list[Exchange]] = []
        self._more = asyncio.Event()

    def __call__(self, batch: list[Exchange]) -> None:
        assert batch
        self.batches.append(batch)
        self._more.set()

    @property
    def exchanges(self) -> list[Exchange]:
        return [exchange for batch in self.batches for exchange in batch]

    async def wait(self, exchanges: int) -> list[Exchange]:
        async with asyncio.timeout(WAIT_S):
            while len(self.exchanges) < exchanges:
                self._more.clear()
                await self._more.wait()
        return self.exchanges


def post(url: str, body: bytes = b'{"a":1}') -> bytes:
    return render_request(parse_origin(url), "POST", "/messages", {"Authorization": "Bearer k"}, body)


async def exchange_with(scripted: Scripted, *answer: bytes | str, limits: PoolLimits = QUICK) -> Exchange:
    """One exchange with a server that reads the request, then sends the pieces; the word "reset" resets."""

    async def script(peer: Any) -> None:
        await peer.read_request()
        for piece in answer:
            if piece == "reset":
                peer.reset()
                return
            if piece == "wait":
                await peer.gone()
                return
            await peer.send(piece)

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=limits)
    pool.submit("r", post(server.url))
    await results.wait(1)
    await pool.close(1)
    assert len(results.exchanges) == 1
    assert pool.in_flight == 0
    assert pool.connections == 0
    return results.exchanges[0]


async def test_answer_with_length(scripted: Scripted) -> None:
    exchange = await exchange_with(scripted, OK)
    assert exchange[:5] == ("r", Phase.ANSWERED, 200, None, b"{}")
    assert 0 < exchange.elapsed_us < WAIT_S * 1_000_000


async def test_answer_in_single_bytes(scripted: Scripted) -> None:
    exchange = await exchange_with(scripted, *[OK[i : i + 1] for i in range(len(OK))])
    assert (exchange.phase, exchange.body) == (Phase.ANSWERED, b"{}")


async def test_answer_in_chunks_after_announcements(scripted: Scripted) -> None:
    exchange = await exchange_with(
        scripted,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n",
    )
    assert exchange[1:5] == (Phase.ANSWERED, 429, 7.0, b"abcde")


@pytest.mark.parametrize(
    ("head", "expected_s"),
    [
        (b"429 X\r\nRetry-After: 3", 3.0),
        (b"429 X\r\nretry-after-ms: 1500\r\nRetry-After: 9", 1.5),
        (b"429 X\r\nX-RateLimit-Reset: 12", 12.0),
        (b"503 X\r\nX-RateLimit-Reset: 12", None),
        (b"503 X\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nRetry-After: Mon, 05 Jan 2026 10:00:30 GMT", 30.0),
        (b"503 X\r\nRetry-After: Mon, 05 Jan 2026 10:00:30 GMT", None),
        (b"503 X\r\nRetry-After: soon", None),
        (b"503 X\r\nRetry-After: 99999999999999999999", 86_400.0),
        (b"200 X\r\nRetry-After: 3", None),
    ],
)
async def test_retry_after(scripted: Scripted, head: bytes, expected_s: float | None) -> None:
    body = b"\r\nRetry-After: 77\r\n"
    exchange = await exchange_with(scripted, b"HTTP/1.1 " + head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert exchange.phase is Phase.ANSWERED
    assert exchange.retry_after_s == expected_s


async def test_no_content_is_an_answer(scripted: Scripted) -> None:
    exchange = await exchange_with(scripted, b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (exchange.phase, exchange.status, exchange.body) == (Phase.ANSWERED, 204, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/7.3 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}garbage",
        OK + OK,
        OK + b"HTTP",
        b"\x15\x03\x01\x00\x02\x02\x28",  # a TLS alert
    ],
)
async def test_malformed(scripted: Scripted, answer: bytes) -> None:
    exchange = await exchange_with(scripted, answer)
    assert exchange.phase is Phase.MALFORMED
    assert exchange.body == b""


async def test_answer_whose_end_is_not_marked_is_malformed_with_its_status(scripted: Scripted) -> None:
    exchange = await exchange_with(scripted, b"HTTP/1.1 503 Busy\r\n\r\n<html>")
    assert (exchange.phase, exchange.status) == (Phase.MALFORMED, 503)


async def test_huge_body_with_length_is_cut(scripted: Scripted) -> None:
    exchange = await exchange_with(
        scripted, b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n", b"x" * 300_000, "wait"
    )
    assert (exchange.phase, exchange.detail) == (Phase.MALFORMED, "body over its bound")


async def test_body_at_its_bound_is_an_answer_and_one_byte_more_is_not(scripted: Scripted) -> None:
    for body_bytes, phase in ((QUICK.body_bytes_max, Phase.ANSWERED), (QUICK.body_bytes_max + 1, Phase.MALFORMED)):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % body_bytes
        exchange = await exchange_with(scripted, head, b"x" * body_bytes, "wait")
        assert exchange.phase is phase


async def test_endless_chunks_are_cut(scripted: Scripted) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    exchange = await exchange_with(scripted, head, *[chunk] * 5, "wait")
    assert exchange.phase is Phase.MALFORMED


async def test_endless_head_is_cut(scripted: Scripted) -> None:
    line = b"X-Pad: " + b"x" * 1000 + b"\r\n"
    exchange = await exchange_with(scripted, b"HTTP/1.1 200 OK\r\n", *[line] * 20, "wait")
    assert (exchange.phase, exchange.detail) == (Phase.MALFORMED, "head over its bound")


async def test_announcements_without_end_are_cut(scripted: Scripted) -> None:
    exchange = await exchange_with(scripted, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "wait")
    assert exchange.phase is Phase.MALFORMED


@pytest.mark.parametrize("cut", range(len(OK)))
async def test_reset_at_every_byte_of_the_answer(scripted: Scripted, cut: int) -> None:
    exchange = await exchange_with(scripted, OK[:cut] or b"", "reset")
    assert exchange.phase is Phase.RESET
    assert exchange.body == b""


@pytest.mark.parametrize("cut", [0, 5, len(OK) - 1])
async def test_end_of_stream_inside_the_answer(scripted: Scripted, cut: int) -> None:
    exchange = await exchange_with(scripted, OK[:cut])
    assert exchange.phase is Phase.RESET


async def test_reset_while_the_request_is_written(scripted: Scripted) -> None:
    async def script(peer: Any) -> None:
        await peer.reader.read(10)
        peer.reset()

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    pool.submit("r", post(server.url, b"x" * 8_000_000))
    assert (await results.wait(1))[0].phase is Phase.RESET
    await pool.close(0)


async def test_silence_is_a_timeout_after_first_byte_s(scripted: Scripted) -> None:
    exchange = await exchange_with(scripted, "wait")
    assert (exchange.phase, exchange.detail) == (Phase.TIMEOUT, "no first byte in time")
    assert QUICK.first_byte_s * 1e6 <= exchange.elapsed_us


class FreezingCarrier(asyncio.Protocol):
    """Answers, then stands the whole loop still, as SIGSTOP would, while that answer waits in the client's kernel."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert data
        # Inside the loop's reading phase: its timers come next, before it reads again.
        with socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno())) as sock:
            sock.send(OK)
        time.sleep(1.2 * QUICK.total_s)


async def test_an_answer_that_waits_in_the_kernel_after_a_freeze_counts() -> None:
    server = await asyncio.get_running_loop().create_server(FreezingCarrier, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    results = Results()
    pool = HttpPool(url, results, limits=QUICK)
    pool.submit("r", post(url))
    await results.wait(1)
    await pool.close(0)
    server.close()
    assert results.exchanges[0].phase is Phase.ANSWERED


async def test_drip_feed_ends_at_total_s(scripted: Scripted) -> None:
    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not peer.writer.is_closing():
            await peer.send(b"x")
            await asyncio.sleep(0.02)  # the pace of the attack, not a wait for something

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    pool.submit("r", post(server.url))
    exchange = (await results.wait(1))[0]
    assert (exchange.phase, exchange.detail) == (Phase.TIMEOUT, "no complete answer in time")
    assert exchange.elapsed_us >= QUICK.total_s * 1e6
    await pool.close(0)


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def back_off_over(pool: HttpPool) -> None:
    """Wait as long as the pool itself says."""
    await asyncio.sleep(pool.connect_wait_s + 0.005)  # a loop's timer may be a millisecond early


async def test_refused_connect_backs_the_whole_pool_off_then_lets_one_try() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    results = Results()
    pool = HttpPool(url, results, limits=QUICK)
    for number in range(3):
        pool.submit(number, post(url))
    assert {exchange.phase for exchange in await results.wait(3)} == {Phase.NOT_CONNECTED}
    assert results.exchanges[0].detail == "ConnectionRefusedError"
    assert pool.slots_free == 0
    assert 0 < pool.connect_wait_s <= QUICK.backoff_max_s
    pool.submit("early", post(url))
    assert (await results.wait(4))[3][:2] == ("early", Phase.NOT_CONNECTED)
    await back_off_over(pool)
    assert pool.slots_free == 1
    await pool.close(0)


async def test_back_off_ends_with_the_first_connection(scripted: Scripted) -> None:
    port = closed_port()
    url = f"http://127.0.0.1:{port}"
    results = Results()
    pool = HttpPool(url, results, limits=QUICK)
    pool.submit("refused", post(url))
    await results.wait(1)

    await scripted(answering, port)
    await back_off_over(pool)
    pool.submit("probe", post(url))
    assert (await results.wait(2))[1][:2] == ("probe", Phase.ANSWERED)
    assert pool.slots_free == QUICK.connections_max
    assert pool.connect_wait_s == 0
    await pool.close(0)


async def test_unknown_name_is_not_connected() -> None:
    url = "http://name.invalid"
    results = Results()
    pool = HttpPool(url, results, limits=QUICK)
    pool.submit("r", post(url))
    assert (await results.wait(1))[0].phase is Phase.NOT_CONNECTED
    await pool.close(0)


async def test_connect_that_never_ends_is_not_connected() -> None:
    with socket.socket() as full:  # a backlog of nobody accepting: further SYNs are dropped
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        url = f"http://127.0.0.1:{port}"
        results = Results()
        pool = HttpPool(url, results, limits=QUICK)
        pool.submit("r", post(url))
        exchange = (await results.wait(1))[0]
        assert exchange.phase is Phase.NOT_CONNECTED
        assert exchange.elapsed_us >= 0.9 * QUICK.connect_s * 1e6
        await pool.close(0)
        for filler in fillers:
            filler.close()


async def answering(peer: Any) -> None:
    while True:
        await peer.read_request()
        await peer.send(OK)


async def test_connections_are_reused_and_bounded(scripted: Scripted) -> None:
    server = await scripted(answering)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    request = post(server.url)
    for sent in range(0, 80, 8):
        for number in range(8):
            pool.submit(sent + number, request)
        assert pool.slots_free == 0
        with pytest.raises(NoFreeSlotError):
            pool.submit("too many", request)
        await results.wait(sent + 8)
    assert sorted(exchange.request for exchange in results.exchanges) == list(range(80))  # type: ignore[type-var]
    assert {exchange.phase for exchange in results.exchanges} == {Phase.ANSWERED}
    assert len(server.peers) <= 8
    await pool.close(1)


async def test_answers_of_one_turn_come_as_one_batch(scripted: Scripted) -> None:
    gate = asyncio.Event()
    read = 0

    async def script(peer: Any) -> None:
        nonlocal read
        await peer.read_request()
        read += 1
        if read == 8:
            gate.set()
        await gate.wait()
        peer.writer.write(OK)
        await peer.gone()

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    for number in range(8):
        pool.submit(number, post(server.url))
    await results.wait(8)
    assert max(len(batch) for batch in results.batches) >= 4
    await pool.close(0)


async def test_close_header_ends_reuse(scripted: Scripted) -> None:
    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await peer.gone()

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    for number in range(3):
        pool.submit(number, post(server.url))
        await results.wait(number + 1)
        assert pool.connections == 0
    assert len(server.peers) == 3
    assert {exchange.phase for exchange in results.exchanges} == {Phase.ANSWERED}
    await pool.close(0)


async def test_idle_connection_is_closed_before_the_server_does(scripted: Scripted) -> None:
    gone = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(OK)
        await peer.gone()
        gone.set()

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    pool.submit("r", post(server.url))
    await results.wait(1)
    assert pool.connections == 1
    async with asyncio.timeout(WAIT_S):
        await gone.wait()
    assert pool.connections == 0
    await pool.close(0)


async def test_bytes_on_an_idle_connection_end_it(scripted: Scripted) -> None:
    closed = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(OK)
        if peer.number == 0:
            await pushed.wait()
            await peer.send(OK)
        await peer.gone()
        closed.set()

    pushed = asyncio.Event()
    server = await scripted(script)
    results = Results()
    limits = PoolLimits(idle_s=60, tick_s=0.02)
    pool = HttpPool(server.url, results, limits=limits)
    pool.submit(0, post(server.url))
    await results.wait(1)
    pushed.set()
    async with asyncio.timeout(WAIT_S):
        await closed.wait()
    pool.submit(1, post(server.url))
    assert (await results.wait(2))[1][:2] == (1, Phase.ANSWERED)
    assert len(server.peers) == 2
    await pool.close(0)


class FixedClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.us = time.monotonic_ns() // 1000

    def mono_us(self) -> int:
        return self.us

    def now_us(self) -> int:
        return self.us

    def seed(self) -> int:
        return 1


async def _idle_pool(scripted: Scripted) -> tuple[HttpPool, Results, Any, FixedClock]:
    """A pool with one connection that has just answered, on a clock of its own."""

    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(OK)
        await held.wait()

    held = asyncio.Event()
    server = await scripted(script)
    results = Results()
    clock = FixedClock()
    pool = HttpPool(server.url, results, limits=PoolLimits(tick_s=30), clock=clock)  # type: ignore[arg-type]
    pool.submit("first", post(server.url))
    await results.wait(1)
    return pool, results, server, clock


async def test_write_to_a_connection_already_reset_is_not_flushed(scripted: Scripted) -> None:
    pool, results, _, _ = await _idle_pool(scripted)
    connection = pool._idle[-1]
    # Our own end is shut for writing: the first send fails in the kernel, with nothing handed over.
    connection._socket.shutdown(socket.SHUT_WR)
    pool.submit("second", b"POST / HTTP/1.1\r\n\r\n")
    second = (await results.wait(2))[1]
    assert second[:2] == ("second", Phase.NOT_FLUSHED)
    assert second.detail == "BrokenPipeError"
    assert pool.connections == 0
    await pool.close(0)


async def test_idle_connection_ended_unnoticed_is_replaced_before_any_byte(scripted: Scripted) -> None:
    pool, results, server, clock = await _idle_pool(scripted)
    connection = pool._idle[-1]
    clock.us += 1_000_000
    # The end of stream is in the kernel before the loop has read it: only the look before reuse can see it.
    server.peers[0].end_unnoticed()
    assert not connection.is_closing
    pool.submit("second", post(server.url))
    second = (await results.wait(2))[1]
    assert second[:2] == ("second", Phase.ANSWERED)
    assert len(server.peers) == 2
    await pool.close(0)


async def test_may_send_is_asked_before_the_first_byte(scripted: Scripted) -> None:
    requests = []

    async def script(peer: Any) -> None:
        while True:
            requests.append(await peer.read_request())
            await peer.send(OK)

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK, may_send=lambda request: request != "no")
    pool.submit("no", post(server.url))  # while connecting
    assert (await results.wait(1))[0][:2] == ("no", Phase.NOT_FLUSHED)
    pool.submit("yes", post(server.url))
    await results.wait(2)
    pool.submit("no", post(server.url))  # on an idle connection
    assert (await results.wait(3))[2][:2] == ("no", Phase.NOT_FLUSHED)
    pool.submit("yes", post(server.url))
    assert (await results.wait(4))[3].phase is Phase.ANSWERED
    assert len(requests) == 2
    assert len(server.peers) == 1
    await pool.close(0)


async def test_awaited_request_gets_its_own_exchange(scripted: Scripted) -> None:
    server = await scripted(answering)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    pool.submit("s", post(server.url))
    exchange = await asyncio.wait_for(
        pool.request(render_request(pool.origin, "GET", "/messages/1", {})), timeout=WAIT_S
    )
    assert (exchange.phase, exchange.body) == (Phase.ANSWERED, b"{}")
    assert [exchange.request for exchange in await results.wait(1)] == ["s"]
    await pool.close(1)


async def test_close_lets_the_answer_in(scripted: Scripted) -> None:
    release = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.read_request()
        await release.wait()
        await peer.send(OK)
        await peer.gone()

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=QUICK)
    pool.submit("r", post(server.url))
    closing = asyncio.create_task(pool.close(5))
    await asyncio.sleep(0)
    assert pool.slots_free == 0
    with pytest.raises(NoFreeSlotError):
        pool.submit("late", b"")
    release.set()
    await asyncio.wait_for(closing, timeout=WAIT_S)
    assert [exchange[:2] for exchange in results.exchanges] == [("r", Phase.ANSWERED)]


async def test_close_reports_everything_it_cuts(scripted: Scripted) -> None:
    reading = asyncio.Event()

    async def script(peer: Any) -> None:
        await peer.read_request()
        reading.set()
        await peer.gone()

    server = await scripted(script)
    results = Results()
    pool = HttpPool(server.url, results, limits=PoolLimits())
    pool.submit("sent", post(server.url))
    async with asyncio.timeout(WAIT_S):
        await reading.wait()
    pool.submit("waiting", post(server.url))
    await pool.close(0)
    assert {exchange[:2] for exchange in results.exchanges} == {
        ("sent", Phase.RESET),
        ("waiting", Phase.NOT_CONNECTED),
    }


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://", "http://u:p@x", "http://x/?q", "http://x/#f", "http://x/a b", "x", "http://x:0x1"],
)
def test_base_urls_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_origin(url)


def test_base_url_parts() -> None:
    assert parse_origin("https://api.example.com/v2/") == (True, "api.example.com", 443, "api.example.com", "/v2")
    assert parse_origin("http://[::1]:8080") == (False, "::1", 8080, "[::1]:8080", "")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("HEAD", "/x", {}),
        ("GET", "x", {}),
        ("GET", "/x y", {}),
        ("GET", "/x\r\nEvil: 1", {}),
        ("GET", "/x", {"A": "b\r\nEvil: 1"}),
        ("GET", "/x", {"A": "b\nEvil: 1"}),
        ("GET", "/x", {"A\r": "b"}),
    ],
)
def test_requests_that_could_split_are_refused(method: str, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        render_request(parse_origin("http://x"), method, path, headers)


def test_rendered_request_has_prefix_host_and_length() -> None:
    rendered = render_request(parse_origin("http://x:81/v2"), "POST", "/messages", {"A": "b"}, b"hi")
    assert rendered == b"POST /v2/messages HTTP/1.1\r\nHost: x:81\r\nA: b\r\nContent-Length: 2\r\n\r\nhi"


def test_contradicting_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="total_s"):
        PoolLimits(connect_s=20)
    with pytest.raises(ValueError, match="connections_max"):
        PoolLimits(connections_max=0)
