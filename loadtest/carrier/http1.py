"""Speaks HTTP/1.1 to callers: an asyncio.Protocol on httptools, one `Exchange` per request.

It knows no route and no fault; whoever handles an exchange may answer it late, badly, in drips or never.

Invariants: answers leave in the order of their requests (pipelining); a connection with more than `PIPELINED_MAX` open
exchanges is cut; a request never holds more than `HEAD_BYTES_MAX` + `body_bytes_max` bytes. Reading never pauses, so
that a caller who leaves a silent exchange is noticed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final, cast

import httptools

HEAD_BYTES_MAX: Final = 32_768
PIPELINED_MAX: Final = 64
# Callers pool connections; 4,096 is above any pool and far below the usual descriptor limits of servers.
CONNECTIONS_MAX: Final = 4_096
WANTED_HEADERS: Final = frozenset({b"authorization", b"idempotency-key", b"content-type"})

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_JSON_HEAD: Final = _STATUS_LINES[200] + b"content-type: application/json\r\ncontent-length: "


def json_answer(body: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    """Render an answer with a JSON body; `headers` are whole lines, each with its CRLF."""
    if status == 200 and not headers:  # noqa: PLR2004 - the hot case
        return b"%b%d\r\n\r\n%b" % (_JSON_HEAD, len(body), body)
    return answer(body, status, b"content-type: application/json\r\n" + headers)


def answer(body: bytes, status: int, headers: bytes = b"") -> bytes:
    """Render an answer; `headers` are whole lines, each with its CRLF."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (line, headers, len(body), body)


class Exchange:
    """One request and its answer, which may be given at any later time, once."""

    __slots__ = ("_connection", "body", "chunks", "closing", "headers", "interval_s", "method", "path", "ready")

    def __init__(self, connection: "Connection", method: bytes, path: bytes, headers: dict[bytes, bytes]) -> None:
        """Hold a request; `path` is the request target with its query, header names are in lower case."""
        self._connection: Final = connection
        self.method: Final = method
        self.path: Final = path
        self.headers: Final = headers
        self.body = b""
        self.ready: bytes | None = None
        self.closing = False
        self.chunks: Iterator[bytes] | None = None
        self.interval_s = 0.0

    def respond(self, data: bytes, *, close: bool = False) -> None:
        """Answer with these bytes, as they are; then close the connection if told."""
        self.ready = data
        self.closing = self.closing or close
        self._connection.flush()

    def drip(self, chunks: Iterator[bytes], interval_s: float) -> None:
        """Answer with one chunk every `interval_s` seconds until they end or the caller leaves; then close."""
        self.chunks = chunks
        self.interval_s = interval_s
        self._connection.flush()

    def abort(self) -> None:
        """Cut the connection without answering."""
        self._connection.abort()


class Connection(asyncio.Protocol):
    """One caller's connection."""

    def __init__(self, handle: Callable[[Exchange], None], connections: set["Connection"], body_bytes_max: int) -> None:
        """Prepare a connection; `handle` is called once for each complete request."""
        self._handle: Final = handle
        self._connections: Final = connections
        self._body_bytes_max: Final = body_bytes_max
        self._loop: Final = asyncio.get_running_loop()
        self._open: Final[deque[Exchange]] = deque()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._paused_writing = False
        self._begin()
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._unfinished_bytes = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or cut it when there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Forget the connection; answers still to come go nowhere."""
        self._connections.discard(self)
        self._transport = None
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the `on_…` methods below."""
        if self._ended:
            return
        self._unfinished_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # A defect of ours, not of the caller: the loop reports it and cuts the connection.
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.refuse(400)
        # Only an unfinished request is left in the count; complete ones have reset it.
        if self._unfinished_bytes > HEAD_BYTES_MAX + self._body_bytes_max:
            self.refuse(413 if self._body_bytes else 431)

    def pause_writing(self) -> None:
        """Note that the caller reads slowly: drips wait."""
        self._paused_writing = True

    def resume_writing(self) -> None:
        """Note that the caller reads again."""
        self._paused_writing = False

    # httptools callbacks

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header that some handler reads."""
        name = name.lower()
        if name in WANTED_HEADERS:
            self._headers[name] = value

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; too much of it ends the connection."""
        self._body_bytes += len(body)
        if self._body_bytes <= self._body_bytes_max:
            self._body.append(body)
        else:
            self._body.clear()

    def on_message_complete(self) -> None:
        """Hand a complete request over."""
        if self._ended or self._transport is None or self._transport.is_closing():
            return
        exchange = Exchange(self, self._parser.get_method(), self._url, self._headers)
        too_large = self._body_bytes > self._body_bytes_max
        body = self._body
        exchange.body = body[0] if len(body) == 1 else b"".join(body)
        keep_alive = self._parser.should_keep_alive()
        self._begin()
        self._open.append(exchange)
        if len(self._open) > PIPELINED_MAX:
            self._transport.abort()
            return
        if too_large:
            exchange.respond(answer(b"", 413, b"connection: close\r\n"), close=True)
            return
        if not keep_alive:
            # What follows on this connection is not looked at; the answer closes it.
            self._ended = exchange.closing = True
        self._handle(exchange)

    # Answers

    def flush(self) -> None:
        """Write every answer whose turn it is."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while self._open:
            head = self._open[0]
            if head.ready is None:
                if head.chunks is not None and self._timer is None:
                    self._drip()
                return
            self._open.popleft()
            transport.write(head.ready)
            if head.closing:
                self._open.clear()
                transport.close()
                return

    def refuse(self, status: int) -> None:
        """Answer something that is no request, and close."""
        if self._transport is not None and not self._transport.is_closing():
            self._open.clear()
            self._transport.write(answer(b"", status, b"connection: close\r\n"))
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close after what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def _drip(self) -> None:
        if self._transport is None or self._transport.is_closing() or not self._open:
            return
        head = self._open[0]
        if head.chunks is None:
            return
        if not self._paused_writing:
            chunk = next(head.chunks, None)
            if chunk is None:
                self._open.clear()
                self._transport.close()
                return
            self._transport.write(chunk)
        self._timer = self._loop.call_later(head.interval_s, self._drip)
