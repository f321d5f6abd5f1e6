"""Who owns the store: a named lock keeps a second process out, the epoch in the leases fences one that slept.

It sends nothing and renews no time: with one owner, the lock is enough. The lock is the server's and dies with its
connection, so it is looked at and taken again; what it cannot promise meanwhile, the epoch does: every attempt is
written down under a shared lock of the leases, and a new owner's first write waits for those.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Callable
from typing import Final

import structlog

from engine.errors import StoreBroken, StoreLocked
from engine.stores.mysql import sql
from engine.stores.mysql.address import Address
from engine.stores.mysql.pool import Limits, Link, connect
from engine.stores.mysql.transactions import Transaction

LOOK_EVERY_S: Final = 5.0
# A process that just ended: its server takes a moment to notice.
LOCK_WAIT_S: Final = 2
OWNER_CHARACTERS_MAX: Final = 128

_log = structlog.get_logger("longwave.store")


def lock_name(database: str) -> str:
    """Of a database; servers take 64 characters."""
    return "longwave-" + hashlib.sha256(database.encode()).hexdigest()[:32]


def own_name() -> str:
    """This process, for people."""
    return f"{socket.gethostname()} pid {os.getpid()}"[:OWNER_CHARACTERS_MAX]


async def is_held(link: Link, database: str) -> bool:
    """Whether a process has the lock. Raises the driver's errors."""
    [(holder,)] = await link.rows("SELECT IS_USED_LOCK(%s)", (lock_name(database),))
    return holder is not None


class Hold:
    """The lock on a store, from `take` to `release`."""

    def __init__(self, address: Address, limits: Limits, on_lost: Callable[[BaseException], None]) -> None:
        """Take nothing yet; `on_lost` is told once when another process has it."""
        self._address = address
        self._limits = limits
        self._on_lost = on_lost
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None

    async def take(self) -> None:
        """Take it. Raises StoreLocked when another process has it, and what connecting raises."""
        await self._acquire()
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="store-lock")

    async def _acquire(self) -> None:
        link = Link(await connect(self._address, self._limits), self._limits.statement_s)
        try:
            await self._lock(link)
        except BaseException:
            link.close()
            raise
        self._link = link

    async def _lock(self, link: Link) -> None:
        name = lock_name(self._address.database)
        [(got,)] = await link.rows("SELECT GET_LOCK(%s, %s)", (name, LOCK_WAIT_S))
        if got != 1:
            [(holder,)] = await link.rows("SELECT IS_USED_LOCK(%s)", (name,))
            raise StoreLocked(
                f"{self._address.shown} is in use by another longwave process (the server's connection {holder}): stop "
                "it, or set another LONGWAVE_STORE_URL"
            )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._link is not None and await self._link.ping():
                continue
            if self._link is not None:
                self._link.close()
                self._link = None
            try:
                await self._acquire()
            except StoreLocked as error:
                self._on_lost(StoreBroken(str(error)))
                return
            except Exception as error:  # noqa: BLE001 - the server is away: asked again
                _log.warning("store lock not held", error=type(error).__name__)

    async def release(self) -> None:
        """Let go. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link is not None:
            with contextlib.suppress(Exception):  # the end of its connection frees it as well
                await self._link.rows("SELECT RELEASE_LOCK(%s)", (lock_name(self._address.database),))
            await self._link.end()
            self._link = None


async def raise_epoch(tx: Transaction) -> int:
    """The epoch of this owner, higher than any before; waits for attempts that are being written down."""
    await tx.run(sql.RAISE_EPOCH)
    [(epoch,)] = await tx.rows(sql.SELECT_EPOCH)
    await tx.run(sql.UPDATE_LEASES, (own_name(), epoch))
    await tx.run(sql.SETTLE_LEDGERS)
    return int(epoch)


async def last_id(tx: Transaction) -> int:
    """The highest id in use; 0 in an empty store."""
    [(identity,)] = await tx.rows(sql.SELECT_LAST_ID)
    return int(identity)


class EpochReader:
    """Asks for the epoch from a thread with a loop of its own, on a connection of its own."""

    def __init__(self, address: Address, limits: Limits) -> None:
        """Open nothing yet."""
        self._address = address
        self._limits = limits
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None

    def read(self) -> int | None:
        """See `engine.stores.store.EpochReader`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(self._read())

    async def _read(self) -> int | None:
        try:
            if self._link is None:
                self._link = Link(await connect(self._address, self._limits), self._limits.connect_s)
            rows = await self._link.rows(sql.SELECT_LEASES)
        except BaseException:
            if self._link is not None:
                self._link.close()
                self._link = None
            raise
        return rows[0][0] if len(rows) == 1 else None

    def close(self) -> None:
        """See `engine.stores.store.EpochReader`."""
        if self._loop is None:
            return
        if self._link is not None:
            # In words: with TLS a connection takes a few turns to end, and this loop has none left afterwards.
            self._loop.run_until_complete(self._link.end())
            self._link = None
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        self._loop = None
