"""A closed loop of gRPC calls over one channel; requests are encoded beforehand, answers read after the clock stopped.

It decides nothing about what is sent.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

import grpc
import grpc.aio

from loadtest.benchmarks.callers import CALL_S, CHANNEL_OPTIONS, Metadata
from loadtest.peers.loaded import Loaded

# Numbers of its messages, and the request as bytes.
Request = tuple[Sequence[int], bytes]
# Which of so many submissions were accepted, in their order.
Verdicts = Callable[[bytes], list[bool]]


async def load(
    address: str, method: str, requests: Sequence[Request], *, in_flight: int, metadata: Metadata, verdicts: Verdicts
) -> Loaded:
    """Make all calls, `in_flight` at a time. A caller whose call fails makes no other."""
    loaded, waiting = Loaded(), deque(requests)
    answers: list[tuple[Sequence[int], bytes]] = []
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        await channel.channel_ready()
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)

        async def one_caller() -> None:
            while waiting:
                places, request = waiting.popleft()
                sent_s = time.monotonic()
                try:
                    answer = await call(request, timeout=CALL_S, metadata=metadata)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        loaded.unanswered += 1
                    else:
                        loaded.refused.append(f"{error.code().name} {error.details()}")
                    return
                loaded.ended_s = time.monotonic()
                loaded.latencies_s.append(loaded.ended_s - sent_s)
                answers.append((places, answer))

        loaded.began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(one_caller())
    for places, answer in answers:
        for place, is_accepted in zip(places, verdicts(answer), strict=True):
            if is_accepted:
                loaded.acknowledged.append(place)
            else:
                loaded.refused.append(f"message {place} was refused")
    return loaded
