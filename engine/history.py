"""A log of what the engine did, for a checker that proves promises from outside; off unless a file is named.

It holds ids, states and counts, never text, numbers or keys. Each line is one JSON object with `at_us` and `kind`;
lines reach the kernel before the step after them begins, so that kill -9 loses none.
"""

import os
from pathlib import Path
from typing import Any

import orjson

from engine.clock import Clock


class History:
    """Appends lines to a file, or does nothing."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        """Open `path` for appending; None: note nothing. Raises OSError."""
        self._clock = clock
        self._descriptor = -1 if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def on(self) -> bool:
        """Whether notes are kept; ask before gathering fields that cost something."""
        return self._descriptor >= 0

    def note(self, kind: str, **fields: Any) -> None:
        """Write one line."""
        if self._descriptor >= 0:
            line = orjson.dumps({"at_us": self._clock.now_us(), "kind": kind, **fields})
            os.write(self._descriptor, line + b"\n")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
