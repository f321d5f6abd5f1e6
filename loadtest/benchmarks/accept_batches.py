"""Measures durable SubmitMessages over gRPC beside the raw insert of the same rows in the same transactions.

The engine has no carrier, so that nothing but accepting happens. Requests are encoded beforehand; the load generator is
on the same machine.
"""

import tempfile
from pathlib import Path
from typing import Final

from loadtest.benchmarks import raw_insert
from loadtest.benchmarks.callers import Run, call_all, run_loop
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, engine
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.submissions import batches
from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

METHOD: Final = (
    "SubmitMessages of 500 with 1 and with 4 calls on their way, requests encoded beforehand, no carrier; ceiling: the "
    "same rows, read from the engine's store and inserted by the sqlite3 module into a new one beside it (same tables, "
    "indexes, page size and transactions; WAL, synchronous=FULL), with the engine stopped."
)
# One caller shows the latency of a lone batch; four are what the SDK keeps on their way.
CALLERS: Final = (1, 4)
WARM_BATCHES: Final = 4


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    with engine(folder) as running:
        _submit(running, plan, "warm", WARM_BATCHES * plan.batch_messages, 1)
        runs = {callers: _submit(running, plan, f"c{callers}", plan.accept_messages, callers) for callers in CALLERS}
        running.stop()
        with tempfile.TemporaryDirectory(prefix="raw-", dir=folder) as beside:
            ceilings = _ceilings(running.store, plan, Path(beside))
    for callers, run in runs.items():
        name = f"batch accept, {callers} on their way"
        rate = per_second(plan.accept_messages, run.elapsed_s)
        sheet.add(name, "messages/s", rate)
        sheet.add_latencies(name, run.latencies_s)
        sheet.add(f"raw insert of the same rows, {callers} on their way", "messages/s", ceilings[callers])
        wanted = "≥ 0.60" if callers == max(CALLERS) else ""
        sheet.add(f"{name}: of the raw insert", "ratio", rate / ceilings[callers], wanted=wanted)


def check(answer: bytes) -> None:
    """Raise BenchmarkError unless every submission of a batch was accepted."""
    results = pb.SubmitMessagesResponse.FromString(answer).results
    for result in results:
        if result.verdict != verdict_pb2.VERDICT_ACCEPTED:
            raise BenchmarkError(
                f"a submission was refused: {verdict_pb2.Verdict.Name(result.verdict)} {result.detail}"
            )


def load(running: EngineProcess, requests: list[bytes], callers: int) -> Run:
    """Hand in batches that were encoded beforehand."""
    path = contract.SUBMIT_MESSAGES.path
    work = call_all(running.address, path, requests, callers=callers, metadata=running.metadata(), check=check)
    return run_loop(work)


def _submit(running: EngineProcess, plan: Plan, prefix: str, messages: int, callers: int) -> Run:
    return load(running, batches(OPEN, prefix, messages, plan.batch_messages), callers)


def _ceilings(store: Path, plan: Plan, beside: Path) -> dict[int, float]:
    """Messages a second of the raw insert, for the part of each number of callers."""
    stored = raw_insert.read(store)
    first, rates = WARM_BATCHES * plan.batch_messages, {}
    warm = stored.part(0, first)
    for callers in CALLERS:
        part = stored.part(first, plan.accept_messages)
        rates[callers] = per_second(part.messages, raw_insert.insert(warm, part, beside / f"raw-{callers}.db"))
        first += plan.accept_messages
    return rates
