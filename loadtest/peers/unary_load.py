"""A closed loop of unary gRPC calls, spoken on bare HTTP/2: a fraction of the processor time that a gRPC client takes.

What the load generator takes the system under load does not get, so it does what a caller needs and no more: it sends
one request on each stream, keeps what comes back as data, and reads no header. A call that ends without data failed.

RFC 9113 frames, RFC 7541 literals without indexing. A request is smaller than a frame (16 KiB) and a stream's window:
only the connection's window is watched. Our own windows are wide enough for all answers.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

from loadtest.benchmarks.callers import Metadata
from loadtest.peers.loaded import Loaded

# Number of the message, and its request as bytes.
Request = tuple[int, bytes]
CONNECTIONS: Final = 8
REQUEST_BYTES_MAX: Final = 16_000
HEAD_BYTES: Final = 9
PREFIX_BYTES: Final = 5
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
END_STREAM: Final = 1
END_HEADERS: Final = 4
ACK: Final = 1
WINDOW: Final = 65_535
WINDOW_MAX: Final = (1 << 31) - 1
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# No table that we would have to keep, no push, and answers as large as they come.
OUR_SETTINGS: Final = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, WINDOW_MAX)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def literal(text: str) -> bytes:
    """A string of a header, as it is, behind its length: 7 bits, and what they do not hold in further bytes."""
    value = text.encode("ascii")
    left, rest = len(value), b""
    if left < 127:  # noqa: PLR2004 - all bits of the prefix
        return bytes((left,)) + value
    left -= 127
    while left > 127:  # noqa: PLR2004 - seven bits a byte
        rest += bytes((left & 127 | 128,))
        left >>= 7
    return b"\x7f" + rest + bytes((left,)) + value


def header_block(headers: Sequence[tuple[str, str]]) -> bytes:
    """All headers, none of them indexed."""
    return b"".join(b"\0" + literal(name) + literal(value) for name, value in headers)


async def load(
    host: str,
    port: int,
    method: str,
    requests: Sequence[Request],
    *,
    in_flight: int,
    metadata: Metadata,
    is_accepted: Callable[[bytes], bool],
) -> Loaded:
    """Make all calls, `in_flight` at a time; answers are read after the clock stopped.

    A connection that ends is not opened again. Raises ValueError for a request that is too large.
    """
    if any(len(request) > REQUEST_BYTES_MAX for _, request in requests):
        message = f"a request has more than {REQUEST_BYTES_MAX} bytes"
        raise ValueError(message)
    authority = f"{host}:{port}"
    block = header_block(
        [
            (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", authority),
            ("content-type", "application/grpc"), ("te", "trailers"), *metadata,
        ]
    )  # fmt: skip
    loop, loaded, waiting = asyncio.get_running_loop(), Loaded(), deque(requests)
    answers: list[tuple[int, bytes]] = []
    count = min(CONNECTIONS, in_flight)
    connections = []
    for number in range(count):
        calls = in_flight // count + (number < in_flight % count)
        connection = _Connection(waiting, loaded, answers, block, calls, loop.create_future())
        await loop.create_connection(lambda connection=connection: connection, host, port)  # type: ignore[misc]
        connections.append(connection)
    loaded.began_s = time.monotonic()
    for connection in connections:
        connection.send_more()
    await asyncio.gather(*(connection.done for connection in connections))
    for place, answer in answers:
        if is_accepted(answer[PREFIX_BYTES:]):
            loaded.acknowledged.append(place)
        else:
            loaded.refused.append(f"message {place}: {answer[PREFIX_BYTES:]!r}")
    return loaded


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        waiting: deque[Request],
        loaded: Loaded,
        answers: list[tuple[int, bytes]],
        block: bytes,
        calls: int,
        done: "asyncio.Future[None]",
    ) -> None:
        self.done: Final = done
        self._waiting: Final = waiting
        self._loaded: Final = loaded
        self._answers: Final = answers
        self._block: Final = block
        self._calls: Final = calls
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._stream = 1
        # Stream → number of the message, when it was sent, and what came back.
        self._open: Final[dict[int, tuple[int, float, bytearray]]] = {}
        self._window = WINDOW

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        widened = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - WINDOW))
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, OUR_SETTINGS) + widened)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        self._loaded.unanswered += len(self._open)
        self._open.clear()
        if not self.done.done():
            self.done.set_result(None)

    def send_more(self) -> None:
        """Send as many requests as may be on their way; end when there are none left."""
        if self._transport is None:
            return
        parts = []
        while self._waiting and len(self._open) < self._calls:
            size = PREFIX_BYTES + len(self._waiting[0][1])
            if size > self._window:
                break
            place, request = self._waiting.popleft()
            self._window -= size
            parts.append(frame(HEADERS, END_HEADERS, self._stream, self._block))
            parts.append(frame(DATA, END_STREAM, self._stream, struct.pack(">BI", 0, len(request)) + request))
            self._open[self._stream] = (place, time.monotonic(), bytearray())
            self._stream += 2
        if parts:
            self._transport.write(b"".join(parts))
        elif not self._open and not self._waiting:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        read = self._read + data
        at, ended = 0, False
        while len(read) - at >= HEAD_BYTES:
            length_kind, flags, stream = struct.unpack_from(">IBI", read, at)
            end = at + HEAD_BYTES + (length_kind >> 8)
            if end > len(read):
                break
            ended |= self._take(length_kind & 255, flags, stream, read[at + HEAD_BYTES : end])
            at = end
        self._read = read[at:]
        if ended:
            self.send_more()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        """One frame; says whether another call may leave."""
        if kind == DATA and stream in self._open:
            self._open[stream][2].extend(payload)
        elif kind == SETTINGS and not flags & ACK:
            self._write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack(">I", payload)[0]
            return True
        if kind == RESET or (kind in (DATA, HEADERS) and flags & END_STREAM):
            return self._end(stream)
        return False

    def _end(self, stream: int) -> bool:
        call = self._open.pop(stream, None)
        if call is None:
            return False
        place, sent_s, answer = call
        self._loaded.ended_s = time.monotonic()
        self._loaded.latencies_s.append(self._loaded.ended_s - sent_s)
        if answer:
            self._answers.append((place, bytes(answer)))
        else:
            self._loaded.refused.append(f"message {place}: the call failed")
        return True

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
