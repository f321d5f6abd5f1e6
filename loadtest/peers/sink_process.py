"""A started sink, and what one asks of it. It counts nothing itself."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtest.benchmarks.children import BenchmarkError, child, clean_environment, get, module_command
from loadtest.peers.sink import HOST, Counts

POLL_S: Final = 0.02
CONTROL_S_MAX: Final = 60.0


class SinkProcess:
    """A sink that runs."""

    def __init__(self, pid: int, port: int) -> None:
        """Talk to the sink that listens there."""
        self.pid = pid
        self.port = port

    def url(self, path: str) -> str:
        """Of what a system delivers to."""
        return f"http://{HOST}:{self.port}{path}"

    def counts(self) -> Counts:
        """What came since the last reset."""
        return Counts(**json.loads(self._get("counts")))

    def seen(self) -> bytes:
        """How often each message came, a byte for each."""
        return self._get("seen")

    def reset(self) -> None:
        """Forget what came, and answer at once again."""
        self.hold(on=False)
        self.delay(0)
        self._get("reset")

    def delay(self, delay_ms: float) -> None:
        """Answer so much later from now on."""
        self._get(f"delay?ms={delay_ms:g}")

    def hold(self, *, on: bool) -> None:
        """Answer nothing from now on, or all that waits."""
        self._get(f"hold?on={int(on)}")

    def wait_messages(self, messages: int, until_s: float) -> Counts:
        """Wait until so many different ones came. Raises BenchmarkError when `until_s` (monotonic) passes first."""
        while (counts := self.counts()).messages < messages:
            if time.monotonic() > until_s:
                raise BenchmarkError(f"the sink has {counts.messages} of {messages} messages")
            time.sleep(POLL_S)
        return counts

    def wait_quiet(self, quiet_s: float, until_s: float) -> None:
        """Wait until nothing came for so long, or `until_s` (monotonic) passes."""
        last, since = self.counts(), time.monotonic()
        while time.monotonic() < min(since + quiet_s, until_s):
            time.sleep(POLL_S)
            if (counts := self.counts()) != last:
                last, since = counts, time.monotonic()

    def _get(self, path: str) -> bytes:
        status, body = get(self.port, f"/control/{path}", wait_s=CONTROL_S_MAX)
        if status != http.client.OK:
            raise BenchmarkError(f"the sink's {path} answered {status}")
        return body


@contextmanager
def sink(folder: Path) -> Iterator[SinkProcess]:
    """A started sink, whose log lies in `folder`."""
    command = module_command("loadtest.peers.sink")
    with child(command, clean_environment({}), folder / "sink.log") as (process, line):
        yield SinkProcess(process.pid, int(json.loads(line)["port"]))
