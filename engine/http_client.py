"""The dispatch edge: a bounded pool of HTTP/1.1 connections that sends rendered requests and says how far each came.

It never retries, renders no message and judges no answer: a provider's table makes an outcome of an `Exchange`.

Invariants:

- One request in flight per connection; no pipelining. Every submitted request is reported exactly once.
- `NOT_CONNECTED` and `NOT_FLUSHED` prove that no byte of the request was handed to the kernel. On plain TCP the first
  write is our own `send(2)`, so its error is that proof. Inside TLS a write cannot be proved unsent: it counts as left.
- `ANSWERED` means a complete response whose end the carrier itself marked (length, chunks, or a status without a body).
- Everything else is `RESET`, `TIMEOUT` or `MALFORMED`: the carrier may have taken the message.
- Memory: connections_max x (head + body bound + one read of 256 KiB), whatever the carrier sends.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from engine.clock import Clock
from engine.http_connection import Connection
from engine.http_exchange import (
    Exchange,
    NoFreeSlotError,
    Origin,
    Phase,
    PoolLimits,
    parse_origin,
    render_request,
    verified_tls,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Exchange",
    "HttpPool",
    "NoFreeSlotError",
    "Origin",
    "Phase",
    "PoolLimits",
    "parse_origin",
    "render_request",
    "verified_tls",
]

_US: Final = 1_000_000
_ADDRESSES_KEPT_US: Final = 30 * _US


class _Waiting(NamedTuple):
    request: object
    data: bytes
    started_us: int


class _Awaited(NamedTuple):
    """Stands in for the request of an awaited call."""

    answer: asyncio.Future[Exchange]


class HttpPool:
    """Connections to one origin. All methods belong to the loop's thread.

    `on_results` gets the finished exchanges of one loop turn as one list. It must not raise.
    `may_send(request)` is asked right before the first byte; False reports `NOT_FLUSHED` (a lease about to end).
    """

    def __init__(
        self,
        base_url: str,
        on_results: Callable[[list[Exchange]], None],
        *,
        limits: PoolLimits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        may_send: Callable[[object], bool] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare the pool; nothing is connected before the first submit."""
        self.origin: Final = parse_origin(base_url)
        self.limits: Final = limits or PoolLimits()
        self._tls = (ssl_context or verified_tls()) if self.origin.tls else None
        if self._tls is not None and (self._tls.verify_mode is not ssl.CERT_REQUIRED or not self._tls.check_hostname):
            raise ValueError("the TLS context must verify certificates and host names")
        self._on_results = on_results
        self._may_send = may_send
        self._loop = loop or asyncio.get_running_loop()
        self.mono_us: Final = (clock or Clock()).mono_us
        self._chance = random.Random((clock or Clock()).seed())  # noqa: S311 - jitter, no secret
        self._connect_us = round(self.limits.connect_s * _US)
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []  # a stack: few stay warm, the rest age out
        self._waiting: deque[_Waiting] = deque()  # not empty only while `_idle` is empty
        self._connecting: set[asyncio.Task[None]] = set()
        self._in_flight = 0  # submitted and not yet reported, at most connections_max
        self._connect_failures = 0  # in a row, for the whole pool
        self._connect_after_us = 0
        self._addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []
        self._addresses_until_us = 0
        self._resolving: asyncio.Task[None] | None = None
        self._results: list[Exchange] = []
        self._tick: asyncio.TimerHandle | None = None
        self._tick_due_us = 0
        self._tick_skipped = False
        self._closing = False
        self._drained: asyncio.Future[None] | None = None

    @property
    def slots_free(self) -> int:
        """How many requests may be submitted now.

        While connects fail, only connections that still stand count; when the back-off is over, one request may try.
        """
        if self._closing:
            return 0
        free = self.limits.connections_max - self._in_flight
        if self._connect_failures:
            probes = 1 if self._may_connect(self.mono_us()) else 0
            return min(free, max(len(self._idle), probes))
        return free

    @property
    def in_flight(self) -> int:
        """Requests submitted and not yet reported."""
        return self._in_flight

    @property
    def connections(self) -> int:
        """Connections that stand, idle or busy."""
        return len(self._connections)

    @property
    def connect_wait_s(self) -> float:
        """Seconds until the pool connects again after failures; 0 when it may now."""
        return max(0, self._connect_after_us - self.mono_us()) / _US

    def submit(self, request: object, data: bytes) -> None:
        """Send one complete rendered request; its `Exchange` comes with a later `on_results`.

        Raises NoFreeSlotError when `connections_max` requests are in flight or the pool is closing. During back-off the
        request is reported `NOT_CONNECTED`.
        """
        if self._closing or self._in_flight >= self.limits.connections_max:
            raise NoFreeSlotError(f"{self._in_flight} requests in flight, closing={self._closing}")
        now_us = self.mono_us()
        self._in_flight += 1
        if self._tick is None:
            self._start_tick(now_us)
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive(now_us):
                if not self._give(connection, request, data, now_us, now_us):
                    self._idle.append(connection)
                return
            connection.drop()
        call = _Waiting(request, data, now_us)
        if self._may_connect(now_us):
            self._waiting.append(call)
            self._connect_for_waiting()
        else:
            self._report_unsent(call, "backing off")

    async def request(self, data: bytes) -> Exchange:
        """Send one rendered request and wait for its exchange: for rare calls. Raises NoFreeSlotError as `submit`."""
        answer: asyncio.Future[Exchange] = self._loop.create_future()
        self.submit(_Awaited(answer), data)
        return await answer

    async def close(self, grace_s: float) -> None:
        """Take nothing new, let what is in flight finish for `grace_s`, then cut it.

        Everything is reported before this returns.
        """
        self._closing = True
        for connection in tuple(self._idle):
            connection.drop()
        self._idle.clear()
        if self._in_flight or self._results:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=grace_s)
        for task in tuple(self._connecting):
            task.cancel()
        if self._resolving is not None:
            self._resolving.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        while self._waiting:
            call = self._waiting.popleft()
            self._report_unsent(call, "pool closed")
        for connection in tuple(self._connections):
            connection.fail(Phase.RESET, "pool closed")
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        self._flush()

    # Called by connections.

    def report(self, exchange: Exchange) -> None:
        """Queue one exchange for the next hand-over."""
        if not self._results:
            self._loop.call_soon(self._flush)
        self._in_flight -= 1
        self._results.append(exchange)

    def release(self, connection: Connection, now_us: int) -> None:
        """Give a free connection to who waits longest, or keep it."""
        while self._waiting:
            call = self._waiting.popleft()
            if now_us - call.started_us >= self._connect_us:
                self._report_unsent(call, "no connection in time")
            elif self._give(connection, call.request, call.data, call.started_us, now_us):
                return
        if self._closing:
            connection.drop()
        else:
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Drop a dead connection from the books; whoever waits gets another one."""
        self._connections.discard(connection)
        if not connection.busy and connection in self._idle:
            self._idle.remove(connection)
        if self._waiting:
            self._connect_for_waiting()

    def _give(self, connection: Connection, request: object, data: bytes, started_us: int, now_us: int) -> bool:
        """Start a request on `connection`; False leaves the connection free."""
        if self._may_send is not None and not self._may_send(request):
            elapsed_us = now_us - started_us
            self.report(Exchange(request, Phase.NOT_FLUSHED, 0, None, b"", elapsed_us, "not allowed to send"))
            return False
        connection.start(request, data, started_us, now_us)
        return True

    def _report_unsent(self, call: _Waiting, detail: str) -> None:
        elapsed_us = self.mono_us() - call.started_us
        self.report(Exchange(call.request, Phase.NOT_CONNECTED, 0, None, b"", elapsed_us, detail))

    def _may_connect(self, now_us: int) -> bool:
        return not self._connect_failures or (now_us >= self._connect_after_us and not self._connecting)

    def _connect_for_waiting(self) -> None:
        room = self.limits.connections_max - len(self._connections) - len(self._connecting)
        for _ in range(min(room, len(self._waiting) - len(self._connecting))):
            task = self._loop.create_task(self._connect())
            self._connecting.add(task)

    async def _connect(self) -> None:
        connection: Connection | None = None
        detail = ""
        try:
            async with asyncio.timeout(self.limits.connect_s):
                connection = await self._open()
        except (
            OSError,
            ValueError,
        ) as error:  # ssl.SSLError, gaierror and TimeoutError are OSError; ValueError: a name IDNA refuses
            detail = type(error).__name__
        finally:
            self._connecting.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if connection is not None and not connection.is_closing:
            self._connect_failures = 0
            self._connect_after_us = 0
            self._connections.add(connection)
            now_us = self.mono_us()
            connection.rest(now_us)
            self.release(connection, now_us)
        else:
            self._on_connect_failed(detail or "closed at once")

    async def _open(self) -> Connection:
        """Try the origin's addresses in turn within the one connect bound. Raises the last OSError."""
        last_error: OSError = OSError("no address")
        for family, address in await self._resolve():
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._loop.sock_connect(sock, address)
                connection = Connection(self, sock, tls=self._tls is not None)
                hostname = self.origin.host if self._tls is not None else None
                await self._loop.create_connection(
                    lambda made=connection: made, sock=sock, ssl=self._tls, server_hostname=hostname
                )
            except ssl.SSLError:
                sock.close()
                raise
            except OSError as error:
                sock.close()
                last_error = error
            except BaseException:
                sock.close()
                raise
            else:
                return connection
        raise last_error

    async def _resolve(self) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
        """Give the origin's addresses: one look-up at a time for the pool, kept for 30 s or until a connect fails."""
        if self.mono_us() >= self._addresses_until_us:
            if self._resolving is None:
                self._resolving = self._loop.create_task(self._look_up())
                self._resolving.add_done_callback(self._on_resolved)
            await asyncio.shield(self._resolving)
        return self._addresses

    async def _look_up(self) -> None:
        found = await self._loop.getaddrinfo(self.origin.host, self.origin.port, type=socket.SOCK_STREAM)
        self._addresses = [(family, address) for family, _, _, _, address in found]
        self._addresses_until_us = self.mono_us() + _ADDRESSES_KEPT_US

    def _on_resolved(self, task: asyncio.Task[None]) -> None:
        self._resolving = None
        if not task.cancelled():
            task.exception()  # marks it as seen: those who waited may all have timed out

    def _on_connect_failed(self, detail: str) -> None:
        """Back off for the whole pool: a doubling span, of which chance takes up to half."""
        self._connect_failures += 1
        span_s = min(self.limits.backoff_max_s, self.limits.backoff_first_s * 2 ** min(self._connect_failures - 1, 16))
        self._connect_after_us = self.mono_us() + round(span_s * (0.5 + 0.5 * self._chance.random()) * _US)
        self._addresses_until_us = 0
        while len(self._waiting) > len(self._connecting):
            call = self._waiting.popleft()
            self._report_unsent(call, detail)

    def _start_tick(self, now_us: int) -> None:
        self._tick_due_us = now_us + round(self.limits.tick_s * _US)
        self._tick = self._loop.call_later(self.limits.tick_s, self._on_tick)

    def _on_tick(self) -> None:
        """Expire by one pass: 512 connections, 20 times a second, are 10,000 comparisons: about 1 ms of each second."""
        now_us = self.mono_us()
        # After a freeze the loop runs timers before it reads: answers already in the kernel get one turn to be seen.
        late = now_us - self._tick_due_us > 4 * round(self.limits.tick_s * _US)
        if late and not self._tick_skipped:
            self._tick_skipped = True
        else:
            self._tick_skipped = False
            for connection in tuple(self._connections):
                connection.expire(now_us)
            while self._waiting and now_us - self._waiting[0].started_us >= self._connect_us:
                call = self._waiting.popleft()
                self._report_unsent(call, "no connection in time")
        if self._connections or self._waiting or self._connecting:
            self._start_tick(now_us)
        else:
            self._tick = None

    def _flush(self) -> None:
        results, self._results = self._results, []
        plain = []
        for exchange in results:
            if type(exchange.request) is _Awaited:
                if not exchange.request.answer.done():
                    exchange.request.answer.set_result(exchange)
            else:
                plain.append(exchange)
        if self._drained is not None and not self._in_flight and not self._drained.done():
            self._drained.set_result(None)
        if plain:
            self._on_results(plain)
