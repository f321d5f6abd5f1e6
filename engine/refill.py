"""Refill: messages that memory did not take in are read back from the store when their turn comes.

What is away and what is wanted next is the core's to say (`rust_core/src/spill.rs`); this reads it, in pieces.

Invariants: one piece is read at a time; what was read is with the scheduler before the next piece is asked for; a piece
that could not be read is still away and is asked for again.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from engine import _core
from engine.clock import Clock
from engine.stores.store import Store

_log = structlog.get_logger("longwave.refill")

STREAMS: Final = range(5)
# At a start the door opens when so many are back in memory; the rest follows while work goes on.
FIRST_MESSAGES: Final = 16_384
# Waiting messages looked at for their expiry in one round of a sweep.
EXPIRY_ROWS_MAX: Final = 5_000


class Refill:
    """Reads back what waits in the store alone."""

    def __init__(
        self, store: Store, scheduler: _core.Scheduler, clock: Clock, *, on_loaded: Callable[[], None]
    ) -> None:
        """`on_loaded` is called when messages came back into memory."""
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._on_loaded = on_loaded
        self._task: asyncio.Task[None] | None = None
        self._expiry_after: dict[tuple[int, int], int] = {}
        self.turn = 0
        """Another one whenever shards went."""

    def put_away(self, waiting: Sequence[tuple[int, int, int, int]]) -> None:
        """These (campaign, stream, first id, last id) wait in the store."""
        for campaign, stream, first, last in waiting:
            self._scheduler.put_away(campaign, stream, first, last)

    async def read_first(self) -> None:
        """Read back the beginning of what waits in the store."""
        while self._scheduler.any_away and len(self._scheduler) < FIRST_MESSAGES:
            if not await self._read_pieces():
                break

    def look(self) -> None:
        """Read back what is wanted now, if anything is and nobody does so yet."""
        if self._task is None and self._scheduler.any_away and self._scheduler.wanted():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="refill")

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while await self._read_pieces():
                pass
        except Exception:  # noqa: BLE001 - logged; it is still away, and the next look asks again
            _log.exception("reading back failed")
        finally:
            self._task = None

    async def _read_pieces(self) -> bool:
        wanted = self._scheduler.wanted()
        turn = self.turn
        for (campaign, stream, from_id, upto_id), messages_max in wanted:
            rows = await self._store.waiting_piece(campaign, stream, from_id, upto_id, messages_max)
            if turn != self.turn:
                return True  # its shard may have gone, and come back with more than was asked for
            # A short piece is the end of what was away when it was asked for.
            next_id = rows[-1][0] + 1 if len(rows) == messages_max else upto_id + 1
            self._scheduler.read_back(rows, campaign, stream, next_id, self._clock.now_us())
        if wanted:
            self._on_loaded()
        return bool(wanted)

    async def expired(self) -> list[int]:
        """Ids, among some of those in the store alone, whose validity ended; round by round all are looked at."""
        away = self._scheduler.away()
        alive = {(campaign, stream) for campaign, stream, _, _ in away}
        self._expiry_after = {key: after for key, after in self._expiry_after.items() if key in alive}
        ids: list[int] = []
        now_us = self._clock.now_us()
        for campaign, stream, from_id, _ in away:
            after = max(self._expiry_after.get((campaign, stream), 0), from_id - 1)
            found, reached = await self._store.waiting_expired(campaign, stream, after, now_us, EXPIRY_ROWS_MAX)
            self._expiry_after[campaign, stream] = reached
            ids += found
            if len(ids) >= EXPIRY_ROWS_MAX:
                break
        return ids
