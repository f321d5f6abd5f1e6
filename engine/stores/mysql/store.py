"""The store over MySQL or MariaDB, shared by nodes: the verbs of `Store` over a pool, two lanes and a control plane.

It composes; what a verb does in SQL is in `stages.py`, `consent.py`, `prune.py` and `reads.py`, how it is committed in
`transactions.py`.

Invariants: a verb that writes hands exactly one job to its lane, when it is called; what only an owner may write is
guarded by the leases that this process had at the call.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import structlog

from engine import _core
from engine.clock import Clock
from engine.errors import ConfigError, NotReady, Refused
from engine.stores.mysql import consent, durability, owner, sql, stages
from engine.stores.mysql.address import Address
from engine.stores.mysql.control import Control
from engine.stores.mysql.faults import Fault, classify, code_of, is_our_certificate
from engine.stores.mysql.lanes import Lane
from engine.stores.mysql.migrate import migrate
from engine.stores.mysql.partitions import Days, drop_oldest, late_rows, make_ahead, oldest_to_drop
from engine.stores.mysql.pool import Limits, Link, OnLent, Pool, connect, nobody
from engine.stores.mysql.prune import prune
from engine.stores.mysql.reads import MySQLReads
from engine.stores.mysql.replica import Replica
from engine.stores.mysql.shared import MySQLShared, owned
from engine.stores.mysql.transactions import Full, LaneWriter, Transaction
from engine.stores.store import (
    NEVER_US,
    Callbacks,
    Finding,
    Heart,
    Intent,
    Kept,
    LedgerRow,
    Received,
    Row,
    Run,
    Written,
)

T = TypeVar("T")

CERTIFICATE_ADVICE: Final = (
    "the server does not believe the certificate that it was shown: name one of an authority of the server's, that "
    "has not run out, in LONGWAVE_STORE_TLS_CERT_FILE"
)
PARTITIONS_EVERY_S: Final = 3600.0
PARTITIONS_S: Final = 3600.0
PARTITIONS_WAIT_S: Final = 2
# What was handed in by the end is given so long; then its callers are told that nobody knows.
CLOSE_S: Final = 20.0
# Connections beside the pool's: the control plane's, the lease's.
OTHER_CONNECTIONS: Final = 2
LEASE_S: Final = 30.0

_log = structlog.get_logger("longwave.corridor")


def _noted(line: str) -> None:
    _log.info("store schema", done=line)


def _nobody(days: Days) -> None:
    del days


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is and what is asked of it."""

    primary: Address
    replica: Address | None
    limits: Limits
    level: durability.Level
    node: int | None = None
    """The number of this process among those that share the store; None takes the lowest free one."""
    lease_s: float = LEASE_S
    """How long number and shards stay its own without being renewed."""
    roles: str = ""
    """What it does, for people."""
    replica_lag_s: float = 5.0
    """How far behind the replica may be before the primary answers instead."""


class MySQLStore(MySQLReads):
    """One database."""

    def __init__(
        self,
        place: Place,
        clock: Clock,
        *,
        group_weight_max: int,
        on_lent: OnLent = nobody,
        on_days: Callable[[Days], None] = _nobody,
        progress: Callable[[str], None] = _noted,
    ) -> None:
        """Open nothing yet. A transaction takes up work until it weighs `group_weight_max`.

        `on_days` is told what a look at the partitions changed, `progress` in words what becomes of the schema.
        """
        self.pool = Pool(place.primary, place.limits, on_lent=on_lent)
        replica = None if place.replica is None else Replica(place.replica, place.limits, place.replica_lag_s)
        super().__init__(self.pool, replica)
        self.place = place
        self._watch = durability.Watch(place.level)
        self._clock = clock
        self._group_weight_max = group_weight_max
        self._on_days = on_days
        self._progress = progress
        self._me = owner.Me(int(place.lease_s * owner.US), place.roles)
        self._closing = contextlib.AsyncExitStack()
        self._accept: LaneWriter
        self._record: LaneWriter
        self._full: Full
        self._control: Control
        self._shared: MySQLShared
        self._ended = False
        self.migrated: list[str] = []
        """Revisions that `open` applied."""
        self.name = "mysql"

    # Life.

    async def open(self, callbacks: Callbacks) -> None:
        """See `Store`."""

        def fatal(error: BaseException) -> None:
            if not self._ended:
                self._ended = True
                callbacks.on_fatal(error)

        place = self.place
        try:
            await self._open_pools()
        except Exception as error:
            if classify(error) is Fault.REFUSED:
                advice = f": {CERTIFICATE_ADVICE}" if is_our_certificate(error) else ""
                raise ConfigError([f"{place.primary.shown}: {error}{advice}"]) from None
            raise
        async with self.pool.link() as link:
            findings = await self._watch.check(link)
        if not all(finding.ok for finding in findings):
            shown = place.primary.shown
            raise ConfigError([f"{shown}: {f.name} is {f.found}, needs {f.wanted}" for f in findings if not f.ok])
        self.name = findings[0].found
        self.migrated = await migrate(place.primary, place.limits, self._me.name)
        if self.migrated:
            self._progress(f"applied {', '.join(self.migrated)}")
        await owner.take_number(self.pool, self._me, place.node)
        self._closing.push_async_callback(self._give_back)
        await self._make_partitions_if_free()
        self._full = Full(callbacks.on_full)
        self._control = Control(place.primary, place.limits, self.pool, node=self._me.node)
        self._closing.push_async_callback(self._control.close)
        await self._control.start()
        self._accept, self._record = (
            LaneWriter(
                lane,
                self.pool,
                self._full,
                node=self._me.node,
                group_weight_max=self._group_weight_max,
                on_group=callbacks.on_group,
                on_fatal=fatal,
            )
            for lane in (Lane.ACCEPT, Lane.RECORD)
        )
        own_number = place.node is not None
        self._shared = MySQLShared(self.pool, self._record, self._me, own_number=own_number)
        for lane in (self._accept, self._record):
            self._closing.push_async_callback(lane.close, CLOSE_S)
            await lane.start()
        if self._replica is not None:
            self._replica.follow(self._accept.marker, self._record.marker)
        making = asyncio.get_running_loop().create_task(self._keep_making_partitions(), name="store-partitions")
        self._closing.callback(making.cancel)

    async def _open_pools(self) -> None:
        if self._replica is not None:
            self._closing.push_async_callback(self._replica.pool.close)
        self._closing.push_async_callback(self.pool.close)
        await self.pool.open()

    async def _give_back(self) -> None:
        try:
            await owner.give_back(self.pool, self._me)
        except Exception as error:  # noqa: BLE001 - they run out by themselves
            _log.warning("leases not given back", error=type(error).__name__)

    @contextlib.asynccontextmanager
    async def _partitioning(self) -> AsyncIterator[Link]:
        async with owner.alone(self.place.primary, self.place.limits):
            # Not one of the pool's: moving rows of the last partition takes longer than any other statement may.
            link = Link(await connect(self.place.primary, self.place.limits), PARTITIONS_S)
            try:
                # While it waits for a long read or a backup to let go of the table, everybody else waits behind it.
                await link.run(f"SET SESSION lock_wait_timeout = {PARTITIONS_WAIT_S}")
                yield link
            finally:
                await link.end()

    async def _make_partitions(self) -> None:
        async with self._partitioning() as link:
            late = await late_rows(link)
            made = await make_ahead(link, self._clock.now_us())
        if made:
            self._progress(f"made {made} partitions ahead")
        if made and late:
            self._on_days(Days(late_rows=late))
            _log.warning("rows were stored before their day had a partition: moved into it", rows=late)

    async def _drop_oldest_day(self, before_us: int, due_before_us: int) -> tuple[bool, int]:
        began_s = time.monotonic()
        before, dropped = _core.first_id_at(before_us), None
        try:
            async with self.pool.link() as link:
                found = await oldest_to_drop(link, before, due_before_us)
            if found:
                async with self._partitioning() as link:
                    dropped = await drop_oldest(link, before, due_before_us)
        except Exception as error:
            if classify(error) is not Fault.AGAIN:
                raise
            _log.warning("day of messages not dropped: the tables are held", code=code_of(error))
        if dropped:
            self._on_days(Days(dropped=1))
            self._progress(f"dropped {dropped}, a day past its retention")
        return dropped is not None, int((time.monotonic() - began_s) * 1e6)

    async def _make_partitions_if_free(self) -> None:
        try:
            await self._make_partitions()
        except Exception as error:
            if classify(error) is not Fault.AGAIN:
                raise
            # Days are left, and the last partition takes what has none.
            _log.warning("partitions not made: the tables are held", code=code_of(error))

    async def _keep_making_partitions(self) -> None:
        while True:
            await asyncio.sleep(PARTITIONS_EVERY_S)
            try:
                await self._make_partitions_if_free()
            except Exception as error:  # noqa: BLE001 - asked again; the start refuses what stays wrong
                _log.warning("partitions not made", error=type(error).__name__, code=code_of(error))

    async def begin_run(self) -> Run | None:
        """See `Store`."""
        # Its own, too: whoever begins a run takes over everything anew.
        self._me.holds = self._me.ready = {}
        return await self._shared.take(all_free=True)

    @property
    def shared(self) -> MySQLShared:
        """See `Store`."""
        return self._shared

    def _owned(self, job: Callable[[Transaction], Awaitable[Any]]) -> Callable[[Transaction], Awaitable[Any]]:
        """The job, refused when a shard that this process owns now has another owner by then."""
        return owned(job, self._me.holds)

    async def close(self) -> None:
        """See `Store`."""
        await self._closing.aclose()
        self._ended = True

    @property
    def ended(self) -> bool:
        """See `Store`."""
        return self._ended or self._record.ended or self._accept.ended

    @property
    def full(self) -> bool:
        """See `Store`."""
        return self._full.is_full

    @property
    def connections(self) -> int:
        """See `Store`."""
        replica = self._replica.pool.open_count if self._replica is not None else 0
        return self.pool.open_count + replica + OTHER_CONNECTIONS

    def check(self) -> asyncio.Future[list[Finding]]:
        """See `Store`."""

        async def look() -> list[Finding]:
            async with self.pool.link() as link:
                findings = await self._watch.check(link)
            if not all(finding.ok for finding in findings):
                # It may be the primary of yesterday: the next look is at whoever has the name now.
                self.pool.drop()
            return findings

        return asyncio.ensure_future(look())

    def make_room(self) -> asyncio.Future[bool]:
        """See `Store`."""

        async def probe(tx: Transaction) -> bool:
            # Its COMMIT writes the redo log and the binary log, which is what a full disk refuses.
            del tx
            return True

        async def try_to() -> bool:
            try:
                await self._record.submit("control", probe)
            except Refused:
                return False
            self._full.turn(full=False)
            return True

        return asyncio.ensure_future(try_to())

    def heart(self) -> Heart:
        """See `Store`."""
        return owner.Heart(self.place.primary, self.place.limits, self._me)

    # Messages.

    def append(self, admission: _core.Admission, now_us: int) -> asyncio.Future[None]:
        """See `Store`."""
        job = partial(stages.append, admission=admission, now_us=now_us, holds=self._me.ready)
        return self._accept.submit("append", job, weight=admission.accepted, new_work=True)

    def intend(
        self,
        dispatch: _core.Dispatch,
        intent: Intent,
        scheduler: _core.Scheduler,
        settler: _core.Settler,
        registry: _core.Registry,
        seed: int,
    ) -> asyncio.Future[Written | None]:
        """See `Store`."""
        if intent.epoch > self._me.epoch:
            refused: asyncio.Future[Written | None] = asyncio.get_running_loop().create_future()
            refused.set_exception(NotReady("this process never owned anything under that epoch; nothing was stored"))
            return refused
        job = partial(
            stages.intend,
            dispatch=dispatch,
            intent=intent,
            scheduler=scheduler,
            settler=settler,
            registry=registry,
            seed=seed,
        )
        return self._record.submit("intent", job, weight=len(dispatch))

    def settle(
        self,
        facts: _core.Facts,
        settler: _core.Settler,
        registry: _core.Registry,
        now_us: int,
        seed: int,
        *,
        stage: str,
        scheduler: _core.Scheduler,
        provider: int,
        early_kept: bool,
    ) -> asyncio.Future[Written]:
        """See `Store`."""
        job = partial(
            stages.settle,
            facts=facts,
            settler=settler,
            registry=registry,
            now_us=now_us,
            seed=seed,
            scheduler=scheduler,
            provider=provider,
            early_kept=early_kept,
        )
        return self._record.submit(stage, self._owned(job), weight=len(facts))

    def cancel(
        self,
        facts: _core.Facts,
        settler: _core.Settler,
        registry: _core.Registry,
        now_us: int,
        seed: int,
        *,
        tenant: int,
    ) -> asyncio.Future[tuple[Written, Row]]:
        """See `Store`."""
        job = partial(
            stages.cancel,
            facts=facts,
            settler=settler,
            registry=registry,
            now_us=now_us,
            seed=seed,
            tenant=tenant,
            holds=self._me.ready,
        )
        return self._record.submit("record", job)

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
    ) -> asyncio.Future[Received]:
        """See `Store`."""
        job = partial(
            stages.receive,
            webhooks=webhooks,
            bodies=bodies,
            provider=provider,
            scheduler=scheduler,
            settler=settler,
            registry=registry,
            mint=mint,
            now_us=now_us,
            seed=seed,
        )
        return self._record.submit("receipts", self._owned(job), weight=len(bodies))

    def held(self, ids: Sequence[int]) -> asyncio.Future[list[Row]]:
        """See `Store`."""
        return self._record.submit("record", partial(stages.held, ids=ids))

    def hasten_lookups(self, dues: Sequence[tuple[int, int]]) -> asyncio.Future[None]:
        """See `Store`."""
        return self._record.submit("recover", partial(stages.hasten_lookups, dues=dues), weight=len(dues))

    # Consent.

    def add_opt_out(
        self, tenant: int, recipient: int, source: int, now_us: int, evidence: str
    ) -> asyncio.Future[tuple[int, int, bool]]:
        """See `Store`."""
        job = partial(
            consent.add_opt_out, tenant=tenant, recipient=recipient, source=source, now_us=now_us, evidence=evidence
        )
        return self._record.submit("opt_out", job)

    def remove_opt_out(
        self, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int
    ) -> asyncio.Future[bool]:
        """See `Store`."""
        job = partial(
            consent.remove_opt_out,
            tenant=tenant,
            recipient=recipient,
            source=source,
            now_us=now_us,
            occurred_us=occurred_us,
        )
        return self._record.submit("opt_out", job)

    def mark_effective(self, pairs: Sequence[tuple[int, int]], now_us: int) -> asyncio.Future[None]:
        """See `Store`."""
        return self._record.submit("opt_out", partial(consent.mark_effective, pairs=pairs, now_us=now_us))

    # Ledgers, recipes, facts, retention.

    def write_ledgers(self, scheduler: _core.Scheduler) -> asyncio.Future[list[LedgerRow]]:
        """See `Store`: attempts and outcomes take along all that there is."""
        del scheduler
        nothing: asyncio.Future[list[LedgerRow]] = asyncio.get_running_loop().create_future()
        nothing.set_result([])
        return nothing

    def begin_ledger(self, row: LedgerRow) -> asyncio.Future[None]:
        """See `Store`."""

        async def job(tx: Transaction) -> None:
            await tx.run(sql.INSERT_LEDGER, row)

        return self._record.submit("control", job)

    def settled_so_far(self) -> asyncio.Future[None]:
        """See `Store`."""

        async def nothing() -> None:
            return

        async def both(*ends: asyncio.Future[None]) -> None:
            for end in ends:
                await end

        return asyncio.ensure_future(both(self._accept.submit_alone(nothing), self._record.submit_alone(nothing)))

    def recipe(self, provider: int, callback_base: str, mac_key: str, renderer: int) -> asyncio.Future[int]:
        """See `Store`."""
        job = partial(stages.recipe, provider=provider, callback_base=callback_base, mac_key=mac_key, renderer=renderer)
        return self._record.submit("recover", job)

    def set_facts(self, pairs: Sequence[tuple[str, int]]) -> asyncio.Future[None]:
        """See `Store`."""

        async def job(tx: Transaction) -> None:
            await tx.put(sql.REPLACE_FACTS, pairs)

        return self._record.submit("control", job)

    def prune(
        self, kind: Kept, before_us: int, rows_max: int, *, due_before_us: int = NEVER_US
    ) -> asyncio.Future[tuple[bool, int]]:
        """See `Store`."""
        if kind is Kept.MESSAGES:
            return asyncio.get_running_loop().create_task(self._drop_oldest_day(before_us, due_before_us))

        async def timed(tx: Transaction) -> tuple[bool, int]:
            began_s = time.monotonic()
            more = await prune(tx, kind, before_us, rows_max)
            return more, int((time.monotonic() - began_s) * 1e6)

        return self._record.submit("control", timed)

    # The control plane.

    def run_control(self, function: Callable[[sa.Connection], T]) -> asyncio.Future[T]:
        """See `Store`."""
        return self._record.submit_alone(partial(self._control.run, function))
