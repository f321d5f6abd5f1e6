"""Hands one call in and says what became of its messages: as a unary call, as a batch, or on a stream that stays open.

Requests are encoded beforehand and carry no request id, so that the same bytes are new messages. It measures nothing.

Invariant: a message is counted in exactly one way: stored, refused, or unanswered within the call's time.
"""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from loadtest.benchmarks.callers import CHANNEL_OPTIONS, Metadata
from loadtest.benchmarks.submissions import recipient, text
from loadtest.openloop.arrivals import STREAM, UNARY, Flow
from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

# Of a process. One connection's frames are read by turns; sixteen are as many callers.
CHANNELS: Final = 16
# A call that tells nothing so long after its deadline is lost in the client: seen once, at twice the capacity.
LOST_S: Final = 2.0
LOST: Final = "LOST"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one call."""

    stored: int = 0
    refused: int = 0
    unanswered: int = 0
    code: str = "OK"
    """Name of the gRPC status; `LOST` where the client never ended it."""


def submissions(flow: Flow, campaign: str) -> list[pb.Submission]:
    """The messages of a call."""
    message_class = pb.MessageClass.Value(f"MESSAGE_CLASS_{flow.message_class}")
    return [
        pb.Submission(
            campaign=f"campaigns/{campaign}",
            recipient=recipient(place),
            text=text(place),
            message_class=message_class,
        )
        for place in range(flow.call_messages)
    ]


def judged(results: Sequence[pb.SubmitResult]) -> Answer:
    """By the verdicts."""
    stored = Counter(result.verdict for result in results)[verdict_pb2.VERDICT_ACCEPTED]
    return Answer(stored, len(results) - stored)


def failed(code: grpc.StatusCode, messages: int) -> Answer:
    """By the status of a call that has no results: refused whole, or nobody knows."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Answer(refused=messages, code=code.name)
    return Answer(unanswered=messages, code=code.name)


class Callers:
    """The connections of one process, and a stream on each where a flow asks for it."""

    def __init__(self, address: str, metadata: Metadata, flows: Sequence[Flow], campaign: str) -> None:
        """Encode the requests and open the channels, each a connection of its own; nothing is waited for."""
        options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
        self._metadata = metadata
        self._unary: Any = itertools.cycle([ch.unary_unary(contract.SUBMIT_MESSAGE.path) for ch in self._channels])
        self._batch: Any = itertools.cycle([ch.unary_unary(contract.SUBMIT_MESSAGES.path) for ch in self._channels])
        self._streams = itertools.cycle([Stream(channel, metadata) for channel in self._channels])
        self._requests = {flow: _request(flow, campaign) for flow in flows}

    async def connect(self, seconds: float) -> None:
        """Wait until every channel stands. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            for channel in self._channels:
                await channel.channel_ready()

    async def hand_in(self, flow: Flow, left_s: float) -> Answer:
        """Make one call; it ends in the time left, or a little after it."""
        try:
            async with asyncio.timeout(max(0.0, left_s) + LOST_S):
                if flow.kind == STREAM:
                    stream = next(self._streams)
                    return await stream.hand_in(self._requests[flow], flow.call_messages, max(0.001, left_s))
                call = next(self._unary if flow.kind == UNARY else self._batch)
                answer = await call(self._requests[flow], metadata=self._metadata, timeout=max(0.001, left_s))
        except TimeoutError:
            return Answer(unanswered=flow.call_messages, code=LOST)
        except grpc.aio.AioRpcError as error:
            return failed(error.code(), flow.call_messages)
        if flow.kind == UNARY:
            return judged([pb.SubmitMessageResponse.FromString(answer).result])
        return judged(pb.SubmitMessagesResponse.FromString(answer).results)

    async def close(self) -> None:
        """Close the channels, and what is still on its way with them."""
        for _ in range(CHANNELS):
            await next(self._streams).close()
        for channel in self._channels:
            await channel.close()


def _request(flow: Flow, campaign: str) -> bytes:
    messages = submissions(flow, campaign)
    if flow.kind == UNARY:
        return pb.SubmitMessageRequest(submission=messages[0]).SerializeToString()
    if flow.kind == STREAM:
        return pb.StreamMessagesRequest(submissions=messages).SerializeToString()
    return pb.SubmitMessagesRequest(submissions=messages).SerializeToString()


@dataclass(slots=True)
class _Waiting:
    request: bytes
    messages: int
    answered: "asyncio.Future[Answer]"


class Stream:
    """One stream, opened at the first call and again after it ended; requests wait in line for credit."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        """Nothing is opened yet."""
        self._open: Any = channel.stream_stream(contract.STREAM_MESSAGES.path)
        self._metadata = metadata
        self._line: deque[_Waiting] = deque()
        self._sent: dict[int, _Waiting] = {}
        self._sequence = 0
        self._credit = 0
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def hand_in(self, request: bytes, messages: int, left_s: float) -> Answer:
        """One request on the stream. What has no credit within its time is never sent, and counts as unanswered."""
        waiting = _Waiting(request, messages, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        self._more.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(left_s):
                return await waiting.answered
        except TimeoutError:
            return failed(grpc.StatusCode.DEADLINE_EXCEEDED, messages)

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        self._credit = 0
        call = self._open(metadata=self._metadata)
        writing = asyncio.create_task(self._write(call))
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                answer = pb.StreamMessagesResponse.FromString(frame)
                self._credit += answer.credit
                self._more.set()
                if waiting := self._sent.pop(answer.sequence, None):
                    _tell(waiting, judged(answer.results))
        except grpc.aio.AioRpcError:
            pass  # its status is asked for below, as after an orderly end
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            call.cancel()
        # An orderly end answers nothing that still waits.
        code = await call.code()
        code = grpc.StatusCode.UNAVAILABLE if code is grpc.StatusCode.OK else code
        for waiting in [*self._sent.values(), *self._line]:
            _tell(waiting, failed(code, waiting.messages))
        self._sent.clear()
        self._line.clear()

    async def _write(self, call: Any) -> None:
        while True:
            self._more.clear()
            # Whoever waited in vain has gone; to send it now would be load that nobody asked for.
            while self._line and self._line[0].answered.done():
                self._line.popleft()
            if not self._line or self._line[0].messages > self._credit:
                await self._more.wait()
                continue
            waiting = self._line.popleft()
            self._credit -= waiting.messages
            self._sequence += 1
            self._sent[self._sequence] = waiting
            # Fields of a message may stand in any order: the number before, what was encoded beforehand after it.
            number = pb.StreamMessagesRequest(sequence=self._sequence).SerializeToString()
            await call.write(number + waiting.request)


def _tell(waiting: _Waiting, answer: Answer) -> None:
    if not waiting.answered.done():
        waiting.answered.set_result(answer)
