"""Files of tests run side by side in several workers; a test that measures, or fills the machine, runs alone.

Each test holds a shared lock while it runs, one marked `alone` an exclusive one. Before it, everyone passes a gate, so
whoever waits to be alone is followed by nobody. Locks are of the kernel and end with their process.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class Turns:
    """Who runs when, for the workers of one run."""

    def __init__(self, run: str) -> None:
        """`run` names the run; its workers share two files in the folder for temporary ones."""
        folder = Path(tempfile.gettempdir())
        self._gate, self._floor = (folder / f"longwave-tests-{run}-{of}" for of in ("gate", "floor"))

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Wait for a turn; hold it until the end."""
        with _opened(self._gate) as gate, _opened(self._floor) as floor:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(floor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield

    def forget(self) -> None:
        """The run is over."""
        for path in (self._gate, self._floor):
            path.unlink(missing_ok=True)


def _opened(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
