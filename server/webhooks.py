"""The receipts edge: takes carriers' webhooks by HTTP/1.1, hands them over in batches, answers after they are stored.

It checks no signature and reads no body: `handle` does, off the loop, and gives a status for each item.

Invariants:

- 200 leaves only after `handle` returned it for that very item; whatever goes wrong there is 503: the carrier retries.
- Bounded: connections, requests in flight, and the bodies of all of them together.
- Wrong signatures beyond a hundred a second, and of an address ten requests refused by head or length, are answered
  about a second later: their sender waits for its answers.
- What a batch holds is given back when its handling ends, not when its answers leave.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter as Tally
from typing import TYPE_CHECKING, Any, Final

import structlog

from engine.webhook_form import WebhookForm
from server.patience import Patience
from server.seldom import Seldom
from server.webhook_connection import ROUTE, TELNYX_HEADERS, Connection, Inbound, SignatureHeaders, Slot, WebhookLimits

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Mapping

    from engine.metrics import Metrics

__all__ = ["TELNYX_HEADERS", "Inbound", "SignatureHeaders", "WebhookLimits", "WebhookServer"]

_log = structlog.stdlib.get_logger(__name__)

UNAUTHORIZED: Final = 401
# Answered at once; a carrier signs rightly or, after a key was changed on one side only, always wrongly.
BAD_SIGNATURES_A_SECOND: Final = 100
# Of an address, by their form alone; one of five megabytes takes milliseconds to be read to its end, as it must be, or
# the answer would be lost. A carrier meets none; one that was moved to a wrong path meets all, late.
REFUSALS_A_SECOND: Final = 10
_HELD_SHARE: Final = 4
# Of the loop, from the accepting of a connection until it knows of it.
ACCEPT_TURNS: Final = 3
_HANDLED: Final = frozenset({200, 400, 401, 503})
# What `longwave_receipts_total` counts each status as; 400 is garbage.
_RESULTS: Final = {200: "stored", 401: "bad_signature", 503: "not_stored"}


class WebhookServer:
    """Listens on the one address that is exposed to the internet. All methods belong to the loop's thread."""

    def __init__(
        self,
        handle: Callable[[list[Inbound]], Coroutine[Any, Any, list[int]]],
        providers: Mapping[str, SignatureHeaders],
        metrics: Metrics,
        *,
        limits: WebhookLimits | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """Prepare; `handle` gives 200 (stored or seen before), 400, 401 or 503 for each item, in order."""
        self.limits: Final = limits or WebhookLimits()
        self.metrics: Final = metrics
        self.providers: Final = {name.encode("ascii"): (name, headers) for name, headers in providers.items()}
        self.watched: Final = frozenset(
            {b"host", b"content-length", b"expect"} | {name for headers in providers.values() for name in headers}
        )
        forms = [
            (name, headers.signature.decode("ascii"), headers.timestamp.decode("ascii"))
            for name, headers in providers.items()
        ]
        self.form: Final = WebhookForm(forms, self.limits.head_bytes_max, self.limits.body_bytes_max)
        self.now_us: Final = now_us
        self.draining = False
        self.held_bytes = 0  # written by connections and by `_hand_over`, all on the loop
        self._handle = handle
        self._connections: set[Connection] = set()
        self._batch: list[tuple[Inbound, Slot]] = []
        self._batch_timer: asyncio.TimerHandle | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self._works: set[asyncio.Task[list[int]]] = set()  # keeps what outlives its answer from being collected
        self._in_flight = 0
        self._patience = Patience()
        self._refusals = Patience()
        self._late, self._failed = Seldom(), Seldom()
        self._server: asyncio.Server | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event = asyncio.Event()

    @property
    def port(self) -> int:
        """The port in use; raises RuntimeError before `start`."""
        if self._server is None:
            raise RuntimeError("not started")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def listening(self) -> bool:
        """Whether new connections are taken."""
        return self._server is not None and self._server.is_serving()

    async def start(self, host: str, port: int, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """Listen. Raises OSError with the address in its text when the address cannot be used."""
        self._loop = asyncio.get_running_loop()
        try:
            self._server = await self._loop.create_server(
                lambda: Connection(self),
                host,
                port,
                backlog=self.limits.backlog,
                ssl=ssl_context,
                ssl_handshake_timeout=self.limits.head_s if ssl_context else None,
            )
        except OSError as error:
            message = (
                f"cannot listen for webhooks on {host}:{port}: {error.strerror or error} (LONGWAVE_WEBHOOK_ADDRESS)"
            )
            raise OSError(error.errno, message) from error
        self._start_tick()

    async def drain(self, grace_s: float) -> int:
        """Stop accepting, answer what is in, close. Returns how many connections had to be cut after `grace_s`."""
        self.draining = True
        if self._server is not None:
            await self._stop_accepting(self._server)
            self._server.close()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        if self._connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
            except TimeoutError:
                _log.warning("webhooks.connections_cut", connections=len(self._connections))
        cut = len(self._connections)
        for connection in tuple(self._connections):
            connection.abort()
        if self._batch:
            self._hand_over()
        if self._handling:  # each ends within handle_s
            await asyncio.wait(self._handling)
        if self._tick is not None:
            self._tick.cancel()
        return cut

    async def _stop_accepting(self, server: asyncio.Server) -> None:
        """Refuse connections from now on, and let those through whose accepting is under way.

        asyncio's own loop leaves those open when the server is closed meanwhile; uvloop, which has no reader here, does
        not.
        """
        accepting = [listening.fileno() for listening in server.sockets]
        accepting = [descriptor for descriptor in accepting if self._loop.remove_reader(descriptor)]
        for descriptor in accepting:
            with socket.socket(fileno=os.dup(descriptor)) as listening:
                listening.shutdown(socket.SHUT_RD)
        for _ in range(ACCEPT_TURNS if accepting else 0):
            await asyncio.sleep(0)

    # Called by connections.

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in; False when there are too many."""
        if self.draining or len(self._connections) >= self.limits.connections_max:
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def has_room(self, body_bytes: int) -> bool:
        """Whether `enqueue` will take a request of such a body now."""
        return (
            self._in_flight < self.limits.in_flight_max and self.held_bytes + body_bytes <= self.limits.held_bytes_max
        )

    def enqueue(self, inbound: Inbound, slot: Slot) -> bool:
        """Put one request into the next batch; False when too many are in flight."""
        if self._in_flight >= self.limits.in_flight_max:
            return False
        self._in_flight += 1
        self._batch.append((inbound, slot))
        if len(self._batch) >= self.limits.batch_max:
            self._hand_over()
        elif self._batch_timer is None:
            self._batch_timer = self._loop.call_later(self.limits.batch_wait_s, self._hand_over)
        return True

    def count(self, provider: str, result: str) -> None:
        """Count one request that never reached `handle`."""
        self.metrics.receipts.labels(provider, result).inc()

    def hold_back(self, slot: Slot, peer: tuple[str, int] | None) -> bool:
        """Whether the refusal in this slot waits for `answer_late`: its address was refused too often lately."""
        if self.draining or self._refusals.held >= self.limits.connections_max // _HELD_SHARE:
            return False
        wait_s = self._refusals.wait_s(peer[0] if peer else "", REFUSALS_A_SECOND, self._loop.time())
        if wait_s:
            self._refusals.held += 1
            self._loop.call_later(wait_s, self._refuse_late, slot, slot.status)
            slot.status = 0
        return wait_s > 0

    def _refuse_late(self, slot: Slot, status: int) -> None:
        self._refusals.held -= 1
        slot.status = status
        slot.connection.answer_late()

    def _hand_over(self) -> None:
        if self._batch_timer is not None:
            self._batch_timer.cancel()
            self._batch_timer = None
        batch, self._batch = self._batch, []
        if batch:
            task = self._loop.create_task(self._answer(batch))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)

    async def _answer(self, batch: list[tuple[Inbound, Slot]]) -> None:
        work = self._loop.create_task(self._handle([inbound for inbound, _ in batch]))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        work.add_done_callback(lambda _: self._settle(batch))
        done, _ = await asyncio.wait([work], timeout=self.limits.handle_s)
        statuses = [503] * len(batch)
        if not done:
            if late := self._late.told(self._loop.time(), len(batch)):
                _log.error("webhooks.handle_late", messages=late, wait_s=self.limits.handle_s)
            work.add_done_callback(_see_failure)
        elif work.cancelled() or (error := work.exception()) is not None:
            if failed := self._failed.told(self._loop.time(), len(batch)):
                _log.error("webhooks.handle_failed", messages=failed, exc_info=None if work.cancelled() else error)
        elif len(given := work.result()) == len(batch) and _HANDLED.issuperset(given):
            statuses = given
        else:
            _log.error("webhooks.handle_wrong_statuses", messages=len(batch))
        self._count(batch, statuses)
        answered = []
        now_s = self._loop.time()
        for (_, slot), status in zip(batch, statuses, strict=True):
            # One bucket for all: behind a proxy every carrier has the same address, and none signs wrongly in numbers.
            wait_s = self._patience.wait_s("", BAD_SIGNATURES_A_SECOND, now_s) if status == UNAUTHORIZED else 0
            if wait_s:
                self._patience.held += 1
                self._loop.call_later(wait_s, self._answer_late, slot)
            else:
                answered.append((slot, status))
        _flush(answered)

    def _answer_late(self, slot: Slot) -> None:
        self._patience.held -= 1
        _flush([(slot, UNAUTHORIZED)])

    def _settle(self, batch: list[tuple[Inbound, Slot]]) -> None:
        """Give back what a batch held, when its handling ended, not when its answers left."""
        self._in_flight -= len(batch)
        self.held_bytes -= sum(len(inbound.body) for inbound, _ in batch)

    def _count(self, batch: list[tuple[Inbound, Slot]], statuses: list[int]) -> None:
        now_us = self.now_us()
        seconds = self.metrics.http_request_seconds.labels("POST", ROUTE)
        for inbound, _ in batch:
            seconds.observe((now_us - inbound.received_us) / 1_000_000)
        for status, requests in Tally(statuses).items():
            self.metrics.http_requests.labels("POST", ROUTE, str(status)).inc(requests)
        providers = [inbound.provider for inbound, _ in batch]
        for (provider, status), requests in Tally(zip(providers, statuses, strict=True)).items():
            self.metrics.receipts.labels(provider, _RESULTS.get(status, "garbage")).inc(requests)

    def _start_tick(self) -> None:
        self._tick = self._loop.call_later(self.limits.tick_s, self._on_tick)

    def _on_tick(self) -> None:
        """Expire by one pass: 1024 connections at 4 passes a second."""
        now_s = self._loop.time()
        for connection in tuple(self._connections):
            connection.expire(now_s)
        self._start_tick()


def _flush(answered: list[tuple[Slot, int]]) -> None:
    """Write answers, each connection's once."""
    connections = set()
    for slot, status in answered:
        slot.status = status
        connections.add(slot.connection)
    for connection in connections:
        connection.flush()


def _see_failure(work: asyncio.Future[list[int]]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        _log.error("webhooks.handle_failed_late", exc_info=error)
