"""What every system that is compared can do. It measures nothing."""

import socket
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from loadtest.benchmarks.children import BenchmarkError, Process, tail
from loadtest.peers.loaded import Loaded

HOST: Final = "127.0.0.1"
LISTENING_S_MAX: Final = 60.0
POLL_S: Final = 0.02
# Of every sender; what the systems need for it besides differs.
SENDER: Final = "+12025550150"


class System(Protocol):
    """One system with its data in a folder of its own; whoever made it calls `close`."""

    def start(self) -> None:
        """Start all its processes; returns when it takes messages. After `kill` it goes on with the same data."""

    def kill(self) -> None:
        """SIGKILL to all its processes in one go."""

    def close(self) -> None:
        """End what still runs. Safe to call twice."""

    @property
    def roots(self) -> Sequence[int]:
        """Its processes that none of the others started. Raises RuntimeError when it does not run."""

    @property
    def queue_roots(self) -> Sequence[int]:
        """Those of them that hold what is queued."""

    def load(self, places: range) -> Coroutine[Any, Any, Loaded]:
        """Hand in the messages with these numbers by its own interface."""

    def uncertain(self) -> set[int]:
        """Numbers of messages of which it says that it does not know whether they were sent."""


def wait_listening(process: Process, port: int, log: Path) -> None:
    """Wait until a child listens there. Raises BenchmarkError when it ends or does not in time."""
    until_s = time.monotonic() + LISTENING_S_MAX
    while True:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            if process.poll() is not None:
                raise BenchmarkError(f"a process ended at its start\n{tail(log)}") from None
            if time.monotonic() > until_s:
                raise BenchmarkError(f"nothing listens after {LISTENING_S_MAX:g} s\n{tail(log)}") from None
            time.sleep(POLL_S)
        else:
            return
