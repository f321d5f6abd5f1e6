"""A good client beside an abuser: what each of its calls took, before, during and after, and what the engine held.

Engine, abuser and good client are three processes of one machine; the abuser has the lowest priority, or a core of its
own. Calls are made at
a steady pace whether or not the ones before are done, and a call's time counts from the moment it was due.
"""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loadtest.benchmarks.callers import CHANNEL_OPTIONS, run_loop
from loadtest.benchmarks.children import HOST
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, engine
from loadtest.benchmarks.process_costs import memory
from loadtest.benchmarks.submissions import singles
from loadtest.carrier.signing import key_seed_from
from loadtest.ports import free_ports
from longwave import contract
from tests.corridor.engine_fixture import Signing, receipt_body

ROOT: Final = Path(__file__).resolve().parents[3]
CALLS_A_SECOND: Final = 50
WEBHOOKS_A_SECOND: Final = 20
CALL_S: Final = 20.0
STOP_S: Final = 30.0
# So long an abuser has to bring itself into position.
BEGIN_S: Final = 2.0
SIGNING: Final = Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(7)))
# Query of a callback that is not ours: the provider signed it, so it is answered 200 and changes nothing.
QUERY: Final = "m=0a00000000000&g=1&k=c1&v=00"


@dataclass(frozen=True, slots=True)
class Window:
    """What the good client saw in a stretch of time; times in milliseconds."""

    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    webhook_p99_ms: float
    webhooks_failed: int
    rss_mib: float


class Abused:
    """One engine to abuse."""

    def __init__(self, running: EngineProcess, webhook_port: int, abusers_core: int | None) -> None:
        """It runs already; an abuser is to run on `abusers_core` alone."""
        self.engine = running
        self.webhook_port = webhook_port
        self._abusers_core = abusers_core
        self._windows = 0

    @contextlib.contextmanager
    def abuser(self, name: str) -> Iterator[list[str]]:
        """Abuse it; the list holds what the abuser says it did, when it has ended."""
        port = self.engine.address.rpartition(":")[2]
        command = [sys.executable, "-m", "tests.proof.abuse.abusers", name, port, str(self.webhook_port),
                   self.engine.api_key, *([] if self._abusers_core is None else [str(self._abusers_core)])]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto")))}
        said: list[str] = []
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "begun\n"
                time.sleep(BEGIN_S)
                yield said
            finally:
                process.terminate()
                said.append(process.communicate(timeout=STOP_S)[0].strip())

    def window(self, seconds: float) -> Window:
        """Be a good client for so long."""
        self._windows += 1
        return run_loop(self._good(seconds, f"w{self._windows}"))

    async def _good(self, seconds: float, prefix: str) -> Window:
        calls_ms, webhooks_ms, failures = [], [], [0, 0]
        requests = singles(OPEN, f"{prefix}-{time.time_ns()}", int(seconds * CALLS_A_SECOND))
        metadata = self.engine.metadata()
        async with grpc.aio.insecure_channel(self.engine.address, options=CHANNEL_OPTIONS) as channel:
            call: Any = channel.unary_unary(contract.SUBMIT_MESSAGE.path)

            async def submit(request: bytes, due_s: float) -> None:
                try:
                    await call(request, timeout=CALL_S, metadata=metadata)
                except grpc.aio.AioRpcError:
                    failures[0] += 1
                calls_ms.append((time.perf_counter() - due_s) * 1e3)

            async def webhook(number: int, due_s: float) -> None:
                try:
                    async with asyncio.timeout(CALL_S):
                        status = await self._webhook(f"{prefix}-{number}")
                except (OSError, EOFError, TimeoutError):
                    status = 0
                failures[1] += status != 200
                webhooks_ms.append((time.perf_counter() - due_s) * 1e3)

            async with asyncio.timeout(CALL_S), asyncio.TaskGroup() as warm:
                warm.create_task(submit(singles(OPEN, f"{prefix}-warm-{time.time_ns()}", 1)[0], time.perf_counter()))
            calls_ms.clear()
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for number, request in enumerate(requests):
                    due_s = began + number / CALLS_A_SECOND
                    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                    group.create_task(submit(request, due_s))
                    if number * WEBHOOKS_A_SECOND % CALLS_A_SECOND < WEBHOOKS_A_SECOND:
                        group.create_task(webhook(number, due_s))
        calls_ms.sort()
        webhooks_ms.sort()
        return Window(
            calls=len(calls_ms), failed=failures[0], p50_ms=statistics.median(calls_ms), p99_ms=_p99(calls_ms),
            webhook_p99_ms=_p99(webhooks_ms), webhooks_failed=failures[1], rss_mib=memory(self.engine.pid).now_mib,
        )  # fmt: skip

    async def _webhook(self, event: str) -> int:
        """A carrier's receipt, on a connection of its own; its status."""
        body = receipt_body(event, "delivered", provider_id=event)
        signed = SIGNING.sign(QUERY, body, time.time_ns() // 1000)
        reader, writer = await asyncio.open_connection(HOST, self.webhook_port)
        try:
            writer.write(
                b"POST /webhooks/telnyx?%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Telnyx-Timestamp: %b\r\nTelnyx-Signature-Ed25519: %b\r\nContent-Length: %d\r\n\r\n%b"
                % (signed.query, signed.timestamp, signed.signature, len(body), body)
            )
            return int((await reader.readuntil(b"\r\n"))[9:12])
        finally:
            writer.close()


def _p99(sorted_ms: list[float]) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, int(len(sorted_ms) * 0.99))]


@contextlib.contextmanager
def _apart() -> Iterator[int]:
    """Leave the last core to abusers; its number."""
    ours = os.sched_getaffinity(0)
    last = max(ours)
    os.sched_setaffinity(0, ours - {last})
    try:
        yield last
    finally:
        os.sched_setaffinity(0, ours)


@contextlib.contextmanager
def abused(folder: Path, settings: Mapping[str, str] | None = None, *, apart: bool = False) -> Iterator[Abused]:
    """An engine without a carrier, whose webhooks are signed by `SIGNING`.

    With `apart` its abusers have a core of their own, which the engine and the good client leave to them, abuser or
    not: abusers have machines of their own, and what these spend on sending is not to be taken for what they do to an
    engine. Needs two cores.
    """
    [webhook_port] = free_ports(1)
    wanted = {
        "LONGWAVE_WEBHOOK_ADDRESS": f"{HOST}:{webhook_port}",
        "LONGWAVE_TELNYX_PUBLIC_KEY": SIGNING.public_base64,
        **(settings or {}),
    }
    with _apart() if apart else contextlib.nullcontext() as core, engine(folder, wanted) as running:
        yield Abused(running, webhook_port, core)


def shown(window: Window) -> dict[str, float]:
    """For a file."""
    return {name: round(value, 2) for name, value in asdict(window).items()}
