"""A webhook that comes whole is read by the core, one that comes in pieces by the parser: both understand the same."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.metrics import Metrics
from server.webhook_connection import TELNYX_HEADERS, Connection, Inbound, WebhookLimits
from server.webhooks import WebhookServer

LIMITS = WebhookLimits(head_bytes_max=600, body_bytes_max=40, pipeline_max=2)
SIGNATURE = b"telnyx-signature-ed25519: c2lnbmF0dXJl"
TIMESTAMP = b"telnyx-timestamp: 1764288000"


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, _name: str) -> tuple[str, int]:
        return "127.0.0.1", 40_000

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


class Heard:
    """What became of some bytes."""

    def __init__(self) -> None:
        self.items: list[tuple[Any, ...]] = []
        self.plain = 0
        self.answers = b""
        self.ended = False

    def same(self) -> tuple[Any, ...]:
        return self.items, self.answers, self.ended


async def feed(pieces: list[bytes]) -> Heard:
    """Let one connection hear these pieces, and answer all that is handed over."""
    heard = Heard()

    async def handle(batch: list[Inbound]) -> list[int]:
        heard.items += [item[:5] for item in batch]
        return [200] * len(batch)

    server = WebhookServer(handle, {"telnyx": TELNYX_HEADERS}, Metrics("0", "memory"), limits=LIMITS)
    server._loop = asyncio.get_running_loop()
    connection, wire = Connection(server), Wire()
    take = connection._take_plain

    def counted(data: bytes) -> bool:
        taken = take(data)
        heard.plain += taken
        return taken

    connection._take_plain = counted  # type: ignore[method-assign]
    connection.connection_made(cast("asyncio.Transport", wire))
    for piece in pieces:
        connection.data_received(piece)
    if server._batch:
        server._hand_over()
    while server._handling:
        await asyncio.wait(server._handling)
    connection.connection_lost(None)
    assert server.held_bytes == 0
    heard.answers, heard.ended = wire.written, wire.ended
    return heard


def request(lines: list[bytes], body: bytes, after: bytes = b"", start: bytes = b"") -> bytes:
    return (start or b"POST /webhooks/telnyx?m=1 HTTP/1.1") + b"\r\n" + b"\r\n".join([*lines, b"", b""]) + body + after


ORDINARY = [b"host: x", b"content-type: application/json", TIMESTAMP, SIGNATURE]

WHOLE = request([*ORDINARY, b"content-length: 4"], b"body")

starts = st.sampled_from(
    [b"POST /webhooks/telnyx?m=1 HTTP/1.1"] * 6
    + [
        b"POST /webhooks/telnyx HTTP/1.1",
        b"POST /webhooks/telnyx?a?b=c&%20# HTTP/1.1",
        b"POST /webhooks/telnyx?\xc3\xa9 HTTP/1.1",
        b"POST /webhooks/telnyx?m=1 HTTP/1.0",
        b"POST /webhooks/other HTTP/1.1",
        b"POST http://x/webhooks/telnyx HTTP/1.1",
        b"GET /webhooks/telnyx HTTP/1.1",
        b"post /webhooks/telnyx HTTP/1.1",
        b"\r\nPOST /webhooks/telnyx?m=1 HTTP/1.1",
        b"POST  /webhooks/telnyx HTTP/1.1",
    ]
)
oddities = st.sampled_from(
    [
        b"Connection: close", b"connection: keep-alive",
        b"x\xff: 1", b"Trailer: x", b"expect: 100-continue", b"Expect: x", b"host: y", b"x: ",
        b"transfer-encoding: chunked", b"Upgrade: h2c", b"content-length: 4", b"content-length: 5",
        TIMESTAMP, SIGNATURE, b"x: a\x7fb",
        b"Telnyx-Timestamp:\t17 ", b"telnyx-signature-ed25519:", b"x-long: " + b"y" * 700, b"x: \xff\x80",
        b" folded", b"no colon", b"x : 1", b"x: a\x00b",
    ]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    lines = [line for line in ORDINARY if draw(st.integers(0, 9))]
    lines = draw(st.permutations(lines + draw(st.lists(oddities, max_size=2))))
    body = draw(st.binary(max_size=44))
    told = len(body) + draw(st.sampled_from([0] * 8 + [-1, 1]))
    if draw(st.integers(0, 9)):
        lines.append(b"%s: %d" % (draw(st.sampled_from([b"content-length", b"Content-Length"])), told))
    after = draw(st.sampled_from([b""] * 5 + [b"\r\n", WHOLE, b"x"]))
    return request(lines, body, after, draw(starts))


@settings(max_examples=400, deadline=None)
@given(data=requests(), cut=st.integers(1, 10_000))
@example(data=WHOLE, cut=1)
@example(data=WHOLE + WHOLE, cut=3)
@example(data=WHOLE.replace(b"1764288000", b"1764288000 \t"), cut=2)
def test_what_comes_whole_is_understood_as_what_comes_in_pieces(data: bytes, cut: int) -> None:
    cut = 1 + cut % (len(data) - 1)
    whole = asyncio.run(feed([data]))
    pieces = asyncio.run(feed([data[:cut], data[cut:]]))
    assert whole.same() == pieces.same()


@pytest.mark.parametrize("count", [1, 2])
def test_an_ordinary_webhook_is_read_by_the_core(count: int) -> None:
    heard = asyncio.run(feed([WHOLE] * count))
    assert heard.plain == count
    assert heard.items == [("telnyx", b"m=1", b"c2lnbmF0dXJl", b"1764288000", b"body")] * count
    assert heard.answers == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * count


def test_behind_a_begun_request_nothing_is_taken_for_a_whole_one() -> None:
    begun = WHOLE.replace(b"content-length: 4\r\n\r\nbody", b"content-length: %d\r\n\r\n" % len(WHOLE))
    small = WHOLE.replace(b"body", b"b").replace(b"length: 4", b"length: 1")
    heard = asyncio.run(feed([begun[:-2], begun[-2:], small]))
    assert (heard.plain, heard.items) == (0, [])


def test_beyond_the_bounds_the_parser_refuses() -> None:
    heard = asyncio.run(feed([WHOLE] * 3))
    assert heard.plain == 2
    assert heard.answers.count(b"HTTP/1.1 200") == 2
    assert heard.answers.count(b"HTTP/1.1 503") == 1
