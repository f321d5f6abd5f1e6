"""Group commit over the pool: work of one lane in one transaction, run again whole when the server asks for it.

It knows no table but its own (`lanes`, `event_slots`, `events`). A job is a coroutine function of the transaction;
behind the first of a group it runs in a savepoint, and its caller is answered after the COMMIT that holds it, never
earlier.

How many run at once: two. Lane ACCEPT stores what was admitted; lane RECORD everything else: attempts, outcomes,
receipts, consent, ledgers, the registry. Within a lane jobs are stored in the order in which they were handed in, one
transaction at a time, so facts about one message never overtake each other and a ledger is never written backwards.
Between the lanes there is no order, and none is needed: of a message that is not committed nobody knows a fact yet.

Invariants:
- a job's own error undoes that job alone;
- a deadlock, a wait for a lock, a lost connection before COMMIT: all of it is undone, and run again from the start on a
  connection of its own, at most `RETRY_S` long; then it is refused: nothing was stored;
- each transaction writes its number, and who counts, into the row of its node's lane. When the answer to COMMIT is
  lost, that row is read under a lock, which waits for the one who may still hold it, until the server tells. Only the
  end of the process, or another one that has counted on meanwhile, leave the outcome unknown;
- the row must hold the last number of ours that was committed: a server that lacks it (a replica was promoted that did
  not have it yet, a backup was put back) ends the process, and nothing is stored in what is left;
- positions of events are taken under the rows of their slots, in ascending order, as the last thing before COMMIT: so
  they become visible in their order. What must not be overtaken by another node (ordering keys) locks its slot earlier.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import structlog

from engine import _core, failpoints
from engine.errors import NotReady, Refused, StoreBroken, StoreFull, StoreUnavailable
from engine.stores.mysql import sql
from engine.stores.mysql.faults import Fault, classify, code_of
from engine.stores.mysql.lanes import STRANGE, Lane, Marker
from engine.stores.mysql.pool import LOCK_WAIT_S, Link, Pool
from engine.stores.mysql.sleepers import end_sleepers
from engine.stores.store import GroupStats

EVENT_SLOTS: Final = 16
# As long as a restart of the server takes; callers hear *not stored* then, and what insists comes again.
RETRY_S: Final = 8.0
# Full jitter between the tries, doubling from the first to the last.
BACKOFF_FIRST_S: Final = 0.01
BACKOFF_LAST_S: Final = 0.5
LOCK_WAIT: Final = 1205

_log = structlog.get_logger("longwave.store")


def pause_s(tries: int) -> float:
    """How long to wait before the next try: full jitter, doubling."""
    return random.uniform(0, min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2.0 ** min(tries, 16)))  # noqa: S311 - spreads


Holds = Mapping[int, int]
"""Shards, and the epochs under which they are held."""


class Event(NamedTuple):
    """A row of the log that waits for its position."""

    tenant: int
    at_us: int
    events: bytes


class Transaction:
    """What a job sees."""

    def __init__(self, link: Link) -> None:
        """Begin on the server first."""
        self._link = link
        self.run = link.run
        self.rows = link.rows
        self.insert = link.insert
        self.events: list[Event] = []
        self._leases: dict[int, int] = {}  # of shards whose leases are locked: their epochs
        self._following: dict[int, int] = {}  # of slots of the event log that are locked: their next positions
        self._undo: list[Callable[[], None]] = []

    async def held_of(self, holds: Holds) -> set[int]:
        """Shards among these (shard → epoch) that are held so, until the end of the transaction."""
        missing = [shard for shard in sorted(holds) if shard not in self._leases]
        if missing:
            asked = sql.SELECT_LEASES_SHARED.format(shards=", ".join(map(str, missing)))
            self._leases |= dict(await self._link.rows(asked))
        return {shard for shard, epoch in holds.items() if self._leases.get(shard) == epoch}

    async def guard(self, holds: Holds) -> None:
        """Go on as the owner of these shards (shard → epoch). Raises NotReady when one has another owner."""
        if len(await self.held_of(holds)) < len(holds):
            raise NotReady("a shard has another owner; nothing was stored")

    def on_undone(self, undo: Callable[[], None]) -> None:
        """Call this if what the job does comes to nothing: before it is run again, and when it never is."""
        self._undo.append(undo)

    def mark(self) -> tuple[int, int]:
        """How far it has come, for `undone`."""
        return len(self.events), len(self._undo)

    def undone(self, mark: tuple[int, int] = (0, 0), *, locks: bool = True) -> None:
        """What was done since `mark` was undone; with its `locks`, when it was all."""
        events, undo = mark
        del self.events[events:]
        while len(self._undo) > undo:
            self._undo.pop()()
        if locks:
            self._leases = {}
            self._following = {}

    def tell(self, rows: Sequence[tuple[int, bytes]], at_us: int) -> None:
        """Put rows (tenant, events) into the log when all else is written."""
        self.events += [Event(tenant, at_us, events) for tenant, events in rows]

    async def run_each(self, statements: Sequence[tuple[str, int]]) -> int:
        """Run statements of the core; the rows they changed."""
        return sum([await self._link.run(statement) for statement, _ in statements])

    async def rows_of(self, statements: Sequence[tuple[str, int]]) -> list[tuple[Any, ...]]:
        """Run statements of the core; all their rows."""
        found: list[tuple[Any, ...]] = []
        for statement, _ in statements:
            found += await self._link.rows(statement)
        return found

    async def put(self, head: str, rows: Sequence[tuple[Any, ...]], tail: str = "") -> int:
        """Insert rows in the order given; the rows that changed."""
        return await self.run_each(_core.mysql_rows(head, rows, tail, sql.BYTES_MAX)) if rows else 0

    async def lock_slots(self, tenants: Iterable[int]) -> list[int]:
        """Hold the slots of the event log that these tenants have, until the end of the transaction; which they are."""
        slots = sorted({tenant % EVENT_SLOTS for tenant in tenants})
        if missing := [slot for slot in slots if slot not in self._following]:
            asked = sql.SELECT_EVENT_SLOTS.format(ids=", ".join(map(str, missing)))
            self._following |= dict(await self._link.rows(asked))
        return slots

    async def write_events(self) -> None:
        """Give the waiting rows their positions; the locks of their slots are held until the end."""
        if not self.events:
            return
        slots = await self.lock_slots(event.tenant for event in self.events)
        following = {slot: self._following[slot] for slot in slots}
        rows = []
        for event in self.events:
            slot = event.tenant % EVENT_SLOTS
            rows.append((slot, following[slot], *event))
            following[slot] += 1
        await self.put(sql.INSERT_EVENTS, rows)
        for slot, position in following.items():
            await self._link.run(sql.UPDATE_EVENT_SLOT, (position, slot))


@dataclass(slots=True, eq=False)
class _Job:
    stage: str
    run: Callable[[Transaction], Awaitable[Any]]
    weight: int
    new_work: bool
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class _Alone:
    """Work that manages its own transaction, or none."""

    run: Callable[[], Awaitable[Any]]
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Group:
    jobs: list[_Job]
    began_s: float = field(default_factory=time.monotonic)

    @property
    def weight(self) -> int:
        return sum(job.weight for job in self.jobs)


class Full:
    """Whether the server's disk has room, as the last write knew; shared by the lanes."""

    def __init__(self, on_full: Callable[[bool], None]) -> None:
        """`on_full` is told of each change."""
        self._on_full = on_full
        self.is_full = False

    def turn(self, *, full: bool) -> None:
        """Take note."""
        if full != self.is_full:
            self.is_full = full
            self._on_full(full)


class LaneWriter:
    """One lane, from `start` to `close`."""

    def __init__(
        self,
        lane: Lane,
        pool: Pool,
        full: Full,
        *,
        node: int,
        group_weight_max: int,
        on_group: Callable[[GroupStats], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """All callbacks are called on the loop's thread."""
        self._lane = lane
        self._pool = pool
        self._on_fatal = on_fatal
        self._full = full
        self._group_weight_max = group_weight_max
        self._on_group = on_group
        self._waiting: deque[_Job | _Alone] = deque()
        self._at_work: list[_Job] = []
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._closing = asyncio.Event()
        self.marker = Marker(node, lane, pool)
        """What it has committed."""

    async def start(self) -> None:
        """Begin; raises what connecting raises."""
        await self.marker.begin()
        self._task = asyncio.get_running_loop().create_task(self._main(), name=f"store-{self._lane.name.lower()}")

    @property
    def ended(self) -> bool:
        """It takes no work any more."""
        return self._closed

    def submit(
        self,
        stage: str,
        run: Callable[[Transaction], Awaitable[Any]],
        *,
        weight: int = 1,
        new_work: bool = False,
    ) -> asyncio.Future[Any]:
        """Hand in a job; the future gives its result after the COMMIT, or its error."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(NotReady("the store takes no more writes; nothing was stored"))
        elif new_work and self._full.is_full:
            future.set_exception(StoreFull())
        else:
            self._waiting.append(_Job(stage, run, weight, new_work, future))
            self._arrived.set()
        return future

    def submit_alone(self, run: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        """Hand in work that manages its own transaction; it runs when all before it is stored."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(NotReady("the store takes no more writes; nothing was stored"))
        else:
            self._waiting.append(_Alone(run, future))
            self._arrived.set()
        return future

    async def close(self, grace_s: float) -> None:
        """Run what was handed in, at most `grace_s` long. Safe to call twice."""
        self._closed = True
        self._arrived.set()
        if self._task is None:
            return
        _, late = await asyncio.wait([self._task], timeout=grace_s)
        if late:
            self._closing.set()
            await asyncio.wait([self._task])

    # The worker.

    async def _main(self) -> None:
        try:
            await self._work()
        except BaseException as error:
            # Cancelled with its loop, or a bug: nobody may wait for ever.
            self._closed = True
            self._fail(self._at_work, StoreUnavailable())
            while self._waiting:
                future = self._waiting.popleft().future
                if not future.done():
                    future.set_exception(NotReady("the store takes no more writes; nothing was stored"))
            if isinstance(error, Exception):
                self._on_fatal(StoreBroken(f"{type(error).__name__}: {error} (lane {self._lane.name})"))
            raise

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                if self._closed:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            if isinstance(self._waiting[0], _Alone):
                await self._run_alone(self._waiting[0])
                self._waiting.popleft()
            else:
                self._at_work = self._gather()
                await self._transact(_Group(self._at_work))

    def _gather(self) -> list[_Job]:
        """What waits, up to the bound and to work that manages itself."""
        group: list[_Job] = []
        weight = 0
        while self._waiting and weight < self._group_weight_max:
            job = self._waiting[0]
            if isinstance(job, _Alone):
                break
            group.append(job)
            weight += job.weight
            self._waiting.popleft()
        return group

    @staticmethod
    async def _run_alone(alone: _Alone) -> None:
        try:
            result = await alone.run()
        except Exception as error:  # noqa: BLE001 - handed to the caller
            if not alone.future.done():
                alone.future.set_exception(error)
        else:
            if not alone.future.done():
                alone.future.set_result(result)

    async def _transact(self, group: _Group) -> None:
        """Run a group until it is stored, undone for good, or refused; every job is answered."""
        tries = 0
        while group.jobs:
            committing_s = 0.0
            transaction: Transaction | None = None
            try:
                async with self._pool.link() as link:
                    transaction = Transaction(link)
                    stages = await self._prepare(link, transaction, group.jobs)
                    if stages is None:
                        self._answer(group.jobs)
                        return
                    committing_s = time.monotonic()
                    await link.run("COMMIT")
                    link.in_transaction = False
            except STRANGE as error:
                self._end(error)
                self._fail(group.jobs, NotReady("the store is not the one it was; nothing was stored"))
                return
            except Exception as error:  # noqa: BLE001 - classified right here
                if committing_s:
                    stored = await self._read_back(error)
                    if stored is None:
                        self._fail(group.jobs, StoreUnavailable())
                        return
                    if stored:
                        self._committed(group, committing_s)
                        return
                if transaction is not None:
                    transaction.undone()
                tries += 1
                if not await self._may_try_again(group, error, tries):
                    return
            else:
                self.marker.committed()
                for stage in stages:
                    failpoints.passing(f"{stage}.after_commit")
                self._committed(group, committing_s)
                return

    async def _prepare(self, link: Link, transaction: Transaction, jobs: list[_Job]) -> set[str] | None:
        """Everything up to COMMIT; the stages that are in it, or None when no job has anything to store."""
        await link.run("BEGIN")
        link.in_transaction = True
        stored = 0
        for job in jobs:
            stored += await self._run_undoable(link, transaction, job, first=stored == 0)
        if stored == 0:
            await link.run("ROLLBACK")
            link.in_transaction = False
            return None
        if await link.run(*self.marker.next()) != 1:
            [(run, number)] = await link.rows(*self.marker.select())
            raise self.marker.strange(run, number) or RuntimeError("the row of a lane did not change")
        await transaction.write_events()
        stages = {job.stage for job in jobs if job.error is None}
        for stage in stages:
            failpoints.passing(f"{stage}.before_commit")
        return stages

    @staticmethod
    async def _run_undoable(link: Link, transaction: Transaction, job: _Job, *, first: bool) -> bool:
        """Run a job; when it fails for itself, undo it alone and say False. Raises what ends the transaction."""
        job.result = job.error = None
        mark = transaction.mark()
        if not first:
            await link.run("SAVEPOINT job")
        try:
            job.result = await job.run(transaction)
        except Exception as error:
            if not isinstance(error, Refused) and (
                not link.sound or classify(error) not in {Fault.DATA, Fault.PROGRAM}
            ):
                raise
            job.error = error
            transaction.undone(mark, locks=first)
            if first:
                await link.run("ROLLBACK")
                await link.run("BEGIN")
            else:
                await link.run("ROLLBACK TO SAVEPOINT job")
            return False
        return True

    async def _may_try_again(self, group: _Group, error: Exception, tries: int) -> bool:
        """After a transaction that is undone: wait, then True; or answer the jobs."""
        fault = classify(error)
        if fault in {Fault.PROGRAM, Fault.DATA}:
            if len(group.jobs) > 1:
                # One of them broke the connection for all: each alone, in order.
                for job in group.jobs:
                    await self._transact(_Group([job], group.began_s))
            else:
                group.jobs[0].error = error
                self._answer(group.jobs)
            return False
        if fault is Fault.READ_ONLY:
            self._pool.drop()
        if code_of(error) == LOCK_WAIT:
            await self._end_sleepers()
        if fault is Fault.FULL:
            self._full.turn(full=True)
            self._fail([job for job in group.jobs if job.new_work], StoreFull())
            group.jobs = [job for job in group.jobs if not job.new_work]
        elapsed_s = time.monotonic() - group.began_s
        if elapsed_s > RETRY_S or self._closing.is_set():
            _log.error(
                "store takes no write", lane=self._lane.name, fault=fault.value, code=code_of(error), tries=tries
            )
            full = fault is Fault.FULL
            refusal = (
                StoreFull() if full else NotReady("the store cannot be reached or is too busy; nothing was stored")
            )
            self._fail(group.jobs, refusal)
            return False
        if tries == 1:
            _log.warning("transaction runs again", lane=self._lane.name, fault=fault.value, code=code_of(error))
        await self._pause(tries)
        return True

    async def _end_sleepers(self) -> None:
        """Whoever held a row for so long may be frozen."""
        try:
            await end_sleepers(self._pool, LOCK_WAIT_S)
        except Exception as error:  # noqa: BLE001 - tried again with the transaction
            _log.warning("sleepers not ended", lane=self._lane.name, code=code_of(error))

    async def _pause(self, tries: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s(tries)):
                await self._closing.wait()

    async def _read_back(self, because: Exception) -> bool | None:
        """Whether the transaction was committed; asks until the server tells. None when it cannot be known."""
        _log.warning("COMMIT without answer: reading back", lane=self._lane.name, code=code_of(because))
        tries = 0
        while not self._closing.is_set():
            try:
                return await self.marker.read_back()
            except STRANGE as error:
                self._end(error)
                return None
            except Exception as error:  # noqa: BLE001 - asked again
                if classify(error) is Fault.READ_ONLY:
                    self._pool.drop()
                tries += 1
                await self._pause(tries)
        return None

    def _end(self, error: Exception) -> None:
        """Take no work any more: the row of the lane is not as this process left it."""
        self._closed = True
        self._on_fatal(StoreBroken(str(error)))

    # Answers.

    def _committed(self, group: _Group, committing_s: float) -> None:
        ended_s = time.monotonic()
        self._answer(group.jobs)
        weight = sum(job.weight for job in group.jobs)
        self._on_group(GroupStats(len(group.jobs), weight, ended_s - committing_s, ended_s - group.began_s))

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        for job in jobs:
            job.error = error
        self._answer(jobs)

    @staticmethod
    def _answer(jobs: list[_Job]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
