"""The embedded store's reading half: connections that cannot write, on threads of their own.

It never touches the writer. Reads run on two threads, so that a long page does not X
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from engine.registry.version import VERSION_SQL
from engine.stores import sql, sqlite_reads
from engine.stores.connection import Connection, open_reader
from engine.stores.epoch_reader import EpochReader
from engine.stores.store import LedgerRow, Row, Shards, Stretch

T = TypeVar("T")

READERS: Final = 2
# One log for all tenants.
SLOT: Final = 0


class EmbeddedReads:
    """The verbs of `Store` that read."""

    def __init__(self, path: Path) -> None:
        """Open readers of the store at `path` as they are needed."""
        self._path = path
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._opened: list[Connection] = []
        self._epoch: int | None = None

    @property
    def readers(self) -> int:
        """Open reading connections, but for the lease's."""
        return len(self._opened)

    async def close_readers(self) -> None:
        """Finish running reads and close. Safe to call twice."""
        await asyncio.to_thread(self._threads.shutdown)
        while self._opened:
            self._opened.pop().close()

    def read(self, function: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Run a function of a reading connection."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._run, function)

    def _run(self, function: Callable[[Connection], T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = open_reader(self._path)
            self._local.connection = connection
            self._opened.append(connection)
        return function(connection)

    def _rows(self, statement: str, *values: Any) -> asyncio.Future[list[Any]]:
        return self.read(lambda connection: connection.execute(statement, values).fetchall())

    def _row(self, statement: str, *values: Any) -> asyncio.Future[Any]:
        return self.read(lambda connection: connection.execute(statement, values).fetchone())

    def _number(self, statement: str) -> asyncio.Future[Any]:
        """The first column of the first row, None without one."""

        def select(connection: Connection) -> Any:
            row = connection.execute(statement).fetchone()
            return None if row is None else row[0]

        return self.read(select)

    def heart(self) -> EpochReader:
        """See `Store`."""
        return EpochReader(self._path, lambda: self._epoch)

    @property
    def shared(self) -> None:
        """See `Store`: the file's lock keeps a second process out."""

    # What a start reads.

    def opt_outs(self) -> asyncio.Future[list[tuple[int, int]]]:
        """See `Store`."""
        return self._rows(sql.SELECT_ALL_OPT_OUTS)

    def barriers_open(self) -> asyncio.Future[list[tuple[int, int]]]:
        """See `Store`."""
        return self._rows(sql.SELECT_BARRIERS_OPEN)

    def carriers(self, rows_max: int) -> asyncio.Future[list[tuple[int, int]]]:
        """See `Store`."""
        return self._rows(sql.SELECT_CARRIERS, rows_max)

    def early_count(self) -> asyncio.Future[int]:
        """See `Store`."""
        return self._number(sql.COUNT_EARLY)

    def in_state(self, state: int, shards: Shards = None) -> asyncio.Future[list[int]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.in_state, state=state, shards=shards))

    def key_holders(self, shards: Shards = None) -> asyncio.Future[list[Row]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.key_holders, shards=shards))

    def ledgers(self) -> asyncio.Future[list[LedgerRow]]:
        """See `Store`."""
        return self._rows(sql.SELECT_LEDGERS)

    def recipes(self, provider: int, renderer: int) -> asyncio.Future[list[tuple[int, str, str]]]:
        """See `Store`."""
        return self._rows(sql.SELECT_RECIPES, provider, renderer)

    # What work reads.

    def waiting_bounds(
        self, streams: Sequence[int], shards: Shards = None
    ) -> asyncio.Future[list[tuple[int, int, int, int]]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.waiting_bounds, streams=streams, shards=shards))

    def waiting_piece(
        self, campaign: int, stream: int, from_id: int, upto_id: int, rows_max: int
    ) -> asyncio.Future[list[Row]]:
        """See `Store`."""
        return self._rows(sql.SELECT_WAITING_PIECE, campaign, stream, from_id, upto_id, rows_max)

    def waiting_expired(
        self, campaign: int, stream: int, after_id: int, now_us: int, rows_max: int
    ) -> asyncio.Future[tuple[list[int], int]]:
        """See `Store`."""
        return self.read(
            partial(
                sqlite_reads.waiting_expired,
                campaign=campaign,
                stream=stream,
                after_id=after_id,
                now_us=now_us,
                rows_max=rows_max,
            )
        )

    def due(
        self, states: Sequence[int], now_us: int, rows_max: int, shards: Shards = None
    ) -> asyncio.Future[list[int]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.due, states=states, now_us=now_us, rows_max=rows_max, shards=shards))

    def latest_due(
        self, state: int, before: tuple[int, int], rows_max: int, shards: Shards = None
    ) -> asyncio.Future[list[tuple[int, int]]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.latest_due, state=state, before=before, rows_max=rows_max, shards=shards))

    def started(
        self,
        tenant: int,
        after: int,
        campaigns: Sequence[int],
        from_us: int,
        carrier: int,
        unit: int,
        rows_max: int,
    ) -> asyncio.Future[tuple[int, int | None]]:
        """See `Store`."""
        return self.read(
            partial(
                sqlite_reads.started,
                tenant=tenant,
                after=after,
                campaigns=campaigns,
                from_us=from_us,
                carrier=carrier,
                unit=unit,
                rows_max=rows_max,
            )
        )

    def registry_version(self) -> asyncio.Future[int | None]:
        """See `Store`."""
        return self._number(VERSION_SQL)

    def facts(self, names: Sequence[str]) -> asyncio.Future[list[int | None]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.facts, names=names))

    def count_by_state(self) -> asyncio.Future[list[tuple[int, int]]]:
        """See `Store`."""
        return self._rows(sql.COUNT_BY_STATE)

    # What callers read.

    def opt_outs_of(self, tenant: int, after: int, rows_max: int) -> asyncio.Future[list[tuple[int, int, int]]]:
        """See `Store`."""
        return self._rows(sql.SELECT_OPT_OUTS, tenant, after, rows_max)

    def view(self, tenant: int, identity: int) -> asyncio.Future[Row | None]:
        """See `Store`."""
        return self._row(sql.SELECT_VIEW, identity, tenant)

    def views(self, tenant: int, stretch: Stretch) -> asyncio.Future[tuple[list[Row], int]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.views, tenant=tenant, stretch=stretch))

    def slot_of(self, tenant: int) -> int:
        """See `Store`."""
        del tenant
        return SLOT

    def events(self, tenant: int, after_position: int, rows_max: int) -> asyncio.Future[tuple[list[bytes], int]]:
        """See `Store`."""
        return self.read(partial(sqlite_reads.events, tenant=tenant, after_position=after_position, rows_max=rows_max))

    def event_bounds(self, tenant: int) -> asyncio.Future[tuple[int, int]]:
        """See `Store`."""
        del tenant
        return self.read(sqlite_reads.event_bounds)

    def newest_event(self) -> asyncio.Future[int]:
        """See `Store`."""
        return self.read(lambda connection: sqlite_reads.event_bounds(connection)[1])

    def oldest_event_us(self) -> asyncio.Future[int | None]:
        """See `Store`."""
        return self._number(sql.SELECT_OLDEST_EVENT)
