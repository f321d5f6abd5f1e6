"""Duty: which shards this process sends for, how it comes to them, lets them go, and what it does for the other nodes.

It moves no message itself. Where only one process can have the store, it is on duty for all shards from its start to
its end.

Over a shared store each node that sends asks every `ASK_S` whether shards are free and takes up to its share; what it
has above it, it gives away. A shard that comes is taken over as after a crash: what was open is UNKNOWN, what waits is
loaded. One that goes leaves memory first; its lease is given when no attempt of it is open and all that was handed in
is stored. Whoever *loses* a lease ends its process, because what its memory holds is nobody's any more; a supervisor
starts it again. Of its shards a node reads the inbox, where others put what they accepted or received.

An ordering key is one line for all nodes, so a message with one goes through the inbox even where the owner of its
shard accepts it: what was answered before it, by any node, is in there before it.

Invariants: nothing of a shard leaves before all of it was taken over; a row of the inbox is removed in the transaction
that takes it up, never skipped by a cursor; until a shard was taken over, what is accepted of it here goes through the
inbox like anybody else's; what is settled by looking into the store (`still`) is of shards that do not go meanwhile.
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
from engine.refill import STREAMS
from engine.stores.store import RECOVER_ROWS, SHARDS, InboxKind, InboxRow, Run, Shards, Shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.corridor import Corridor

DISPATCHING_STATE: Final = 2
CARRIERS_LOADED_MAX: Final = 1_000_000
# How often a node asks for free shards, and whether it has too many.
ASK_S: Final = 1.0
# Shards that were left to others so long are taken by whoever asks: one that is alive and takes none holds up nothing.
LEFT_S: Final = 30.0
# An attempt of a shard that goes is waited for so long beyond its send; the next owner finds it without outcome.
OUTCOMES_S: Final = 5.0
OUTCOME_LOOK_S: Final = 0.02
# How often the owner looks into its inbox; at once when there was more than a page.
INBOX_S: Final = 0.05
INBOX_ROWS_MAX: Final = 500
# A row that cannot be taken up is looked at again so often, and holds nobody else up.
ASIDE_S: Final = 60.0
# Entries of the log of consent become visible late by at most this: what was seen of it longer ago is complete.
LATE_S: Final = 20.0
CONSENT_S: Final = 0.25
CONSENT_ROWS_MAX: Final = 1000
INBOX_COUNT_S: Final = 1.0
OPT_OUT: Final = 1
OPT_IN: Final = 3
US: Final = 1_000_000

_log = structlog.get_logger("longwave.duty")


def spread(shards: Sequence[int], count: int) -> list[int]:
    """So many of these, spread evenly: campaigns are numbered one by one, and so are their shards."""
    return [shards[(2 * place + 1) * len(shards) // (2 * count)] for place in range(count)]


class Duty:
    """Of one corridor."""

    def __init__(self, corridor: Corridor, shared: Shared | None) -> None:
        """Own nothing."""
        self._corridor = corridor
        self._shared = shared
        self._aside: dict[int, float] = {}  # rows of the inbox: when to look at them again
        self._effects: set[int] = set()  # rows of opt-outs whose barrier is waited for
        self._seen: deque[tuple[float, int]] = deque()  # when the log of consent reached which position
        self._followed: dict[int, float] = {}  # its entries that were followed, and when
        self._something = asyncio.Event()
        self._left_s = 0.0  # since when shards were left to others
        self.still = asyncio.Lock()
        """Held while something is settled that was found in the store: no shard goes meanwhile."""
        self.owner = False
        """This process sends, or did."""

    @property
    def shards(self) -> Shards:
        """Those that it owns and has taken over; None for all."""
        if self._shared is None or len(self._shared.shards) == SHARDS:
            return None
        return self._shared.shards

    @property
    def first(self) -> bool:
        """Whether it does what one node does for all: it has the first shard."""
        return self.owner and (self._shared is None or 0 in self._shared.shards)

    async def own_of(self, ids: Sequence[int]) -> list[int]:
        """Messages among these whose shards are this process's; under `still`."""
        shards = self.shards
        if self._shared is None or shards is None:
            return list(ids)
        found = await self._shared.shards_of(ids)
        return [identity for identity in ids if found.get(identity) in shards]

    # Taking over.

    async def begin(self, run: Run) -> None:
        """Take over shards that are this process's now; then send."""
        corridor = self._corridor
        corridor.lease.own(run.epoch)
        corridor.dispatch.epoch = run.epoch
        if self._shared is not None:
            if not self.owner:
                corridor.begin_days(await corridor.store.ledgers())
            await corridor.reload()
            await corridor.reopen_link()
        await self._recover(run)
        if 0 in run.shards:
            await corridor.sweep.retention.begin()
        if corridor.history.on:
            corridor.history.note("owns", epoch=run.epoch, shards=list(run.shards))
        corridor.metrics.takeovers.inc()
        self._tell_shards()
        if not self.owner:
            self.owner = corridor.append.pushes = True
            corridor.start_tasks(corridor.sweep.tasks(corridor.every))
            if self._shared is not None:
                corridor.start_tasks([self._read_inbox(self._shared)])
                corridor.start_tasks([corridor.every(INBOX_COUNT_S, self._count_inbox)])
            corridor.dispatch.start()
        corridor.start_tasks([hasten_lookups(corridor, None if self._shared is None else run.shards)])
        corridor.dispatch.wake()

    async def _recover(self, run: Run) -> None:
        corridor, shared = self._corridor, self._shared
        began_us = corridor.clock.mono_us()
        shards = None if shared is None else run.shards
        if not self.owner:
            corridor.scheduler.learn(await corridor.store.carriers(CARRIERS_LOADED_MAX))
            corridor.record.start(await corridor.store.early_count())
            if shared is None:
                corridor.rights.consent = _core.Consent(await corridor.store.opt_outs())
        open_attempts = await corridor.store.in_state(DISPATCHING_STATE, shards)
        for start in range(0, len(open_attempts), RECOVER_ROWS):
            chunk = open_attempts[start : start + RECOVER_ROWS]
            await corridor.record.settle(_core.Facts.recovered(chunk), "recover")
        holders = await corridor.store.key_holders(shards)
        waiting = await corridor.store.waiting_bounds(STREAMS, shards)
        # In one turn of the loop: what is accepted of these shards from here on finds all that waits before it.
        if shared is not None:
            now_us = corridor.clock.mono_us()
            for shard in run.shards:
                corridor.scheduler.own(shard, run.epoch, now_us)
        corridor.scheduler.hold_keys(holders)
        corridor.refill.put_away(waiting)
        if shared is not None:
            shared.taken_over(run.shards)
        await corridor.refill.read_first()
        if shared is None:
            barriers = await corridor.store.barriers_open()
            if barriers:
                # No attempt is open any more: each is UNKNOWN or settled.
                await corridor.store.mark_effective(barriers, corridor.clock.now_us())
        _log.info(
            "recovered",
            queued=len(corridor.scheduler),
            more_queued=corridor.scheduler.any_away,
            unknown=len(open_attempts),
            opt_outs=len(corridor.rights.consent),
            shards=len(run.shards),
            seconds=round((corridor.clock.mono_us() - began_us) / US, 3),
        )

    def _tell_shards(self) -> None:
        shards = SHARDS if self._shared is None else len(self._shared.shards)
        self._corridor.metrics.shards.set(shards)
        self._corridor.metrics.owner.set(int(shards > 0))

    # Shards that come and go.

    async def join(self, *, sends: bool) -> None:
        """Follow what other nodes store, and, if this process `sends`, own shards from now on."""
        shared, corridor = self._shared, self._corridor
        if shared is None:
            return
        # What is under way has a position before the newest one, and is in no list yet.
        tail = max(0, await shared.consent_tail() - CONSENT_ROWS_MAX)
        self._seen.append((asyncio.get_running_loop().time(), tail))
        corridor.rights.consent = _core.Consent(await corridor.store.opt_outs())
        corridor.start_tasks([self._follow_always(shared)])
        if sends:
            self._left_s = asyncio.get_running_loop().time()
            await self._take(shared)
            corridor.start_tasks([self._balance(shared)])
        _log.info("joined", sends=sends, shards=len(shared.shards))

    async def _balance(self, shared: Shared) -> None:
        while True:
            await asyncio.sleep(ASK_S)
            try:
                above = await shared.above_share()
                if shared.strays:
                    await self._give(shared, shared.strays)  # what was begun and met a store that was away
                elif above:
                    await self._give(shared, spread(shared.shards, above))
                else:
                    await self._take(shared)
            except StoreBroken as error:
                self._corridor.fail(error)
                return
            except Exception as error:  # noqa: BLE001 - asked again
                _log.warning("shards not asked for", error=type(error).__name__)

    async def _take(self, shared: Shared) -> None:
        """Take over what is free. Raises StoreBroken when that failed half-way, and the driver's errors."""
        now_s = asyncio.get_running_loop().time()
        all_free = now_s - self._left_s > LEFT_S
        run = await shared.take(all_free=all_free)
        if all_free:
            self._left_s = now_s
        if run is None:
            return
        _log.info("takes over", epoch=run.epoch, shards=len(run.shards))
        try:
            await self.begin(run)
        except Exception as error:
            _log.exception("take-over failed")
            raise StoreBroken(f"take-over failed: {type(error).__name__}: this process stops") from error

    async def _give(self, shared: Shared, shards: Sequence[int]) -> None:
        """Let these shards go to other nodes."""
        corridor = self._corridor
        loop = asyncio.get_running_loop()
        async with self.still:
            shared.give_up(shards)
            corridor.refill.turn += 1
            left = corridor.scheduler.disown(shards)
            self._tell_shards()
        # What was popped before is written down by then, and found.
        await corridor.store.settled_so_far()
        until_s = loop.time() + corridor.settings.send_s + OUTCOMES_S
        open_attempts = await corridor.store.in_state(DISPATCHING_STATE, shards)
        while open_attempts and loop.time() < until_s:
            await asyncio.sleep(OUTCOME_LOOK_S)
            open_attempts = await corridor.store.in_state(DISPATCHING_STATE, shards)
        corridor.scheduler.foreign_ended(open_attempts)
        await corridor.store.settled_so_far()
        await shared.give(shards)
        corridor.moved()
        _log.info("gave away", shards=len(shards), waiting=len(left), open=len(open_attempts))

    # Consent.

    async def _follow_always(self, shared: Shared) -> None:
        while True:
            await asyncio.sleep(CONSENT_S)
            try:
                await self._follow_consent(shared)
            except Exception as error:  # noqa: BLE001 - asked again; the attempt's guard has the last word
                _log.warning("consent not followed", error=type(error).__name__)

    async def _follow_consent(self, shared: Shared) -> None:
        now_s = asyncio.get_running_loop().time()
        while len(self._seen) > 1 and self._seen[1][0] < now_s - LATE_S:
            self._seen.popleft()
        self._followed = {at: seen_s for at, seen_s in self._followed.items() if seen_s > now_s - 2 * LATE_S}
        after = self._seen[0][1]
        while True:
            rows = await shared.consents(after, CONSENT_ROWS_MAX)
            # Of each recipient the last word: entries of one become visible in their order.
            last: dict[tuple[int, int], int] = {}
            for after, tenant, recipient, action in rows:
                if after not in self._followed and action in {OPT_OUT, OPT_IN}:
                    last[tenant, recipient] = action
            for (tenant, recipient), action in last.items():
                await self._corridor.record.follow_consent(tenant, recipient, out=action == OPT_OUT)
            # Not before: what could not be followed is followed at the next look.
            self._followed |= {row[0]: now_s for row in rows}
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
                async with self.still:
                    more = await self._take_page(shared)
            except Refused as error:
                _log.warning("inbox waits", verdict=error.verdict.name, detail=error.detail)
                more = False
            except Exception:  # noqa: BLE001 - logged; its rows are still there
                _log.exception("reading the inbox failed")
                more = False
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INBOX_S):
                        await self._something.wait()
            self._something.clear()

    async def _take_page(self, shared: Shared) -> bool:
        """Take up what is there, at most a page; whether there may be more."""
        now_s = asyncio.get_running_loop().time()
        self._aside = {position: again_s for position, again_s in self._aside.items() if again_s > now_s}
        rows = await shared.inbox([*self._aside, *self._effects], INBOX_ROWS_MAX)
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
                self._see_to_effect(shared, rows)
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

    def _see_to_effect(self, shared: Shared, rows: Sequence[InboxRow]) -> None:
        for row in rows:
            tenant, recipient = numbers(row.payload)
            self._effects.add(row.position)
            self._corridor.record.spawn(self._until_effective(shared, row.position, tenant, recipient))

    async def _until_effective(self, shared: Shared, position: int, tenant: int, recipient: int) -> None:
        try:
            await self._corridor.record.take_effect(tenant, recipient)
            await shared.done([position])
        finally:
            self._effects.discard(position)

    async def _count_inbox(self) -> None:
        if self._shared is None:
            raise NotReady
        rows, oldest_us = await self._shared.inbox_size()
        metrics = self._corridor.metrics
        metrics.inbox_rows.set(rows)
        metrics.inbox_oldest_seconds.set(max(0, self._corridor.clock.now_us() - oldest_us) / US if rows else 0)
