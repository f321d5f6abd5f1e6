"""Measures how soon a one-time password leaves, first with nothing waiting, then behind a backlog held by its quota.

Time to leave: from the start of the caller's SubmitMessage to the arrival at the carrier, by the machine's one clock.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

import grpc.aio

from loadtest.benchmarks.accept_batches import load
from loadtest.benchmarks.accept_unary import check
from loadtest.benchmarks.callers import CALL_S, CHANNEL_OPTIONS, run_loop
from loadtest.benchmarks.carrier_process import CarrierProcess, carrier
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import LIMITED, URGENT, EngineProcess, engine
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import MEASUREMENT_S_MAX, Plan
from loadtest.benchmarks.submissions import singles, submission
from longwave import contract
from longwave.v1 import messaging_pb2 as pb

METHOD: Final = (
    "CRITICAL messages by SubmitMessage at a steady pace (one every 20 ms, whether or not the one before is done), "
    "alone and behind BULK messages of a campaign of the same tenant, held to one a second by its quota. Time to "
    "leave: from the start of the call to the arrival at the carrier."
)
WARM_MESSAGES: Final = 20


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    with carrier(folder) as taking, engine(folder, taking.settings()) as running:
        _times_to_leave(running, taking, "warm", WARM_MESSAGES, plan.urgent_every_ms)
        alone_s = _times_to_leave(running, taking, "alone", plan.urgent_messages, plan.urgent_every_ms)
        load(running, _backlog(plan), callers=4)
        behind_s = _times_to_leave(running, taking, "behind", plan.urgent_messages, plan.urgent_every_ms)
    sheet.add_latencies("one-time password leaves, nothing waiting", alone_s)
    name = f"one-time password leaves, {plan.backlog_messages:,} BULK waiting"
    sheet.add_latencies(name, behind_s, wanted_p99="≤ 50 (behind a million)")


def _backlog(plan: Plan) -> list[bytes]:
    requests = []
    for start in range(0, plan.backlog_messages, plan.batch_messages):
        end = min(start + plan.batch_messages, plan.backlog_messages)
        batch = [submission(LIMITED, "bulk", place, pb.MESSAGE_CLASS_BULK) for place in range(start, end)]
        requests.append(pb.SubmitMessagesRequest(submissions=batch).SerializeToString())
    return requests


def _times_to_leave(
    running: EngineProcess, taking: CarrierProcess, prefix: str, messages: int, every_ms: float
) -> list[float]:
    """Seconds to leave of each. Raises BenchmarkError when one does not arrive."""
    started_us = run_loop(_submit(running, singles(URGENT, prefix, messages, pb.MESSAGE_CLASS_CRITICAL), every_ms))
    until = time.monotonic() + MEASUREMENT_S_MAX
    while missing := started_us.keys() - (arrived_us := taking.arrivals_us()).keys():
        if time.monotonic() > until:
            raise BenchmarkError(f"{len(missing)} of {messages} one-time passwords did not arrive")
    return [(arrived_us[message] - start_us) / 1e6 for message, start_us in started_us.items()]


async def _submit(running: EngineProcess, requests: list[bytes], every_ms: float) -> dict[str, int]:
    """Hand them in at a steady pace; returns when the call of each began, by the part after `messages/`."""
    started_us: dict[str, int] = {}
    async with grpc.aio.insecure_channel(running.address, options=CHANNEL_OPTIONS) as channel:
        await channel.channel_ready()
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(contract.SUBMIT_MESSAGE.path)

        async def one(request: bytes) -> None:
            began_us = time.time_ns() // 1_000
            answer = await call(request, timeout=CALL_S, metadata=running.metadata())
            check(answer)
            name = pb.SubmitMessageResponse.FromString(answer).result.message
            started_us[name.removeprefix("messages/")] = began_us

        loop = asyncio.get_running_loop()
        first_at = loop.time()
        async with asyncio.TaskGroup() as group:
            for place, request in enumerate(requests):
                await asyncio.sleep(first_at + place * every_ms / 1e3 - loop.time())
                group.create_task(one(request))
    return started_us
