"""Measures durable SubmitMessage over both edges of the gRPC API, side by side, called by h2load.

Each edge is an engine of its own over a fresh store. What h2load cannot see is looked at as in `accept_unary_native`:
that every call was stored is counted in the store.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from loadtest.benchmarks.accept_unary_native import WARM_CALLS, check_tools, load, submission_frame
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import EDGES, engine
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.process_costs import cpu_s
from longwave import contract

METHOD: Final = (
    "SubmitMessage by h2load (nghttp2), 8 connections with 32 calls each (256 in flight), one body without request id, "
    "no carrier, over LONGWAVE_EDGE=grpcio and =native in turn; a call's time from h2load's own log. Whether each call "
    "was stored is counted in the store."
)


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run. Raises BenchmarkError without h2load."""
    check_tools()
    body = folder / "frame"
    body.write_bytes(submission_frame())
    rates = {edge: accept_over(edge, plan, folder, body, sheet, wanted=True) for edge in EDGES}
    name = f"accept, {plan.edge_callers} callers: native of grpcio"
    sheet.add(name, "ratio", rates["native"] / rates["grpcio"])


def accept_over(
    edge: str,
    plan: Plan,
    folder: Path,
    body: Path,
    sheet: Sheet,
    settings: Mapping[str, str] | None = None,
    *,
    shown: str = "",
    wanted: bool = False,
) -> float:
    """Calls a second over one edge, put in with their times and what they cost, under a name that ends so."""
    calls, callers = plan.edge_calls, plan.edge_callers
    name = f"accept, {callers} callers, edge {edge}{shown}"
    log = folder / "calls.log"
    with engine(folder, {"LONGWAVE_EDGE": edge, **(settings or {})}) as running:
        url = f"http://{running.address}{contract.SUBMIT_MESSAGE.path}"
        headers = [f"{key}: {value}" for key, value in running.metadata()]
        load(url, body, WARM_CALLS, callers, headers)
        before_s = cpu_s(running.pid)
        rate = per_second(calls, load(url, body, calls, callers, headers, log=log))
        spent_s = cpu_s(running.pid) - before_s
        running.stop()
        with closing(sqlite3.connect(f"file:{running.store}?mode=ro", uri=True)) as connection:
            [[stored]] = connection.execute("SELECT count(*) FROM messages").fetchall()
    if stored != calls + WARM_CALLS:
        raise BenchmarkError(f"{stored} messages are stored of {calls + WARM_CALLS} submitted")
    native = wanted and edge == "native"
    sheet.add(name, "calls/s", rate, wanted="≥ 25,000" if native else "")
    sheet.add_latencies(name, latencies_s(log), wanted_p99="≤ 10" if native else "")
    sheet.add(f"{name}: processor time of the server", "µs/call", spent_s / calls * 1e6)
    return rate


def latencies_s(log: Path) -> list[float]:
    """Of each call in h2load's log: its third column, in microseconds. The file goes."""
    taken = [float(line.split("\t")[2]) / 1e6 for line in log.read_text(encoding="ascii").splitlines()]
    log.unlink()
    return taken
