"""Insist: what memory has acted on is handed to the store again and again until the store has it.

It writes nothing itself and changes nothing about what is written: the caller's function hands it in.

Invariants: a refusal for now (a full disk) ends no work that memory relies on; a store that will take no write any more
ends it at once, for the process ends with it and the next start finds what is missing.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from engine.errors import Refused
from engine.stores.store import Store

T = TypeVar("T")

# A full disk is cheap to ask again: one short transaction that is rolled back.
RETRY_MIN_S: Final = 0.05
RETRY_MAX_S: Final = 2.0

_log = structlog.get_logger("longwave.record")


class Insist:
    """Shared by all whose writes must not be lost to a refusal; belongs to the loop's thread."""

    def __init__(self, store: Store) -> None:
        """Insist on what is handed to `store`."""
        self._store = store
        self._room = asyncio.Event()
        self.waiting = 0
        """Writes refused for now, to be handed in again."""

    def look(self) -> None:
        """There may be room again: nobody waits out its back-off."""
        self._room.set()

    async def until_taken(self, stage: str, hand_in: Callable[[], Awaitable[T]]) -> T:
        """Call `hand_in` until it is not refused. Raises Refused when the store will never take it, or its error."""
        wait_s = RETRY_MIN_S
        try:
            return await hand_in()
        except Refused as error:
            if self._store.ended:
                raise
            _log.warning("refused for now; handed in again", stage=stage, verdict=error.verdict.name)
        self.waiting += 1
        try:
            while True:
                self._room.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._room.wait()
                wait_s = min(RETRY_MAX_S, wait_s * 2)
                try:
                    return await hand_in()
                except Refused:
                    if self._store.ended:
                        raise
        finally:
            self.waiting -= 1
