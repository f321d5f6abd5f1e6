"""Measures how long an engine takes to be ready again after a kill, with nothing and with many messages waiting.

Ready means that `/ready` says so, counted from the start of the process: the interpreter's own start is inside.
"""

import time
from pathlib import Path
from typing import Final

from loadtest.benchmarks.accept_batches import load
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, engine
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.process_costs import memory
from loadtest.benchmarks.submissions import batches

METHOD: Final = (
    "kill -9, then seconds from the start of the process to the first 200 of /ready, polled every 5 ms; with an empty "
    "store and with messages waiting (accepted, no carrier). The count of waiting messages is checked afterwards. "
    "Memory is the engine's resident set less that with an empty store: before the kill, and when it has read back "
    "what it wants of the backlog."
)
COUNTED_S_MAX: Final = 60
# Encoded beforehand, so in slices: ten million would not fit beside the engine.
SLICE_MESSAGES: Final = 200_000


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    waiting = plan.restart_messages
    with engine(folder) as running:
        empty_s = _restart(running, 0)
        empty_mib = memory(running.pid).now_mib
        for start in range(0, waiting, SLICE_MESSAGES):
            part = batches(OPEN, f"restart-{start}", min(SLICE_MESSAGES, waiting - start), plan.batch_messages)
            load(running, part, callers=4)
        loaded_mib = memory(running.pid).now_mib
        full_s = _restart(running, waiting)
        full_mib = memory(running.pid).now_mib
    sheet.add("restart to ready, nothing waiting", "s", empty_s)
    sheet.add(f"restart to ready, {waiting:,} waiting", "s", full_s, wanted="≤ 5 (a million waiting)")
    sheet.add(f"memory over empty, {waiting:,} accepted and waiting", "MiB", loaded_mib - empty_mib)
    sheet.add(f"memory over empty, {waiting:,} waiting after a restart", "MiB", full_mib - empty_mib)


def _restart(running: EngineProcess, waiting: int) -> float:
    """Seconds to ready. Raises BenchmarkError when what waits is not what waited."""
    running.kill()
    ready_s = running.start()
    until = time.monotonic() + COUNTED_S_MAX
    while (found := running.stats()["backlog"].get("queued", 0)) != waiting:
        if time.monotonic() > until:
            raise BenchmarkError(f"{waiting} messages waited before the kill, {found} after it")
        time.sleep(0.2)
    return ready_s
