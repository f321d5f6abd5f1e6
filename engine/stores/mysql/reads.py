"""The MySQL store's reading half: statements that commit themselves, on connections of the pool.

It changes nothing. With a replica, `view` and `views` alone are read there while it is fresh enough: a state may be the
one before, a page may lack what was just accepted. A message that the replica does not know is looked for on the
primary, so nothing that was accepted is ever not found. All else comes from the primary.
"""

from collections.abc import Sequence
from typing import Any, Final

from engine.stores.mysql import sql
from engine.stores.mysql.pool import Link, Pool
from engine.stores.mysql.replica import Replica
from engine.stores.mysql.stages import listed, quoted
from engine.stores.mysql.transactions import EVENT_SLOTS
from engine.stores.store import ID_MAX, LedgerRow, Row, Shards, Stretch

# What a start reads grows with the store: millions of opt-outs take longer than any statement of the work may.
START_S: Final = 600.0


def _of(shards: Shards, table: str = "") -> str:
    return "" if shards is None else sql.SHARDS_OF.format(m=table, shards=listed(shards))


class MySQLReads:
    """The verbs of `Store` that read."""

    def __init__(self, pool: Pool, replica: Replica | None) -> None:
        """Read from `pool`, and what callers look up from the replica if there is one."""
        self._pool = pool
        self._replica = replica

    async def _rows(self, statement: str, *values: Any) -> list[Any]:
        async with self._pool.asking() as link:
            return await link.rows(statement, values or None)

    async def _rows_at_start(self, statement: str, *values: Any) -> list[Any]:
        async with self._pool.link() as link:
            return await link.rows(statement, values or None, within_s=START_S)

    async def _rows_for_caller(self, statement: str, *values: Any) -> list[Any]:
        async with self._pool.asking(for_caller=True) as link:
            return await link.rows(statement, values)

    async def _number(self, statement: str) -> Any:
        """The first column of the first row, None without one."""
        rows = await self._rows(statement)
        return rows[0][0] if rows else None

    # What a start reads.

    async def opt_outs(self) -> list[tuple[int, int]]:
        """See `Store`."""
        return await self._rows_at_start(sql.SELECT_OPT_OUTS)

    async def barriers_open(self) -> list[tuple[int, int]]:
        """See `Store`."""
        return await self._rows_at_start(sql.SELECT_BARRIERS_OPEN)

    async def carriers(self, rows_max: int) -> list[tuple[int, int]]:
        """See `Store`."""
        return await self._rows_at_start(sql.SELECT_CARRIERS, rows_max)

    async def early_count(self) -> int:
        """See `Store`."""
        count: int = await self._number(sql.COUNT_EARLY)
        return count

    async def in_state(self, state: int, shards: Shards = None) -> list[int]:
        """See `Store`."""
        return [row[0] for row in await self._rows_at_start(sql.SELECT_IN_STATE.format(of=_of(shards)), state)]

    async def key_holders(self, shards: Shards = None) -> list[Row]:
        """See `Store`."""
        return await self._rows_at_start(sql.SELECT_KEY_HOLDERS.format(of=_of(shards, "m.")))

    async def ledgers(self) -> list[LedgerRow]:
        """See `Store`."""
        return await self._rows_at_start(sql.SELECT_LEDGERS)

    async def recipes(self, provider: int, renderer: int) -> list[tuple[int, str, str]]:
        """See `Store`."""
        return await self._rows_at_start(sql.SELECT_RECIPES, provider, renderer)

    # What work reads.

    async def waiting_bounds(self, streams: Sequence[int], shards: Shards = None) -> list[tuple[int, int, int, int]]:
        """See `Store`."""
        asked = sql.SELECT_WAITING_BOUNDS.format(of=_of(shards))
        return [row for row in await self._rows_at_start(asked) if row[1] in streams]

    async def waiting_piece(self, campaign: int, stream: int, from_id: int, upto_id: int, rows_max: int) -> list[Row]:
        """See `Store`."""
        return await self._rows(sql.SELECT_WAITING_PIECE, campaign, stream, from_id, upto_id, rows_max)

    async def waiting_expired(
        self, campaign: int, stream: int, after_id: int, now_us: int, rows_max: int
    ) -> tuple[list[int], int]:
        """See `Store`."""
        rows = await self._rows(sql.SELECT_WAITING_EXPIRY, campaign, stream, after_id, rows_max)
        return [row[0] for row in rows if row[1] <= now_us], rows[-1][0] if len(rows) == rows_max else 0

    async def due(self, states: Sequence[int], now_us: int, rows_max: int, shards: Shards = None) -> list[int]:
        """See `Store`."""
        asked = sql.SELECT_DUE.format(of=_of(shards))
        return [row[0] for state in states for row in await self._rows(asked, state, now_us, rows_max)]

    async def latest_due(
        self, state: int, before: tuple[int, int], rows_max: int, shards: Shards = None
    ) -> list[tuple[int, int]]:
        """See `Store`."""
        due_us, identity = before
        asked = sql.SELECT_LATEST_DUE.format(of=_of(shards))
        return await self._rows(asked, state, due_us, due_us, identity, rows_max)

    async def started(
        self,
        tenant: int,
        after: int,
        campaigns: Sequence[int],
        from_us: int,
        carrier: int,
        unit: int,
        rows_max: int,
    ) -> tuple[int, int | None]:
        """See `Store`."""
        end = await self._rows(sql.SELECT_PIECE_END, tenant, after, rows_max - 1)
        upto = end[0][0] if end else ID_MAX
        statement = sql.SELECT_STARTED.format(unit="segments" if unit == 1 else "1", ids=listed(campaigns))
        [(spent,)] = await self._rows(statement, tenant, after, upto, from_us, carrier, carrier)
        return spent, upto if end else None

    async def registry_version(self) -> int | None:
        """See `Store`."""
        version: int | None = await self._number(sql.SELECT_REGISTRY_VERSION)
        return version

    async def facts(self, names: Sequence[str]) -> list[int | None]:
        """See `Store`."""
        found = dict(await self._rows(sql.SELECT_FACTS.format(texts=quoted(names))))
        return [found.get(name) for name in names]

    async def count_by_state(self) -> list[tuple[int, int]]:
        """See `Store`."""
        return await self._rows(sql.COUNT_BY_STATE)

    # What callers read.

    async def opt_outs_of(self, tenant: int, after: int, rows_max: int) -> list[tuple[int, int, int]]:
        """See `Store`."""
        return await self._rows_for_caller(sql.SELECT_OPT_OUTS_OF, tenant, after, rows_max)

    async def view(self, tenant: int, identity: int) -> Row | None:
        """See `Store`."""

        async def read(link: Link) -> list[Row]:
            return await link.rows(sql.SELECT_VIEW, (identity, tenant))

        rows = await self._replica.ask(read) if self._replica is not None else None
        if not rows:
            async with self._pool.asking(for_caller=True) as link:
                rows = await read(link)
        return rows[0] if rows else None

    async def views(self, tenant: int, stretch: Stretch) -> tuple[list[Row], int]:
        """See `Store`."""
        filters, values = "", []
        if stretch.campaign:
            filters += " AND m.campaign = %s"
            values.append(stretch.campaign)
        if stretch.states:
            filters += f" AND m.state IN ({listed(stretch.states)})"
        if stretch.recipient:
            filters += " AND m.recipient = %s"
            values.append(stretch.recipient)

        async def read(link: Link) -> tuple[list[Row], int]:
            # The stretch first: its lowest id bounds the page, whatever the filters leave of it.
            scanned = (tenant, stretch.before_id, stretch.lowest_id, stretch.scanned_max)
            [(lowest, count)] = await link.rows(sql.SELECT_STRETCH, scanned)
            floor = lowest or stretch.lowest_id
            statement = sql.SELECT_VIEWS.format(filters=filters)
            rows = await link.rows(statement, (tenant, stretch.before_id, floor, *values, stretch.rows_max))
            return rows, floor if count == stretch.scanned_max else 0

        found = await self._replica.ask(read) if self._replica is not None else None
        if found is None:
            async with self._pool.asking(for_caller=True) as link:
                found = await read(link)
        return found

    # The event log.

    def slot_of(self, tenant: int) -> int:
        """See `Store`."""
        return tenant % EVENT_SLOTS

    async def events(self, tenant: int, after_position: int, rows_max: int) -> tuple[list[bytes], int]:
        """See `Store`."""
        async with self._pool.asking(for_caller=True) as link:
            # Newest first: rows committed between the two reads are left for the next call, never skipped.
            slot = self.slot_of(tenant)
            [(_, newest)] = await link.rows(sql.SELECT_EVENT_BOUNDS, (slot, slot))
            rows = await link.rows(sql.SELECT_EVENTS, (tenant, after_position, newest, rows_max))
        reached = rows[-1][0] if len(rows) == rows_max else max(newest, after_position)
        return [row[1] for row in rows], reached

    async def event_bounds(self, tenant: int) -> tuple[int, int]:
        """See `Store`."""
        slot = self.slot_of(tenant)
        [(oldest, newest)] = await self._rows_for_caller(sql.SELECT_EVENT_BOUNDS, slot, slot)
        return oldest, newest

    async def newest_event(self) -> int:
        """See `Store`."""
        newest: int = await self._number(sql.SELECT_NEWEST_EVENT)
        return newest

    async def oldest_event_us(self) -> int | None:
        """See `Store`."""
        slots = " UNION ALL ".join(sql.SELECT_OLDEST_OF_SLOT.format(slot=slot) for slot in range(EVENT_SLOTS))
        at_us: int | None = await self._number(sql.SELECT_OLDEST_EVENTS.format(slots=slots))
        return at_us
