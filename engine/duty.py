"""Duty: of the processes over one store one sends, and this is how it comes to that, and what it does for the others.

It moves no message itself. Where only one process can have the store, it is on duty from its start to its end.

A process that stands by asks every `ASK_S` whether the owner's leases are free. When it gets them it takes everything
over as after a crash: what was open is UNKNOWN, what waits is loaded. On duty it reads its inbox, where other nodes put
what they accepted or received. It never goes back: whoever loses the leases ends its process, because what its memory
holds is nobody's any more; a supervisor starts it again, and it stands by.

An ordering key is one line for the whole store, so a message with one goes through the inbox even where the owner
accepts it: what was answered before it, by any node, is in there before it.

Invariants: nothing leaves before all was taken over; a row of the inbox is removed in the transaction that takes it up,
never skipped by a cursor; until everything was taken over, what is accepted here goes through the inbox like anybody
else's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, Final

import structlog

from engine import _core
from engine.errors import NotReady, Refused, StoreBroken
from engine.handed import numbers
from engine.hasten import hasten_lookups
from engine.stores.store import RECOVER_ROWS, InboxKind, InboxRow, Run, Shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.corridor import Corridor

DISPATCHING_STATE: Final = 2
CARRIERS_LOADED_MAX: Final = 1_000_000
SHARDS: Final = range(64)
# How often a node that stands by asks for the leases.
ASK_S: Final = 1.0
# How often the owner looks into its inbox; at once when there was more than a page.
INBOX_S: Final = 0.05
INBOX_ROWS_MAX: Final = 500
# A row that cannot be taken up is looked at again so often, and holds nobody else up.
ASIDE_S: Final = 60.0
# Entries of the log of consent become visible late by at most this: what was seen of it longer ago is complete.
LATE_S: Final = 20.0
CONSENT_S: Final = 1.0
CONSENT_ROWS_MAX: Final = 1000
INBOX_COUNT_S: Final = 1.0
OPT_OUTS: Final = (1, 4)
OPT_IN: Final = 3
US: Final = 1_000_000

_log = structlog.get_logger("longwave.duty")


class Duty:
    """Of one corridor."""

    def __init__(self, corridor: Corridor, shared: Shared | None) -> None:
        """Stand by."""
        self._corridor = corridor
        self._shared = shared
        self._aside: dict[int, float] = {}  # rows of the inbox: when to look at them again
        self._seen: deque[tuple[float, int]] = deque()  # when the log of consent reached which position
        self._something = asyncio.Event()
        self.owner = False
        """This process is the one that sends."""

    # Taking over.

    async def ask(self) -> bool:
        """Take everything over if nobody is the owner; whether this process is."""
        corridor = self._corridor
        asked_us = corridor.clock.mono_us()
        run = await corridor.store.begin_run()
        if run is None:
            return False
        await self.begin(run, asked_us)
        return True

    async def begin(self, run: Run, asked_us: int) -> None:
        """Take everything over, under leases that were asked for at this time; then send."""
        corridor = self._corridor
        corridor.lease.own(run.epoch, asked_us)
        corridor.dispatch.epoch = run.epoch
        if self._shared is not None:
            now_us = corridor.clock.mono_us()
            for shard in SHARDS:
                corridor.scheduler.own(shard, run.epoch, now_us)
            corridor.begin_days(await corridor.store.ledgers())
            await corridor.reload()
            await corridor.reopen_link()
        await self._recover()
        await corridor.sweep.retention.look_at_clock()
        if corridor.history.on:
            corridor.history.note("owns", epoch=run.epoch)
        self.owner = corridor.append.pushes = True
        corridor.metrics.owner.set(1)
        corridor.metrics.takeovers.inc()
        corridor.start_tasks(corridor.sweep.tasks(corridor.every))
        corridor.start_tasks([hasten_lookups(corridor)])
        if self._shared is not None:
            self._shared.taken_over()
            corridor.start_tasks([self._read_inbox(self._shared)])
            corridor.start_tasks([corridor.every(INBOX_COUNT_S, self._count_inbox)])
        corridor.dispatch.start()

    async def _recover(self) -> None:
        corridor = self._corridor
        began_us = corridor.clock.mono_us()
        pairs = await corridor.store.opt_outs()
        corridor.rights.consent = _core.Consent(pairs)
        corridor.scheduler.learn(await corridor.store.carriers(CARRIERS_LOADED_MAX))
        corridor.record.start(await corridor.store.early_count())
        open_attempts = await corridor.store.in_state(DISPATCHING_STATE)
        for start in range(0, len(open_attempts), RECOVER_ROWS):
            chunk = open_attempts[start : start + RECOVER_ROWS]
            await corridor.record.settle(_core.Facts.recovered(chunk), "recover")
        corridor.scheduler.hold_keys(await corridor.store.key_holders())
        await corridor.refill.recover()
        barriers = await corridor.store.barriers_open()
        if barriers:
            # No attempt is open any more: each is UNKNOWN or settled.
            await corridor.store.mark_effective(barriers, corridor.clock.now_us())
        _log.info(
            "recovered",
            queued=len(corridor.scheduler),
            more_queued=corridor.scheduler.any_away,
            unknown=len(open_attempts),
            opt_outs=len(pairs),
            seconds=round((corridor.clock.mono_us() - began_us) / US, 3),
        )

    # Standing by.

    async def stand_by(self, *, asks: bool) -> None:
        """Hold what forbids in memory, and, if this process `asks`, ask for the leases until they are its own."""
        shared, corridor = self._shared, self._corridor
        if shared is None or self.owner:
            return
        self._seen.append((asyncio.get_running_loop().time(), await shared.consent_tail()))
        corridor.rights.consent = _core.Consent(await corridor.store.opt_outs())
        corridor.start_tasks([self._follow_until_owner(shared)])
        if asks:
            corridor.start_tasks([self._ask_until_owner()])
        _log.info("stands by", asks=asks)

    async def _ask_until_owner(self) -> None:
        while not self.owner:
            await asyncio.sleep(ASK_S)
            asked_us = self._corridor.clock.mono_us()
            try:
                run = await self._corridor.store.begin_run()
            except Exception as error:  # noqa: BLE001 - asked again
                _log.warning("leases not asked for", error=type(error).__name__)
                continue
            if run is None:
                continue
            _log.info("takes over", epoch=run.epoch)
            try:
                await self.begin(run, asked_us)
            except Exception as error:  # noqa: BLE001 - told by how the process ends
                _log.exception("take-over failed")
                self._corridor.fail(StoreBroken(f"take-over failed: {type(error).__name__}: this process stops"))
                return

    async def _follow_until_owner(self, shared: Shared) -> None:
        while not self.owner:
            await asyncio.sleep(CONSENT_S)
            try:
                await self._follow_consent(shared)
            except Exception as error:  # noqa: BLE001 - asked again; the attempt's guard has the last word
                _log.warning("consent not followed", error=type(error).__name__)

    async def _follow_consent(self, shared: Shared) -> None:
        now_s = asyncio.get_running_loop().time()
        while len(self._seen) > 1 and self._seen[1][0] < now_s - LATE_S:
            self._seen.popleft()
        consent, after = self._corridor.rights.consent, self._seen[0][1]
        while True:
            rows = await shared.consents(after, CONSENT_ROWS_MAX)
            for after, tenant, recipient, action in rows:  # noqa: B007 - where to go on
                if action in OPT_OUTS:
                    consent.insert(tenant, recipient)
                elif action == OPT_IN:
                    consent.remove(tenant, recipient)
            if len(rows) < CONSENT_ROWS_MAX:
                break
        self._seen.append((now_s, max(after, self._seen[-1][1])))

    # The owner's inbox.

    def look(self) -> None:
        """There is something in the inbox now."""
        self._something.set()

    async def _read_inbox(self, shared: Shared) -> None:
        while True:
            try:
                more = await self._take_page(shared)
            except Refused as error:
                _log.warning("inbox waits", verdict=error.verdict.name, detail=error.detail)
                more = False
            except Exception:  # noqa: BLE001 - logged; its rows are still there
                _log.exception("reading the inbox failed")
                more = False
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._something.wait(), INBOX_S)
            self._something.clear()

    async def _take_page(self, shared: Shared) -> bool:
        """Take up what is there, at most a page; whether there may be more."""
        now_s = asyncio.get_running_loop().time()
        self._aside = {position: again_s for position, again_s in self._aside.items() if again_s > now_s}
        rows = await shared.inbox(list(self._aside), INBOX_ROWS_MAX)
        for kind, run in groupby(rows, key=lambda row: row.kind):
            await self._take_up(shared, kind, list(run))
        return len(rows) == INBOX_ROWS_MAX

    async def _take_up(self, shared: Shared, kind: int, rows: Sequence[InboxRow]) -> None:
        """Rows of one kind; one that cannot be taken up is found by halves and set aside."""
        try:
            if kind == InboxKind.MESSAGES:
                await self._load(shared, rows)
            elif kind == InboxKind.CANCELLED:
                await self._let_go(shared, rows)
            elif kind == InboxKind.WEBHOOK:
                await self._receive(rows)
            elif kind == InboxKind.CONSENT:
                await self._follow(shared, rows)
            else:
                self._leave(rows)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - logged when one row is left
            if len(rows) > 1:
                middle = len(rows) // 2
                await self._take_up(shared, kind, rows[:middle])
                await self._take_up(shared, kind, rows[middle:])
                return
            _log.error("row of the inbox set aside", kind=kind, error=type(error).__name__)
            self._aside[rows[0].position] = asyncio.get_running_loop().time() + ASIDE_S

    def _leave(self, rows: Sequence[InboxRow]) -> None:
        """Of a newer version: for an owner that knows them."""
        again_s = asyncio.get_running_loop().time() + ASIDE_S
        self._aside |= {row.position: again_s for row in rows}

    async def _load(self, shared: Shared, rows: Sequence[InboxRow]) -> None:
        ids = numbers(b"".join(row.payload for row in rows))
        held = await shared.take_messages([row.position for row in rows], ids)
        # In the order in which they were stored, whatever clocks gave them their ids: ordering keys go by it.
        places = {identity: place for place, identity in enumerate(ids)}
        held.sort(key=lambda row: places[row[0]])
        corridor = self._corridor
        corridor.scheduler.push_rows(held, corridor.clock.now_us())
        corridor.moved()

    async def _let_go(self, shared: Shared, rows: Sequence[InboxRow]) -> None:
        ids = numbers(b"".join(row.payload for row in rows))
        # Read behind all that was handed in: what waits then came back, and stays.
        held = await shared.take_messages([row.position for row in rows], ids)
        self._corridor.scheduler.remove(list(set(ids) - {row[0] for row in held}))
        self._corridor.moved()

    async def _receive(self, rows: Sequence[InboxRow]) -> None:
        for at_us, batch in groupby(rows, key=lambda row: row.at_us):
            together = list(batch)
            payloads = [row.payload for row in together]
            await self._corridor.record.receive_handed(payloads, at_us, [row.position for row in together])

    async def _follow(self, shared: Shared, rows: Sequence[InboxRow]) -> None:
        for row in rows:
            tenant, recipient, out = numbers(row.payload)
            await self._corridor.record.follow_consent(tenant, recipient, out=bool(out))
        await shared.done([row.position for row in rows])

    async def _count_inbox(self) -> None:
        if self._shared is None:
            raise NotReady
        rows, oldest_us = await self._shared.inbox_size()
        metrics = self._corridor.metrics
        metrics.inbox_rows.set(rows)
        metrics.inbox_oldest_seconds.set(max(0, self._corridor.clock.now_us() - oldest_us) / US if rows else 0)
