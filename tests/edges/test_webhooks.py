"""The receipts edge against well-meaning, careless and hostile clients, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from server.patience import LATE_S_MIN
from server.seldom import Seldom
from server.webhooks import (
    BAD_SIGNATURES_A_SECOND,
    REFUSALS_A_SECOND,
    TELNYX_HEADERS,
    Inbound,
    WebhookLimits,
    WebhookServer,
)

if TYPE_CHECKING:
    from engine.metrics import Metrics

RawClients = Callable[[int], Awaitable[Any]]  # a fixture of conftest.py

WAIT_S = 10
QUICK = WebhookLimits(
    connections_max=50,
    head_s=0.3,
    body_s=0.4,
    idle_s=0.6,
    linger_s=0.2,
    handle_s=0.4,
    tick_s=0.02,
    in_flight_max=20,
    pipeline_max=4,
)
CALM = WebhookLimits(tick_s=0.02)


class Store:
    """Stands in for `handle`: keeps the batches, answers 200 or what a test says, when a test says."""

    def __init__(self) -> None:
        self.batches: list[list[Inbound]] = []
        self.statuses: Callable[[list[Inbound]], list[int]] = lambda batch: [200] * len(batch)
        self.gate = asyncio.Event()
        self.gate.set()
        self._more = asyncio.Event()

    async def __call__(self, batch: list[Inbound]) -> list[int]:
        self.batches.append(batch)
        self._more.set()
        await self.gate.wait()
        return self.statuses(batch)

    @property
    def items(self) -> list[Inbound]:
        return [item for batch in self.batches for item in batch]

    async def wait(self, items: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.items) < items:
                self._more.clear()
                await self._more.wait()


class Edge:
    """A started server with its store."""

    def __init__(self, server: WebhookServer, store: Store, metrics: Metrics) -> None:
        self.server = server
        self.store = store
        self.metrics = metrics

    @property
    def port(self) -> int:
        return self.server.port

    def received(self, result: str, provider: str = "telnyx") -> float:
        labels = {"provider": provider, "result": result}
        return self.metrics.registry.get_sample_value("longwave_receipts_total", labels) or 0


Start = Callable[..., Awaitable[Edge]]


@pytest.fixture
async def start(metrics: Metrics) -> AsyncIterator[Start]:
    edges: list[Edge] = []

    async def started(limits: WebhookLimits = CALM) -> Edge:
        store = Store()
        server = WebhookServer(store, {"telnyx": TELNYX_HEADERS}, metrics, limits=limits)
        await server.start("127.0.0.1", 0)
        edges.append(Edge(server, store, metrics))
        return edges[-1]

    yield started
    for edge in edges:
        edge.store.gate.set()
        await edge.server.drain(0)
        assert edge.server.held_bytes == 0


def post(
    body: bytes = b"{}",
    *,
    target: bytes = b"/webhooks/telnyx?m=1&g=2",
    method: bytes = b"POST",
    headers: Sequence[bytes] = (),
    length: bool = True,
    signed: bool = True,
    host: bool = True,
) -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1"]
    lines += [b"Host: x"] if host else []
    lines += [b"Telnyx-Signature-Ed25519: c2ln", b"Telnyx-Timestamp: 1768512734"] if signed else []
    lines += [b"Content-Length: %d" % len(body)] if length else []
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


async def test_one_webhook_is_handed_over_raw_and_answered_after(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    edge.store.gate.clear()
    client = await raw_client(edge.port)
    await client.send(post(b'{"a": 1}\n'))
    await edge.store.wait(1)
    item = edge.store.items[0]
    assert item[:5] == ("telnyx", b"m=1&g=2", b"c2ln", b"1768512734", b'{"a": 1}\n')
    assert item.received_us > 1_700_000_000_000_000
    edge.store.gate.set()
    status, head = await client.answer()
    assert (status, head) == (200, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # and no banner
    await client.send(post())
    assert (await client.answer())[0] == 200
    assert edge.received("stored") == 2
    labels = {"method": "POST", "route": "/webhooks/{provider}", "status_code": "200"}
    assert edge.metrics.registry.get_sample_value("http_requests_total", labels) == 2


@pytest.mark.parametrize("status", [200, 400, 401, 503])
async def test_each_item_gets_its_status(start: Start, raw_client: RawClients, status: int) -> None:
    edge = await start()
    edge.store.statuses = lambda batch: [status] * len(batch)
    client = await raw_client(edge.port)
    await client.send(post())
    given, head = await client.answer()
    assert given == status
    assert (b"Retry-After: 1\r\n" in head) == (status == 503)


async def test_many_connections_share_batches_and_get_their_own_status(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    edge.store.statuses = lambda batch: [400 if item.query == b"n=7" else 200 for item in batch]
    clients = [await raw_client(edge.port) for _ in range(100)]
    for number, client in enumerate(clients):
        client.writer.write(post(b"x" * number, target=b"/webhooks/telnyx?n=%d" % number))
    statuses = [(await client.answer())[0] for client in clients]
    assert statuses == [400 if number == 7 else 200 for number in range(100)]
    assert sorted(len(item.body) for item in edge.store.items) == list(range(100))
    assert len(edge.store.batches) < 50


async def test_wrong_signatures_in_numbers_are_answered_late_and_right_ones_are_not(
    start: Start, raw_client: RawClients
) -> None:
    edge = await start(WebhookLimits(pipeline_max=BAD_SIGNATURES_A_SECOND * 2))
    edge.store.statuses = lambda batch: [401 if item.query == b"bad" else 200 for item in batch]
    flood, good = await raw_client(edge.port), await raw_client(edge.port)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await flood.send(post(target=b"/webhooks/telnyx?bad") * BAD_SIGNATURES_A_SECOND * 2)
    for _ in range(BAD_SIGNATURES_A_SECOND):
        assert (await flood.answer())[0] == 401
    await good.send(post())
    assert (await good.answer())[0] == 200
    for _ in range(BAD_SIGNATURES_A_SECOND):
        assert (await flood.answer())[0] == 401
    assert loop.time() - began_s >= LATE_S_MIN
    assert edge.received("bad_signature") == BAD_SIGNATURES_A_SECOND * 2


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (post(b"", length=False, headers=[b"Content-Length: 300000"]) + b"x" * 100_000, 413),
        (post(target=b"/elsewhere"), 404),
        (post(signed=False), 401),
        (post(host=False), 400),
    ],
)
async def test_an_address_that_is_refused_again_and_again_waits_and_good_webhooks_from_it_do_not(
    start: Start, raw_client: RawClients, refused: bytes, status: int
) -> None:
    edge = await start()
    loop = asyncio.get_running_loop()
    floods = [await raw_client(edge.port) for _ in range(REFUSALS_A_SECOND * 2)]
    good = await raw_client(edge.port)
    began_s = loop.time()
    for flood in floods:
        await flood.send(refused)
    answers = [asyncio.ensure_future(flood.answer()) for flood in floods]
    async with asyncio.timeout(WAIT_S):
        while sum(answer.done() for answer in answers) < REFUSALS_A_SECOND:
            await asyncio.wait([each for each in answers if not each.done()], return_when=asyncio.FIRST_COMPLETED)
    await good.send(post())
    assert (await good.answer())[0] == 200
    assert not all(answer.done() for answer in answers)
    assert {(await answer)[0] for answer in answers} == {status}
    assert loop.time() - began_s >= LATE_S_MIN


async def test_refusals_wait_in_no_more_than_a_quarter_of_the_places(start: Start, raw_client: RawClients) -> None:
    edge = await start(WebhookLimits(connections_max=8, pipeline_max=REFUSALS_A_SECOND * 3))
    flood, other = await raw_client(edge.port), await raw_client(edge.port)
    await flood.send(post(target=b"/elsewhere") * REFUSALS_A_SECOND * 3)

    async def answers(count: int) -> set[int]:
        return {(await flood.answer())[0] for _ in range(count)}

    assert await answers(REFUSALS_A_SECOND) == {404}  # of one read: the rest was judged too
    late = asyncio.ensure_future(answers(REFUSALS_A_SECOND * 2))
    await other.send(post(target=b"/elsewhere"))
    assert (await other.answer())[0] == 404
    assert not late.done()
    assert await late == {404}


async def test_a_full_batch_does_not_wait_for_the_tick(start: Start, raw_client: RawClients) -> None:
    edge = await start(WebhookLimits(batch_max=2, pipeline_max=16))
    client = await raw_client(edge.port)
    await client.send(post() * 4)
    for _ in range(4):
        assert (await client.answer())[0] == 200
    assert [len(batch) for batch in edge.store.batches] == [2, 2]


async def test_pipelined_requests_are_answered_in_order(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    await client.send(post() + post(target=b"/nothing") + post(signed=False) + post(method=b"PUT") + post())
    assert [(await client.answer())[0] for _ in range(5)] == [200, 404, 401, 405, 200]


async def test_pipeline_beyond_its_bound_is_shed_after_the_rest(start: Start, raw_client: RawClients) -> None:
    edge = await start(QUICK)
    client = await raw_client(edge.port)
    await client.send(post() * 20)
    assert [(await client.answer())[0] for _ in range(5)] == [200, 200, 200, 200, 503]
    assert await client.closed() == b""
    assert len(edge.store.items) == 4


@pytest.mark.parametrize("handled", ["raises", "too few", "unknown status"])
async def test_a_handler_that_fails_answers_503_for_all(start: Start, raw_client: RawClients, handled: str) -> None:
    edge = await start()

    def statuses(batch: list[Inbound]) -> list[int]:
        if handled == "raises":
            raise RuntimeError("store lost")
        return [] if handled == "too few" else [201] * len(batch)

    edge.store.statuses = statuses
    client = await raw_client(edge.port)
    await client.send(post() * 2)
    assert [(await client.answer())[0] for _ in range(2)] == [503, 503]
    assert edge.received("not_stored") == 2


async def test_a_handler_that_takes_too_long_answers_503_and_keeps_its_place(
    start: Start, raw_client: RawClients
) -> None:
    edge = await start(QUICK)
    edge.store.gate.clear()
    client = await raw_client(edge.port)
    await client.send(post(b"body"))
    assert (await client.answer())[0] == 503
    assert edge.server.held_bytes == 4  # still being handled
    edge.store.gate.set()
    await client.send(post())
    assert (await client.answer())[0] == 200
    assert edge.server.held_bytes == 0


async def test_a_store_that_is_away_writes_few_lines(
    start: Start, raw_client: RawClients, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first is told at once; the rest of the next seconds is one line, when they are over."""
    edge = await start()

    def lost(_: list[Inbound]) -> list[int]:
        raise RuntimeError("store lost")

    edge.store.statuses = lost
    client = await raw_client(edge.port)
    for _ in range(50):
        await client.send(post())
        assert (await client.answer())[0] == 503
    assert capsys.readouterr().out.count("webhooks.handle_failed") in {1, 2}


def test_what_was_not_told_is_told_with_the_next() -> None:
    seldom = Seldom(5.0)
    assert [seldom.told(at_s, 2) for at_s in (0.0, 1.0, 4.9, 5.0, 5.1)] == [2, 0, 0, 6, 0]


async def test_requests_in_flight_are_bounded(start: Start, raw_client: RawClients) -> None:
    edge = await start(WebhookLimits(in_flight_max=20, tick_s=0.02))
    edge.store.gate.clear()
    clients = [await raw_client(edge.port) for _ in range(30)]
    for client in clients:
        client.writer.write(post())
    await edge.store.wait(20)
    answers = [asyncio.ensure_future(client.answer()) for client in clients]
    async with asyncio.timeout(WAIT_S):
        while sum(answer.done() for answer in answers) < 10:
            waiting = [answer for answer in answers if not answer.done()]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert all(b"Retry-After: 1\r\n" in answer.result()[1] for answer in answers if answer.done())
    edge.store.gate.set()
    statuses = [(await answer)[0] for answer in answers]
    assert sorted(statuses) == [200] * 20 + [503] * 10
    assert len(edge.store.items) == 20
    assert edge.received("shed") == 10


async def test_chunked_body_is_joined(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    head = post(b"", length=False, headers=[b"Transfer-Encoding: chunked"])
    trailer = b"Telnyx-Timestamp: 1\r\n"
    for piece in (head, b"3\r\nabc\r\n", b"2;ext=1\r\n", b"de\r\n0\r\n" + trailer + b"\r\n"):
        await client.send(piece)
    assert (await client.answer())[0] == 200
    assert (edge.store.items[0].body, edge.store.items[0].timestamp) == (b"abcde", b"1768512734")


async def test_an_independent_client_is_understood(start: Start) -> None:
    edge = await start()
    headers = {"telnyx-signature-ed25519": "c2ln", "telnyx-timestamp": "1"}
    url = f"http://127.0.0.1:{edge.port}/webhooks/telnyx?m=%2B1"
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=b"x" * 200_000, headers=headers, expect100=True) as response:
            assert response.status == 200
            assert "Server" not in response.headers
        async with session.get(f"http://127.0.0.1:{edge.port}/health") as response:
            assert response.status == 404
    assert (edge.store.items[0].query, len(edge.store.items[0].body)) == (b"m=%2B1", 200_000)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post(target=b"/health", method=b"GET"), 404),
        (post(target=b"/"), 404),
        (post(target=b"/webhooks/"), 404),
        (post(target=b"/webhooks/other"), 404),
        (post(target=b"/webhooks/telnyx/"), 404),
        (post(target=b"/webhooks/%74elnyx"), 404),
        (post(target=b"//webhooks/telnyx"), 404),
        (post(method=b"GET"), 405),
        (post(method=b"DELETE"), 405),
        (post(signed=False), 401),
        (post(signed=False, headers=[b"Telnyx-Timestamp: 1"]), 401),
        (post(signed=False, headers=[b"Telnyx-Timestamp: 1", b"Telnyx-Signature-Ed25519:"]), 401),
        (post(headers=[b"telnyx-signature-ed25519: eA=="]), 400),
        (post(headers=[b"TELNYX-TIMESTAMP: 2"]), 400),
        (post(headers=[b"Host: y"]), 400),
        (post(host=False), 400),
    ],
)
async def test_refused_requests_leave_the_connection_usable(
    start: Start, raw_client: RawClients, request_bytes: bytes, status: int
) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    await client.send(request_bytes)
    assert (await client.answer())[0] == status
    await client.send(post())
    assert (await client.answer())[0] == 200
    assert len(edge.store.items) == 1


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # a TLS hello
        (b"POST /webhooks/telnyx HTTP/7.0\r\n\r\n", 400),
        (post(headers=[b"Content-Length: 3"]), 400),
        (post(headers=[b"Transfer-Encoding: chunked"]), 400),
        (post(length=False, headers=[b"Transfer-Encoding: gzip, x"]), 400),
        (post(b"zz\r\n", length=False, headers=[b"Transfer-Encoding: chunked"]), 400),
        (post(headers=[b"Bad Header: 1"]), 400),
        (post(headers=[b"Connection: upgrade", b"Upgrade: h2c"]), 400),
        (post(b"", length=False, headers=[b"Content-Length: 262145"]), 413),
        (post(b"", length=False, headers=[b"Content-Length: 999999999999"]), 413),
        (post(b"", length=False, headers=[b"Transfer-Encoding: chunked"]) + b"10000\r\n" + b"x" * 65536 + b"\r\n", 0),
        (post(headers=[b"Expect: a miracle"]), 417),
        (post(headers=[b"X: " + b"x" * 16384]), 431),
        (post(headers=[b"X%d: y" % n for n in range(4000)]), 431),
        (post(target=b"/webhooks/telnyx?" + b"q" * 20000), 431),
        (post(b"", signed=False, length=False, headers=[b"Expect: 100-continue", b"Content-Length: 9"]), 401),
    ],
)
async def test_requests_that_end_the_connection(
    start: Start, raw_client: RawClients, request_bytes: bytes, status: int
) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    if status == 0:  # four chunks fit, the fifth is over the bound
        head, _, chunk = request_bytes.partition(b"\r\n\r\n")
        request_bytes, status = head + b"\r\n\r\n" + chunk * 5, 413
    await client.send(request_bytes)
    given, head = await client.answer()
    assert given == status
    assert b"Connection: close\r\n" in head
    assert await client.closed() == b""
    assert edge.store.items == []
    assert edge.server.held_bytes == 0


async def test_a_refused_client_may_finish_sending_and_read_its_answer(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    client.writer.transport.pause_reading()
    await client.send(post(b"", length=False, headers=[b"Content-Length: 8000000"]))
    for _ in range(80):  # far more than both kernels hold: a closed server would have reset the connection
        await client.send(b"x" * 100_000)
    client.writer.transport.resume_reading()
    assert (await client.answer())[0] == 413


async def test_a_head_that_never_ends_is_refused_by_its_bytes(start: Start, raw_client: RawClients) -> None:
    edge = await start(WebhookLimits(head_bytes_max=2000))
    client = await raw_client(edge.port)
    await client.send(b"POST /webhooks/telnyx HTTP/1.1\r\nX: ")
    for _ in range(3):
        await client.send(b"x" * 1000)
    assert (await client.answer())[0] == 431


async def test_body_at_its_bound_is_taken(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    await client.send(post(b"x" * 262_144))
    assert (await client.answer())[0] == 200


async def test_slow_head_is_ended(start: Start, raw_client: RawClients) -> None:
    edge = await start(QUICK)
    client = await raw_client(edge.port)
    await client.send(b"POST /webhooks/telnyx HTTP/1.1\r\n")
    answer = asyncio.ensure_future(client.answer())
    while not answer.done():
        client.writer.write(b"X: y\r\n")
        await asyncio.wait([answer], timeout=0.02)  # the pace of the attack
    assert (await answer)[0] == 408
    assert edge.received("garbage", "other") == 1


async def test_slow_body_is_ended_and_its_memory_given_back(start: Start, raw_client: RawClients) -> None:
    edge = await start(QUICK)
    client = await raw_client(edge.port)
    await client.send(post(b"x" * 1000)[:-500])
    assert (await client.answer())[0] == 408
    assert edge.server.held_bytes == 0


async def test_silent_and_idle_connections_are_closed(start: Start, raw_client: RawClients) -> None:
    edge = await start(QUICK)
    silent = await raw_client(edge.port)
    assert await silent.closed() == b""
    idle = await raw_client(edge.port)
    await idle.send(post())
    assert (await idle.answer())[0] == 200
    assert await idle.closed() == b""


async def test_connections_are_bounded_and_places_come_free(start: Start, raw_client: RawClients) -> None:
    edge = await start(WebhookLimits(connections_max=5, tick_s=0.02))
    clients = [await raw_client(edge.port) for _ in range(5)]
    for client in clients:
        await client.send(post())
        assert (await client.answer())[0] == 200
    refused = await raw_client(edge.port)
    assert (await refused.answer())[0] == 503
    assert await refused.closed() == b""
    clients[0].close()
    await clients[0].writer.wait_closed()
    again = await raw_client(edge.port)
    await again.send(post())
    assert (await again.answer())[0] == 200


async def test_bodies_held_together_are_bounded(start: Start, raw_client: RawClients) -> None:
    edge = await start(WebhookLimits(held_bytes_max=10_000, tick_s=0.02))
    edge.store.gate.clear()
    first = await raw_client(edge.port)
    await first.send(post(b"x" * 8000))
    await edge.store.wait(1)
    second = await raw_client(edge.port)
    await second.send(post(b"x" * 8000))
    assert (await second.answer())[0] == 503
    edge.store.gate.set()
    assert (await first.answer())[0] == 200
    third = await raw_client(edge.port)
    await third.send(post(b"x" * 8000))
    assert (await third.answer())[0] == 200


async def test_expect_is_answered_before_the_body(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    request = post(b"body", headers=[b"Expect: 100-continue"])
    await client.send(request[:-4])
    assert await client.answer() == (100, b"HTTP/1.1 100 Continue\r\n\r\n")
    await client.send(b"body")
    assert (await client.answer())[0] == 200


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_clients_that_want_one_answer_get_it_and_the_end(
    start: Start, raw_client: RawClients, version: bytes
) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    headers = [b"Connection: close"] if version == b"1.1" else []
    await client.send(post(headers=headers).replace(b"HTTP/1.1", b"HTTP/" + version))
    status, head = await client.answer()
    assert status == 200
    assert b"Connection: close\r\n" in head
    assert await client.closed() == b""


async def test_a_half_closed_client_gets_its_answers(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    client.writer.write(post() * 2)
    client.writer.write_eof()
    assert [(await client.answer())[0] for _ in range(2)] == [200, 200]
    assert await client.closed() == b""


async def test_a_client_that_vanishes_is_stored_and_hurts_nobody(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    edge.store.gate.clear()
    gone = await raw_client(edge.port)
    await gone.send(post())
    cut = await raw_client(edge.port)
    await cut.send(post(b"x" * 100)[:-50])
    await edge.store.wait(1)
    gone.writer.transport.abort()
    cut.writer.transport.abort()
    edge.store.gate.set()
    other = await raw_client(edge.port)
    await other.send(post())
    assert (await other.answer())[0] == 200
    assert len(edge.store.items) == 2
    assert edge.server.held_bytes == 0


async def test_drain_finishes_what_is_in_and_closes_the_rest(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    edge.store.gate.clear()
    idle = await raw_client(edge.port)
    await idle.send(post())
    reading = await raw_client(edge.port)
    request = post(b"x" * 100)
    await reading.send(post() + request[:-50])
    await edge.store.wait(2)
    port = edge.port
    draining = asyncio.create_task(edge.server.drain(WAIT_S))
    await asyncio.sleep(0)
    assert edge.server.draining
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    edge.store.gate.set()
    status, head = await idle.answer()
    assert (status, b"Connection: close\r\n" in head) == (200, True)
    assert (await reading.answer())[0] == 200
    await reading.send(request[-50:])
    status, head = await reading.answer()
    assert (status, b"Connection: close\r\n" in head) == (200, True)
    idle.close()
    reading.close()
    assert await asyncio.wait_for(draining, timeout=WAIT_S) == 0


async def test_drain_cuts_what_does_not_end(start: Start, raw_client: RawClients) -> None:
    edge = await start()
    client = await raw_client(edge.port)
    await client.send(post(b"x" * 100)[:-50])
    second = await raw_client(edge.port)
    await second.send(post())
    assert (await second.answer())[0] == 200
    assert await edge.server.drain(0.05) == 1
    assert await second.closed() == b""


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_comes_with_the_drain_is_not_left_open(turns: int, metrics: Metrics) -> None:
    """Whether it waits, is being accepted or is there when the drain begins."""

    async def drained_meanwhile() -> socket.socket:
        async def refuse(batch: Sequence[Inbound]) -> list[int]:
            return [503] * len(batch)

        server = WebhookServer(refuse, {"telnyx": TELNYX_HEADERS}, metrics)
        await server.start("127.0.0.1", 0)
        client = socket.create_connection(("127.0.0.1", server.port))
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.drain(1)
        for _ in range(3):
            await asyncio.sleep(0)
        return client

    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always")
        client = asyncio.run(drained_meanwhile())
        gc.collect()
        assert [str(warning.message) for warning in left_open] == []
    client.close()


async def test_an_address_in_use_is_named(start: Start, metrics: Metrics) -> None:
    edge = await start()
    server = WebhookServer(edge.store, {"telnyx": TELNYX_HEADERS}, metrics)
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{edge.port}.*LONGWAVE_WEBHOOK_ADDRESS"):
        await server.start("127.0.0.1", edge.port)


def test_contradicting_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_wait_s"):
        WebhookLimits(batch_wait_s=0.01)
    with pytest.raises(ValueError, match="body_s"):
        WebhookLimits(body_s=0)
