"""Look-ups: messages and events as they stand in the store, read on connections that cannot write.

It changes nothing and never touches the writer. Reads run on two threads of their own, so that a long page does not
keep a short look-up waiting.

Invariant: rows of another tenant are never read, not even to be thrown away.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine import _core
from engine.stores import sql
from engine.stores.connection import Connection, open_reader

READERS: Final = 2
ID_MAX: Final = (1 << 63) - 1
# Rows looked at for one page: filters apply behind the tenant's index, so a rare match must not cost a whole scan.
ROWS_SCANNED_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What ListMessages asks for, checked. Zero and empty mean: no such filter."""

    page_size: int
    before_id: int
    campaign_id: str
    states: tuple[int, ...]
    recipient: int
    client_reference: str
    accepted_from_us: int
    accepted_until_us: int
    token_tail: Callable[[int], str]
    """Renders the token of the page that ends with this id."""


class LookUp:
    """Reads for callers."""

    def __init__(self, path: Path, provider_name: str) -> None:
        """Open readers of the store at `path` as they are needed."""
        self._path = path
        self._provider_name = provider_name
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._opened: list[Connection] = []
        self._events_moved = asyncio.Event()

    @property
    def connections(self) -> int:
        """Open reading connections."""
        return len(self._opened)

    async def close(self) -> None:
        """Finish running reads and close. Safe to call twice."""
        await asyncio.to_thread(self._threads.shutdown)
        while self._opened:
            self._opened.pop().close()

    async def read(self, function: Callable[[Connection], Any]) -> Any:
        """Run a function of a reading connection."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, function)

    def _run(self, function: Callable[[Connection], Any]) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = open_reader(self._path)
            self._local.connection = connection
            self._opened.append(connection)
        return function(connection)

    async def get(self, registry: _core.Registry, tenant: int, identity: int) -> bytes | None:
        """The encoded GetMessageResponse; None for what is not this tenant's."""
        rows = await self.read(lambda connection: connection.execute(sql.SELECT_VIEW, (identity, tenant)).fetchall())
        if not rows:
            return None
        return _core.get_response(rows[0], registry.campaign_id(rows[0][2]) or "", self._provider_name)

    async def page(self, registry: _core.Registry, tenant: int, query: ListQuery) -> bytes:
        """The encoded ListMessagesResponse; a page may be short and still have a next one."""
        filters, values = "", []
        if query.campaign_id:
            key = registry.campaign_key(tenant, query.campaign_id)
            if key is None:
                return _core.list_response([], "")
            filters += " AND m.campaign = ?"
            values.append(key)
        if query.states:
            filters += f" AND m.state IN ({', '.join('?' * len(query.states))})"
            values += query.states
        if query.recipient:
            filters += " AND m.recipient = ?"
            values.append(query.recipient)
        before = query.before_id or ID_MAX
        if query.accepted_until_us:
            before = min(before, _core.first_id_at(query.accepted_until_us))
        lowest = _core.first_id_at(query.accepted_from_us) if query.accepted_from_us else 0

        def select(connection: Connection) -> tuple[list[tuple[Any, ...]], int]:
            # The stretch first: its lowest id bounds the page, whatever the filters leave of it.
            stretch = connection.execute(
                "SELECT min(id), count(*) FROM (SELECT id FROM messages WHERE tenant = ? AND id < ? AND id >= ? "
                "ORDER BY id DESC LIMIT ?)",
                (tenant, before, lowest, ROWS_SCANNED_MAX),
            ).fetchone()
            floor, count = stretch[0] or lowest, stretch[1]
            statement = sql.SELECT_VIEWS_BEFORE.format(filters=filters)
            found = connection.execute(statement, (tenant, before, floor, *values, query.page_size + 1)).fetchall()
            return found, floor if count == ROWS_SCANNED_MAX else 0

        rows, floor = await self.read(select)
        return self._render_page(registry, query, rows, floor)

    def _render_page(
        self, registry: _core.Registry, query: ListQuery, rows: list[tuple[Any, ...]], floor: int
    ) -> bytes:
        messages: list[bytes] = []
        for row in rows[: query.page_size]:
            if query.client_reference and _core.record_reference(row[24]) != query.client_reference:
                continue
            messages.append(_core.message_bytes(row, registry.campaign_id(row[2]) or "", self._provider_name))
        token = ""
        if len(rows) > query.page_size:
            token = query.token_tail(rows[query.page_size - 1][0])
        elif floor:
            token = query.token_tail(floor)
        return _core.list_response(messages, token)

    # Events.

    async def events(self, tenant: int, after_position: int, rows_max: int) -> tuple[list[bytes], int]:
        """Log rows of a tenant after a position, and the position reached (of the whole log when nothing is left)."""

        def select(connection: Connection) -> tuple[list[tuple[int, bytes]], int]:
            # Newest first: rows committed between the two reads are left for the next call, never skipped.
            newest = connection.execute(sql.SELECT_EVENT_BOUNDS).fetchone()[1]
            found = connection.execute(sql.SELECT_EVENTS_AFTER, (tenant, after_position, newest, rows_max)).fetchall()
            return found, newest

        rows, newest = await self.read(select)
        reached = rows[-1][0] if len(rows) == rows_max else max(newest, after_position)
        return [row[1] for row in rows], reached

    async def event_bounds(self) -> tuple[int, int]:
        """Oldest and newest position of the log; 0, 0 when nothing was ever logged."""
        oldest, newest = await self.read(lambda connection: connection.execute(sql.SELECT_EVENT_BOUNDS).fetchone())
        return oldest, newest

    def events_moved(self) -> None:
        """Wake whoever waits: something was committed."""
        self._events_moved.set()
        self._events_moved = asyncio.Event()

    async def wait_for_events(self, after_position: int, wait_s: float) -> None:
        """Return when something may have been committed after a position, or after `wait_s`."""
        moved = self._events_moved
        if (await self.event_bounds())[1] > after_position:
            return
        try:
            async with asyncio.timeout(wait_s):
                await moved.wait()
        except TimeoutError:
            return
