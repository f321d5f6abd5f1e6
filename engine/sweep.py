"""What time brings: timers of messages in the store, look-ups that fell due, days that ended, rows past retention.

It settles nothing itself: facts go to record. Each round is bounded, so that a sweep never holds the writer for long.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from engine import _core
from engine.http_client import NoFreeSlotError
from engine.meter import STATE_NAMES
from engine.stores import sql, sqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from engine.corridor import Corridor
    from engine.stores.connection import Connection

DUE_EVERY_S: Final = 0.25
DUE_ROWS_MAX: Final = 500
REFILL_EVERY_S: Final = 1.0
EXPIRED: Final = 1
BACKLOG_EVERY_S: Final = 5.0
DAYS_EVERY_S: Final = 1.0
PRUNE_EVERY_S: Final = 60.0
PRUNE_ROWS_MAX: Final = 2000
PRUNE_ROUNDS_MAX: Final = 20
# Timers of these: SUBMITTED, SENT, UNKNOWN.
STATES: Final = (5, 3, 4)
US: Final = 1_000_000
# Look-ups share the provider's API limit with sends; so many at once are few beside in_flight_max.
LOOKUPS_AT_ONCE: Final = 8


class Sweep:
    """Periodic work of one corridor."""

    def __init__(self, corridor: Corridor) -> None:
        """Do nothing yet."""
        self._corridor = corridor
        self.backlog: dict[str, int] = {}
        """Non-terminal messages by state, as last counted."""

    def tasks(
        self, every: Callable[[float, Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]]
    ) -> Iterator[Coroutine[Any, Any, None]]:
        """The loops to run."""
        yield every(DUE_EVERY_S, self.settle_due)
        yield every(REFILL_EVERY_S, self.look_at_stored)
        yield every(BACKLOG_EVERY_S, self.count_backlog)
        yield every(DAYS_EVERY_S, self._roll_days)
        yield every(PRUNE_EVERY_S, self.prune)

    async def _roll_days(self) -> None:
        self._corridor.roll_days()
        await self.write_ledgers()

    async def write_ledgers(self) -> None:
        """Store of the day's ledgers what intents and outcomes did not take along."""
        scheduler = self._corridor.scheduler
        if scheduler.ledger_rows():
            rows = await self._corridor.writer.submit("record", partial(sqlite.write_ledgers, scheduler=scheduler))
            scheduler.ledgers_stored(rows)

    async def settle_due(self) -> None:
        """Settle messages whose timer ran out, and look up those that wait for a receipt too long."""
        corridor = self._corridor
        now_us = corridor.clock.now_us()
        find = partial(sqlite.due, states=STATES, now_us=now_us, rows_max=DUE_ROWS_MAX)
        ids = await corridor.look_up.read(find)
        if not ids:
            return
        written = await corridor.record.settle(_core.Facts.due(ids))
        await self._look_up(written.settlement.lookups())

    async def look_at_stored(self) -> None:
        """End what expired in the store alone, and read back what a failure or a freed place left to be asked for."""
        corridor = self._corridor
        if not corridor.scheduler.any_away:
            return
        corridor.refill.look()
        ids = await corridor.refill.expired()
        for start in range(0, len(ids), DUE_ROWS_MAX):
            chunk = [(identity, EXPIRED) for identity in ids[start : start + DUE_ROWS_MAX]]
            await corridor.record.settle(_core.Facts.gates(chunk))

    async def _look_up(self, lookups: list[tuple[int, str, int]]) -> None:
        for start in range(0, len(lookups), LOOKUPS_AT_ONCE):
            chunk = lookups[start : start + LOOKUPS_AT_ONCE]
            answers = await asyncio.gather(*(self._ask(*lookup) for lookup in chunk))
            facts = _core.Facts.lookups([answer for answer in answers if answer is not None])
            if len(facts):
                await self._corridor.record.settle(facts)

    async def _ask(self, identity: int, provider_id: str, generation: int) -> tuple[int, int, int, int, bytes] | None:
        pool = getattr(self._corridor, "pool", None)
        if pool is None:
            return None
        try:
            exchange = await pool.request(_core.render_lookup(provider_id, self._corridor.link.head))
        except NoFreeSlotError:
            return None  # its timer brings it back
        return identity, generation, int(exchange.phase), exchange.status, exchange.body

    async def count_backlog(self) -> None:
        """Count what is not final, for metrics and statistics."""
        corridor = self._corridor
        rows = await corridor.look_up.read(lambda connection: connection.execute(sql.COUNT_BY_STATE).fetchall())
        self.backlog = {STATE_NAMES[state]: messages for state, messages in rows}
        corridor.metrics.message_queue.set(sum(self.backlog.values()))
        for reason, messages in corridor.scheduler.waiting():
            corridor.metrics.schedule_waiting.labels(reason).set(messages)
        stored = max(0, self.backlog.get("queued", 0) - len(corridor.scheduler)) if corridor.scheduler.any_away else 0
        corridor.metrics.schedule_waiting.labels("stored").set(stored)
        _, newest = await corridor.event_bounds()
        corridor.metrics.event_log_position.set(newest)
        at_us = await corridor.look_up.read(lambda connection: connection.execute(sql.SELECT_OLDEST_EVENT).fetchone())
        age_us = 0 if at_us is None else max(0, corridor.clock.now_us() - at_us[0])
        corridor.metrics.event_log_oldest_seconds.set(age_us / US)

    async def prune(self) -> None:
        """Remove rows past their retention, in small batches."""
        corridor, settings = self._corridor, self._corridor.settings
        now_us = corridor.clock.now_us()
        for statement, retention_s in (
            (sql.DELETE_EVENTS, settings.event_retention_days * 86_400),
            (sql.DELETE_WEBHOOK_EVENTS, settings.webhook_event_retention_days * 86_400),
            (sql.DELETE_EARLY_RECEIPTS, settings.early_receipt_retention_h * 3600),
        ):
            before_us = now_us - int(retention_s * US)
            for _ in range(PRUNE_ROUNDS_MAX):
                delete = partial(_delete, statement=statement, before_us=before_us)
                if await corridor.writer.submit("control", delete) < PRUNE_ROWS_MAX:
                    break
        before = _core.first_id_at(now_us - int(settings.request_id_retention_h * 3600 * US))
        for _ in range(PRUNE_ROUNDS_MAX):
            if not await corridor.writer.submit("control", partial(_prune_request_ids, before=before)):
                break


def _delete(connection: Connection, statement: str, before_us: int) -> int:
    removed: int = connection.execute(statement, (before_us, PRUNE_ROWS_MAX)).rowcount
    return removed


def _prune_request_ids(connection: Connection, before: int) -> bool:
    """Forget request ids of messages accepted before the retention; True when there may be more."""
    found = connection.execute(sql.SELECT_FACT, ("request_ids_pruned_to",)).fetchone()
    after = 0 if found is None else found[0]
    rows = connection.execute(sql.SELECT_REQUEST_IDS_TO_PRUNE, (after, before, PRUNE_ROWS_MAX)).fetchall()
    if not rows:
        return False
    connection.executemany(
        sql.DELETE_REQUEST_ID,
        [(tenant, _core.record_request_id(record), identity) for identity, tenant, record in rows],
    )
    connection.execute(sql.UPSERT_FACT, ("request_ids_pruned_to", rows[-1][0]))
    return len(rows) == PRUNE_ROWS_MAX
