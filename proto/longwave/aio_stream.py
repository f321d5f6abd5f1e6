"""Drives the client core over `StreamMessages` on asyncio: submissions in, results out in the same order.

It decides nothing about credit, batches or retries; the core does. One object serves one pass over one input.

Invariants:
- at most `window_messages_max` submissions are read from the input and not yet given back as results;
- when the stream breaks, what was unanswered goes again on the next one with the same request ids.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

import grpc
import grpc.aio

from longwave import contract, errors
from longwave.aio_submit import failure_of
from longwave.channels import Connection
from longwave.core import Actions, SubmitCore, entry_of
from longwave.request_ids import RequestIds
from longwave.results import SubmitResult
from longwave.retry import Failure, Fate, Reconnect, RetryBudget
from longwave.v1 import messaging_pb2

_Slot = asyncio.Future[SubmitResult]


class AsyncStream:
    """One stream of submissions, across as many connections as it takes."""

    def __init__(
        self,
        connection: Connection,
        channel: grpc.aio.Channel,
        budget: RetryBudget,
        ids: RequestIds,
        deadline_s: float,
    ) -> None:
        self._connection = connection
        self._clock = connection.seams.monotonic
        self._ids = ids
        self._deadline_s = deadline_s
        self._core: SubmitCore[_Slot] = SubmitCore(
            connection.limits,
            connection.retry,
            budget,
            connection.seams.random,
            attempt_deadline_s=connection.deadlines.attempt_s,
            streaming=True,
        )
        method = contract.STREAM_MESSAGES
        self._call: grpc.aio.StreamStreamMultiCallable[bytes, messaging_pb2.StreamMessagesResponse] = (
            channel.stream_stream(method.path, request_serializer=None, response_deserializer=method.parse)
        )
        self._writes: asyncio.Queue[bytes] = asyncio.Queue()  # bounded by the credit
        # Results to come in the order of the input; None ends them. Bounded by the window's semaphore.
        self._slots: asyncio.Queue[_Slot | None] = asyncio.Queue()
        self._window = asyncio.Semaphore(connection.limits.window_messages_max)
        self._timer: asyncio.TimerHandle | None = None

    async def run(
        self, submissions: AsyncIterable[messaging_pb2.Submission] | Iterable[messaging_pb2.Submission]
    ) -> AsyncIterator[SubmitResult]:
        """Yield a result for each submission in order; raise what ended the stream for good after the last of them."""
        connecting = asyncio.create_task(self._stay_connected())
        feeding = asyncio.create_task(self._feed(submissions))
        connecting.add_done_callback(lambda _task: feeding.cancel())
        try:
            while (slot := await self._slots.get()) is not None:
                result = await slot
                self._window.release()
                yield result
            if connecting.done():
                await connecting
            elif not feeding.cancelled():
                await feeding
        finally:
            feeding.cancel()
            connecting.cancel()
            await asyncio.gather(feeding, connecting, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()

    async def _feed(
        self, submissions: AsyncIterable[messaging_pb2.Submission] | Iterable[messaging_pb2.Submission]
    ) -> None:
        try:
            if isinstance(submissions, AsyncIterable):
                async for submission in submissions:
                    await self._offer(submission)
            else:
                for submission in submissions:
                    await self._offer(submission)
        finally:
            self._slots.put_nowait(None)

    async def _offer(self, submission: messaging_pb2.Submission) -> None:
        await self._window.acquire()
        slot: _Slot = asyncio.get_running_loop().create_future()
        now = self._clock()
        entry = entry_of(submission, self._ids.mint, now + self._deadline_s, slot)
        self._slots.put_nowait(slot)
        self._apply(self._core.submit(now, [entry], linger=True))

    async def _stay_connected(self) -> None:
        seams, deadlines = self._connection.seams, self._connection.deadlines
        reconnect = Reconnect(self._connection.retry, seams.random, self._clock())
        ended = Failure(
            errors.Unavailable("the server ended the stream", status="OK", outcome_unknown=True), Fate.UNKNOWN
        )
        try:
            while True:
                failure: Failure | None = None
                call = self._call(None, timeout=deadlines.connection_s, metadata=self._connection.metadata)
                writing = asyncio.create_task(self._write(call))
                try:
                    async for response in call:
                        reconnect.progressed(self._clock())
                        self._take(response)
                except grpc.aio.AioRpcError as error:
                    failure = failure_of(error)
                finally:
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
                    call.cancel()
                while not self._writes.empty():
                    self._writes.get_nowait()  # in flight for the core, which sends them anew
                self._apply(self._core.lost(self._clock(), failure or ended))
                await asyncio.sleep(reconnect.failed(self._clock(), failure))
        except errors.LongwaveError as error:
            self._apply(self._core.stop(self._clock(), error))
            raise

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, messaging_pb2.StreamMessagesResponse]) -> None:
        while True:
            request = await self._writes.get()
            try:
                await call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader sees why the call ended

    def _take(self, response: messaging_pb2.StreamMessagesResponse) -> None:
        now = self._clock()
        if response.sequence:
            self._apply(self._core.reply(now, response.sequence, response.results))
        if response.credit:
            self._apply(self._core.grant(now, response.credit))

    def _apply(self, actions: Actions[_Slot]) -> None:
        for entry, result in actions.resolve:
            if not entry.sink.done():
                entry.sink.set_result(result)
        for batch in actions.send:
            self._writes.put_nowait(batch.stream_request())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if actions.wake_at is not None:
            delay_s = max(0.0, actions.wake_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._apply(self._core.tick(self._clock()))
