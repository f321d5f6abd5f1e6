"""Sends at fixed times whatever the answers: `python -m loadtest.overload.driver`, started by `loadtest.overload`.

Arrivals are not slowed by replies; a call's time counts from when it was due. One JSON line on standard input is a
phase, one on standard output what came of it. Requests carry no request id, so that the same bytes are new messages.

Invariant: a call is counted in exactly one way: stored in time, refused, or neither within its deadline.
"""

import asyncio
import heapq
import itertools
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from loadtest.benchmarks.callers import CHANNEL_OPTIONS
from loadtest.benchmarks.submissions import recipient, text
from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

CHANNELS: Final = 16
# Of the messages, by class, and in calls of so many. Urgent ones come a few at a time.
MIX: Final = {
    pb.MESSAGE_CLASS_CRITICAL: (0.05, 10),
    pb.MESSAGE_CLASS_TRANSACTIONAL: (0.25, 200),
    pb.MESSAGE_CLASS_BULK: (0.70, 500),
}
DEADLINE_S: Final = 1.0
# On their way at once where capacity is looked for: enough to find the engine busy whenever it is free.
CLOSED_CALLS: Final = 6
# Shorter waits are not worth a timer.
TURN_S: Final = 0.001
# A call that tells nothing so long after its deadline is lost in the client: seen once, at twice the capacity.
LOST_S: Final = 2.0
# Behind its time by more, the driver is the bound, not the engine.
LATE_S_MAX: Final = 0.05


@dataclass(frozen=True, slots=True)
class Phase:
    """What is to be sent."""

    name: str
    messages_a_second: float
    """0: as many as are answered, with `CLOSED_CALLS` on their way; what that gives is the capacity."""
    seconds: float


@dataclass(slots=True)
class Counted:
    """Messages of one class."""

    offered: int = 0
    stored: int = 0
    refused: int = 0
    unanswered: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    """Of calls that were stored whole, from when they were due."""


@dataclass(slots=True)
class Came:
    """What came of a phase."""

    phase: Phase
    classes: dict[str, Counted]
    stored_by_second: list[int]
    driver_late: int
    """Calls that left later than they were due by more than `LATE_S_MAX`."""
    driver_lost: int = 0
    """Calls that the client never ended; they count as unanswered."""


def request(message_class: "pb.MessageClass.ValueType", messages: int) -> bytes:
    """A batch of one class."""
    return pb.SubmitMessagesRequest(
        submissions=[
            pb.Submission(
                campaign="campaigns/notices", recipient=recipient(place), text=text(place), message_class=message_class
            )
            for place in range(messages)
        ]
    ).SerializeToString()


def due_times(phase: Phase) -> "list[tuple[float, pb.MessageClass.ValueType]]":
    """When each call is due, from the beginning of the phase, and its class."""

    def of(message_class: "pb.MessageClass.ValueType") -> "list[tuple[float, pb.MessageClass.ValueType]]":
        share, messages = MIX[message_class]
        every_s = messages / (share * phase.messages_a_second)
        return [((place + 0.5) * every_s, message_class) for place in range(int(phase.seconds / every_s))]

    return list(heapq.merge(*(of(message_class) for message_class in MIX)))


class Driver:
    """Calls one engine."""

    def __init__(self, address: str, key: str) -> None:
        """Open the channels, each a connection of its own."""
        options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
        self._calls: Any = itertools.cycle(
            [channel.unary_unary(contract.SUBMIT_MESSAGES.path) for channel in self._channels]
        )
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._requests = {
            message_class: request(message_class, messages) for message_class, (_, messages) in MIX.items()
        }

    async def run(self, phase: Phase) -> Came:
        """Send all of a phase, and wait for the last answer."""
        came = Came(
            phase,
            {pb.MessageClass.Name(message_class).removeprefix("MESSAGE_CLASS_"): Counted() for message_class in MIX},
            [0] * (int(phase.seconds) + 2),
            0,
        )
        loop = asyncio.get_running_loop()
        began_s = loop.time() + 0.1
        if not phase.messages_a_second:
            await asyncio.gather(*(self._one_after_another(came, began_s, first) for first in range(CLOSED_CALLS)))
            return came
        going: set[asyncio.Task[None]] = set()
        for due_s, message_class in due_times(phase):
            wait_s = began_s + due_s - loop.time()
            if wait_s > TURN_S:
                await asyncio.sleep(wait_s)
            elif -wait_s > LATE_S_MAX:
                came.driver_late += 1
            task = loop.create_task(self._call(came, began_s, due_s, message_class))
            going.add(task)
            task.add_done_callback(going.discard)
            if wait_s <= 0:
                await asyncio.sleep(0)
        if going:
            await asyncio.wait(going)
        return came

    async def _one_after_another(self, came: Came, began_s: float, first: int) -> None:
        loop = asyncio.get_running_loop()
        # The mix by messages, as a round of calls.
        round_of = [message_class for _, message_class in due_times(Phase("", 10_000, 1))]
        for turn in itertools.count(first * len(round_of) // CLOSED_CALLS):
            now_s = loop.time() - began_s
            if now_s > came.phase.seconds:
                return
            await self._call(came, began_s, now_s, round_of[turn % len(round_of)])

    async def _call(self, came: Came, began_s: float, due_s: float, message_class: "pb.MessageClass.ValueType") -> None:
        loop = asyncio.get_running_loop()
        counted = came.classes[pb.MessageClass.Name(message_class).removeprefix("MESSAGE_CLASS_")]
        messages = MIX[message_class][1]
        counted.offered += messages
        left_s = began_s + due_s + DEADLINE_S - loop.time()
        try:
            async with asyncio.timeout(max(0.0, left_s) + LOST_S):
                answer: bytes = await next(self._calls)(
                    self._requests[message_class], metadata=self._metadata, timeout=max(0.001, left_s)
                )
        except TimeoutError:
            came.driver_lost += 1
            counted.unanswered += messages
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                counted.refused += messages
            else:
                counted.unanswered += messages
            return
        took_s = loop.time() - began_s - due_s
        verdicts = Counter(result.verdict for result in pb.SubmitMessagesResponse.FromString(answer).results)
        stored = verdicts[verdict_pb2.VERDICT_ACCEPTED]
        if took_s > DEADLINE_S:
            counted.unanswered += stored
        else:
            counted.stored += stored
            came.stored_by_second[min(len(came.stored_by_second) - 1, int(due_s + took_s))] += stored
        counted.refused += messages - stored
        if stored == messages:
            counted.latencies_ms.append(took_s * 1000)

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()


async def main() -> None:
    """Serve phases until the input ends."""
    loop = asyncio.get_running_loop()
    first = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    driver = Driver(first["address"], first["key"])
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        came = await driver.run(Phase(**json.loads(line)))
        sys.stdout.write(json.dumps(asdict(came)) + "\n")
        sys.stdout.flush()
    await driver.close()


if __name__ == "__main__":
    uvloop.run(main())
