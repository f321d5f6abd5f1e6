"""Connections to one server: opened as they are needed, looked at before they are lent, thrown away when in doubt.

It runs no statement of the corridor and begins no transaction. All of it belongs to one loop's thread.

Invariants: at most `size_max` are open; a connection on which anything failed, or whose statement was cut short, is
never lent again; every one was set up by `SETUP` before its first statement.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import asyncmy

from engine.errors import NotReady
from engine.stores.mysql.address import Address
from engine.stores.mysql.faults import Fault, classify

# Looked at before it is lent when nobody used it for so long: a balancer drops idle ones without a word after 60 s or
# more, other nodes end them sooner (`sleepers.py`).
PING_AFTER_S: Final = 2.0
PING_S: Final = 2.0
# Connections that callers who read leave to the engine: two lanes, the sweeper, refill, rights, the gate. However many
# calls wait for an answer, a message is stored and sent meanwhile.
OWN_WORK: Final = 6
# Connections end their days spread over a quarter of this, so that a name that moved is followed within an hour.
MAX_AGE_S: Final = 3600.0
# Waiting for a row: longer than any transaction of ours takes, shorter than callers wait.
LOCK_WAIT_S: Final = 5
# Waiting for a table that is being altered.
METADATA_WAIT_S: Final = 30
UNANSWERED: Final = "the store does not answer; nothing was read and nothing changed"
# The server ends what its client forgot and what a machine that is gone left open: nobody waits for its locks until TCP
# gives up after two hours.
IDLE_S: Final = 60

SETUP: Final = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}, lock_wait_timeout = {METADATA_WAIT_S}",
    f"SET SESSION wait_timeout = {IDLE_S}",
    # Whatever the server was told for others: nothing cut short, nothing unchecked, COMMIT ends a transaction.
    "SET SESSION sql_safe_updates = 0, sql_select_limit = 18446744073709551615",
    "SET SESSION unique_checks = 1, foreign_key_checks = 1, completion_type = 'NO_CHAIN'",
)

# A warning of the server costs a line each; what matters is an error under the strict mode.
logging.getLogger("asyncmy").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a pool."""

    size_min: int = 5
    size_max: int = 20
    connect_s: float = 3.0
    """For the name, TCP, TLS and log-in of one connection."""
    statement_s: float = 10.0
    """For one statement; its connection is given up then."""


class Loan(NamedTuple):
    """What is told when a connection was lent."""

    waited_s: float
    in_use: int
    """Lent now, this one included."""
    waiting: int
    """Borrowers who wait."""


OnLent = Callable[[Loan], None]


def nobody(loan: Loan) -> None:
    """Who is told when nobody asked to be."""
    del loan


class Link:
    """One connection. What fails on it ends it."""

    def __init__(self, connection: Any, statement_s: float) -> None:
        """Wrap an open driver's connection."""
        self._connection = connection
        self._statement_s = statement_s
        self.opened_s = self.used_s = time.monotonic()
        self.sound = True
        """False when it must not be lent again."""
        self.in_transaction = False

    @property
    def thread_id(self) -> int:
        """The server's number of this connection."""
        return int(self._connection.thread_id())

    async def run(self, statement: str, values: tuple[Any, ...] | None = None) -> int:
        """Run one statement; the rows it changed. Raises the driver's errors and TimeoutError."""
        return (await self._execute(statement, values))[0]

    async def rows(
        self, statement: str, values: tuple[Any, ...] | None = None, *, within_s: float | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement, within another time than others if one is given; its rows.

        Raises the driver's errors and TimeoutError.
        """
        return (await self._execute(statement, values, within_s))[1]

    async def insert(self, statement: str, values: tuple[Any, ...]) -> int:
        """Run one INSERT; the number that the server gave the row. Raises the driver's errors and TimeoutError."""
        return (await self._execute(statement, values))[2]

    async def _execute(
        self, statement: str, values: tuple[Any, ...] | None, within_s: float | None = None
    ) -> tuple[int, list[tuple[Any, ...]], int]:
        cursor = self._connection.cursor()
        try:
            async with asyncio.timeout(within_s or self._statement_s):
                await cursor.execute(statement, values)
        except BaseException as error:
            # The server undid the statement alone after an error of its data; after any other nothing is certain.
            if classify(error) is not Fault.DATA:
                self.sound = False
            raise
        rows = await cursor.fetchall() if cursor.description is not None else []
        return cursor.rowcount, list(rows), cursor.lastrowid or 0

    async def ping(self) -> bool:
        """Whether it still answers, and soon."""
        try:
            async with asyncio.timeout(PING_S):
                await self.run("DO 0")
        except Exception:  # noqa: BLE001 - it is thrown away
            self.sound = False
        return self.sound

    def close(self) -> None:
        """End it at once: what was not committed is undone."""
        self.sound = False
        self._connection.close()

    async def end(self) -> None:
        """End it in words."""
        self.sound = False
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1):
                await self._connection.ensure_closed()
        self._connection.close()


async def connect(address: Address, limits: Limits, *, autocommit: bool = True, client_flag: int = 0) -> Any:
    """A driver's connection, set up as every one is; each statement commits itself unless `autocommit` is off.

    Raises the driver's errors and TimeoutError.
    """
    async with asyncio.timeout(limits.connect_s):
        connection = await asyncmy.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            database=address.database,
            ssl=address.tls,
            charset="utf8mb4",
            autocommit=autocommit,
            client_flag=client_flag,
            connect_timeout=max(1, int(limits.connect_s + 1)),
        )
        try:
            async with connection.cursor() as cursor:
                for statement in SETUP:
                    await cursor.execute(statement)
        except BaseException:
            connection.close()
            raise
    return connection


class Pool:
    """Lends connections, the one used last first."""

    def __init__(self, address: Address, limits: Limits, *, on_lent: OnLent = nobody) -> None:
        """Nothing is opened before `open`; `on_lent` is told of each loan."""
        self._address = address
        self._limits = limits
        self._on_lent = on_lent
        self._idle: deque[Link] = deque()
        self._room = asyncio.Semaphore(limits.size_max)
        self._room_for_callers = asyncio.Semaphore(max(1, limits.size_max - OWN_WORK))
        self._generation = 0
        self._closed = False
        self.open_count = 0
        """Open connections."""
        self.in_use = 0
        """Of these, lent."""
        self.waiting = 0
        """Borrowers who wait."""
        self.address = address

    def idle_threads(self) -> set[int]:
        """The server's numbers of those that are not lent."""
        return {link.thread_id for link in self._idle}

    async def open(self) -> None:
        """Open the first ones. Raises what connecting raises."""
        for _ in range(self._limits.size_min):
            link = await self._connect()
            self._idle.append(link)

    async def close(self) -> None:
        """End those that are not lent; the others when they come back. Safe to call twice."""
        self._closed = True
        while self._idle:
            self.open_count -= 1
            await self._idle.pop().end()

    def drop(self) -> None:
        """The server is not the right one any more: no connection that is open now is lent again."""
        self._generation += 1
        self._forget_idle()

    def _forget_idle(self) -> None:
        while self._idle:
            self.open_count -= 1
            self._idle.pop().close()

    @contextlib.asynccontextmanager
    async def link(self, *, for_caller: bool = False) -> AsyncIterator[Link]:
        """Borrow a connection; for a caller who reads, one that the engine's own work can spare.

        Raises what connecting raises.
        """
        began_s = time.monotonic()
        async with contextlib.AsyncExitStack() as places:
            self.waiting += 1
            try:
                for room in [self._room_for_callers, self._room] if for_caller else [self._room]:
                    await places.enter_async_context(room)
            finally:
                self.waiting -= 1
            link = await self._take()
            generation = self._generation
            self.in_use += 1
            self._on_lent(Loan(time.monotonic() - began_s, self.in_use, self.waiting))
            try:
                yield link
            except BaseException as error:
                if classify(error) is Fault.LOST:
                    link.sound = False
                raise
            finally:
                self.in_use -= 1
                link.used_s = time.monotonic()
                if link.sound and not link.in_transaction and generation == self._generation and not self._closed:
                    self._idle.append(link)
                else:
                    self.open_count -= 1
                    link.close()

    @contextlib.asynccontextmanager
    async def asking(self, *, for_caller: bool = False) -> AsyncIterator[Link]:
        """Borrow a connection to read only. Raises NotReady when the server does not answer, or cannot now."""
        try:
            async with self.link(for_caller=for_caller) as link:
                yield link
        except Exception as error:
            fault = classify(error)
            if fault is Fault.READ_ONLY:
                self.drop()
            if fault not in {Fault.LOST, Fault.AGAIN, Fault.READ_ONLY}:
                raise
            raise NotReady(UNANSWERED) from error

    async def _take(self) -> Link:
        while self._idle:
            link = self._idle.pop()
            now_s = time.monotonic()
            old = now_s - link.opened_s > MAX_AGE_S * random.uniform(0.75, 1)  # noqa: S311 - spreads, hides nothing
            try:
                if not old:
                    if now_s - link.used_s < PING_AFTER_S or await link.ping():
                        return link
                    # Those beneath it were used longer ago: a server that hangs is not asked on each of them.
                    self._forget_idle()
            except BaseException:
                self.open_count -= 1
                link.close()
                raise
            self.open_count -= 1
            link.close()
        return await self._connect()

    async def _connect(self) -> Link:
        link = Link(await connect(self._address, self._limits), self._limits.statement_s)
        self.open_count += 1
        return link
