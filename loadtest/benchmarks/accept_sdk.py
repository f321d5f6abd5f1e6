"""Measures single submissions through the SDK, which coalesces them: many tasks, each waiting for its own answer.

The engine has no carrier. The SDK's own work is inside the figure: it is what a caller gets.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

from loadtest.benchmarks.callers import run_loop
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, engine
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.submissions import submission
from longwave.client import AsyncClient

METHOD: Final = (
    "AsyncClient.submit, one message a call, by many tasks of one client, each waiting for its answer; the SDK's own "
    "work is part of it."
)
WARM_SUBMISSIONS: Final = 500


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    with engine(folder) as running:
        run_loop(_submit(running, "warm", WARM_SUBMISSIONS, plan.sdk_callers))
        elapsed_s, latencies_s = run_loop(_submit(running, "sdk", plan.sdk_submissions, plan.sdk_callers))
    name = f"SDK submit, {plan.sdk_callers} tasks"
    sheet.add(name, "messages/s", per_second(plan.sdk_submissions, elapsed_s), wanted="≥ 10,400")
    sheet.add_latencies(name, latencies_s)


async def _submit(running: EngineProcess, prefix: str, messages: int, callers: int) -> tuple[float, list[float]]:
    waiting = [submission(OPEN, prefix, place) for place in range(messages)]
    latencies_s: list[float] = []
    async with AsyncClient(running.address, api_key=running.api_key) as client:

        async def one_caller() -> None:
            while waiting:
                message = waiting.pop()
                began = time.perf_counter()
                await client.submit(message)
                latencies_s.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(one_caller())
        return time.perf_counter() - began, latencies_s
