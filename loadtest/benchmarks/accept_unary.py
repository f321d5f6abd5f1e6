"""Measures durable SubmitMessage at 64 callers beside a bare grpcio echo, called by the same callers in the same run.

The engine has no carrier. Both servers are processes of their own; both get the same bytes.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loadtest.benchmarks.callers import Run, call_all, run_loop
from loadtest.benchmarks.children import HOST, child, clean_environment, module_command
from loadtest.benchmarks.echo_server import METHOD as ECHO
from loadtest.benchmarks.engine_process import OPEN, engine
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.process_costs import cpu_s
from loadtest.benchmarks.submissions import singles
from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

METHOD: Final = (
    "SubmitMessage at 64 callers over one channel, bytes encoded beforehand, no carrier; ceiling: a grpc.aio server "
    "under uvloop in a process of its own that returns what it gets, same bytes, same callers, same run. Processor "
    "time from /proc/PID/stat over all threads of the server, and of the callers' process: both share the cores."
)
WARM_CALLS: Final = 256


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    requests = singles(OPEN, "unary", plan.unary_calls)
    warm = singles(OPEN, "warm", WARM_CALLS)
    callers = plan.unary_callers
    name = f"unary, {callers} callers"
    command = module_command("loadtest.benchmarks.echo_server")
    with child(command, clean_environment({}), folder / "echo.log") as (echo, line):
        address = f"{HOST}:{int(line)}"
        run_loop(call_all(address, ECHO, warm, callers=callers, check=_any))
        echoed = _costed(
            sheet,
            f"bare echo, {name}",
            echo.pid,
            lambda: run_loop(call_all(address, ECHO, requests, callers=callers, check=_any)),
        )
    with engine(folder) as running:
        path, metadata = contract.SUBMIT_MESSAGE.path, running.metadata()
        run_loop(call_all(running.address, path, warm, callers=callers, metadata=metadata, check=check))
        accepted = _costed(
            sheet,
            f"accept, {name}",
            running.pid,
            lambda: run_loop(
                call_all(running.address, path, requests, callers=callers, metadata=metadata, check=check)
            ),
        )
    echo_rate = per_second(echoed.calls, echoed.elapsed_s)
    rate = per_second(accepted.calls, accepted.elapsed_s)
    sheet.add(f"accept, {name}: of the bare echo", "ratio", rate / echo_rate, wanted="≥ 0.80")


def _costed(sheet: Sheet, name: str, pid: int, call: Callable[[], Run]) -> Run:
    """The calls, put in with what they cost the server and the callers."""
    before = cpu_s(pid), time.process_time()
    run = call()
    after = cpu_s(pid), time.process_time()
    sheet.add(name, "calls/s", per_second(run.calls, run.elapsed_s))
    sheet.add_latencies(name, run.latencies_s)
    for who, first, last in zip(("server", "callers"), before, after, strict=True):
        sheet.add(f"{name}: processor time of the {who}", "µs/call", (last - first) / run.calls * 1e6)
    return run


def check(answer: bytes) -> None:
    """Raise ValueError unless the message was accepted; a refused one would have been an error."""
    result = pb.SubmitMessageResponse.FromString(answer).result
    if result.verdict != verdict_pb2.VERDICT_ACCEPTED:
        message = f"not accepted: {result.detail}"
        raise ValueError(message)


def _any(_answer: bytes) -> None:
    """An echo says nothing."""
