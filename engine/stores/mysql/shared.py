"""What several processes over one MySQL store need beyond the verbs of `Store`: the owner's inbox, and what moved.

It elects nobody (`owner.py` does). Invariant: rows of the inbox are removed by their owner alone, under the leases: one
that was owner before, and does not know better, removes none that the next has not seen.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from engine import _core
from engine.stores.mysql import inbox, sql, stages
from engine.stores.mysql.owner import Me
from engine.stores.mysql.pool import Pool
from engine.stores.mysql.transactions import LaneWriter, Transaction
from engine.stores.store import InboxKind, InboxRow, Received, Row

Job = Callable[[Transaction], Awaitable[Any]]


def owned(job: Job, epoch: int) -> Job:
    """The job, refused with NotReady when there is another owner than the one under this epoch."""
    return partial(_guarded, job, epoch)


async def _guarded(job: Job, epoch: int, tx: Transaction) -> Any:
    await tx.guard(epoch)
    return await job(tx)


class MySQLShared:
    """See `engine.stores.store.Shared`."""

    def __init__(self, pool: Pool, record: LaneWriter, me: Me) -> None:
        """Read from `pool`, write in the lane `record`, as `me`."""
        self._pool = pool
        self._record = record
        self._me = me

    async def _rows(self, statement: str, *values: Any) -> list[Any]:
        async with self._pool.asking() as link:
            return await link.rows(statement, values or None)

    def _write(self, stage: str, job: Job, weight: int) -> asyncio.Future[Any]:
        return self._record.submit(stage, owned(job, self._me.epoch), weight=weight)

    async def join(self) -> tuple[int, int]:
        """See `Shared`."""
        [(last_id,)] = await self._rows(sql.SELECT_LAST_ID)
        return self._me.node, last_id

    def taken_over(self) -> None:
        """See `Shared`."""
        self._me.pushes_under = self._me.epoch

    async def inbox(self, without: Sequence[int], rows_max: int) -> list[InboxRow]:
        """See `Shared`."""
        asked = sql.SELECT_INBOX.format(ids=stages.listed(without), rows=rows_max)
        return [InboxRow(*row) for row in await self._rows(asked)]

    async def inbox_size(self) -> tuple[int, int]:
        """See `Shared`."""
        [(rows, oldest_us)] = await self._rows(sql.COUNT_INBOX)
        return rows, oldest_us

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
            received = await stages.receive(
                tx, webhooks, bodies, provider, scheduler, settler, registry, mint, now_us, seed
            )
            for tenant, recipient, out in received.consents:
                await inbox.put(tx, InboxKind.CONSENT, now_us, [inbox.packed((tenant, recipient, out))])
            return received

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

    def hand_over(self, kind: InboxKind, at_us: int, payloads: Sequence[bytes]) -> asyncio.Future[None]:
        """See `Shared`."""
        job = partial(inbox.put, kind=kind, at_us=at_us, payloads=payloads)
        return self._record.submit("receipts", job, weight=len(payloads))

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
