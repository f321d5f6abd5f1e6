"""The embedded store: one SQLite file, one process, one writer's thread behind the verbs of `Store`.

It composes the lock, the recovered file, its schema, the reserve of disk space, the writer and the readers; what a verb
does in SQL is in `sqlite.py`, `sqlite_reads.py` and `sqlite_prune.py`. Groups, savepoints and the reserve are its own.

Invariant: a verb that writes hands exactly one job to the writer, when it is called.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
import structlog

from engine import _core
from engine.clock import Clock
from engine.errors import ConfigError
from engine.stores import sqlite, sqlite_prune
from engine.stores.connection import Connection, Reserve, StoreLock, check, engine_over
from engine.stores.embedded_reads import EmbeddedReads
from engine.stores.last_run import remember
from engine.stores.migrate import migrate
from engine.stores.store import (
    NEVER_US,
    SHARDS,
    Callbacks,
    Finding,
    Intent,
    Kept,
    LedgerRow,
    Received,
    Row,
    Run,
    Written,
)
from engine.stores.wal import open_recovered
from engine.stores.writer import Writer

_log = structlog.get_logger("longwave.corridor")

T = TypeVar("T")


class EmbeddedStore(EmbeddedReads):
    """The store at one path."""

    writer: Writer
    """From `open` on."""

    def __init__(self, path: Path, clock: Clock, *, reserve_bytes: int, group_weight_max: int) -> None:
        """Open nothing yet. A transaction takes up work until it weighs `group_weight_max`."""
        super().__init__(path)
        self._clock = clock
        self._reserve = Reserve(path, reserve_bytes)
        self._group_weight_max = group_weight_max
        self._closing = contextlib.AsyncExitStack()
        self._control: sa.Engine
        self.name = "sqlite"

    # Life.

    async def open(self, callbacks: Callbacks) -> None:
        """See `Store`."""
        lock = StoreLock(self._path)
        self._closing.callback(lock.release)
        connection = open_recovered(self._path)
        self._closing.callback(connection.close)
        findings = check(connection)
        if not all(finding.ok for finding in findings):
            raise ConfigError([f"{self._path}: {f.name} is {f.found}, needs {f.wanted}" for f in findings if not f.ok])
        self.name = f"sqlite {findings[0].found}"
        for line in migrate(connection, self._path, now_us=self._clock.now_us()):
            _log.info("migrated", revision=line)
        await asyncio.to_thread(self._reserve.create)
        self._control = engine_over(connection)
        self.writer = Writer(
            connection,
            self._reserve,
            linger_s=0,
            group_weight_max=self._group_weight_max,
            on_fatal=callbacks.on_fatal,
            on_group=callbacks.on_group,
            on_full=callbacks.on_full,
        )
        self.writer.start()
        self._closing.push_async_callback(self.writer.close)
        self._closing.push_async_callback(self.close_readers)

    async def begin_run(self) -> Run:
        """See `Store`."""
        last_id: int = await self.writer.submit("recover", sqlite.last_id)
        epoch: int = await self.writer.submit("recover", sqlite.raise_epoch)
        await asyncio.to_thread(remember, self._path, epoch)
        self._epoch = epoch
        return Run(epoch, last_id, tuple(range(SHARDS)))

    async def close(self) -> None:
        """See `Store`."""
        await self._closing.aclose()

    @property
    def ended(self) -> bool:
        """See `Store`."""
        return self.writer.ended

    @property
    def full(self) -> bool:
        """See `Store`."""
        return self.writer.full

    @property
    def connections(self) -> int:
        """See `Store`."""
        return 1 + self.readers

    def check(self) -> asyncio.Future[list[Finding]]:
        """See `Store`."""
        return self.writer.submit("control", check, alone=True)

    def make_room(self) -> asyncio.Future[bool]:
        """See `Store`."""
        return self.writer.submit("control", lambda _connection: self.writer.refill(), alone=True)

    # Messages.

    def append(self, admission: _core.Admission, now_us: int) -> asyncio.Future[None]:
        """See `Store`."""
        job = partial(sqlite.append, admission=admission, now_us=now_us)
        return self.writer.submit("append", job, weight=admission.accepted, new_work=True)

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
        job = partial(
            sqlite.intend,
            dispatch=dispatch,
            intent=intent,
            scheduler=scheduler,
            settler=settler,
            registry=registry,
            seed=seed,
        )
        return self.writer.submit("intent", job, weight=len(dispatch))

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
            sqlite.settle,
            facts=facts,
            settler=settler,
            registry=registry,
            now_us=now_us,
            seed=seed,
            scheduler=scheduler,
            provider=provider,
            early_kept=early_kept,
        )
        return self.writer.submit(stage, job, weight=len(facts))

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
            sqlite.cancel, facts=facts, settler=settler, registry=registry, now_us=now_us, seed=seed, tenant=tenant
        )
        return self.writer.submit("record", job)

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
            sqlite.receive,
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
        return self.writer.submit("receipts", job, weight=len(bodies))

    def held(self, ids: Sequence[int]) -> asyncio.Future[list[Row]]:
        """See `Store`."""
        return self.writer.submit("record", partial(sqlite.held, ids=ids))

    def hasten_lookups(self, dues: Sequence[tuple[int, int]]) -> asyncio.Future[None]:
        """See `Store`."""
        return self.writer.submit("recover", partial(sqlite.hasten_lookups, dues=dues), weight=len(dues))

    # Consent.

    def add_opt_out(
        self, tenant: int, recipient: int, source: int, now_us: int, evidence: str
    ) -> asyncio.Future[tuple[int, int, bool]]:
        """See `Store`."""
        job = partial(
            sqlite.add_opt_out, tenant=tenant, recipient=recipient, source=source, now_us=now_us, evidence=evidence
        )
        return self.writer.submit("opt_out", job)

    def remove_opt_out(
        self, tenant: int, recipient: int, source: int, now_us: int, occurred_us: int
    ) -> asyncio.Future[bool]:
        """See `Store`."""
        job = partial(
            sqlite.remove_opt_out,
            tenant=tenant,
            recipient=recipient,
            source=source,
            now_us=now_us,
            occurred_us=occurred_us,
        )
        return self.writer.submit("opt_out", job)

    def mark_effective(self, pairs: Sequence[tuple[int, int]], now_us: int) -> asyncio.Future[None]:
        """See `Store`."""
        return self.writer.submit("opt_out", partial(sqlite.mark_effective, pairs=pairs, now_us=now_us))

    # Ledgers, recipes, facts, retention.

    def write_ledgers(self, scheduler: _core.Scheduler) -> asyncio.Future[list[LedgerRow]]:
        """See `Store`."""
        return self.writer.submit("record", partial(sqlite.write_ledgers, scheduler=scheduler))

    def begin_ledger(self, row: LedgerRow) -> asyncio.Future[None]:
        """See `Store`."""
        return self.writer.submit("control", partial(sqlite.begin_ledger, row=row))

    def settled_so_far(self) -> asyncio.Future[None]:
        """See `Store`."""
        return self.writer.submit("control", lambda _connection: None)

    def recipe(self, provider: int, callback_base: str, mac_key: str, renderer: int) -> asyncio.Future[int]:
        """See `Store`."""
        job = partial(
            sqlite.recipe_key, provider=provider, callback_base=callback_base, mac_key=mac_key, renderer=renderer
        )
        return self.writer.submit("recover", job)

    def set_facts(self, pairs: Sequence[tuple[str, int]]) -> asyncio.Future[None]:
        """See `Store`."""
        return self.writer.submit("control", partial(sqlite.set_facts, pairs=pairs))

    def prune(
        self, kind: Kept, before_us: int, rows_max: int, *, due_before_us: int = NEVER_US
    ) -> asyncio.Future[tuple[bool, int]]:
        """See `Store`."""

        def timed(connection: Connection) -> tuple[bool, int]:
            began_us = self._clock.mono_us()
            more = sqlite_prune.prune(connection, kind, before_us, rows_max, due_before_us)
            return more, self._clock.mono_us() - began_us

        return self.writer.submit("control", timed)

    # The control plane.

    def run_control(self, function: Callable[[sa.Connection], T]) -> asyncio.Future[T]:
        """See `Store`."""

        def job(_connection: Connection) -> T:
            with self._control.begin() as control:
                return function(control)

        return self.writer.submit("control", job, alone=True)
