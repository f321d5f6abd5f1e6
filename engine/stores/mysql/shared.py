"""What several processes over one MySQL store need beyond the verbs of `Store`: shards, the inbox, budgets, what moved.

It elects nobody (`owner.py` does). Invariant: rows of the inbox are removed by the owner of their shard alone, under
its lease: one that was owner before, and does not know better, removes none that the next has not seen.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from engine import _core
from engine.stores.mysql import budgets, inbox, sql, stages
from engine.stores.mysql.owner import Me, above_share, end_last_owners, give, last_id, take_leases
from engine.stores.mysql.pool import Pool
from engine.stores.mysql.transactions import Holds, LaneWriter, Transaction
from engine.stores.store import SHARDS, InboxKind, InboxRow, Lease, LedgerRow, Received, Row, Run

Job = Callable[[Transaction], Awaitable[Any]]


def owned(job: Job, holds: Holds) -> Job:
    """The job, refused with NotReady when one of the shards that were held so has another owner."""
    return partial(_guarded, job, holds)


async def _guarded(job: Job, holds: Holds, tx: Transaction) -> Any:
    await tx.guard(holds)
    return await job(tx)


class MySQLShared:
    """See `engine.stores.store.Shared`."""

    def __init__(self, pool: Pool, record: LaneWriter, me: Me, *, own_number: bool) -> None:
        """Read from `pool`, write in the lane `record`, as `me`, which has a number of its own or any."""
        self._pool = pool
        self._record = record
        self._me = me
        self._own_number = own_number

    async def _rows(self, statement: str, *values: Any) -> list[Any]:
        async with self._pool.asking() as link:
            return await link.rows(statement, values or None)

    def _write(self, stage: str, job: Job, weight: int) -> asyncio.Future[Any]:
        return self._record.submit(stage, owned(job, self._me.holds), weight=weight)

    async def join(self) -> tuple[int, int]:
        """See `Shared`."""
        [(last_id,)] = await self._rows(sql.SELECT_LAST_ID)
        return self._me.node, last_id

    # Shards.

    @property
    def shards(self) -> tuple[int, ...]:
        """See `Shared`."""
        return tuple(sorted(self._me.ready))

    async def take(self, *, all_free: bool) -> Run | None:
        """See `Shared`."""
        me = self._me
        await end_last_owners(self._pool, me)
        job = partial(take_leases, me=me, own_number=self._own_number, all_free=all_free)
        taken: dict[int, int] | None = await self._record.submit("recover", job)
        if taken is None:
            return None
        me.epoch = max(taken.values())
        me.holds = {**me.holds, **taken}
        found: int = await self._record.submit("recover", last_id)
        return Run(me.epoch, found, tuple(sorted(taken)))

    def taken_over(self, shards: Sequence[int]) -> None:
        """See `Shared`."""
        me = self._me
        me.ready = {**me.ready, **{shard: me.holds[shard] for shard in shards if shard in me.holds}}

    @property
    def strays(self) -> tuple[int, ...]:
        """See `Shared`."""
        return tuple(sorted(self._me.holds.keys() - self._me.ready.keys()))

    async def above_share(self) -> int:
        """See `Shared`."""
        return await above_share(self._pool, self._me)

    def give_up(self, shards: Sequence[int]) -> None:
        """See `Shared`."""
        me = self._me
        me.ready = {shard: epoch for shard, epoch in me.ready.items() if shard not in shards}

    async def give(self, shards: Sequence[int]) -> None:
        """See `Shared`."""
        async with self._pool.link() as link:
            await give(link, self._me, shards)

    # The inbox.

    async def inbox(self, without: Sequence[int], rows_max: int) -> list[InboxRow]:
        """See `Shared`."""
        shards = self.shards
        if not shards:
            return []
        asked = sql.SELECT_INBOX.format(shards=stages.listed(shards), ids=stages.listed(without), rows=rows_max)
        return [InboxRow(*row) for row in await self._rows(asked)]

    async def inbox_size(self) -> tuple[int, int]:
        """See `Shared`."""
        shards = self.shards
        if not shards:
            return 0, 0
        [(rows, oldest_us)] = await self._rows(sql.COUNT_INBOX.format(shards=stages.listed(shards)))
        return rows, oldest_us

    async def shards_of(self, ids: Sequence[int]) -> dict[int, int]:
        """See `Shared`."""
        found: dict[int, int] = {}
        for piece in stages.pieces(ids):
            rows = await self._rows(sql.SELECT_CAMPAIGNS.format(ids=stages.listed(piece)))
            found |= {identity: campaign % SHARDS for identity, campaign in rows}
        return found

    async def resolve(self, wanted: Sequence[tuple[int, str]], provider: int, now_us: int) -> dict[int, int]:
        """See `Shared`."""
        return await stages.resolve_provider_ids(self._rows, wanted, provider, now_us)

    def receive(
        self,
        webhooks: _core.Webhooks,
        bodies: Sequence[bytes],
        provider: int,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        registry: _core.Registry,
        mint: _core.Admitter,
        now_us: int,
        seed: int,
        positions: Sequence[int],
    ) -> asyncio.Future[Received]:
        """See `Shared`."""

        async def job(tx: Transaction) -> Received:
            await inbox.done(tx, positions)
            return await stages.receive(
                tx, webhooks, bodies, provider, scheduler, settler, registry, mint, now_us, seed
            )

        return self._write("receipts", job, len(bodies))

    def receive_inbound(
        self,
        webhooks: _core.Webhooks,
        bodies: Sequence[bytes],
        provider: int,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        registry: _core.Registry,
        mint: _core.Admitter,
        now_us: int,
        seed: int,
    ) -> asyncio.Future[Received]:
        """See `Shared`."""

        async def job(tx: Transaction) -> Received:
            return await stages.receive(
                tx, webhooks, bodies, provider, scheduler, settler, registry, mint, now_us, seed, resolves=False
            )

        return self._record.submit("receipts", job, weight=len(bodies))

    def take_messages(self, positions: Sequence[int], ids: Sequence[int]) -> asyncio.Future[list[Row]]:
        """See `Shared`."""

        async def job(tx: Transaction) -> list[Row]:
            await inbox.done(tx, positions)
            return await stages.held(tx, ids)

        return self._write("record", job, len(ids))

    def done(self, positions: Sequence[int]) -> asyncio.Future[None]:
        """See `Shared`."""
        return self._write("record", partial(inbox.done, positions=positions), len(positions))

    def hand_over(self, kind: InboxKind, at_us: int, rows: Sequence[tuple[int, bytes]]) -> asyncio.Future[None]:
        """See `Shared`."""
        job = partial(inbox.put, kind=kind, at_us=at_us, rows=rows)
        return self._record.submit("receipts", job, weight=len(rows))

    async def early_to_join(self, since_us: int, rows_max: int) -> list[tuple[int, int]]:
        """See `Shared`."""
        shards = self.shards
        if not shards:
            return []
        of = sql.SHARDS_OF.format(m="m.", shards=stages.listed(shards))
        return await self._rows(sql.SELECT_EARLY_TO_JOIN.format(of=of, rows=rows_max), since_us)

    def join_early(self, pairs: Sequence[tuple[int, int]]) -> asyncio.Future[None]:
        """See `Shared`."""

        async def job(tx: Transaction) -> None:
            for position, identity in pairs:
                await tx.run(sql.UPDATE_EARLY_MESSAGE, (identity, position))

        return self._write("record", job, len(pairs))

    async def waiting(self) -> int:
        """See `Shared`."""
        [(messages,)] = await self._rows(sql.COUNT_WAITING.format(shards=stages.listed(self.shards)))
        return int(messages)

    # Budgets.

    async def lease(
        self, asks: Sequence[tuple[int, int, int]], registry: _core.Registry, mono_us: Callable[[], int]
    ) -> list[Lease]:
        """See `Shared`."""
        async with self._pool.link() as link:
            await link.run("BEGIN")
            link.in_transaction = True
            given = await budgets.lease(link, asks, registry, mono_us)
            await link.run("COMMIT")
            link.in_transaction = False
        return given

    async def ledgers_since(self, day: int) -> list[LedgerRow]:
        """See `Shared`."""
        return await self._rows(sql.SELECT_LEDGERS_SINCE, day)

    # Consent.

    async def open_to(self, tenant: int, recipient: int, due_after_us: int) -> list[int]:
        """See `Shared`."""
        return [row[0] for row in await self._rows(sql.SELECT_OPEN_TO, due_after_us, tenant, recipient)]

    async def barrier_open(self, tenant: int, recipient: int) -> bool:
        """See `Shared`."""
        return bool(await self._rows(sql.SELECT_BARRIER_OPEN, tenant, recipient))

    async def consent_tail(self) -> int:
        """See `Shared`."""
        [(newest,)] = await self._rows(sql.SELECT_CONSENT_TAIL)
        return int(newest)

    async def consents(self, after: int, rows_max: int) -> list[tuple[int, int, int, int]]:
        """See `Shared`."""
        return await self._rows(sql.SELECT_CONSENTS, after, rows_max)

    async def events_mark(self) -> int:
        """See `Shared`."""
        [(mark,)] = await self._rows(sql.SELECT_EVENTS_MARK)
        return int(mark)
