"""Hints: over Redis nodes tell each other at once that something was committed, so that nobody waits for the next look.

It carries no message, right or limit: the store is the truth and is looked at as often as without it. A hint that is
lost, doubled or forged costs a look, or the time until the next one.

Invariants: nobody ever waits for Redis (`tell` only notes); at most one entry of this node is on its way, and what is
told meanwhile is one more; the stream is bounded by `ENTRIES_MAX`; no log shows a password.
"""

import asyncio
import random
import secrets
from collections.abc import Callable
from typing import Any, Final

import structlog

from engine.metrics import Metrics
from engine.redis_access import Access, end

STREAM: Final = "longwave:hints"
# Each is about 60 bytes; whoever is further behind looks once for all of them.
ENTRIES_MAX: Final = 1000
READ_MAX: Final = 100
# Longest wait of one read. After a quiet one the newest entry is asked for anew, so that a server whose clock or data
# went back is followed again.
QUIET_MS: Final = 1000
# Two entries of one node are so far apart: at most 200 a second, whatever is committed.
PACE_S: Final = 0.005
# After a failure Redis is let alone for this long, doubling, with jitter.
REST_S: Final = 0.1
REST_S_MAX: Final = 5.0
# A field of an entry: whoever hears it drops the look-ups it keeps in memory (`engine/finals.py`).
FORGET: Final = b"forget"

_log = structlog.get_logger("longwave.hints")


class Hints:
    """Of one node. All of it belongs to the loop's thread."""

    def __init__(
        self, access: Access, metrics: Metrics, on_heard: Callable[[], None], on_forget: Callable[[], None]
    ) -> None:
        """Open nothing yet.

        `on_heard` is called when another node told, and when hints may have been missed; `on_forget` when an operator
        cleared what is kept of look-ups.
        """
        self._metrics = metrics
        self._on_heard = on_heard
        self._on_forget = on_forget
        self._name = secrets.token_hex(8).encode("ascii")
        self._teller, closed = access.open(0)
        self._listener, closed_too = access.open(QUIET_MS / 1000)
        self._clients = [*closed, *closed_too]
        self._something = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Tell and hear from now on."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._tell_on()), loop.create_task(self._hear_on())]

    async def close(self) -> None:
        """Neither tell nor hear any more."""
        await end(self._tasks, self._clients)

    def tell(self) -> None:
        """Something was committed. Returns at once, whatever becomes of Redis."""
        self._something.set()

    async def _tell_on(self) -> None:
        loop, rest_s = asyncio.get_running_loop(), REST_S
        while True:
            await self._something.wait()
            self._something.clear()
            began_s = loop.time()
            try:
                await self._teller.xadd(STREAM, {b"by": self._name}, maxlen=ENTRIES_MAX, approximate=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody needs hints
                self._failed("tell", error)
                await asyncio.sleep(rest_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
                rest_s = min(rest_s * 2, REST_S_MAX)
                continue
            rest_s = REST_S
            self._metrics.hint_seconds.observe(loop.time() - began_s)
            self._metrics.hints.labels("told").inc()
            await asyncio.sleep(PACE_S)

    async def _hear_on(self) -> None:
        after, rest_s = b"$", REST_S
        while True:
            try:
                found: Any = await self._listener.xread({STREAM: after}, count=READ_MAX, block=QUIET_MS)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody needs hints
                self._metrics.redis_up.set(0)
                self._failed("hear", error)
                await asyncio.sleep(rest_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
                after, rest_s = b"$", min(rest_s * 2, REST_S_MAX)
                continue
            self._metrics.redis_up.set(1)
            if rest_s > REST_S:
                rest_s = REST_S
                self._on_heard()  # for what was told while nobody heard
            after = b"$"
            for _, entries in found:
                after = entries[-1][0]
                others = sum(fields.get(b"by") != self._name for _, fields in entries)
                if any(FORGET in fields for _, fields in entries):
                    self._on_forget()
                if others:
                    self._metrics.hints.labels("heard").inc(others)
                    self._on_heard()

    def _failed(self, doing: str, error: Exception) -> None:
        self._metrics.hints.labels(f"{doing}_failed").inc()
        _log.warning("redis failed: nodes are found out by looking", doing=doing, error=type(error).__name__)
