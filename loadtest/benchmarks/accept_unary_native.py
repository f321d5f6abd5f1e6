"""Measures durable SubmitMessage beside a bare grpcio echo, both called by h2load, which costs the machine little.

With callers in Python (`accept_unary`) half of the machine is theirs, and the store's thread has to wait for them.
h2load sends one body again and again, so its submissions carry no request id: each is a message of its own. It knows
HTTP's status only; that every call was stored is counted in the store afterwards.
"""

import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Final

from loadtest.benchmarks.children import HOST, BenchmarkError, child, clean_environment, module_command
from loadtest.benchmarks.echo_server import METHOD as ECHO
from loadtest.benchmarks.engine_process import OPEN, engine
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import MEASUREMENT_S_MAX, Plan
from loadtest.benchmarks.process_costs import cpu_s
from loadtest.benchmarks.submissions import recipient, text
from longwave import contract
from longwave.v1 import messaging_pb2 as pb

METHOD: Final = (
    "SubmitMessage and the echo by h2load (nghttp2), 8 connections with 8 calls each, one body without request id; the "
    "rest as accept-unary. Whether each call was stored is counted in the store."
)
CONNECTIONS: Final = 8
WARM_CALLS: Final = 256
_DONE: Final = re.compile(r"finished in ([0-9.]+)(us|ms|s),")
_SUCCEEDED: Final = re.compile(r"requests: (\d+) total, .* (\d+) succeeded,")
_UNIT_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def check_tools() -> None:
    """Raise BenchmarkError without h2load."""
    if shutil.which("h2load") is None:
        raise BenchmarkError("h2load is missing: apt-get install nghttp2-client")


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run. Raises BenchmarkError without h2load."""
    check_tools()
    calls, callers = plan.unary_calls, plan.unary_callers
    body = folder / "frame"
    body.write_bytes(submission_frame())
    name = f"unary, h2load, {callers} callers"
    command = module_command("loadtest.benchmarks.echo_server")
    with child(command, clean_environment({}), folder / "echo.log") as (process, line):
        url = f"http://{HOST}:{int(line)}{ECHO}"
        load(url, body, WARM_CALLS, callers)
        echoed = _costed(sheet, f"bare echo, {name}", process.pid, url, body, calls, callers)
    with engine(folder) as running:
        url = f"http://{running.address}{contract.SUBMIT_MESSAGE.path}"
        headers = [f"{key}: {value}" for key, value in running.metadata()]
        load(url, body, WARM_CALLS, callers, headers)
        accepted = _costed(sheet, f"accept, {name}", running.pid, url, body, calls, callers, headers)
        running.stop()
        with closing(sqlite3.connect(f"file:{running.store}?mode=ro", uri=True)) as connection:
            [[stored]] = connection.execute("SELECT count(*) FROM messages").fetchall()
    if stored != calls + WARM_CALLS:
        raise BenchmarkError(f"{stored} messages are stored of {calls + WARM_CALLS} submitted")
    sheet.add(f"accept, {name}: of the bare echo", "ratio", accepted / echoed, wanted="≥ 0.80")


def _costed(
    sheet: Sheet, name: str, pid: int, url: str, body: Path, calls: int, callers: int, headers: list[str] | None = None
) -> float:
    """Calls a second, put in with what they cost the server."""
    before_s = cpu_s(pid)
    rate = per_second(calls, load(url, body, calls, callers, headers))
    sheet.add(name, "calls/s", rate)
    sheet.add(f"{name}: processor time of the server", "µs/call", (cpu_s(pid) - before_s) / calls * 1e6)
    return rate


def submission_frame() -> bytes:
    """One submission as a gRPC message: not compressed, its length, itself."""
    submission = pb.Submission(campaign=f"campaigns/{OPEN}", recipient=recipient(0), text=text(0))
    request = pb.SubmitMessageRequest(submission=submission).SerializeToString()
    return b"\0" + len(request).to_bytes(4, "big") + request


def load(
    url: str, body: Path, calls: int, callers: int, headers: list[str] | None = None, *, log: Path | None = None
) -> float:
    """Make all calls; returns the seconds they took. Raises BenchmarkError when not every one succeeded.

    A line for each call is written into `log`.
    """
    connections = min(CONNECTIONS, callers)
    asked = ["h2load", "-n", str(calls), "-c", str(connections), "-m", str(callers // connections), "-d", str(body)]
    if log is not None:
        asked.append(f"--log-file={log}")
    for header in ["content-type: application/grpc", "te: trailers", *(headers or [])]:
        asked += ["-H", header]
    done = subprocess.run(  # noqa: S603 - a load on this machine, with arguments of ours
        [*asked, url], capture_output=True, text=True, timeout=MEASUREMENT_S_MAX, check=False
    )
    return seconds_of(done.stdout, calls)


def seconds_of(printed: str, calls: int) -> float:
    """What h2load printed. Raises BenchmarkError when it is not of so many calls, all of them with status 2xx."""
    finished, succeeded = _DONE.search(printed), _SUCCEEDED.search(printed)
    if finished is None or succeeded is None or succeeded.groups() != (str(calls), str(calls)):
        raise BenchmarkError(f"h2load did not make {calls} calls:\n{printed[-500:]}")
    return float(finished[1]) * _UNIT_S[finished[2]]
