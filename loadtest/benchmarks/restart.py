"""Measures how long an engine takes to be ready again after a kill, with nothing and with many messages waiting.

Ready means that `/ready` says so, counted from the start of the process: the interpreter's own start is inside.
"""

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
    "store and with messages waiting (accepted, no carrier). The count of waiting messages is checked afterwards."
)
MIB: Final = 1024 * 1024


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    waiting = plan.restart_messages
    with engine(folder) as running:
        empty_s, empty_mib = _restart(running, 0)
        load(running, batches(OPEN, "restart", waiting, plan.batch_messages), callers=4)
        full_s, full_mib = _restart(running, waiting)
    sheet.add("restart to ready, nothing waiting", "s", empty_s)
    sheet.add(f"restart to ready, {waiting:,} waiting", "s", full_s, wanted="≤ 5 (a million waiting)")
    sheet.add(f"memory a message, {waiting:,} waiting after a restart", "bytes", (full_mib - empty_mib) * MIB / waiting)


def _restart(running: EngineProcess, waiting: int) -> tuple[float, float]:
    """Seconds to ready and MiB then. Raises BenchmarkError when what waits is not what waited."""
    running.kill()
    ready_s = running.start()
    found = running.stats()["held_messages"]
    if found != waiting:
        raise BenchmarkError(f"{waiting} messages waited before the kill, {found} after it")
    return ready_s, memory(running.pid).now_mib
