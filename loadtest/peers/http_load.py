"""A closed loop of HTTP/1.1 requests: so many connections, each with one request on its way until all were sent.

It decides nothing about what is sent. A protocol without tasks or futures: what it takes, the system under load does
not get.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, cast

import httptools

from loadtest.peers.loaded import Loaded
from loadtest.peers.system import HOST

# Number of a message, and its request as bytes.
Request = tuple[int, bytes]
Accepted = Callable[[int, bytes], bool]
SHOWN_BYTES: Final = 200


async def load(host: str, port: int, requests: Sequence[Request], *, in_flight: int, accepted: Accepted) -> Loaded:
    """Send all requests; `accepted` judges status and body. A connection that ends is not opened again."""
    loop, waiting, loaded = asyncio.get_running_loop(), deque(requests), Loaded()
    callers = []
    for _ in range(in_flight):
        caller = _Caller(waiting, loaded, accepted, loop.create_future())
        await loop.create_connection(lambda caller=caller: caller, host, port)  # type: ignore[misc]
        callers.append(caller)
    loaded.began_s = time.monotonic()
    for caller in callers:
        caller.send_next()
    await asyncio.gather(*(caller.done for caller in callers))
    return loaded


class OverHttp(ABC):
    """A system that is handed each message by an HTTP request, and knows no messages of uncertain fate."""

    _port: int
    _in_flight: int

    @abstractmethod
    def request(self, place: int) -> bytes:
        """That of one message."""

    @abstractmethod
    def is_accepted(self, status: int, body: bytes) -> bool:
        """Whether an answer says that the message was accepted."""

    def load(self, places: range) -> Coroutine[Any, Any, Loaded]:
        """See `System`."""
        requests = [(place, self.request(place)) for place in places]
        return load(HOST, self._port, requests, in_flight=self._in_flight, accepted=self.is_accepted)

    def uncertain(self) -> set[int]:
        """See `System`."""
        return set()


class _Caller(asyncio.Protocol):
    def __init__(
        self, waiting: deque[Request], loaded: Loaded, accepted: Accepted, done: "asyncio.Future[None]"
    ) -> None:
        self.done: Final = done
        self._waiting: Final = waiting
        self._loaded: Final = loaded
        self._accepted: Final = accepted
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._place: int | None = None
        self._sent_s = 0.0
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        if self._place is not None:
            self._loaded.unanswered += 1
        if not self.done.done():
            self.done.set_result(None)

    def send_next(self) -> None:
        """Send the next request, or end when there is none."""
        if self._transport is None:
            return
        if not self._waiting:
            self._transport.close()
            return
        self._place, request = self._waiting.popleft()
        self._body = b""
        self._sent_s = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        place, self._place = self._place, None
        if place is None:
            raise AssertionError("an answer without a request")
        loaded, status = self._loaded, self._parser.get_status_code()
        loaded.ended_s = time.monotonic()
        loaded.latencies_s.append(loaded.ended_s - self._sent_s)
        if self._accepted(status, self._body):
            loaded.acknowledged.append(place)
        else:
            loaded.refused.append(f"{status} {self._body[:SHOWN_BYTES].decode('utf-8', 'replace')}")
        self.send_next()
