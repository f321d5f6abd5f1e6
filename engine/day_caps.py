"""Day caps: which of them know what their day has spent, and the count for one that does not.

A cap that was set while its day went on, or without an engine, first learns what the day has spent already, as far as
the store knows: the attempts that started that day and were not proved not taken. Until then it lets nothing pass. It
keeps no sums itself (the core's ledgers do).

Invariant: a quota has a row in the store's ledgers if and only if it was counted.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from engine import _core
from engine.clock import Clock
from engine.registry.days import day_of, day_start_us
from engine.registry.snapshot import QuotaRow, RegistryRows
from engine.stores.store import LedgerRow, Store

# What starts today was accepted at most 35 days of schedule and 14 of validity ago.
ACCEPTED_BEFORE_US: Final = 49 * 86_400 * 1_000_000
PIECE_ROWS: Final = 20_000
# Days differ by zone, and an attempt may end on the day after.
DAYS_SHOWN: Final = 3

_log = structlog.get_logger("longwave.day_caps")


class DayCaps:
    """The daily quotas of one corridor."""

    def __init__(self, store: Store, scheduler: _core.Scheduler, clock: Clock) -> None:
        """No quota is counted yet."""
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._shared = store.shared
        self._counted: set[int] = set()
        self._counting = asyncio.Lock()

    def restore(self, ledgers: Sequence[LedgerRow]) -> None:
        """Take over the store's rows (quota, day, spent, reserved); call once, before the days are set."""
        self._counted = {quota for quota, *_ in ledgers}
        if self._shared is None:
            self._scheduler.restore_ledgers(ledgers)
        else:
            self._scheduler.ledgers_seen(ledgers)

    async def look(self) -> None:
        """Let memory follow what other nodes charged."""
        if self._shared is not None and self._counted:
            rows = await self._shared.ledgers_since(day_of("UTC", self._clock.now_us())[0] - DAYS_SHOWN)
            self._counted |= {quota for quota, *_ in rows}
            self._scheduler.ledgers_seen(rows)

    def set_days(self, rows: RegistryRows) -> None:
        """Tell the ledgers that are counted which day it is."""
        now_us = self._clock.now_us()
        zones = [(quota, zone) for quota, zone in rows.time_zones if quota in self._counted]
        self._scheduler.set_days([(quota, *day_of(zone, now_us)) for quota, zone in zones])

    async def count(self, rows: RegistryRows) -> bool:
        """Count for the quotas that are not counted: the scheduler knows them, and lets nothing go. True when any was.

        When it is cut short, the rest is counted at the next call.
        """
        async with self._counting:
            new = [(quota, zone) for quota, zone in rows.time_zones if quota not in self._counted]
            if not new:
                return False
            # Attempts that left the scheduler before it knew the quota are in the store behind this; another node's
            # are there, too: none is written down by whoever does not know the cap.
            await self._store.settled_so_far()
            if self._shared is not None:
                counted = {quota for quota, *_ in await self._store.ledgers()}
                self._counted |= counted
                new = [(quota, zone) for quota, zone in new if quota not in counted]
            for quota, zone in new:
                [row] = [row for row in rows.quotas if row[0] == quota]
                now_us = self._clock.now_us()
                spent = await self._spent(row, rows, day_start_us(zone, now_us))
                ledger = (quota, day_of(zone, now_us)[0], spent, 0)
                await self._store.begin_ledger(ledger)
                if self._shared is None:
                    self._scheduler.restore_ledgers([ledger])
                self._counted.add(quota)
                _log.info("day cap counted", quota=quota, spent=spent)
            await self.look()
            self.set_days(rows)
            return True

    async def _spent(self, quota: QuotaRow, rows: RegistryRows, from_us: int) -> int:
        _, _, brand, carrier, unit, *_ = quota
        campaigns = [campaign for campaign in rows.campaigns if campaign[2] == brand]
        keys = [campaign[0] for campaign in campaigns]
        spent = 0
        for tenant in {campaign[1] for campaign in campaigns}:
            after: int | None = max(0, _core.first_id_at(from_us - ACCEPTED_BEFORE_US) - 1)
            while after is not None:
                found, after = await self._store.started(tenant, after, keys, from_us, carrier, unit, PIECE_ROWS)
                spent += found
        return spent
