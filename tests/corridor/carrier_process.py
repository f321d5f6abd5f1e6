"""The simulated carrier as a process of its own, and what a test does to it.

It knows nothing of the engine. One process serves all tests of a run: `renew` forgets everything and sets it up anew.
"""

import asyncio
import json
import subprocess
import sys
from typing import Any, Final

import aiohttp

from tests.corridor.engine_fixture import API_KEY, WAIT_S

QUICK: Final = {
    "latency_min_ms": 0,
    "latency_mean_ms": 0,
    "latency_max_ms": 0,
    "receipt_delay_min_ms": 1,
    "receipt_delay_mean_ms": 2,
    "receipt_delay_max_ms": 3,
    "webhook_backoff_ms": 20,
}
RECORDS_AT_ONCE: Final = 10_000
NO_RECEIPTS: Final = {"receipt_lost_share": 1}


class CarrierProcess:
    """`python -m loadtest.carrier`, from construction to `stop`."""

    def __init__(self) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, "-m", "loadtest.carrier", "--port", "0", "--api-key", API_KEY]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        ready = json.loads(self._process.stdout.readline())
        self.port: int = ready["port"]

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(WAIT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()


class Carrier:
    """A test's hold on the carrier."""

    def __init__(self, process: CarrierProcess, session: aiohttp.ClientSession) -> None:
        """Call it over `session`."""
        self._url = f"http://127.0.0.1:{process.port}"
        self._session = session

    @property
    def base_url(self) -> str:
        """As LONGWAVE_TELNYX_BASE_URL takes it."""
        return self._url + "/v2"

    async def _call(self, method: str, path: str, values: object = None) -> bytes:
        body = None if values is None else json.dumps(values).encode()
        async with self._session.request(method, f"{self._url}/control/{path}", data=body) as response:
            answer = await response.read()
            assert response.status == 200, answer
            return answer

    async def renew(self, **settings: Any) -> None:
        """Forget all that was taken; `settings` lie over quick defaults."""
        await self._call("PUT", "config", {**QUICK, **settings})
        await self._call("POST", "reset", {})

    async def set(self, **settings: Any) -> None:
        """Change these settings only."""
        await self._call("PATCH", "config", settings)

    async def inbound(self, sender: str, to: int, text: str, **more: Any) -> None:
        """Let a handset send a text to one of our numbers."""
        await self._call("POST", "inbound", {"from": sender, "to": f"+{to}", "text": text, **more})

    async def records(self) -> list[dict[str, Any]]:
        """Every request to send that it got, in order."""
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["seq"] if found else 0
            lines = (await self._call("GET", f"messages?after={after}&limit={RECORDS_AT_ONCE}")).splitlines()
            found += [json.loads(line) for line in lines]
            if len(lines) < RECORDS_AT_ONCE:
                return found

    async def taken(self) -> list[dict[str, Any]]:
        """Those that it took."""
        return [record for record in await self.records() if record["taken"]]

    async def until_requests(self, requests: int) -> list[dict[str, Any]]:
        """Wait until it got so many requests to send."""
        async with asyncio.timeout(WAIT_S):
            while len(found := await self.records()) < requests:
                pass
        return found

    async def settle(self) -> None:
        """Wait until no receipt is scheduled or on its way."""
        assert json.loads(await self._call("GET", f"idle?wait_ms={WAIT_S * 1000}")) == {"idle": True}
