"""One client connection of the receipts edge: the request being read, the answers owed in order, and every wait's end.

It hands no batch over and verifies no signature; `webhooks.py` owns the batches and the books.

Invariants:

- Answers keep the order of the requests of their connection; at most `pipeline_max` are owed.
- Bounded: head, body, the bodies of all connections together, and every wait for the client.
- A client can end only its own connection. Nothing it sends is logged or echoed.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import httptools

if TYPE_CHECKING:
    from server.webhooks import WebhookServer

ROUTE: Final = "/webhooks/{provider}"
_BATCH_WAIT_S_MAX: Final = 0.005  # the contract of `handle`: at most 5 ms after arrival
_PATH: Final = re.compile(rb"/webhooks/([a-z0-9_-]{1,32})")
_REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}
_EXTRA: Final = {405: b"Allow: POST\r\n", 503: b"Retry-After: 1\r\n"}
# Refusals that a client may meet by the hundred without being wrong: it was slow, or we are busy.
_OURS: Final = frozenset({408, 503})
# What `longwave_receipts_total` counts a request refused here as; the rest is garbage.
_RESULTS: Final = {401: "bad_signature", 503: "shed"}


def _render(status: int, *, close: bool) -> bytes:
    connection = b"Connection: close\r\n" if close else b""
    return b"HTTP/1.1 %d %b\r\n%b%bContent-Length: 0\r\n\r\n" % (
        status,
        _REASONS[status],
        _EXTRA.get(status, b""),
        connection,
    )


_ANSWERS: Final = {(status, close): _render(status, close=close) for status in _REASONS for close in (False, True)}


class Inbound(NamedTuple):
    """One webhook as it came: raw bytes, nothing decoded."""

    provider: str
    query: bytes
    """What follows `?` in the request line, without it; our callback's message id, generation and MAC."""
    signature: bytes
    timestamp: bytes
    body: bytes
    """After chunks were joined; the bytes the carrier signed."""
    received_us: int
    """Microseconds since 1970 when its last byte was read."""


class SignatureHeaders(NamedTuple):
    """Names of the headers that sign a provider's webhook, in lower case."""

    signature: bytes
    timestamp: bytes


TELNYX_HEADERS: Final = SignatureHeaders(b"telnyx-signature-ed25519", b"telnyx-timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookLimits:
    """Every bound of the edge; times in seconds."""

    connections_max: int = 1024
    """A quarter of them may wait for refusals that are held back."""
    head_bytes_max: int = 16 * 1024
    body_bytes_max: int = 256 * 1024
    held_bytes_max: int = 64 * 1024 * 1024
    """Bodies of all connections together, read or being handled: 1024 x 256 KiB would be four times this."""
    in_flight_max: int = 4096
    """Requests handed over or waiting for the tick: about 1/4 s of the busiest measured stream."""
    pipeline_max: int = 16
    head_s: float = 5.0
    """From the first byte of a request (or the opening of the connection) to the end of its head."""
    body_s: float = 10.0
    """From the end of the head to the end of the body; also how long a client may leave its answers unread."""
    idle_s: float = 75.0
    linger_s: float = 1.0
    """How long a refused client's bytes are thrown away, so that closing does not destroy the answer on its way."""
    batch_wait_s: float = 0.002
    batch_max: int = 512
    handle_s: float = 2.0
    """A carrier waits no longer for its 2xx (Telnyx's rule), so a later 200 helps nobody; handling itself goes on."""
    tick_s: float = 0.25
    backlog: int = 256
    """Connections that one turn of the loop takes in at the most: at 0.1 ms each, others wait for 25 ms."""

    def __post_init__(self) -> None:
        """Refuse bounds that contradict each other."""
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above zero")
        if self.batch_wait_s > _BATCH_WAIT_S_MAX:
            raise ValueError("batch_wait_s must not be above 0.005 s")


class Slot:
    """The place of one answer in the order of its connection."""

    __slots__ = ("close", "connection", "status")

    def __init__(self, connection: Connection, status: int, *, close: bool) -> None:
        self.connection = connection
        self.status = status  # 0 until known; written by the server's `_answer`, read by the connection's `flush`
        self.close = close


class Connection(asyncio.Protocol):
    """One client connection: the request being read, the answers owed in order, and what it waits for until when."""

    def __init__(self, server: WebhookServer) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._owed: deque[Slot] = deque()
        self._ending = False  # the last answer is owed or written: nothing more is read
        self._lingering = False
        self._paused_writing = False
        self._owe_continue = False
        self._deadline_s = 0.0  # read by `expire`
        self._wire_bytes = 0  # read since the last complete head; only an open head is judged by it
        self._half_closed = False
        self._begin()
        self._reading = False

    def _begin(self) -> None:
        self._reading = True  # between the first byte of a request and its end
        self._head_complete = False
        self._head_bytes = 0
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeated = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._held_bytes = 0
        self._refusal = 0  # status decided before the body was read; the body is thrown away
        self._provider = ("", TELNYX_HEADERS)
        self._query = b""

    # Called by the server.

    def expire(self, now_s: float) -> None:
        """End what the client lets wait too long."""
        if now_s < self._deadline_s:
            return
        if self._lingering or self._paused_writing:
            self.abort()
        elif self._ending or (self._owed and not self._reading):
            return  # our turn, not the client's; `handle_s` bounds it
        elif self._reading:
            self._end(408)
        else:
            self.close_if_idle()

    def close_if_idle(self) -> None:
        """Close unless a request is being read or an answer is owed."""
        if not self._reading and not self._owed and self._transport is not None:
            self._ending = True
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def answer_late(self) -> None:
        """Read again and write the answer that was held back."""
        transport = cast("asyncio.Transport", self._transport)
        if not transport.is_closing() and not transport.is_reading() and not self._paused_writing:
            transport.resume_reading()
        self.flush()

    def flush(self) -> None:
        """Write the answers that are known, up to the first that is not."""
        transport = cast("asyncio.Transport", self._transport)
        answers: list[bytes] = []
        last = False
        while self._owed and self._owed[0].status and not last:
            slot = self._owed.popleft()
            last = slot.close or (self._server.draining and not self._owed and not self._reading)
            answers.append(_ANSWERS[slot.status, last])
        if transport.is_closing():
            return
        if self._owe_continue and not self._owed and not last:
            self._owe_continue = False
            answers.append(b"HTTP/1.1 100 Continue\r\n\r\n")
        if answers:
            transport.write(b"".join(answers))
        if last:
            self._finish(transport)
        elif not self._owed and not self._reading:
            self._deadline_s = self._loop.time() + self._limits.idle_s

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count in, or refuse with 503 when there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._deadline_s = self._loop.time() + self._limits.head_s
        if not self._server.admit(self):
            self._server.count("other", "shed")
            self._transport.write(_ANSWERS[503, True])
            self._ending = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count out and give back what was held."""
        del exc
        self._release_body()
        self._ending = True
        self._server.leave(self)

    def eof_received(self) -> bool:
        """Keep a half-closed connection while answers are owed to it; a request cut short is dropped."""
        transport = cast("asyncio.Transport", self._transport)
        keep = bool(self._owed) and not self._lingering and transport.can_write_eof()
        if keep:
            self._half_closed = True
            self._owed[-1].close = True
            self._ending = True
            self._reading = False
            self._release_body()
        return keep

    def pause_writing(self) -> None:
        """Read no more from a client that does not take its answers."""
        self._paused_writing = True
        self._deadline_s = self._loop.time() + self._limits.body_s
        transport = cast("asyncio.Transport", self._transport)
        if not transport.is_closing() and transport.is_reading():
            transport.pause_reading()

    def resume_writing(self) -> None:
        """Read again."""
        self._paused_writing = False
        self._deadline_s = self._loop.time() + self._limits.body_s
        transport = cast("asyncio.Transport", self._transport)
        if not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._ending:
            return
        if not self._reading and self._take_plain(data):
            return
        if not self._head_complete or not self._reading:
            self._wire_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._ending:
                self._end(400)
            return
        # Only an open head is judged by what came over the wire: the parser holds back its unfinished last line.
        if (
            self._reading
            and not self._head_complete
            and self._wire_bytes > self._limits.head_bytes_max
            and not self._ending
        ):
            self._end(431)

    def _take_plain(self, data: bytes) -> bool:
        """Take what is one whole request as carriers write it; False leaves it to the parser."""
        plain = self._server.form.plain(data)
        if plain is None or len(self._owed) >= self._limits.pipeline_max or not self._server.has_room(len(plain[4])):
            return False
        self._server.held_bytes += len(plain[4])  # the batch gives them back
        slot = Slot(self, 0, close=False)
        self._owed.append(slot)
        self._server.enqueue(Inbound(*plain, self._server.now_us()), slot)
        return True

    # httptools callbacks; raising ends the parse of this read

    def on_message_begin(self) -> None:
        """Start a request, unless too many answers are owed."""
        if self._ending:
            raise _EndedError
        if len(self._owed) >= self._limits.pipeline_max:
            self._end(503)
            raise _EndedError
        self._begin()
        self._deadline_s = self._loop.time() + self._limits.head_s

    def on_url(self, url: bytes) -> None:
        """Keep a piece of the request target."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that matter and note repeated ones."""
        self._count_head(len(name) + len(value) + 4)
        name = name.lower()
        if name in self._server.watched and not self._head_complete:  # a trailer cannot replace what the head said
            if name in self._headers:
                self._repeated = True
            self._headers[name] = value.rstrip(b" \t")  # as RFC 9110, 5.5, has it; the parser leaves what trails

    def on_headers_complete(self) -> None:
        """Judge the head before any body is kept."""
        self._head_complete = True
        self._wire_bytes = 0
        self._deadline_s = self._loop.time() + self._limits.body_s
        length = self._headers.get(b"content-length", b"")
        if self._parser.should_upgrade():
            self._refuse_and_stop(400)
        if length and int(length) > self._limits.body_bytes_max:
            self._refuse_and_stop(413)
        self._refusal = self._judge_head()
        expected = self._headers.get(b"expect")
        if expected is None or self._parser.get_http_version() == "1.0":
            return
        if expected.lower() != b"100-continue":
            self._refuse_and_stop(417)
        if self._refusal:  # the client has not sent the body and need not
            self._refuse_and_stop(self._refusal)
        self._owe_continue = True
        self.flush()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body within the bounds of this request and of all connections."""
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes_max:
            self._refuse_and_stop(413)
        if self._refusal:
            return
        if self._server.held_bytes + len(body) > self._limits.held_bytes_max:
            self._refuse_and_stop(503)
        self._server.held_bytes += len(body)
        self._held_bytes += len(body)
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or owe its refusal."""
        self._reading = False
        self._owe_continue = False
        close = not self._parser.should_keep_alive()
        slot = Slot(self, self._refusal, close=close)
        self._owed.append(slot)
        self._ending = close
        if not slot.status and not self._enqueue(slot):
            slot.status = 503
        if slot.status:
            self._refuse(slot)

    def _enqueue(self, slot: Slot) -> bool:
        provider, headers = self._provider
        inbound = Inbound(
            provider,
            self._query,
            self._headers[headers.signature],
            self._headers[headers.timestamp],
            b"".join(self._body),
            self._server.now_us(),
        )
        if not self._server.enqueue(inbound, slot):
            return False
        self._body = []
        self._held_bytes = 0  # the batch gives them back
        return True

    def _judge_head(self) -> int:
        """Say with which status the head alone is refused; 0 when the body decides."""
        path, _, self._query = self._url.partition(b"?")
        match = _PATH.fullmatch(path)
        known = self._server.providers.get(match[1]) if match else None
        if known is None:
            return 404
        self._provider = known
        if self._parser.get_method() != b"POST":
            return 405
        if self._repeated or (b"host" not in self._headers and self._parser.get_http_version() != "1.0"):
            return 400
        if not all(self._headers.get(name) for name in known[1]):
            return 401
        return 0

    def _count_head(self, more_bytes: int) -> None:
        self._head_bytes += more_bytes
        if self._head_bytes > self._limits.head_bytes_max:
            self._refuse_and_stop(431)

    def _refuse_and_stop(self, status: int) -> None:
        self._end(status)
        raise _EndedError

    def _count_refused(self, status: int) -> None:
        provider = self._provider[0]
        method = "POST" if self._head_complete and self._parser.get_method() == b"POST" else "other"
        self._server.metrics.http_requests.labels(method, ROUTE if provider else "other", str(status)).inc()
        self._server.count(provider or "other", _RESULTS.get(status, "garbage"))

    def _release_body(self) -> None:
        self._server.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self._body = []

    def _end(self, status: int) -> None:
        """Refuse what is being read; its answer is the last one, after those owed before it."""
        self._ending = True
        self._reading = False
        self._owe_continue = False
        slot = Slot(self, status, close=True)
        self._owed.append(slot)
        self._refuse(slot)

    def _refuse(self, slot: Slot) -> None:
        """Answer without the server's `handle`; late, and reading nothing more until then, where that comes often."""
        self._release_body()
        self._count_refused(slot.status)
        transport = cast("asyncio.Transport", self._transport)
        if slot.status not in _OURS and self._server.hold_back(slot, transport.get_extra_info("peername")):
            if not transport.is_closing() and transport.is_reading():
                transport.pause_reading()
        else:
            self.flush()

    def _finish(self, transport: asyncio.Transport) -> None:
        """Close our half after the last answer.

        For a moment what still comes is read, else a reset could overtake the answer.
        """
        self._ending = True
        if transport.can_write_eof() and not self._half_closed:
            transport.write_eof()
            self._lingering = True
            self._deadline_s = self._loop.time() + self._limits.linger_s
        else:
            transport.close()


class _EndedError(Exception):
    """Stops the parser inside one read; never leaves this file."""
