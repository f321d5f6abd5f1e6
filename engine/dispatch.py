"""Dispatch: pop what may leave, write the attempts down, let the bytes go, hand the outcomes to record.

It chooses nothing (the scheduler does) and judges nothing (the outcome table does).

Invariants: no byte leaves before the attempt's commit; attempts written down and without recorded outcome never exceed
`in_flight_max`; what the intent's guard refused never reaches the wire; a batch that could not be written down goes
back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from engine import _core, failpoints
from engine.breaker import Breaker, RetryBudget
from engine.clock import Clock
from engine.errors import Refused, RegistryMoved
from engine.history import History
from engine.http_client import Exchange, HttpPool, NoFreeSlotError, Phase
from engine.meter import Meter
from engine.record import Record
from engine.rights import Rights
from engine.stores.store import Intent, Store

EXPIRED: Final = 1
STOPPED: Final = 3
# With nothing due, look again this often: a clock that was set, a registry that changed.
IDLE_S: Final = 1.0
RETRY_S: Final = 1.0
# Written down and sent side by side, at most; more than one only where tokens came that would not have lasted.
BATCHES_MAX: Final = 4
# Outcomes of the last answers are given so long to be written, even when no grace is left.
RECORD_S: Final = 1.0
SERVER_ERROR: Final = 500
ACCOUNT: Final = (401, 402, 403)

_log = structlog.get_logger("longwave.dispatch")


@dataclass(frozen=True, slots=True)
class Link:
    """How this provider is reached, and what its bytes depend on."""

    provider: int
    """Key of the provider's row."""
    name: str
    head: tuple[str, str, str]
    """(path prefix, host, API key)."""
    recipe: int
    """Key of the recipe of new generations."""
    recipes: dict[int, tuple[str, str, bytes]]
    """Every recipe whose MAC key is still live: (callback base, key name, key)."""


class Dispatch:
    """Drives one provider."""

    def __init__(
        self,
        store: Store,
        record: Record,
        rights: Rights,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        clock: Clock,
        meter: Meter,
        history: History,
        breaker: Breaker,
        budget: RetryBudget,
        link: Link,
        *,
        in_flight_max: int,
        send_us: int,
        on_popped: Callable[[], None],
        on_registry_moved: Callable[[], Awaitable[None]],
    ) -> None:
        """`send_us` bounds one whole attempt; `on_popped` is called when messages left the scheduler.

        `on_registry_moved` reads the registry that the store has now.

        `connect` gives it a pool before `start`.
        """
        self._store = store
        self._record = record
        self._rights = rights
        self._scheduler = scheduler
        self._settler = settler
        self._clock = clock
        self._meter = meter
        self._history = history
        self._breaker = breaker
        self._budget = budget
        self.link = link
        """Replaced as a whole when recipes of other nodes are to be known."""
        self.epoch = 0
        """Of the ownership that attempts are written down under."""
        self._in_flight_max = in_flight_max
        self._send_us = send_us
        self._on_popped = on_popped
        self._on_registry_moved = on_registry_moved
        self._pool: HttpPool | None = None
        self._wake = asyncio.Event()
        self._granted = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._unsent = 0  # popped, and not with the pool yet
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._answered: list[Exchange] = []  # came in while the ones before are being recorded
        self._recording: asyncio.Task[None] | None = None
        self._last_intent_us = 0
        self._generations: dict[int, int] = {}  # of attempts on the wire: the breaker's, when they began
        meter.metrics.dispatch_slots.labels(link.name).set(in_flight_max)
        meter.metrics.breaker_open.labels(link.name).set(0)
        self._observe_seconds = meter.metrics.attempt_seconds.labels(link.name).observe

    def connect(self, make_pool: Callable[[Callable[[list[Exchange]], None]], HttpPool]) -> None:
        """Make the pool; it reports to this dispatcher."""
        self._pool = make_pool(self._on_results)

    def start(self) -> None:
        """Begin to pop, as the owner under `epoch`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="dispatch")

    def wake(self) -> None:
        """Something changed: look again."""
        self._wake.set()

    def granted(self) -> None:
        """Tokens of a shared rate came, which do not last: what they let pass is not to wait for the batch before."""
        self._granted.set()
        self._wake.set()

    @property
    def in_flight(self) -> int:
        """Attempts written down and without recorded outcome."""
        return self._scheduler.outstanding

    def startable(self) -> int:
        """Messages that every limit and the provider let leave now, and that wait for a slot or for their turn.

        A provider that refuses, or a link that is not set up, is no work for others: as many count as may be tried.
        """
        if self._pool is None:
            return 0
        mono_us = self._clock.mono_us()
        messages = self._scheduler.startable(self._clock.now_us(), mono_us)
        return self._budget.room(self._breaker.room(messages, mono_us), mono_us)

    async def stop(self, grace_s: float) -> None:
        """Start nothing new, give what is on the wire `grace_s` to be answered, record all of it."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        until_s = asyncio.get_running_loop().time() + grace_s
        if self._pool is not None:
            await self._pool.close(grace_s)
        if self._recording is not None:
            # Bounded: on a full disk it would go on for ever. What is not recorded is UNKNOWN at the next start.
            left_s = max(RECORD_S, until_s - asyncio.get_running_loop().time())
            await asyncio.wait([self._recording], timeout=left_s)
            if self._recording is not None:
                self._recording.cancel()

    async def _run(self) -> None:
        try:
            await self._run_passes()
        finally:
            # Cancelled: they go, too. Stopped in order: they come to their end.
            if not self._stopping:
                for sending in self._sending:
                    sending.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    async def _run_passes(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                wait_s = await self._pass()
            except Refused as error:
                _log.warning("dispatch pauses", stage="dispatch", verdict=error.verdict.name, detail=error.detail)
                wait_s = RETRY_S
            except Exception:  # noqa: BLE001 - logged; dispatch must go on
                _log.exception("dispatch pass failed", stage="dispatch")
                wait_s = RETRY_S
            if wait_s > 0 and not self._wake.is_set():
                timer = asyncio.get_running_loop().call_later(wait_s, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    timer.cancel()

    async def _pass(self) -> float:
        """One pop and what follows from it; seconds until the next is worth it (0: at once)."""
        mono_us = self._clock.mono_us()
        free = self._pool.slots_free - self._unsent if self._pool is not None else 0
        slots = min(free, self._in_flight_max - self.in_flight)
        room = self._budget.room(self._breaker.room(max(0, slots), mono_us), mono_us)
        now_us = self._clock.now_us()
        dispatch, expired, stopped, next_us = self._scheduler.pop(now_us, mono_us, room)
        traces = self._meter.traces
        trace = None if traces is None else traces.passed("schedule", dispatch.ids(), mono_us)
        self._meter.stage("schedule", len(dispatch), (self._clock.mono_us() - mono_us) / 1e6, trace)
        self._on_popped()
        gates = [(identity, EXPIRED) for identity in expired] + [(identity, STOPPED) for identity in stopped]
        if gates:
            self._record.settle_soon(_core.Facts.gates(gates))
        if len(dispatch):
            await self._send_until_granted(dispatch)
            return 0
        if room == 0:
            # Woken by the next outcome; a breaker, a budget or a pool that backs off only by the clock.
            waits = [
                self._breaker.wait_us(mono_us) / 1e6,
                self._budget.wait_us(mono_us) / 1e6,
                self._pool.connect_wait_s if self._pool is not None else 0,
            ]
            return max(0.01, min(IDLE_S, max(waits) or IDLE_S))
        return IDLE_S if next_us < 0 else min(IDLE_S, max(0.001, next_us / 1e6))

    async def _send_until_granted(self, dispatch: _core.Dispatch) -> None:
        """Send a batch, and go on before it has left when tokens come. Raises what sending it raised until then."""
        self._granted.clear()
        sending = asyncio.get_running_loop().create_task(self._send(dispatch), name="dispatch.send")
        self._sending.add(sending)
        if len(self._sending) >= BATCHES_MAX:
            await asyncio.wait({sending})
        else:
            granted = asyncio.ensure_future(self._granted.wait())
            try:
                await asyncio.wait({sending, granted}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                granted.cancel()
        if sending.done():
            self._sending.discard(sending)
            sending.result()
        else:
            sending.add_done_callback(self._sent_late)

    def _sent_late(self, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            _log.warning("a batch was not sent", stage="dispatch", error=type(error).__name__)

    async def _send(self, dispatch: _core.Dispatch) -> None:
        waiting = len(dispatch)
        self._unsent += waiting
        try:
            await self._send_batch(dispatch)
        finally:
            self._unsent -= waiting

    async def _send_batch(self, dispatch: _core.Dispatch) -> None:
        began_us = self._clock.mono_us()
        popped = dispatch.ids()
        generation = self._breaker.started(len(popped))
        self._budget.started(len(popped))
        # A value of its own for each batch: with the epoch it names the batch in the store.
        self._last_intent_us = max(self._last_intent_us + 1, self._clock.now_us())
        intent = Intent(
            self._last_intent_us, self.epoch, self.link.provider, self.link.recipe, self._send_us, self._rights.caps
        )
        try:
            written = await self._store.intend(
                dispatch, intent, self._scheduler, self._settler, self._rights.registry, self._clock.seed()
            )
        except BaseException as error:
            self._breaker.nothing_started(generation)
            self._budget.not_started(len(popped))
            self._record.spawn(self._record.take_up_again(self._scheduler.unpop(dispatch)))
            if isinstance(error, RegistryMoved):
                await self._on_registry_moved()
                return
            raise
        self._scheduler.reserved(dispatch)
        if written is not None:
            kept = set(dispatch.ids())
            self._scheduler.dropped([identity for identity in popped if identity not in kept])
            self._budget.not_started(len(popped) - len(kept))
            self._record.follow(written)
            if written.poisoned:
                self._record.spawn(self._poisoned(written.poisoned))
        if not len(dispatch):
            self._breaker.nothing_started(generation)
            return
        if self._history.on:
            # Committed at some moment of these: who is frozen right after it tells of it late.
            took_us = self._clock.mono_us() - began_us
            self._history.note("intended", ids=dispatch.ids(), epoch=intent.epoch, took_us=took_us)
        requests = self._render(dispatch)
        failpoints.passing("dispatch.before_bytes")
        pool = self._pool
        if pool is None:
            message = "dispatch has no pool"
            raise RuntimeError(message)
        self._generations.update((request.id, generation) for request in requests)
        left = self._submit(pool, requests)
        failpoints.passing("dispatch.bytes_left")
        if left < len(requests):
            self._breaker.nothing_started(generation)
            for request in requests[left:]:
                self._generations.pop(request.id, None)
            self._record_later([_not_sent(request) for request in requests[left:]])
        self._meter.metrics.dispatch_in_flight.labels(self.link.name).set(self.in_flight)
        traces = self._meter.traces
        trace = None if traces is None else traces.passed("dispatch", [request.id for request in requests], began_us)
        self._meter.stage("dispatch", len(requests), (self._clock.mono_us() - began_us) / 1e6, trace)

    @staticmethod
    def _submit(pool: HttpPool, requests: list[_core.Request]) -> int:
        """How many are on their way; a look-up may have taken a slot while the attempts were written down."""
        for left, request in enumerate(requests):
            try:
                pool.submit(request, request.data)
            except NoFreeSlotError:
                return left
        return len(requests)

    def _render(self, dispatch: _core.Dispatch) -> list[_core.Request]:
        """The batch's requests; a message that cannot be rendered is recorded as such and never leaves."""
        try:
            failpoints.passing("render.message")
            return dispatch.requests(self._rights.registry, self.link.recipes, self.link.head, None)
        except Exception:  # noqa: BLE001 - logged; each message is tried alone
            _log.exception("rendering a batch failed; trying each message alone", stage="dispatch")
        good: list[_core.Request] = []
        bad: list[int] = []
        for identity in dispatch.ids():
            try:
                failpoints.passing("render.message")
                good += dispatch.requests(self._rights.registry, self.link.recipes, self.link.head, [identity])
            except Exception:  # noqa: BLE001 - logged and recorded
                _log.exception("rendering a message failed", stage="dispatch", message_id=_core.short_id(identity))
                bad.append(identity)
        if bad:
            self._record.spawn(self._crashed(bad))
        return good

    async def _poisoned(self, ids: list[int]) -> None:
        """Messages whose attempt cannot be written down: counted as crashed, out of the way until looked at again."""
        await self._crashed(ids)
        for identity in ids:
            if not self._record.is_aside(identity):
                self._record.set_aside(identity, "its attempt cannot be written down")

    async def _crashed(self, ids: list[int]) -> None:
        await self._record.settle_surely(_core.Facts.crashed(ids))

    # Outcomes.

    def _on_results(self, exchanges: list[Exchange]) -> None:
        if self._meter.traces is not None and self._pool is not None:
            self._meter.traces.exchanged(self._pool.origin, self.link.name, exchanges)
        mono_us = self._clock.mono_us()
        was_open = self._breaker.is_open
        by_generation: dict[int, list[bool]] = {}
        for exchange in exchanges:
            generation = self._generations.pop(exchange.request.id, -1)  # type: ignore[attr-defined] # only Requests are submitted
            by_generation.setdefault(generation, []).append(_is_failure(exchange))
            self._observe_seconds(exchange.elapsed_us / 1e6)
        for generation, failed in by_generation.items():
            self._breaker.ended(generation, len(failed), sum(failed), mono_us)
        if self._breaker.is_open != was_open:
            self._meter.metrics.breaker_open.labels(self.link.name).set(int(self._breaker.is_open))
            _log.warning("breaker", stage="dispatch", provider=self.link.name, open=self._breaker.is_open)
        self._record_later(exchanges)

    def _record_later(self, exchanges: list[Exchange]) -> None:
        self._answered += exchanges
        if self._recording is None:
            self._recording = asyncio.get_running_loop().create_task(self._record_answered())

    async def _record_answered(self) -> None:
        # One group at a time: what is answered meanwhile makes the next, so that groups grow with the load.
        try:
            while self._answered:
                exchanges, self._answered = self._answered, []
                try:
                    await self._record_outcomes(exchanges)
                except Exception:  # noqa: BLE001 - logged; those behind are recorded
                    _log.exception("recording outcomes failed", stage="record", attempts=len(exchanges))
        finally:
            self._recording = None

    async def _record_outcomes(self, exchanges: list[Exchange]) -> None:
        try:
            await self._record.outcomes(
                [
                    (
                        exchange.request,  # type: ignore[misc] # only Requests are submitted
                        int(exchange.phase),
                        exchange.status,
                        None if exchange.retry_after_s is None else int(exchange.retry_after_s * 1e6),
                        exchange.body,
                    )
                    for exchange in exchanges
                ]
            )
        finally:
            self._meter.metrics.dispatch_in_flight.labels(self.link.name).set(self.in_flight)
            self._wake.set()


def _not_sent(request: _core.Request) -> Exchange:
    return Exchange(request, Phase.NOT_CONNECTED, 0, None, b"", 0, "no free slot")


def _is_failure(exchange: Exchange) -> bool:
    """For reasons of the provider or the way to it, not of the message."""
    if exchange.phase is not Phase.ANSWERED:
        return True
    return exchange.status >= SERVER_ERROR or exchange.status in ACCOUNT
