"""The writer's thread: one connection, one transaction every few milliseconds, many jobs in each.

It knows no table. A job is a function of the connection; behind the first of a group it runs inside a savepoint of the
group's transaction, and its caller is answered after the COMMIT that holds it, never earlier.

Invariants:
- a job's error rolls back that job alone; a full disk fails new work and runs the rest again with the reserve released;
- the first I/O or fsync error answers *unknown* to all of the group, closes the door, and calls `on_fatal`: no OK
  follows;
- jobs run in the order in which they were handed in.
"""

import asyncio
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from engine import failpoints
from engine.errors import NotReady, Refused, StoreBroken, StoreFull, StoreUnavailable
from engine.stores.connection import Connection, Fault, Reserve, classify
from engine.stores.store import GroupStats

# A single-message group waits this long for company; a larger one has found it already.
SMALL_GROUP_WEIGHT: Final = 64
BUSY_TRIES_MAX: Final = 5
# Below the loop's thread: where both want one processor, calls must not wait unseen, before they are judged, until
# their deadlines pass. The loop refuses what is too much; then it needs less than it would be given.
NICENESS: Final = 2


@dataclass(slots=True)
class _Job:
    stage: str
    run: Callable[[Connection], Any]
    weight: int
    new_work: bool
    alone: bool
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Takes jobs on the loop's thread, runs them on its own."""

    def __init__(
        self,
        connection: Connection,
        reserve: Reserve,
        *,
        linger_s: float,
        group_weight_max: int,
        on_fatal: Callable[[BaseException], None],
        on_group: Callable[[GroupStats], None],
        on_full: Callable[[bool], None],
    ) -> None:
        """Own `connection` from `start` on. The callbacks run on the loop's thread."""
        self._connection = connection
        self._reserve = reserve
        self._linger_s = linger_s
        self._group_weight_max = group_weight_max
        self._on_fatal = on_fatal
        self._on_group = on_group
        self._on_full = on_full
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._main, name="store-writer", daemon=True)
        self._broken: BaseException | None = None
        self._closed = False
        self.full = False  # written by the writer's thread, read by the loop's

    def start(self) -> None:
        """Begin; call on the loop's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(
        self,
        stage: str,
        run: Callable[[Connection], Any],
        *,
        weight: int = 1,
        new_work: bool = False,
        alone: bool = False,
    ) -> asyncio.Future[Any]:
        """Hand in a job; the future gives its result after the COMMIT, or its error.

        `new_work` is refused while the disk is full. An `alone` job manages its own transaction. Errors: StoreFull
        and NotReady (definitely not stored), StoreUnavailable (unknown), or what the job raised (rolled back).
        """
        if self._loop is None:
            message = "the writer was not started"
            raise RuntimeError(message)
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._broken is not None or self._closed:
            future.set_exception(NotReady("the store takes no more writes; nothing was stored"))
        elif new_work and self.full:
            future.set_exception(StoreFull())
        else:
            self._queue.put(_Job(stage, run, weight, new_work, alone, future))
        return future

    @property
    def ended(self) -> bool:
        """Broken or closed: it takes no write ever again."""
        return self._broken is not None or self._closed

    async def close(self) -> None:
        """Run what was handed in, then end the thread. Safe to call twice."""
        self._closed = True
        if self._thread.is_alive():
            self._queue.put(None)
            with ThreadPoolExecutor(1) as waiting:
                await asyncio.get_running_loop().run_in_executor(waiting, self._thread.join)

    # Everything below runs on the writer's thread.

    def _main(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no niceness of its own
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
        going = True
        while going:
            job = self._queue.get()
            if job is None:
                return
            going = self._run_group(job)

    def _run_group(self, first: _Job) -> bool:
        """Run `first` and what waits behind it; False when the end was among them."""
        group, going = self._gather(first)
        batch: list[_Job] = []
        for member in group:
            if member.alone:
                self._transact(batch)
                batch = []
                self._run_alone(member)
            else:
                batch.append(member)
        self._transact(batch)
        return going

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        group, weight = [first], first.weight
        lingered = self._linger_s <= 0
        while weight < self._group_weight_max:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                if lingered or weight >= SMALL_GROUP_WEIGHT:
                    break
                lingered = True
                time.sleep(self._linger_s)
                continue
            if job is None:
                return group, False
            group.append(job)
            weight += job.weight
        return group, True

    def _run_alone(self, job: _Job) -> None:
        if self._broken is not None:
            self._fail([job], NotReady("the store takes no more writes; nothing was stored"))
            return
        try:
            job.result = job.run(self._connection)
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            job.error = error
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if not isinstance(error, Refused):
                self._judge(error, [job])
        self._answer([job], None)

    def _transact(self, group: list[_Job], tries: int = 0) -> None:
        if not group:
            return
        if self._broken is not None:
            self._fail(group, NotReady("the store takes no more writes; nothing was stored"))
            return
        connection = self._connection
        began = time.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                self._run_undoable(job, first=job is group[0])
            stages = dict.fromkeys(job.stage for job in group)  # in order: a kill is to be repeatable
            for stage in stages:
                failpoints.passing(f"{stage}.before_commit")
            committing = time.monotonic()
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - classified right here
            self._recover(group, error, tries)
            return
        for stage in stages:
            failpoints.passing(f"{stage}.after_commit")
        ended = time.monotonic()
        self._answer(group, GroupStats(len(group), sum(job.weight for job in group), ended - committing, ended - began))

    def _run_undoable(self, job: _Job, *, first: bool) -> None:
        """Run a job; when it fails, undo it alone. Raises what ends the whole transaction."""
        connection = self._connection
        job.result = job.error = None
        if not first:
            # Never released: COMMIT does that. Before the first job there is nothing to keep, so it has none.
            connection.execute("SAVEPOINT job")
        try:
            job.result = job.run(connection)
        except BaseException as error:
            job.error = error
            fault = Fault.DATA if isinstance(error, Refused) else classify(error)
            if fault in {Fault.FULL, Fault.FATAL} or not connection.in_transaction:
                raise
            if first:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
            else:
                connection.execute("ROLLBACK TO job")

    def _recover(self, group: list[_Job], error: BaseException, tries: int) -> None:
        """The transaction failed as a whole: nothing of it is stored unless COMMIT itself failed, which is fatal."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except BaseException as second:  # noqa: BLE001 - a store that cannot roll back is broken
                self._judge(second, group)
                self._fail(group, StoreUnavailable())
                return
        fault = classify(error)
        if fault is Fault.FULL:
            self._turn_full(group, tries)
        elif fault is Fault.BUSY and tries < BUSY_TRIES_MAX:
            self._transact(group, tries + 1)
        elif fault is Fault.FATAL or fault is Fault.BUSY:
            self._judge(error, group)
            self._fail(group, StoreUnavailable())
        elif len(group) > 1:
            for job in group:
                self._transact([job], tries)
        else:
            group[0].error = error
            self._answer(group, None)

    def _turn_full(self, group: list[_Job], tries: int) -> None:
        released = self._reserve.release()
        self.full = True
        self._call(self._on_full, True)
        refused = [job for job in group if job.new_work]
        self._fail(refused, StoreFull())
        rest = [job for job in group if not job.new_work]
        if rest and (released or tries == 0):
            self._transact(rest, tries + 1)
        elif rest:
            self._fail(rest, StoreFull("the store's disk is full and its reserve is used up; nothing was stored"))

    def refill(self) -> bool:
        """Take new work again when the disk has room for the reserve; run as an `alone` job. True when it has."""
        if self.full and self._reserve.create():
            self.full = False
            self._call(self._on_full, False)
        return not self.full

    def _judge(self, error: BaseException, group: list[_Job]) -> None:
        if classify(error) in {Fault.FATAL, Fault.BUSY}:
            self._broken = error
            broken = StoreBroken(f"{type(error).__name__}: {error} (stages {sorted({job.stage for job in group})})")
            self._call(self._on_fatal, broken)

    def _fail(self, group: list[_Job], error: BaseException) -> None:
        for job in group:
            job.error = error
        self._answer(group, None)

    def _answer(self, group: list[_Job], stats: GroupStats | None) -> None:
        if group:
            self._call(self._resolve, group, stats)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # On the loop's thread again.

    def _resolve(self, group: list[_Job], stats: GroupStats | None) -> None:
        for job in group:
            if job.future.cancelled():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
        if stats is not None:
            self._on_group(stats)
