"""The control plane's transactions: functions of a SQLAlchemy connection, one at a time, serializable.

It knows no table but its lane. One that takes too long is given up with its connection: the lane behind which it runs
waits for it. A transaction that met a deadlock or lost its connection before COMMIT is undone and run
again; when the answer to COMMIT is lost, its lane's row says what became of it, as in `transactions.py`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from asyncmy.constants import CLIENT
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from engine.errors import NotReady, StoreUnavailable
from engine.stores.mysql.address import Address
from engine.stores.mysql.faults import Fault, classify
from engine.stores.mysql.lanes import STRANGE, Lane, Marker
from engine.stores.mysql.pool import MAX_AGE_S, Limits, Pool, connect
from engine.stores.mysql.transactions import RETRY_S, pause_s

T = TypeVar("T")

ISOLATION: Final = "SERIALIZABLE"
# A transaction is given as long as so many of the slowest statements.
STATEMENTS: Final = 3


def engine_to(address: Address, limits: Limits) -> AsyncEngine:
    """One connection to the server, for SQLAlchemy; it is opened when it is needed and looked at before each use."""

    async def open_connection() -> Any:
        # Rows found, not rows changed: an UPDATE that changes nothing has found its row.
        return await connect(address, limits, autocommit=False, client_flag=CLIENT.FOUND_ROWS)

    return create_async_engine(
        "mysql+asyncmy://",
        async_creator=open_connection,
        isolation_level=ISOLATION,
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        pool_recycle=int(MAX_AGE_S),
        # What a statement was given is nobody's to read in an error.
        hide_parameters=True,
    )


class Control:
    """Runs them; the caller sees to it that they run one by one."""

    def __init__(self, address: Address, limits: Limits, pool: Pool, *, node: int) -> None:
        """Open nothing yet; `pool` is for reading back."""
        self._engine = engine_to(address, limits)
        self._transaction_s = limits.connect_s + STATEMENTS * limits.statement_s
        self._pool = pool
        self._marker = Marker(node, Lane.CONTROL, pool)

    async def start(self) -> None:
        """Begin to count; raises what connecting raises."""
        await self._marker.begin()

    async def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        await self._engine.dispose()

    async def run(self, function: Callable[[sa.Connection], T]) -> T:
        """Run a function in a transaction of its own; what it raises undoes it, and is raised.

        Raises NotReady (nothing was stored) and StoreUnavailable (nobody knows) too.
        """
        began_s = time.monotonic()
        tries = 0
        while True:
            done: list[T] = []
            try:
                async with asyncio.timeout(self._transaction_s), self._engine.connect() as connection:
                    result = await connection.run_sync(function)
                    statement, values = self._marker.next()
                    if (await connection.exec_driver_sql(statement, values)).rowcount != 1:
                        row: Sequence[Any] = (await connection.exec_driver_sql(*self._marker.select())).one()
                        self._refuse(self._marker.strange(row[0], row[1]))
                    done.append(result)
                    await connection.commit()
            except Exception as error:
                if done and await self._took_place():
                    return done[0]
                fault = classify(error)
                if fault not in {Fault.AGAIN, Fault.LOST, Fault.READ_ONLY, Fault.REFUSED}:
                    raise
                if fault is Fault.READ_ONLY:
                    await self._engine.dispose()
                tries += 1
                if time.monotonic() - began_s > RETRY_S:
                    raise NotReady("the store cannot be reached or is too busy; nothing was stored") from error
                await asyncio.sleep(pause_s(tries))
            else:
                self._marker.committed()
                return result

    @staticmethod
    def _refuse(strange: RuntimeError | None) -> None:
        raise NotReady(f"{strange or 'the row of the lane did not change'}; nothing was stored")

    async def _took_place(self) -> bool:
        """Whether the last COMMIT was one; asks for as long as callers wait."""
        until_s = time.monotonic() + 2 * RETRY_S
        tries = 0
        while time.monotonic() < until_s:
            try:
                return await self._marker.read_back()
            except STRANGE:
                break
            except Exception:  # noqa: BLE001 - asked again
                tries += 1
                await asyncio.sleep(pause_s(tries))
        raise StoreUnavailable("unknown whether stored: look, and try again")
