"""What time brings: timers of messages in the store, look-ups that fell due, days that ended, rows past retention.

It settles nothing itself: facts go to record. Each round is bounded, so that a sweep never holds the writer for long.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from engine import _core
from engine.http_client import NoFreeSlotError
from engine.meter import STATE_NAMES
from engine.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from engine.corridor import Corridor
    from engine.stores.store import Shared

DUE_EVERY_S: Final = 0.25
DUE_ROWS_MAX: Final = 500
REFILL_EVERY_S: Final = 1.0
# A receipt and the answer that tells its message are stored beside each other within this, or never.
EARLY_US: Final = 120_000_000
EXPIRED: Final = 1
BACKLOG_EVERY_S: Final = 5.0
# Three times between two scrapes: what an autoscaler reads is no older than a third of what it reads every 15 s.
QUEUE_EVERY_S: Final = 5.0
# Of the time at most this part is spent with counting what waits.
COUNTING_PART: Final = 20
DAYS_EVERY_S: Final = 1.0
PRUNE_EVERY_S: Final = 60.0
# Timers of these: SUBMITTED, SENT, UNKNOWN.
STATES: Final = (5, 3, 4)
US: Final = 1_000_000
# Look-ups share the provider's API limit with sends; so many at once are few beside in_flight_max.
LOOKUPS_AT_ONCE: Final = 8
# Ten minutes of look-ups that take half a second each.
LOOKUPS_WAITING_MAX: Final = 10_000

_log = structlog.get_logger("longwave.sweep")


class Sweep:
    """Periodic work of one corridor."""

    def __init__(self, corridor: Corridor) -> None:
        """Do nothing yet."""
        self._corridor = corridor
        self.retention = Retention(corridor)
        self.backlog: dict[str, int] = {}
        """Non-terminal messages by state, as last counted."""
        self._count_again_s = 0.0
        self._lookups: asyncio.Queue[tuple[int, str, int]] = asyncio.Queue(LOOKUPS_WAITING_MAX)
        self._looked_up: set[int] = set()  # messages that wait for a look-up or are asked for

    def tasks(
        self, every: Callable[[float, Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]]
    ) -> Iterator[Coroutine[Any, Any, None]]:
        """The loops to run."""
        yield every(DUE_EVERY_S, self.settle_due)
        yield every(REFILL_EVERY_S, self.look_at_stored)
        yield every(REFILL_EVERY_S, self.rescue)
        shared = self._corridor.store.shared
        if shared is not None:
            yield every(REFILL_EVERY_S, partial(self.join_early, shared))
        yield from (self._look_up() for _ in range(LOOKUPS_AT_ONCE))
        yield every(BACKLOG_EVERY_S, self.count_backlog)
        yield every(DAYS_EVERY_S, self._roll_days)
        yield every(PRUNE_EVERY_S, self.prune)

    async def rescue(self) -> None:
        """Look again at messages whose rows could not be written."""
        async with self._corridor.duty.still:
            await self._corridor.record.rescue(self._corridor.duty.own_of)

    async def _roll_days(self) -> None:
        self._corridor.roll_days()
        await self._corridor.day_caps.look()
        await self.write_ledgers()

    async def write_ledgers(self) -> None:
        """Store of the day's ledgers what intents and outcomes did not take along; over a shared store, nothing."""
        scheduler = self._corridor.scheduler
        if self._corridor.store.shared is None and scheduler.ledger_rows():
            rows = await self._corridor.store.write_ledgers(scheduler)
            scheduler.ledgers_stored(rows)

    async def settle_due(self) -> None:
        """Settle messages whose timer ran out, and look up those that wait for a receipt too long."""
        corridor = self._corridor
        now_us = corridor.clock.now_us()
        async with corridor.duty.still:
            found = await corridor.store.due(STATES, now_us, DUE_ROWS_MAX, corridor.duty.shards)
            ids = [identity for identity in found if not corridor.record.is_aside(identity)]
            if not ids:
                return
            for written in await corridor.record.settle(_core.Facts.due(ids)):
                self._look_up_soon(written.settlement.lookups())

    async def look_at_stored(self) -> None:
        """End what expired in the store alone, and read back what a failure or a freed place left to be asked for."""
        corridor = self._corridor
        if not corridor.scheduler.any_away:
            return
        corridor.refill.look()
        async with corridor.duty.still:
            ids = await corridor.refill.expired()
            for start in range(0, len(ids), DUE_ROWS_MAX):
                chunk = [(identity, EXPIRED) for identity in ids[start : start + DUE_ROWS_MAX]]
                await corridor.record.settle(_core.Facts.gates(chunk))

    async def join_early(self, shared: Shared) -> None:
        """Settle receipts known by the provider's id alone that came beside the answer which told us that id."""
        corridor = self._corridor
        async with corridor.duty.still:
            pairs = await shared.early_to_join(corridor.clock.now_us() - EARLY_US, DUE_ROWS_MAX)
            if pairs:
                await shared.join_early(pairs)
                await corridor.record.settle(_core.Facts.kept(sorted({identity for _, identity in pairs})))

    async def looked_up(self) -> None:
        """Wait until every look-up that fell due has its answer."""
        await self._lookups.join()

    def _look_up_soon(self, lookups: list[tuple[int, str, int]]) -> None:
        for lookup in lookups:
            if self._lookups.full():
                return  # their timers, which moved on, bring them back
            if lookup[0] not in self._looked_up:
                self._looked_up.add(lookup[0])
                self._lookups.put_nowait(lookup)

    async def _look_up(self) -> None:
        """One of those who ask: a provider that hangs holds up look-ups, and nothing else."""
        while True:
            lookup = await self._lookups.get()
            try:
                answer = await self._ask(*lookup)
                facts = _core.Facts.lookups([] if answer is None else [answer])
                if len(facts):
                    async with self._corridor.duty.still:
                        if await self._corridor.duty.own_of([lookup[0]]):
                            await self._corridor.record.settle(facts)
            except Exception:  # noqa: BLE001 - logged; its timer brings it back
                _log.exception("look-up failed")
            finally:
                self._looked_up.discard(lookup[0])
                self._lookups.task_done()

    async def _ask(self, identity: int, provider_id: str, generation: int) -> tuple[int, int, int, int, bytes] | None:
        pool = getattr(self._corridor, "pool", None)
        if pool is None:
            return None
        try:
            exchange = await pool.request(_core.render_lookup(provider_id, self._corridor.link.head))
        except NoFreeSlotError:
            return None  # its timer brings it back
        return identity, generation, int(exchange.phase), exchange.status, exchange.body

    async def count_queue(self) -> None:
        """Count what more processes could take over; a round of its own, so a store that hangs does not stop it."""
        corridor = self._corridor
        corridor.metrics.custom_queue.set(corridor.append.waiting_messages + corridor.dispatch.startable())

    async def count_backlog(self) -> None:
        """Count what is not final, for metrics and statistics."""
        corridor = self._corridor
        corridor.metrics.admit_floor.set(corridor.append.floor)
        for reason, messages in corridor.scheduler.waiting():
            corridor.metrics.schedule_waiting.labels(reason).set(messages)
        if not corridor.duty.first:
            # One node tells of the whole store, each of what waits beside its memory.
            self._told({})
            await self._count_stored()
            return
        corridor.metrics.event_log_position.set(await corridor.store.newest_event())
        at_us = await corridor.store.oldest_event_us()
        age_us = 0 if at_us is None else max(0, corridor.clock.now_us() - at_us)
        corridor.metrics.event_log_oldest_seconds.set(age_us / US)
        # Last of all: it takes longest, and may take longer than a server is given.
        await self._count_by_state()

    async def _count_by_state(self) -> None:
        # A server counts a million rows in some tenths of a second: the longer it takes, the more seldom it is asked.
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if began_s < self._count_again_s:
            return
        try:
            rows = await self._corridor.store.count_by_state()
        finally:
            # In vain, too: what the server gave up counting it would begin anew each time.
            took_s = loop.time() - began_s
            if took_s > BACKLOG_EVERY_S / COUNTING_PART:
                self._count_again_s = began_s + COUNTING_PART * took_s
        self._told({STATE_NAMES[state]: messages for state, messages in rows})
        await self._count_stored()

    def _told(self, backlog: dict[str, int]) -> None:
        # States that nothing is in any more are told as 0, or their last number would stay.
        for state in self.backlog.keys() | backlog.keys():
            self._corridor.metrics.backlog.labels(state).set(backlog.get(state, 0))
        self.backlog = backlog
        self._corridor.metrics.message_queue.set(sum(backlog.values()))

    async def _count_stored(self) -> None:
        """What memory lacks is told from the moment it was counted: from an old count it would be nothing, or all."""
        corridor = self._corridor
        scheduler, shared, shards = corridor.scheduler, corridor.store.shared, corridor.duty.shards
        stored = 0
        if scheduler.any_away:
            own = shared is not None and shards is not None
            waiting = await shared.waiting() if shared is not None and own else self.backlog.get("queued", 0)
            stored = max(0, waiting - len(scheduler))
        corridor.metrics.schedule_waiting.labels("stored").set(stored)

    async def prune(self) -> None:
        """Remove rows past their retention; one node does so for all."""
        if self._corridor.duty.first:
            await self.retention.prune()
