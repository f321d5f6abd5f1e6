"""Many callers over one channel, each with one call on its way: how long each call took, and all together.

It decides nothing about what is called; requests and answers are bytes.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
import uvloop

from loadtest.benchmarks.plan import MEASUREMENT_S_MAX

CALL_S: Final = 60.0
# As the SDK's, where it matters: no proxy of the environment, no retries behind our back.
CHANNEL_OPTIONS: Final = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]
Check = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What the callers saw."""

    calls: int
    elapsed_s: float
    latencies_s: list[float]


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own, as fast a one as the engine's. Raises TimeoutError past a measurement's bound."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_bounded(work))


async def _bounded(work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(MEASUREMENT_S_MAX):
        return await work


async def call_all(
    address: str, method: str, requests: Sequence[bytes], *, callers: int, metadata: Metadata = (), check: Check
) -> Run:
    """Make all calls, `callers` at a time; `check` sees each answer after the clock was stopped, and raises."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        await channel.channel_ready()
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        waiting = deque(requests)
        latencies_s: list[float] = []
        answers: list[bytes] = []

        async def one_caller() -> None:
            while waiting:
                request = waiting.popleft()
                began = time.perf_counter()
                answers.append(await call(request, timeout=CALL_S, metadata=metadata))
                latencies_s.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(one_caller())
        elapsed_s = time.perf_counter() - began
    for answer in answers:
        check(answer)
    return Run(len(answers), elapsed_s, latencies_s)
