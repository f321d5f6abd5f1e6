"""Answers to look-ups of messages that never change again, kept in Redis so that one node finds what another read.

The store is the truth: what Redis loses, refuses, answers late or answers wrongly costs a look-up time and nothing
else. Nothing is decided by what is kept here.

Invariants: `find` never raises, and never waits longer than the access says; `keep` never waits; at most
`IN_FLIGHT_MAX` commands of each kind are on their way; after a failure one command a `REST_S` is tried until one
succeeds; no log shows a name, a text or a password.
"""

import asyncio
from typing import Any, Final

import structlog

from engine.clock import Clock
from engine.finals import KEPT_S, KEPT_US
from engine.finals_seal import Seal
from engine.metrics import Metrics
from engine.redis_access import Access, end

REST_S: Final = 1.0
# A look-up beyond it asks the store, an answer beyond it is not kept. Each holds a connection, and the client refuses
# beyond 100 of them to one server.
IN_FLIGHT_MAX: Final = 32

_log = structlog.get_logger("longwave.finals")


class Rest:
    """Lets a Redis alone that failed: one try each `REST_S`, until one succeeds."""

    def __init__(self) -> None:
        """Nothing failed yet."""
        self._failed = False
        self._until_s = 0.0

    def may_try(self, now_s: float) -> bool:
        """Whether to try now; while it rests, whoever is told so is the only one."""
        if not self._failed:
            return True
        if now_s < self._until_s:
            return False
        self._until_s = now_s + REST_S
        return True

    def failed(self, now_s: float) -> bool:
        """A try failed; whether it is the first since one succeeded."""
        first, self._failed = not self._failed, True
        self._until_s = now_s + REST_S
        return first

    def succeeded(self) -> None:
        """A try succeeded."""
        self._failed = False


class RedisFinals:
    """Of one node. All of it belongs to the loop's thread."""

    def __init__(self, access: Access, seal: Seal, clock: Clock, metrics: Metrics) -> None:
        """Open nothing yet."""
        self._wait_s = access.wait_s
        self._seal = seal
        self._clock = clock
        self._errors = metrics.cache_redis_errors
        self._client, self._clients = access.open(0)
        self._finding: set[asyncio.Task[Any]] = set()
        self._keeping: set[asyncio.Task[Any]] = set()
        # A Redis that is full or read-only still answers: what it refuses must not keep look-ups away.
        self._rests = {"find": Rest(), "keep": Rest()}

    async def close(self) -> None:
        """Neither find nor keep any more."""
        await end([*self._finding, *self._keeping], self._clients)

    async def find(self, tenant: int, identity: int) -> tuple[bytes, int] | None:
        """(the answer, for how many µs it may be kept in memory); None whenever it is not surely there."""
        if not self._may_try("find", self._finding):
            return None
        asked = self._begin(self._client.get(self._seal.name(tenant, identity)), self._finding)
        # Not `wait_for`: that waits for the end of the cancellation, too, which a client may put off.
        await asyncio.wait((asked,), timeout=self._wait_s)
        if not asked.done():
            asked.cancel()
            self._failed("find", TimeoutError())
            return None
        value = self._result("find", asked)
        opened = self._seal.open(tenant, identity, value) if isinstance(value, bytes) else None
        if opened is None:
            return None
        answer, read_us = opened
        # Clocks of nodes differ; whatever they say, an answer is kept for its whole time once, in each level.
        left_us = min(read_us + KEPT_US - self._clock.now_us(), KEPT_US)
        return (answer, left_us) if left_us > 0 else None

    def keep(self, tenant: int, identity: int, answer: bytes, age_us: int) -> None:
        """Keep an answer that was asked of the store `age_us` ago; returns at once, whatever becomes of it."""
        if not self._may_try("keep", self._keeping):
            return
        value = self._seal.close(tenant, identity, answer, self._clock.now_us() - age_us)
        command = self._client.set(self._seal.name(tenant, identity), value, ex=KEPT_S)
        self._begin(command, self._keeping).add_done_callback(lambda kept: self._result("keep", kept))

    def _may_try(self, doing: str, running: set[asyncio.Task[Any]]) -> bool:
        now_s = asyncio.get_running_loop().time()
        return len(running) < IN_FLIGHT_MAX and self._rests[doing].may_try(now_s)

    def _begin(self, command: Any, running: set[asyncio.Task[Any]]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(command)
        running.add(task)

        def ended(_: asyncio.Task[Any]) -> None:
            running.discard(task)
            if not task.cancelled():
                task.exception()  # seen: whoever asked may be gone

        task.add_done_callback(ended)
        return task

    def _result(self, doing: str, task: asyncio.Task[Any]) -> Any:
        """Of one that ended; None when it failed."""
        if task.cancelled():
            return None
        error = task.exception()
        if error is not None:
            self._failed(doing, error)
            return None
        self._rests[doing].succeeded()
        return task.result()

    def _failed(self, doing: str, error: BaseException) -> None:
        self._errors.labels(doing).inc()
        if self._rests[doing].failed(asyncio.get_running_loop().time()):
            _log.warning("redis failed: look-ups ask the store", doing=doing, error=type(error).__name__)
