"""Measures durable SubmitMessages over gRPC into MariaDB beside the bulk insert of the same rendered rows.

As `accept_batches.py`, over a server of its own on the same disk with the settings of durability level D1. Server,
engine and load generator share the machine.
"""

import tempfile
from pathlib import Path
from typing import Final

from loadtest.benchmarks import raw_insert_mysql
from loadtest.benchmarks.accept_batches import CALLERS, WARM_BATCHES, load
from loadtest.benchmarks.callers import Run
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, over_mysql
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.submissions import batches
from tests.servers.mariadb import PASSWORD, MariaDB

METHOD: Final = (
    "SubmitMessages of 500 with 1 and with 4 calls on their way, requests encoded beforehand, no carrier, over a "
    "MariaDB server of its own on the same disk (flush at every commit, binary log synced); ceiling: the same rows, "
    "read from the engine's database and inserted in bulk statements rendered beforehand into a new one on that "
    "server (same tables, partitions and transactions; one connection), with the engine stopped."
)
DATABASE: Final = "bench"
RATIO_MIN: Final = "≥ 0.50"


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="mariadb-", dir=folder) as name:
        server = MariaDB(Path(name).resolve() / "server")
        try:
            server.start()
            runs = _submitted(plan, Path(name), server)
            ceilings = _ceilings(plan, server)
        finally:
            server.remove()
    for callers, run in runs.items():
        title = f"batch accept on MariaDB, {callers} on their way"
        rate = per_second(plan.accept_messages, run.elapsed_s)
        sheet.add(title, "messages/s", rate)
        sheet.add_latencies(title, run.latencies_s)
        sheet.add(f"bulk insert of the same rows, {callers} on their way", "messages/s", ceilings[callers])
        wanted = RATIO_MIN if callers == max(CALLERS) else ""
        sheet.add(f"{title}: of the bulk insert", "ratio", rate / ceilings[callers], wanted=wanted)


def _submitted(plan: Plan, folder: Path, server: MariaDB) -> dict[int, Run]:
    running = EngineProcess(folder, over_mysql(server.create_database(DATABASE), PASSWORD, folder))
    running.make_store()
    running.start()
    try:
        _submit(running, plan, "warm", WARM_BATCHES * plan.batch_messages, 1)
        return {callers: _submit(running, plan, f"c{callers}", plan.accept_messages, callers) for callers in CALLERS}
    finally:
        running.stop()


def _submit(running: EngineProcess, plan: Plan, prefix: str, messages: int, callers: int) -> Run:
    return load(running, batches(OPEN, prefix, messages, plan.batch_messages), callers)


def _ceilings(plan: Plan, server: MariaDB) -> dict[int, float]:
    """Messages a second of the bulk insert, for the part of each number of callers."""
    stored = raw_insert_mysql.read(server, DATABASE)
    first, rates = WARM_BATCHES * plan.batch_messages, {}
    warm = raw_insert_mysql.part(stored, 0, first)
    for callers in CALLERS:
        measured = raw_insert_mysql.part(stored, first, plan.accept_messages)
        seconds = raw_insert_mysql.insert(server, DATABASE, f"raw_{callers}", warm, measured)
        rates[callers] = per_second(plan.accept_messages, seconds)
        first += plan.accept_messages
    return rates
