"""What is measured of each system: throughput with its cost, memory of what is queued, and a kill in the middle.

The systems start anew for each of the three. Sink and load generator share the machine with them; what those took is
told apart by process.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtest.benchmarks.callers import run_loop
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.process_costs import cpu_s
from loadtest.peers.candidates import Candidate
from loadtest.peers.loaded import Loaded, fate_of
from loadtest.peers.plan import MEASUREMENT_S_MAX, Plan
from loadtest.peers.process_tree import tree_bytes, tree_cpu_s
from loadtest.peers.sink_process import SinkProcess
from loadtest.peers.system import System

# What figures are called, behind the system's name.
ACCEPTED: Final = "accepted"
DELIVERED: Final = "delivered"
CALL: Final = "call"
CPU: Final = "processor time"
QUEUED: Final = "memory of a queued message"
ACKNOWLEDGED: Final = "killed: acknowledged before"
NEVER: Final = "killed: acknowledged, never arrived"
LISTED: Final = "killed: listed as uncertain"
UNCERTAIN: Final = "killed: never arrived, listed as uncertain"
AGAIN: Final = "killed: arrived twice or more"
METHODS: Final = {
    "throughput": (
        "closed loop, messages of 80 characters to recipients set aside for fiction (25,600 in turn); accepted from "
        "the first call to the last answer, delivered from the first call to the last arrival at the sink. Processor "
        "time is utime and stime of all processes of the system, from the first call until a second behind the last "
        "arrival."
    ),
    "memory": (
        "the sink reads and answers nothing; growth of resident memory by the messages acknowledged, a second behind "
        "the last (home-made: API, workers and Redis, without MariaDB)."
    ),
    "kill": (
        "the sink answers late (kill_delay_ms); SIGKILL to all processes of the system in one go while it accepts and "
        "delivers; then it is started again over what it left, and the sink, which answers at once from then on, is "
        "looked at when nothing came for a while (5 s; Longwave's CRITICAL 25 s with "
        "LONGWAVE_RECONCILE_WAIT_S=15, home-made 20 s with a visibility timeout of 10 s). Uncertain is what the system "
        "itself lists as neither sent nor waiting (Longwave: UNKNOWN and UNRESOLVED)."
    ),
}


def measure(candidate: Candidate, plan: Plan, folder: Path, sink: SinkProcess, sheet: Sheet) -> None:
    """One run of one system. Raises BenchmarkError when something else happens than was meant to."""
    if not candidate.is_killed_only:
        throughput(candidate, plan, folder, sink, sheet)
        queued(candidate, plan, folder, sink, sheet)
    killed(candidate, plan, folder, sink, sheet)


@contextmanager
def running(candidate: Candidate, folder: Path, sink: SinkProcess) -> Iterator[System]:
    """A started system that has sent its first messages, and the sink which counts only these."""
    sink.reset()
    with tempfile.TemporaryDirectory(prefix="peer-", dir=folder) as own:
        system = candidate.make(Path(own))
        try:
            system.start()
            warm = candidate.counts.warm
            run_loop(system.load(range(warm))).check_all(warm)
            sink.wait_messages(warm, time.monotonic() + MEASUREMENT_S_MAX)
            yield system
        finally:
            system.close()


def throughput(candidate: Candidate, plan: Plan, folder: Path, sink: SinkProcess, sheet: Sheet) -> None:
    """Hand in and wait until the last one arrived."""
    name, warm, messages = candidate.name, candidate.counts.warm, candidate.counts.sent
    with running(candidate, folder, sink) as system:
        work = system.load(range(warm, warm + messages))
        roots = system.roots
        before = tree_cpu_s(roots), cpu_s(sink.pid), time.process_time()
        loaded = run_loop(work)
        counts = sink.wait_messages(warm + messages, time.monotonic() + MEASUREMENT_S_MAX)
        time.sleep(plan.settle_s)
        after = tree_cpu_s(roots), cpu_s(sink.pid), time.process_time()
        again = sink.counts().again
    loaded.check_all(messages)
    if again:
        raise BenchmarkError(f"{name}: {again} messages came again, and nobody was killed")
    sheet.add(f"{name}: {ACCEPTED}", "messages/s", per_second(messages, loaded.ended_s - loaded.began_s))
    sheet.add(f"{name}: {DELIVERED}", "messages/s", per_second(messages, counts.last_s - loaded.began_s))
    sheet.add_latencies(f"{name}: {CALL}", loaded.latencies_s)
    system_s, sink_s, load_s = (last - first for last, first in zip(after, before, strict=True))
    sheet.add(f"{name}: {CPU}", "s/1,000 messages", system_s / messages * 1e3)
    sheet.add(f"{name}: {CPU} of the sink", "s/1,000 messages", sink_s / messages * 1e3)
    sheet.add(f"{name}: {CPU} of the load generator", "s/1,000 messages", load_s / messages * 1e3)


def queued(candidate: Candidate, plan: Plan, folder: Path, sink: SinkProcess, sheet: Sheet) -> None:
    """Hand in while nothing leaves."""
    warm, messages = candidate.counts.warm, candidate.counts.queued
    with running(candidate, folder, sink) as system:
        sink.hold(on=True)
        roots = system.queue_roots
        before = tree_bytes(roots)
        run_loop(system.load(range(warm, warm + messages))).check_all(messages)
        time.sleep(plan.settle_s)
        grown = tree_bytes(roots) - before
        left = sink.counts().messages - warm
        sink.hold(on=False)
    sheet.add(f"{candidate.name}: {QUEUED}", "bytes", grown / messages)
    sheet.add(f"{candidate.name}: of them at the sink, unanswered", "messages", left)


def killed(candidate: Candidate, plan: Plan, folder: Path, sink: SinkProcess, sheet: Sheet) -> None:
    """Kill it in the middle, start it again, and see what came."""
    name = candidate.name
    with running(candidate, folder, sink) as system:
        sink.delay(plan.kill_delay_ms)
        loaded = run_loop(_loaded_until_killed(system, sink, candidate))
        sink.delay(0)
        system.start()
        sink.wait_quiet(candidate.quiet_s, time.monotonic() + MEASUREMENT_S_MAX)
        fate, uncertain = fate_of(loaded.acknowledged, sink.seen()), system.uncertain()
    sheet.add(f"{name}: {ACKNOWLEDGED}", "messages", fate.acknowledged)
    sheet.add(f"{name}: {NEVER}", "messages", len(fate.never))
    sheet.add(f"{name}: {LISTED}", "messages", len(uncertain))
    sheet.add(f"{name}: {UNCERTAIN}", "messages", len(uncertain.intersection(fate.never)))
    sheet.add(f"{name}: {AGAIN}", "messages", fate.several_times)


async def _loaded_until_killed(system: System, sink: SinkProcess, candidate: Candidate) -> Loaded:
    counts = candidate.counts
    work = asyncio.ensure_future(system.load(range(counts.warm, counts.warm + counts.offered)))
    arrived = asyncio.ensure_future(
        asyncio.to_thread(sink.wait_messages, counts.warm + counts.before_kill, time.monotonic() + MEASUREMENT_S_MAX)
    )
    await asyncio.wait((work, arrived), return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        raise BenchmarkError(f"{candidate.name}: everything was accepted before the kill: {(await work).refused[:1]}")
    await arrived
    await asyncio.to_thread(system.kill)
    loaded = await work
    if loaded.refused:
        raise BenchmarkError(f"{candidate.name}: refused: {loaded.refused[0]}")
    return loaded
