"""The simulated carrier of a benchmark, a process of its own: everything goes well, quickly.

It measures nothing; its ledger says when each message reached it.
"""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from loadtest.benchmarks.children import HOST, BenchmarkError, child, clean_environment, get, module_command

API_KEY: Final = "simulated-carrier-key"
IDLE_WAIT_MS: Final = 1_000
POLL_S: Final = 0.02
RECORDS_AT_ONCE: Final = 10_000


class CarrierProcess:
    """A running carrier."""

    def __init__(self, pid: int, port: int, public_key: str) -> None:
        """Talk to the carrier that listens there."""
        self.pid = pid
        self._port = port
        self._public_key = public_key

    def settings(self) -> dict[str, str]:
        """With these variables an engine sends through it."""
        return {
            "LONGWAVE_TELNYX_BASE_URL": f"http://{HOST}:{self._port}/v2",
            "LONGWAVE_TELNYX_API_KEY": API_KEY,
            "LONGWAVE_TELNYX_PUBLIC_KEY": self._public_key,
        }

    def wait_delivered(self, messages: int, until: float) -> None:
        """Wait until it took so many since its start and the engine has acknowledged every receipt of theirs.

        `until` is on the monotonic clock. Raises BenchmarkError when that passes first.
        """
        while True:
            idle = self._control(f"idle?wait_ms={IDLE_WAIT_MS}")["idle"]
            taken = self._taken()
            if idle and taken >= messages:
                return
            if time.monotonic() > until:
                raise BenchmarkError(f"the carrier took {taken} of {messages} messages in time; idle: {idle}")
            time.sleep(POLL_S)

    def wait_taken(self, messages: int, until: float) -> None:
        """Wait until it took so many since its start, whatever became of their receipts; `until` as above."""
        while (taken := self._taken()) < messages:
            if time.monotonic() > until:
                raise BenchmarkError(f"the carrier took {taken} of {messages} messages in time")
            time.sleep(POLL_S)

    def _taken(self) -> int:
        taken: int = self._control("stats")["counts"].get("taken", 0)
        return taken

    def arrivals_us(self) -> dict[str, int]:
        """When each message reached it, µs since the epoch, by the part of its name after `messages/`."""
        arrived: dict[str, int] = {}
        after = 0
        while True:
            status, body = get(self._port, f"/control/messages?after={after}&limit={RECORDS_AT_ONCE}", wait_s=60)
            lines = body.splitlines()
            if status != http.client.OK:
                raise BenchmarkError(f"the carrier's ledger answered {status}")
            for line in lines:
                record = json.loads(line)
                after = record["seq"]
                if record["taken"] and record["idempotency_key"]:
                    arrived.setdefault(record["idempotency_key"].partition(":")[0], record["taken_at_us"])
            if len(lines) < RECORDS_AT_ONCE:
                return arrived

    def _control(self, path: str) -> dict[str, Any]:
        status, body = get(self._port, f"/control/{path}", wait_s=60)
        if status != http.client.OK:
            raise BenchmarkError(f"the carrier's {path} answered {status}")
        answer: dict[str, Any] = json.loads(body)
        return answer


@contextmanager
def carrier(folder: Path, config: Mapping[str, object] | None = None) -> Iterator[CarrierProcess]:
    """A started carrier, whose log lies in `folder`; `config` as `PUT /control/config` takes it."""
    command = module_command("loadtest.carrier", "--port", "0", "--api-key", API_KEY)
    if config is not None:
        path = folder / "carrier.json"
        path.write_text(json.dumps(config), encoding="ascii")
        command += ["--config", str(path)]
    with child(command, clean_environment({}), folder / "carrier.log") as (process, line):
        ready = json.loads(line)
        yield CarrierProcess(process.pid, int(ready["port"]), str(ready["public_key"]))
