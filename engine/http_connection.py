"""One connection of the dispatch edge: at most one request, the parser of its answer, and how far both are.

It chooses no request and opens no socket; the pool in `http_client.py` does both and keeps the books.

Invariants:

- A request given to `start` is reported to the pool exactly once, whatever order errors and end of stream come in.
- The file descriptor is used only through the socket object, which the transport detaches or closes with itself: a late
  send fails instead of reaching another file.
- After anything but a complete answer with nothing behind it, the connection is not used again.
"""

from __future__ import annotations

import asyncio
import re
import socket
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, cast

import httptools

from engine.http_exchange import Exchange, Phase

if TYPE_CHECKING:
    from engine.http_client import HttpPool

_US: Final = 1_000_000
# A connection that rested less is not looked at: a carrier that closes so soon after its answer said so in the answer.
_PROBE_IDLE_US: Final = 200_000
# A carrier that asks for more than a day is not asking for a pause; the caller's own policy takes over.
_RETRY_AFTER_S_MAX: Final = 86_400.0
_RETRY_HEADER: Final = re.compile(
    rb"\r\n(retry-after-ms|retry-after|x-ratelimit-reset|date):[ \t]*([^\r\n]*)", re.IGNORECASE
)
_FRAMED: Final = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)
_FIRST_FINAL_STATUS: Final = 200  # 1xx answers are announcements, not the answer
_FIRST_ERROR_STATUS: Final = 400
_TOO_MANY_REQUESTS: Final = 429


class Connection(asyncio.Protocol):
    """Carries one exchange at a time; made by the pool for a connected socket."""

    def __init__(self, pool: HttpPool, sock: socket.socket, *, tls: bool) -> None:
        self._pool = pool
        self._socket = sock
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        limits = pool.limits
        self._idle_us = round(limits.idle_s * _US)
        self._first_byte_us = round(limits.first_byte_s * _US)
        self._total_us = round(limits.total_s * _US)
        self._head_bytes_max = limits.head_bytes_max
        self._body_bytes_max = limits.body_bytes_max
        self._gone = False  # taken off the pool's books
        self._idle_since_us = 0
        self.busy = False
        self._clear()

    def _clear(self) -> None:
        self._request: object = None
        self._started_us = 0
        self._sent_us = 0
        self._head = b""  # what was read until the final head was complete; the first piece of the body may hang on it
        self._status = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_complete = False
        self._complete = False
        self._keep_alive = False
        self._excess = False

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._transport is None or self._transport.is_closing()

    def is_alive(self, now_us: int) -> bool:
        """Whether the idle connection still stands.

        One that rested for a while is looked at: its end may wait unread in the kernel.
        """
        idle_us = now_us - self._idle_since_us
        if self.is_closing or idle_us >= self._idle_us:
            return False
        if idle_us < _PROBE_IDLE_US:
            return True
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return False  # end of stream, or bytes nobody asked for

    def start(self, request: object, data: bytes, started_us: int, now_us: int) -> None:
        """Write the request.

        The first byte of plain TCP is our own system call: an error there proves that nothing left.
        """
        self.busy = True
        self._request = request
        self._started_us = started_us
        self._sent_us = now_us
        transport = cast("asyncio.Transport", self._transport)
        if self._tls:
            transport.write(data)
            return
        try:
            sent_bytes = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent_bytes = 0
        except OSError as error:
            self.fail(Phase.NOT_FLUSHED, type(error).__name__)
            return
        if sent_bytes < len(data):
            transport.write(data[sent_bytes:])

    def rest(self, now_us: int) -> None:
        """Count idle time from now."""
        self._idle_since_us = now_us

    def drop(self) -> None:
        """Leave the pool and close; reports nothing."""
        if not self._gone:
            self._gone = True
            if self._transport is not None:
                self._transport.abort()
            self._pool.forget(self)

    def fail(self, phase: Phase, detail: str) -> None:
        """End the request, if there is one, and the connection."""
        if self.busy:
            self.busy = False
            elapsed_us = self._pool.mono_us() - self._started_us
            self._pool.report(Exchange(self._request, phase, self._status, None, b"", elapsed_us, detail))
        self.drop()
        self._clear()

    def expire(self, now_us: int) -> None:
        """End what has taken too long."""
        if not self.busy:
            if now_us - self._idle_since_us >= self._idle_us:
                self.drop()
        elif not self._head and now_us - self._sent_us >= self._first_byte_us:
            self.fail(Phase.TIMEOUT, "no first byte in time")
        elif now_us - self._started_us >= self._total_us:
            self.fail(Phase.TIMEOUT, "no complete answer in time")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; the pool gives the first request once connecting is over."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the request that was cut off, if any."""
        if self._head_complete and not _FRAMED.search(_final_head(self._head)):
            self.fail(Phase.MALFORMED, "answer without a marked end")
        else:
            self.fail(Phase.RESET, type(exc).__name__ if exc is not None else "end of stream")

    def data_received(self, data: bytes) -> None:
        """Parse what came; end the exchange when it is complete or can no longer become so."""
        if not self.busy:
            self.drop()
            return
        if not self._head_complete:
            self._head += data
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(Phase.MALFORMED, type(error).__name__)
            return
        if self._excess:
            self.fail(Phase.MALFORMED, "bytes after the answer")
        elif self._body_bytes > self._body_bytes_max:
            self.fail(Phase.MALFORMED, "body over its bound")
        elif self._complete:
            self._finish()
        elif not self._head_complete and len(self._head) > self._head_bytes_max:
            self.fail(Phase.MALFORMED, "head over its bound")

    def _finish(self) -> None:
        now_us = self._pool.mono_us()
        status = self._status
        self._pool.report(
            Exchange(
                self._request,
                Phase.ANSWERED,
                status,
                _retry_after_s(status, self._head) if status >= _FIRST_ERROR_STATUS else None,
                self._body[0] if len(self._body) == 1 else b"".join(self._body),
                now_us - self._started_us,
                "",
            )
        )
        self.busy = False
        transport = cast("asyncio.Transport", self._transport)
        # An answer before the whole request was written leaves bytes behind: that connection cannot be used again.
        reusable = self._keep_alive and not transport.is_closing() and not transport.get_write_buffer_size()
        self._clear()
        if reusable:
            self._idle_since_us = now_us
            self._pool.release(self, now_us)
        else:
            self.drop()

    # httptools callbacks

    def on_message_begin(self) -> None:
        """Notice a second answer, which nobody asked for."""
        if self._complete:
            self._excess = True

    def on_headers_complete(self) -> None:
        """Keep the status of the final answer."""
        status = self._parser.get_status_code()
        if status >= _FIRST_FINAL_STATUS and not self._complete:
            self._status = status
            self._head_complete = True

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body up to its bound."""
        self._body_bytes += len(body)
        if self._body_bytes <= self._body_bytes_max and not self._excess:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Note the marked end of the final answer."""
        if self._head_complete and not self._excess:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()


def _final_head(received: bytes) -> bytes:
    """Cut the head of the final answer out of what was read, past any 1xx heads."""
    head, _, rest = received.partition(b"\r\n\r\n")
    while head[9:10] == b"1" and rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
    return head


def _retry_after_s(status: int, received: bytes) -> float | None:
    """How long the carrier asks to wait (RFC 9110 10.2.3); None when it does not say or cannot be understood."""
    found = {
        name.lower(): value.strip().decode("latin-1") for name, value in _RETRY_HEADER.findall(_final_head(received))
    }
    seconds: float | None = None
    if (milliseconds := found.get(b"retry-after-ms", "")).isdecimal():
        seconds = int(milliseconds[:12]) / 1000
    elif (after := found.get(b"retry-after", "")).isdecimal():
        seconds = float(after[:12])
    elif after:
        try:
            seconds = (parsedate_to_datetime(after) - parsedate_to_datetime(found.get(b"date", ""))).total_seconds()
        except (TypeError, ValueError):
            seconds = None
    elif status == _TOO_MANY_REQUESTS and (reset := found.get(b"x-ratelimit-reset", "")).isdecimal():
        seconds = float(reset[:12])
    return None if seconds is None else min(max(seconds, 0.0), _RETRY_AFTER_S_MAX)
