"""Stops a process in the middle of whatever it does, and says so only when none of its threads runs any more."""

import os
import signal
import time
from pathlib import Path
from typing import Final

WAIT_S: Final = 30.0
STANDS_STILL: Final = frozenset("TtZX")


def freeze(pid: int) -> None:
    """SIGSTOP; returns when it took effect, which on a busy machine is later: a thread may answer meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    until_s = time.monotonic() + WAIT_S
    while not all(_state(task) in STANDS_STILL for task in Path(f"/proc/{pid}/task").iterdir()):
        if time.monotonic() > until_s:
            raise TimeoutError(f"process {pid} does not stop")
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return "X"
