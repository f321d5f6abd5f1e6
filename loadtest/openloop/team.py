"""Starts the driver's processes, has them begin a phase at the same moment, and merges what came of it.

It sends nothing itself. Invariant: every process is ended and waited for before the block that started them ends.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtest.benchmarks.children import BenchmarkError, module_command
from loadtest.openloop.arrivals import Flow, Phase
from loadtest.openloop.driver import Came

# From the word to the beginning: a line through a pipe takes microseconds, a process that was asleep some milliseconds.
BEGIN_S: Final = 0.2
END_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Whom:
    """Whom to call, and as whom."""

    address: str
    key: str
    campaign: str


class Team:
    """Processes that stand ready."""

    def __init__(self, processes: Sequence["subprocess.Popen[str]"]) -> None:
        """They were told whom to call."""
        self._processes = processes
        for process in processes:
            _heard(process)

    def run(self, phase: Phase) -> Came:
        """Send a phase. Raises BenchmarkError when a process ends."""
        begin_s = time.monotonic() + BEGIN_S
        for process in self._processes:
            _tell(process, {"phase": asdict(phase), "begin_s": begin_s})
        first, *others = [Came.of(_heard(process)) for process in self._processes]
        for other in others:
            first.add(other)
        return first


@contextmanager
def team(whom: Whom, flows: Sequence[Flow], processes: int, cores: Sequence[int] | None = None) -> Iterator[Team]:
    """So many processes, on these cores. Raises BenchmarkError when one cannot connect."""
    with ExitStack() as stack:
        started = []
        for place in range(processes):
            process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
                module_command("loadtest.openloop.driver"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(_end, process)
            if cores is not None:
                os.sched_setaffinity(process.pid, cores)
            said = {"flows": [asdict(flow) for flow in flows], "process": place, "processes": processes}
            _tell(process, asdict(whom) | said)
            started.append(process)
        yield Team(started)


def _tell(process: "subprocess.Popen[str]", what: dict[str, Any]) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()


def _heard(process: "subprocess.Popen[str]") -> dict[str, Any]:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise BenchmarkError("a process of the driver ended: what it said stands above")
    heard: dict[str, Any] = json.loads(line)
    return heard


def _end(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
