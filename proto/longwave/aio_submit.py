"""Drives the client core on asyncio: coalesces submissions of all tasks into batches and sends them by unary calls.

It decides nothing about batches or retries; the core does. All methods belong to one event loop.

Invariant: entries are handed to the core in the order in which callers asked, also when they had to wait for room.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import cast

import grpc
import grpc.aio

from longwave import contract, errors
from longwave.channels import Connection
from longwave.core import Actions, Batch, SubmitCore, entry_of
from longwave.request_ids import RequestIds
from longwave.results import Answers, SubmitResult, raise_if_all_refused
from longwave.retry import Failure, RetryBudget, failure_of_call
from longwave.v1 import messaging_pb2


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """Classify a failed call of grpc.aio."""
    trailing = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    return failure_of_call(error.code().name, error.details() or "", trailing)


class Waiting(Answers):
    """Answers that a task waits for."""

    __slots__ = ("future",)

    def __init__(self, messages: int) -> None:
        super().__init__(messages)
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class AsyncSubmitter:
    """The submissions of one client."""

    def __init__(self, connection: Connection, channel: grpc.aio.Channel, budget: RetryBudget, ids: RequestIds) -> None:
        self._connection = connection
        self._clock = connection.seams.monotonic
        self._ids = ids
        self._core: SubmitCore[tuple[Waiting, int]] = SubmitCore(
            connection.limits,
            connection.retry,
            budget,
            connection.seams.random,
            attempt_deadline_s=connection.deadlines.attempt_s,
        )
        method = contract.SUBMIT_MESSAGES
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, messaging_pb2.SubmitMessagesResponse] = channel.unary_unary(
            method.path, request_serializer=None, response_deserializer=method.parse
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._turnstile = asyncio.Lock()
        self._room_waiter: asyncio.Future[None] | None = None
        self._room_wanted = 0
        self._closed = False

    async def submit(self, submission: messaging_pb2.Submission, deadline_s: float) -> SubmitResult:
        """Hand in one submission among others; see `AsyncClient.submit`."""
        deadline_at = self._clock() + deadline_s
        if self._closed or self._crowded(1):  # the rule is room at once, which costs no timer
            try:
                async with asyncio.timeout(deadline_s):
                    await self._room(1)
            except TimeoutError:
                detail = "as many submissions wait as this client holds, and none was answered in time"
                raise errors.WindowFull(detail, request_id=submission.request_id) from None
        waiting = Waiting(1)
        entry = entry_of(submission, self._ids.mint, deadline_at, (waiting, 0))
        self._apply(self._core.submit(self._clock(), [entry], linger=True))
        await waiting.future
        (result,) = waiting.in_order()
        if result.error is not None:
            raise result.error
        return result

    async def submit_many(
        self, submissions: Sequence[messaging_pb2.Submission], deadline_s: float
    ) -> list[SubmitResult]:
        """Hand in submissions as batches; see `AsyncClient.submit_many`."""
        if not submissions:
            return []
        waiting = Waiting(len(submissions))
        limits = self._connection.limits
        piece_max = min(limits.batch_messages_max, limits.window_messages_max)
        for start in range(0, len(submissions), piece_max):
            piece = submissions[start : start + piece_max]
            await self._room(len(piece))
            now = self._clock()
            entries = [
                entry_of(submission, self._ids.mint, now + deadline_s, (waiting, start + offset))
                for offset, submission in enumerate(piece)
            ]
            self._apply(self._core.submit(now, entries, linger=False))
        await waiting.future
        answers = waiting.in_order()
        raise_if_all_refused(answers)
        return answers

    async def close(self) -> None:
        """Resolve what is unresolved with `ClientClosed` and end the calls on their way."""
        if self._closed:
            return
        self._closed = True
        self._apply(self._core.stop(self._clock(), errors.ClientClosed("the client was closed")))
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _crowded(self, messages: int) -> bool:
        return self._turnstile.locked() or self._core.room < messages

    async def _room(self, messages: int) -> None:
        """Wait until so many entries fit; who returns from here hands them in before anyone else runs."""
        if self._crowded(messages):
            # One waits for room, the others for the lock, which is fair: a whole batch is not overtaken for ever.
            async with self._turnstile:
                while self._core.room < messages and not self._closed:
                    self._room_wanted = messages
                    self._room_waiter = asyncio.get_running_loop().create_future()
                    await self._room_waiter
        if self._closed:
            raise errors.ClientClosed("the client is closed")

    def _admit(self) -> None:
        waiter = self._room_waiter
        if waiter is not None and not waiter.done() and (self._closed or self._core.room >= self._room_wanted):
            waiter.set_result(None)

    def _apply(self, actions: Actions[tuple[Waiting, int]]) -> None:
        for entry, result in actions.resolve:
            waiting, index = entry.sink
            if waiting.put(index, result) and not waiting.future.done():
                waiting.future.set_result(None)
        loop = asyncio.get_running_loop()
        for batch in actions.send:
            task = loop.create_task(self._send(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if actions.wake_at is not None and not self._closed:
            self._wake(loop, actions.wake_at)
        self._admit()

    def _wake(self, loop: asyncio.AbstractEventLoop, wake_at: float) -> None:
        # An earlier timer stays: waking too early costs a tick, re-arming for each submission costs more.
        if self._timer is not None:
            if self._timer_at <= wake_at:
                return
            self._timer.cancel()
        self._timer_at = wake_at
        self._timer = loop.call_later(max(0.0, wake_at - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._apply(self._core.tick(self._clock()))

    async def _send(self, batch: Batch[tuple[Waiting, int]]) -> None:
        try:
            response = await self._call(
                batch.unary_request(), timeout=batch.deadline_s, metadata=self._connection.metadata
            )
        except grpc.aio.AioRpcError as error:
            self._apply(self._core.error(self._clock(), batch.sequence, failure_of(error)))
        else:
            self._apply(self._core.reply(self._clock(), batch.sequence, response.results))
