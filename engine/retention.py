"""Retention: rows past their time are removed, as fast as they come in and without holding the writer for long.

It removes no message and no opt-out.

Rows carry wall time, and the wall clock may be set wrong or right: a row a second old would look days old after a
step forward. So its age is the younger by two clues: the wall clock, and the time that the engine has run
(`_Elapsed`), which nobody sets. By how far the first ran ahead of the second within the last retention, so much longer
everything is kept.

Invariants: nothing is removed before it was kept for its retention by both; one transaction removes only what takes
some `HOLD_US`; every kind has its turn, however much there is of another.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from engine import _core
from engine.stores import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.corridor import Corridor
    from engine.stores.connection import Connection

US: Final = 1_000_000
# A group commit is some 5 ms: one round costs whoever waits for the writer no more than two.
HOLD_US: Final = 10_000
ROWS_MIN: Final = 100
ROWS_FIRST: Final = 1000
ROWS_MAX: Final = 20_000
# The writer is left to others at least as long as a round took.
PAUSE_MIN_S: Final = 0.001
# Less is a clock being slewed, or a restart.
STEP_US: Final = 60 * US

_log = structlog.get_logger("longwave.sweep")


@dataclass(slots=True)
class _Elapsed:
    """How long the engine has run over this store, and how far the wall clock was ahead of that, at the lowest.

    Two spans, each as long as the longest retention: the lowest of both covers all that may still be kept.
    """

    ran_us: int
    low_us: int
    low_before_us: int
    span_from_us: int

    def look(self, ran_us: int, ahead_us: int, span_us: int) -> None:
        """Take note of the clocks."""
        if ran_us - self.span_from_us >= span_us:
            gone = ran_us - self.span_from_us >= 2 * span_us
            self.low_before_us = ahead_us if gone else self.low_us
            self.low_us, self.span_from_us = ahead_us, ran_us
        self.ran_us, self.low_us = ran_us, min(self.low_us, ahead_us)

    def stepped_us(self, ahead_us: int) -> int:
        """How far the wall clock went forward without time passing."""
        step_us = ahead_us - min(self.low_us, self.low_before_us)
        return step_us if step_us > STEP_US else 0


FACTS: Final = ("retention_ran_us", "retention_low_us", "retention_low_before_us", "retention_span_from_us")


class Retention:
    """Of one corridor."""

    def __init__(self, corridor: Corridor) -> None:
        """Do nothing yet."""
        self._corridor = corridor
        settings = corridor.settings
        day_us, hour_us = 86_400 * US, 3600 * US
        events_us = int(settings.event_retention_days * day_us)
        webhooks_us = int(settings.webhook_event_retention_days * day_us)
        early_us = int(settings.early_receipt_retention_h * hour_us)
        self._request_ids_us = int(settings.request_id_retention_h * hour_us)
        self._kinds = (
            (sql.DELETE_EVENTS, events_us),
            (sql.DELETE_WEBHOOK_EVENTS, webhooks_us),
            (sql.DELETE_UNKNOWN_WEBHOOKS, webhooks_us),
            (sql.DELETE_EARLY_RECEIPTS, early_us),
        )
        self._span_us = max(events_us, webhooks_us, early_us, self._request_ids_us)
        self._elapsed: _Elapsed | None = None
        self._started_us = 0  # boot clock less the time that the engine has run
        self._rows = dict.fromkeys(range(len(self._kinds) + 1), ROWS_FIRST)

    async def look_at_clock(self) -> int:
        """The wall time by which rows are old; call at a start, before anything is stored, and from time to time."""
        corridor = self._corridor
        mono_us, now_us = corridor.clock.mono_us(), corridor.clock.now_us()
        elapsed = self._elapsed
        if elapsed is None:
            ran_us, *others = await corridor.look_up.read(_read_facts)
            ahead_us = now_us - (ran_us or 0)
            low_us, low_before_us, span_from_us = (
                value if value is not None else otherwise
                for value, otherwise in zip(others, (ahead_us, ahead_us, ran_us or 0), strict=True)
            )
            elapsed = self._elapsed = _Elapsed(ran_us or 0, low_us, low_before_us, span_from_us)
            self._started_us = mono_us - elapsed.ran_us
        ran_us = mono_us - self._started_us
        ahead_us = now_us - ran_us
        elapsed.look(ran_us, ahead_us, self._span_us)
        stepped_us = elapsed.stepped_us(ahead_us)
        values = (elapsed.ran_us, elapsed.low_us, elapsed.low_before_us, elapsed.span_from_us)
        await corridor.writer.submit("control", partial(_write_facts, values=values))
        if stepped_us:
            _log.info("retention waits: the wall clock went forward", seconds=stepped_us // US)
        return now_us - stepped_us

    async def prune(self) -> None:
        """Remove rows past their retention, round by round, until no kind has more."""
        now_us = await self.look_at_clock()
        jobs: list[Callable[[Connection, int], bool]] = [
            partial(_delete, statement=statement, before_us=now_us - retention_us)
            for statement, retention_us in self._kinds
        ]
        jobs.append(partial(_prune_request_ids, before=_core.first_id_at(now_us - self._request_ids_us)))
        going = list(enumerate(jobs))
        while going:
            going = [(kind, job) for kind, job in going if await self._round(kind, job)]

    async def _round(self, kind: int, job: Callable[[Connection, int], bool]) -> bool:
        """One transaction; True when there may be more."""
        clock, rows = self._corridor.clock, self._rows[kind]

        def timed(connection: Connection) -> tuple[bool, int]:
            began_us = clock.mono_us()
            return job(connection, rows), clock.mono_us() - began_us

        more: bool
        more, took_us = await self._corridor.writer.submit("control", timed)
        if more:
            fitting = rows * HOLD_US // max(1, took_us)
            self._rows[kind] = max(ROWS_MIN, min(ROWS_MAX, fitting, rows * 2))
            await asyncio.sleep(max(PAUSE_MIN_S, took_us / US))
        return more


def _read_facts(connection: Connection) -> list[int | None]:
    found = [connection.execute(sql.SELECT_FACT, (name,)).fetchone() for name in FACTS]
    return [None if row is None else row[0] for row in found]


def _write_facts(connection: Connection, values: Sequence[int]) -> None:
    connection.executemany(sql.UPSERT_FACT, list(zip(FACTS, values, strict=True)))


def _delete(connection: Connection, rows: int, *, statement: str, before_us: int) -> bool:
    removed: int = connection.execute(statement, (before_us, rows)).rowcount
    return removed == rows


def _prune_request_ids(connection: Connection, rows: int, *, before: int) -> bool:
    """Forget request ids of messages accepted before the retention; True when there may be more."""
    found = connection.execute(sql.SELECT_FACT, ("request_ids_pruned_to",)).fetchone()
    after = 0 if found is None else found[0]
    old = connection.execute(sql.SELECT_REQUEST_IDS_TO_PRUNE, (after, before, rows)).fetchall()
    if not old:
        return False
    connection.executemany(
        sql.DELETE_REQUEST_ID,
        [(tenant, _core.record_request_id(record), identity) for identity, tenant, record in old],
    )
    connection.execute(sql.UPSERT_FACT, ("request_ids_pruned_to", old[-1][0]))
    return len(old) == rows
