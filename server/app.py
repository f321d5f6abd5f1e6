"""One Longwave process: starts its parts in order, tells when it is ready, and stops them in reverse.

It holds no part's work. Order: operations (so that probes see it start), gRPC and webhooks (bound, refusing), the
corridor (opens, migrates, recovers), then the doors open.

Invariants: SIGTERM and SIGINT drain within `drain_s` and give 0; a second signal ends the process at once; a broken
store ends it with 70 within a second, whatever hangs.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import sqlalchemy as sa
import structlog
import uvloop

from engine.clock import Clock
from engine.config import Settings
from engine.config_checks import split_address
from engine.corridor import Corridor
from engine.errors import Refused
from engine.metrics import Metrics
from engine.registry.api_keys import load_keys, rehash
from engine.registry.records import Role
from engine.registry.snapshot import RegistryRows
from engine.secrets import open_secrets
from engine.stores.opened import is_new, kind_of, refuse_if_served
from engine.trace_context import Sampling
from server import logs
from server.auth import AUTHORIZATION, Authenticator
from server.gate import finished
from server.grpc_server import GrpcServer
from server.info import engine_version
from server.machine import memory_limit_bytes, processor_limit_cores
from server.ops import OpsServer, make_app
from server.registry import RegistryService
from server.webhooks import TELNYX_HEADERS, Inbound, WebhookServer

if TYPE_CHECKING:
    from engine.record import Inbound as RecordInbound
    from engine.traces import Traces
    from engine.traces_otlp import OtlpSender

_log = structlog.get_logger("longwave.app")

T = TypeVar("T")

EXIT_OK: Final = 0
EXIT_STORE_BROKEN: Final = 70  # EX_SOFTWARE of sysexits.h
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SIGNAL_EXIT: Final = 128
# Calls end within a commit or two once streams and watches were told to; attempts need the rest of `drain_s`.
CALLS_GRACE_S: Final = 5.0
CALLS_GRACE_SHARE: Final = 0.25
WEBHOOKS_GRACE_S: Final = 2.0
# The promise is a second, exit of the interpreter included.
BROKEN_GRACE_S: Final = 0.3
BROKEN_EXIT_S: Final = 0.9
# A key seen under an old secret is moved to the newest one; nobody waits for that.
REHASH_S: Final = 30.0
# How often health is made to follow what only the corridor knows, such as a store below its durability.
HEALTH_S: Final = 1.0
UNAVAILABLE: Final = 503
# How often it is tried whether the listener of gRPC answers, how long an answer may take, and how many may fail.
PROBE_S: Final = 5.0
PROBE_WAIT_S: Final = 5.0
MISSES_MAX: Final = 2
# Objects made and not gone again before the collector looks, and its rounds before it looks at older ones: the young
# often, for what gRPC makes for a call holds each other, and letting go that of 600 calls at once takes 4 ms.
GC_OBJECTS: Final = 500
GC_ROUNDS_YOUNG: Final = 40
GC_ROUNDS: Final = 10


class Process:
    """The parts of one process; all methods belong to the loop's thread."""

    def __init__(self, settings: Settings) -> None:
        """Assemble; nothing is bound or opened before `start`. Raises ConfigError for the secret file."""
        self._settings = settings
        self._metrics = Metrics(engine_version(), kind_of(settings))
        self._metrics.memory_limit.set(memory_limit_bytes())
        self._metrics.processor_limit.set(processor_limit_cores())
        # A store without its secret file would shut everyone out; only a new store may have a new one.
        now_us = Clock(settings.clock_offset_ms).now_us()
        secrets = open_secrets(settings.secrets_path, create=is_new(settings), now_us=now_us)
        clock = Clock(settings.clock_offset_ms)
        traces, self._sender = _open_traces(settings, clock, self._metrics)
        self.corridor = Corridor(settings, secrets, self._metrics, clock, traces)
        self._authenticator = Authenticator(secrets)
        self.corridor.on_registry(self._follow_registry)
        registry = RegistryService(
            self._run_control, self._registry_changed, self._authenticator, secrets, self.corridor.clock.now_us
        )
        self.grpc = GrpcServer(self.corridor, self._authenticator, registry)
        self.webhooks = WebhookServer(
            self._receive, {"telnyx": TELNYX_HEADERS}, self._metrics, now_us=self.corridor.clock.now_us
        )
        self.ops = OpsServer(
            make_app(self._metrics, not_ready=self._not_ready, stats=self._stats, authorize=self._is_admin)
        )
        self._stopping = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        self._draining = False
        self._misses = 0  # of probes, one after the other

    async def start(self) -> None:
        """Start all in order. Raises ConfigError, StoreLocked, StoreTooNew, StoreBroken, OSError; then call `stop`."""
        settings, stopping = self._settings, self._stopping
        # In the order in which they are stopped: the last one pushed first.
        stopping.push_async_callback(self.ops.stop)
        if self._sender is not None:
            self._sender.start(settings.traces_queue_spans_max)
            stopping.push_async_callback(self._sender.close)
        stopping.push_async_callback(self.corridor.stop, 0)
        stopping.push_async_callback(self.webhooks.drain, 0)
        stopping.push_async_callback(self.grpc.stop, 0)
        try:
            await self.ops.start(*split_address(settings.http_address))
            await self.grpc.start()
            if "receipts" in settings.roles:
                await self.webhooks.start(*split_address(settings.webhook_address))
        except OSError:
            # With its addresses taken, another engine on this store is the likelier story, and the better told one.
            refuse_if_served(settings)
            raise
        await self.corridor.start()
        self._started = True
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(_every(REHASH_S, self._rehash)),
            loop.create_task(_every(HEALTH_S, self._follow_readiness)),
            loop.create_task(_every(PROBE_S, self._probe)),
        ]
        await self.grpc.serving()

    async def stop(self, drain_s: float) -> None:
        """Drain, then stop everything in reverse. Safe to call after a start that failed or was cut short."""
        until_s = _now_s() + drain_s
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._started:
            await self._stopping.aclose()
            return
        self._stopping.pop_all()
        self.corridor.drain()
        await self.grpc.drain()
        await self.grpc.stop(min(CALLS_GRACE_S, drain_s * CALLS_GRACE_SHARE))
        await self.webhooks.drain(min(WEBHOOKS_GRACE_S, max(0.0, until_s - _now_s())))
        await self.corridor.stop(max(0.0, until_s - _now_s()))
        if self._sender is not None:
            await self._sender.close()
        await self.ops.stop()

    async def abandon(self) -> None:
        """Tell callers that the server goes, and no more: after the store broke nothing is worth finishing."""
        await self.grpc.drain()
        await self.grpc.stop(BROKEN_GRACE_S / 2)

    def addresses(self) -> str:
        """Where it listens, as one reads it."""
        settings = self._settings
        told = f"gRPC {_with_port(settings.grpc_address, self.grpc.port)}"
        told += f", operations http://{_with_port(settings.http_address, self.ops.port)}"
        if "receipts" in settings.roles:
            told += f", webhooks http://{_with_port(settings.webhook_address, self.webhooks.port)}"
        return told

    # What the parts ask for.

    def _follow_registry(self, rows: RegistryRows, control: sa.Connection) -> Callable[[], None]:
        keys = load_keys(control, now_us=self.corridor.clock.now_us())
        return partial(self._authenticator.replace, rows.version, keys)

    async def _run_control(self, act: Callable[[sa.Connection], T]) -> T:
        return await finished(self.corridor.run_control_quietly(act))

    async def _registry_changed(self) -> None:
        await finished(self.corridor.registry_changed())

    async def _receive(self, batch: list[Inbound]) -> list[int]:
        if not self._started:
            return [UNAVAILABLE] * len(batch)
        # The edge's tuple has all that record reads; its fields are read-only, which the protocol does not ask for.
        return await self.corridor.receive(cast("Sequence[RecordInbound]", batch))

    def _not_ready(self) -> Sequence[str]:
        if self._draining:
            return ["the server drains"]
        because = self.corridor.not_ready()
        reasons = [because] if because else []
        if self._misses >= MISSES_MAX:
            reasons.append("the gRPC listener does not answer")
        if self._started and "receipts" in self._settings.roles and not self.webhooks.listening:
            reasons.append("the webhook listener takes no connections")
        return reasons

    async def _stats(self) -> Mapping[str, object]:
        if not self._started:
            return {"not_ready": self.corridor.not_ready()}
        return {
            **self.corridor.stats(),
            "calls": self.grpc.gate.calls,
            "event_subscribers": self.grpc.watches.subscribers,
            "webhook_connections": self.webhooks.connections,
        }

    def _is_admin(self, header: str) -> bool:
        with contextlib.suppress(Refused):
            principal = self._authenticator.authenticate(
                ((AUTHORIZATION, header),), "operations:0", now_us=self.corridor.clock.now_us()
            )
            return principal.role is Role.ADMIN
        return False

    async def _rehash(self) -> None:
        hashes = self._authenticator.take_rehashes()
        if hashes:
            await self.corridor.run_control(partial(rehash, hashes=hashes))

    async def _probe(self) -> None:
        self._misses = 0 if await self.grpc.answers(PROBE_WAIT_S) else self._misses + 1
        if self._misses == MISSES_MAX:
            _log.error("the gRPC listener does not answer: not ready")

    async def _follow_readiness(self) -> None:
        await self.grpc.set_ready(ready=self.corridor.not_ready() is None)


def _open_traces(settings: Settings, clock: Clock, metrics: Metrics) -> "tuple[Traces | None, OtlpSender | None]":
    if not settings.traces_endpoint:
        return None, None
    # Its packages are an extra, loaded only where it is set.
    from engine.traces_otlp import open_traces  # noqa: PLC0415

    return open_traces(settings, clock, metrics, engine_version())


def run(settings: Settings, *, announce: Callable[[str], None]) -> int:
    """As `serve`, in a loop of its own."""
    return uvloop.run(serve(settings, announce=announce))


async def serve(settings: Settings, *, announce: Callable[[str], None]) -> int:
    """Run until SIGTERM, SIGINT or a broken store; returns the exit code. Call in the main thread, under uvloop.

    `announce` gets one line when ready, and one when draining. Raises what `Process.start` raises.
    """
    sampling = Sampling(settings.traces_ratio) if settings.traces_endpoint else None
    logs.configure(settings.log_level, sys.stderr, sampling)
    with _signals() as asked:
        process = Process(settings)
        broken = process.corridor.broken
        starting = asyncio.ensure_future(process.start())
        try:
            await _first(starting, asked, broken)
            if starting.done() and not broken.done():
                starting.result()
                _settle_memory()
                announce(f"longwave {engine_version()} is ready: {process.addresses()}")
                _log.info("ready", addresses=process.addresses(), store=process.corridor.store_name)
                await _first(asked, broken)
        except BaseException:
            await process.stop(0)
            raise
        if not broken.done():
            announce("longwave drains")
            _log.info("draining", seconds_max=settings.drain_s)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            draining = asyncio.ensure_future(process.stop(settings.drain_s))
            await _first(draining, broken)
            if not broken.done():
                draining.result()
                _log.info("stopped")
                return EXIT_OK
        return await _exit_broken(process)


def _settle_memory() -> None:
    """What a start leaves in memory stays; the collector need not look at it again and again.

    A call makes some tens of objects that all go with it: the collector's default, a look at every 700, found nothing
    for a tenth of the loop's time and held it up for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, GC_ROUNDS_YOUNG, GC_ROUNDS)


async def _exit_broken(process: Process) -> int:
    """Give up: nothing that the store says can be trusted, and recovery is the next start's."""
    # A thread may hang in the very call that failed, and the interpreter waits for its threads.
    guard = threading.Timer(BROKEN_EXIT_S, os._exit, (EXIT_STORE_BROKEN,))
    guard.daemon = True
    guard.start()
    error = process.corridor.broken.result()
    _log.critical("the store broke: exiting to recover", error=str(error), exit_code=EXIT_STORE_BROKEN)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BROKEN_GRACE_S):
            await process.abandon()
    return EXIT_STORE_BROKEN


@contextlib.contextmanager
def _signals() -> Iterator["asyncio.Future[int]"]:
    """A future that the first signal fulfils; the second one ends the process."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[int] = loop.create_future()

    def on_signal(number: int) -> None:
        if asked.done():
            os._exit(SIGNAL_EXIT + number)
        asked.set_result(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield asked
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _first(*futures: "asyncio.Future[Any]") -> None:
    """Wait until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _every(wait_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(wait_s)
        try:
            await work()
        except Exception:  # noqa: BLE001 - logged; the next round tries again
            _log.exception("periodic work failed")


def _with_port(address: str, port: int) -> str:
    """The address with the port that was taken in place of 0."""
    return f"{address.rpartition(':')[0]}:{port}"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
