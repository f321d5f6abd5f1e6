"""Budgets: rates that are wider than a shard are leased from the store, a few tokens at a time.

What is wanted, and what may be spent of what was given, is the core's to say (`rust_core/src/budget.rs`).

Invariants: all that is wanted together is asked for together, one time at a time; what was given counts from before the
store read its clock; what nobody answered was not given.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from engine import _core
from engine.clock import Clock
from engine.rights import Rights
from engine.stores.store import Shared

# After a store that did not answer.
RETRY_US: Final = 200_000

_log = structlog.get_logger("longwave.budgets")


class Budgets:
    """Of one node."""

    def __init__(
        self,
        shared: Shared,
        scheduler: _core.Scheduler,
        rights: Rights,
        clock: Clock,
        *,
        on_granted: Callable[[], None],
    ) -> None:
        """`on_granted` is called after each answer: more may leave now."""
        self._shared = shared
        self._scheduler = scheduler
        self._rights = rights
        self._clock = clock
        self._on_granted = on_granted
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Ask for what is wanted now, if anything is and nobody asks yet."""
        if self._task is None and (asks := self._scheduler.budgets_wanted(self._clock.mono_us())):
            self._task = asyncio.get_running_loop().create_task(self._run(asks), name="budgets")

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, asks: list[tuple[int, int, int]]) -> None:
        try:
            while asks:
                await self._ask(asks)
                self._on_granted()
                asks = self._scheduler.budgets_wanted(self._clock.mono_us())
        finally:
            self._task = None

    async def _ask(self, asks: list[tuple[int, int, int]]) -> None:
        asked_us = self._clock.mono_us()
        given = {}
        try:
            leases = await self._shared.lease(asks, self._rights.registry, self._clock.mono_us)
            given = {lease.quota: lease for lease in leases}
        except Exception as error:  # noqa: BLE001 - asked again
            _log.warning("budgets not leased", error=type(error).__name__)
        for quota, *_ in asks:
            lease = given.get(quota)
            if lease is None:
                self._scheduler.grant(quota, 0, asked_us, asked_us + RETRY_US)
            else:
                self._scheduler.grant(quota, lease.tokens, lease.until_us, lease.again_us)
