"""The native edge's listener: connections and their bounds, the lookup of handlers, draining.

It knows no method but the path of `SubmitMessage`, whose calls the core hands out together.

Invariants: after `stop` no call of it runs; connections are bounded in number, and each in age.
"""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING, Final, cast

import grpc
import structlog

from engine.config_checks import split_address
from engine.http2 import EdgeConnection, EdgeRules
from server.native.connection import NativeConnection
from server.native.police import Police
from server.native.tls import Tls, tls_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.clock import Clock
    from engine.config import Settings
    from server.gate import Gate
    from server.native.call import Details, NativeCall
    from server.native.packed import Packed
    from server.native.together import Submits

_log = structlog.get_logger("longwave.grpc")

# Memory of one that says nothing is some 30 KiB.
CONNECTIONS_MAX: Final = 10_000
BACKLOG: Final = 256
# How late a deadline may be found to have passed.
EXPIRE_S: Final = 0.02
TICK_S: Final = 0.25
# Of their age, by which connections that came together do not leave together.
JITTER: Final = 0.1
DRAIN_LOOK_S: Final = 0.01
# Of connections without a call.
LEAVING_S: Final = 1.0
# What is left to send at the end has so long to leave, and clients have so long to close their connections.
FLUSH_S: Final = 1.0
# Of requests that have not come whole and answers that are not taken, on all connections: eight times the requests
# of one. Where it is reached it is brought down by a quarter, so that looking for the oldest is rare.
HELD_BYTES_MAX: Final = 256 * 1024 * 1024
HELD_BYTES_KEPT: Final = HELD_BYTES_MAX * 3 // 4
CUT_OFF: Final = "the server stops"


class NativeEdge:
    """All methods belong to the loop's thread."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        clock: Clock,
        *,
        submits: Submits,
        unary_paths: Callable[[], Iterable[str]],
        message_bytes_max: int,
        unary_s_max: float,
    ) -> None:
        """Serve the gate's handlers; `unary_paths` is asked at the start, when all are known."""
        self._settings = settings
        self._gate = gate
        self._unary_paths = unary_paths
        self._unary_us_max = int(unary_s_max * 1e6)
        self._rules: EdgeRules
        self._tls: Tls | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: set[NativeConnection] = set()
        self._timed: set[NativeConnection] = set()
        self._held: dict[NativeConnection, int] = {}
        self._held_bytes = 0
        self._timers: list[asyncio.Task[None]] = []
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.submits = submits
        self.message_bytes_max = message_bytes_max
        self.police = Police()

    @property
    def ended(self) -> int:
        """Connections that were ended for what they cost."""
        return self.police.ended

    def holds(self, address: str) -> bool:
        """Whether new connections from this address are held back."""
        return self.police.holds(address, self.loop.time())

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError or ConfigError."""
        self._rules = EdgeRules(
            submit=self.submits.path,
            unary=list(self._unary_paths()),
            message_bytes_max=self.message_bytes_max,
            calls_max=self._settings.connection_calls_max,
            given_up_a_second=self._settings.connection_given_up_max,
            submit_us_max=self._unary_us_max,
            traced=self._gate.spans is not None,
        )
        self._tls = tls_of(self._settings)
        listeners = _listeners(*split_address(self._settings.grpc_address))
        self._servers = [
            await self.loop.create_server(self._connection, sock=each, backlog=BACKLOG) for each in listeners
        ]
        self._timers = [
            self.loop.create_task(self._every(EXPIRE_S, self._expire)),
            self.loop.create_task(self._every(TICK_S, self._tick)),
        ]
        port: int = listeners[0].getsockname()[1]
        return port

    async def stop(self, grace_s: float) -> None:
        """GOAWAY; let calls end, cut those off that have not after `grace_s`. Safe to call before `start`."""
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            connection.leave()
        # Clients that listen end their connections by themselves, and make no call on one that is closed under them.
        began_s = self.loop.time()
        until_s, idle_s = began_s + grace_s, began_s + min(grace_s, LEAVING_S)
        while self._connections and self.loop.time() < until_s:
            if self.loop.time() > idle_s and not any(each.calls for each in self._connections):
                break
            await asyncio.sleep(DRAIN_LOOK_S)
        for connection in tuple(self._connections):
            connection.close(grpc.StatusCode.UNAVAILABLE, CUT_OFF)
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await self._closed(FLUSH_S)
        for connection in tuple(self._connections):
            connection.abort()
        await self._closed(FLUSH_S)

    async def _closed(self, wait_s: float) -> None:
        until_s = self.loop.time() + wait_s
        while self._connections and self.loop.time() < until_s:  # noqa: ASYNC110 - told by many, asked at the end
            await asyncio.sleep(DRAIN_LOOK_S)

    # What connections ask for.

    def came(self, connection: NativeConnection, address: str) -> EdgeConnection:
        """A connection that may be read; its HTTP/2."""
        self._connections.add(connection)
        given_up_max = self.police.came(connection, address, self.loop.time())
        return EdgeConnection(self._rules, given_up_max, self.clock.mono_us())

    def left(self, connection: NativeConnection) -> None:
        """It is gone."""
        self._connections.discard(connection)
        self._timed.discard(connection)
        self.held(connection, 0)
        self.police.left(connection)

    def timed(self, connection: NativeConnection) -> None:
        """It has calls with a deadline."""
        self._timed.add(connection)

    def held(self, connection: NativeConnection, held_bytes: int) -> None:
        """It holds so many bytes of requests that have not come whole, and of answers that nobody takes.

        Beyond the bound those that wait for longest are ended: who sends and reads as fast as others do is not among
        them.
        """
        before = self._held.pop(connection, 0)
        if held_bytes:
            self._held[connection] = held_bytes
        self._held_bytes += held_bytes - before
        if self._held_bytes <= HELD_BYTES_MAX:
            return
        for oldest in sorted(self._held, key=lambda each: each.held_since_us):
            oldest.refuse_held()
            self._held_bytes -= self._held.pop(oldest)
            if self._held_bytes <= HELD_BYTES_KEPT:
                break

    def flooded(self, connection: NativeConnection, address: str) -> None:
        """It costs much and calls nothing."""
        self.police.flooded(connection, address, self.loop.time())

    async def serve(self, call: NativeCall, details: Details, request: bytes | Packed | None) -> None:
        """Run a call; in a task of its own, for looking up its handler tells the gate who calls."""
        await call.serve(self._gate.service(details), request)

    # Accepting.

    def _connection(self) -> asyncio.Protocol:
        age_s = self._settings.connection_age_s * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
        if len(self._connections) >= CONNECTIONS_MAX:
            return _Full()
        return NativeConnection(self, age_s, None if self._tls is None else self._tls.secured())

    # By time.

    async def _every(self, wait_s: float, work: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(wait_s)
            try:
                work()
            except Exception:  # noqa: BLE001 - logged; the next round tries again
                _log.exception("periodic work failed")

    def _expire(self) -> None:
        now_us = self.clock.mono_us()
        for connection in tuple(self._timed):
            if not connection.expire(now_us):
                self._timed.discard(connection)

    def _tick(self) -> None:
        now_s = self.loop.time()
        self.police.tick(now_s)
        for connection in tuple(self._connections):
            connection.tick(now_s)


class _Full(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


def _listeners(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of the host, on one port; `[::]` takes IPv4, too. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            each = socket.socket(family, kind, protocol)
            made.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(len(found) > 1))
            each.bind((address[0], made[0].getsockname()[1], *address[2:]) if len(made) > 1 else address)
            # Now, not with the loop's backlog alone: of two processes the second one is to fail.
            each.listen(BACKLOG)
            each.setblocking(False)
    except BaseException:
        for each in made:
            each.close()
        raise
    return made
