"""Measures the whole way: messages handed in through the SDK until each is delivered, with two signed receipts.

Engine, simulated carrier and load generator share the machine; what each of them used is told apart by process.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

from loadtest.benchmarks.callers import run_loop
from loadtest.benchmarks.carrier_process import CarrierProcess, carrier
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, engine
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import MEASUREMENT_S_MAX, Plan
from loadtest.benchmarks.process_costs import cpu_s, memory, written_bytes
from loadtest.benchmarks.submissions import submission
from longwave.client import AsyncClient, ListMessagesRequest
from longwave.v1 import messaging_pb2 as pb

METHOD: Final = (
    "submit_many through the SDK until the carrier had every receipt acknowledged (message.sent and message.finalized, "
    "each signed and stored); carrier answers in 5 ms, receipts after 20 to 100 ms each. Processor time from "
    "/proc/PID/stat over all threads, memory from /proc/PID/status, bytes written from /proc/PID/io; the "
    "store's file after the engine has ended, with all bodies, request ids and events in it."
)
NOT_DELIVERED: Final = tuple(
    state
    for state in pb.MessageState.values()
    if state not in {pb.MESSAGE_STATE_UNSPECIFIED, pb.MESSAGE_STATE_DELIVERED}
)
WARM_MESSAGES: Final = 200
LOOK_S: Final = 0.01


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    messages = plan.delivery_messages
    with carrier(folder) as taking, engine(folder, taking.settings()) as running:
        _deliver(running, taking, "warm", WARM_MESSAGES, WARM_MESSAGES)
        before = [cpu_s(running.pid), cpu_s(taking.pid), time.process_time()]
        written_before = written_bytes(running.pid)
        elapsed_s = _deliver(running, taking, "all", messages, WARM_MESSAGES + messages)
        after = [cpu_s(running.pid), cpu_s(taking.pid), time.process_time()]
        used, written = memory(running.pid), written_bytes(running.pid) - written_before
        running.stop()  # which takes the log back into the store
        size = running.store.stat().st_size
    sheet.add("submitted to delivered", "messages/s", per_second(messages, elapsed_s))
    for who, first, last in zip(("engine", "carrier", "load generator"), before, after, strict=True):
        sheet.add(f"processor time of the {who}", "µs/message", (last - first) / messages * 1e6)
    sheet.add("written to disk by the engine", "bytes/message", written / messages)
    sheet.add("store on disk", "bytes/message", size / (messages + WARM_MESSAGES))
    sheet.add("engine memory after", "MiB", used.now_mib)
    sheet.add("engine memory, peak", "MiB", used.peak_mib)


def _deliver(running: EngineProcess, taking: CarrierProcess, prefix: str, messages: int, messages_total: int) -> float:
    """Seconds from the first submission until all are delivered. Raises BenchmarkError if one is not in time."""
    submissions = [submission(OPEN, prefix, place) for place in range(messages)]
    began = time.monotonic()
    run_loop(submit(running, submissions))
    taking.wait_delivered(messages_total, began + MEASUREMENT_S_MAX)
    # A receipt that overtakes its answer is acknowledged when it is stored; the answer is recorded a moment after.
    while left := run_loop(first_not_delivered(running)):
        if time.monotonic() > began + MEASUREMENT_S_MAX:
            raise BenchmarkError(f"every receipt was acknowledged, but a message is {left}")
        time.sleep(LOOK_S)
    return time.monotonic() - began


async def submit(running: EngineProcess, submissions: list[pb.Submission]) -> None:
    """Hand all of them in. Raises BenchmarkError when one is refused."""
    async with AsyncClient(running.address, api_key=running.api_key) as client:
        results = await client.submit_many(submissions, deadline_s=MEASUREMENT_S_MAX)
    refused = [result for result in results if result.error is not None]
    if refused:
        raise BenchmarkError(f"{len(refused)} submissions were not accepted, the first: {refused[0].error}")


async def first_not_delivered(running: EngineProcess) -> str:
    """The state of a message that is not delivered; empty when all are."""
    async with AsyncClient(running.address, api_key=running.api_key) as client, asyncio.timeout(MEASUREMENT_S_MAX):
        async for message in client.list(ListMessagesRequest(page_size=1, states=NOT_DELIVERED)):
            return pb.MessageState.Name(message.state)
    return ""
