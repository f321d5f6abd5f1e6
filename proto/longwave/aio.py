"""The asyncio client: `AsyncClient`.

It decides nothing about batches, retries or cursors (`longwave.core`, `longwave.retry`, `longwave.watching` do) and
belongs to the event loop it was made in.

Invariant: every call carries a deadline and the API key.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import grpc
import grpc.aio

from longwave import contract
from longwave.aio_stream import AsyncStream
from longwave.aio_submit import AsyncSubmitter, failure_of
from longwave.channels import Connection, Deadlines, Seams, Tls, channel_options, connection_of
from longwave.contract import Method, Request, Response
from longwave.core import BatchLimits
from longwave.registry import AsyncRegistry
from longwave.request_ids import RequestIds
from longwave.results import SubmitResult
from longwave.retry import CallAttempts, Failure, RetryBudget, RetryPolicy
from longwave.v1 import admin_pb2, compliance_pb2, messaging_pb2
from longwave.watching import WatchCore

Results: TypeAlias = list[SubmitResult]  # `list` is a method of the client


class AsyncClient:
    """A connection to a Longwave engine, shared by all tasks of one event loop and kept for the life of the process.

    Address and API key come from `LONGWAVE_GRPC_ADDRESS` and `LONGWAVE_API_KEY` where they are not given. Use it in
    `async with`, or call `close`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        insecure: bool = False,
        limits: BatchLimits | None = None,
        retry: RetryPolicy | None = None,
        deadlines: Deadlines | None = None,
        seams: Seams | None = None,
    ) -> None:
        self._connection: Connection = connection_of(
            address,
            api_key,
            tls=tls,
            insecure=insecure,
            limits=limits,
            retry=retry,
            deadlines=deadlines,
            seams=seams,
        )
        self._channel = (
            grpc.aio.insecure_channel(self._connection.address, options=channel_options())
            if tls is None
            else grpc.aio.secure_channel(self._connection.address, tls.credentials(), options=channel_options())
        )
        self._budget = RetryBudget(self._connection.retry)
        self._ids = RequestIds(self._connection.seams.wall_ms, self._connection.seams.random_bits)
        self._submitter = AsyncSubmitter(self._connection, self._channel, self._budget, self._ids)
        self.registry = AsyncRegistry(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything on its way: unanswered submissions raise `ClientClosed` with `outcome_unknown`."""
        await self._submitter.close()
        await self._channel.close(None)

    async def submit(self, submission: messaging_pb2.Submission, *, deadline_s: float | None = None) -> SubmitResult:
        """Hand in one submission, in one batch with those of other tasks; it waits while the window is full.

        `deadline_s` covers waiting, batching and all tries (30 s by default). Cancelling the wait takes nothing back.

        Raises:
            Refused: it was not accepted and will not be.
            Throttled: the engine had no room for it until the deadline.
            Unavailable: no answer; `outcome_unknown` says to hand it in again with the error's `request_id`.
            WindowFull: it was never sent.
        """
        return await self._submitter.submit(submission, deadline_s or self._connection.deadlines.total_s)

    async def submit_many(
        self, submissions: Sequence[messaging_pb2.Submission], *, deadline_s: float | None = None
    ) -> Results:
        """Hand in submissions as batches and return a result for each, in order; refusals are data.

        `deadline_s` counts for each submission from when it gets room in the window (30 s by default). Batches overtake
        each other, so accept order across them holds only for submissions with the same `ordering_key`.

        Raises:
            Refused: all of them were refused for the same reason of the call, such as its API key.
        """
        return await self._submitter.submit_many(submissions, deadline_s or self._connection.deadlines.total_s)

    def stream(
        self,
        submissions: AsyncIterable[messaging_pb2.Submission] | Iterable[messaging_pb2.Submission],
        *,
        deadline_s: float | None = None,
    ) -> AsyncIterator[SubmitResult]:
        """Hand in submissions on a stream, within the credit the server gives; yield a result for each, in order.

        `deadline_s` counts for each submission from when it was read (30 s by default).

        Raises:
            LongwaveError: the stream was refused or could not be kept up; results known until then come first.
        """
        total_s = deadline_s or self._connection.deadlines.total_s
        return AsyncStream(self._connection, self._channel, self._budget, self._ids, total_s).run(submissions)

    async def get(self, name: str, *, deadline_s: float | None = None) -> messaging_pb2.GetMessageResponse:
        """Return a message with its timeline; `name` is `messages/{message}`."""
        request = messaging_pb2.GetMessageRequest(name=name)
        return await self.call(contract.GET_MESSAGE, request, deadline_s=deadline_s)

    async def list(
        self, request: messaging_pb2.ListMessagesRequest | None = None, *, deadline_s: float | None = None
    ) -> AsyncIterator[messaging_pb2.Message]:
        """Yield the messages that the request's filters let through, newest first, page by page."""
        page = messaging_pb2.ListMessagesRequest()
        page.MergeFrom(request or page)
        while True:
            response = await self.call(contract.LIST_MESSAGES, page, deadline_s=deadline_s)
            for message in response.messages:
                yield message
            if not response.next_page_token:
                return
            page.page_token = response.next_page_token

    async def cancel(self, name: str, *, deadline_s: float | None = None) -> messaging_pb2.Message:
        """Cancel a message that has not left and return it as it is now."""
        request = messaging_pb2.CancelMessageRequest(name=name)
        return (await self.call(contract.CANCEL_MESSAGE, request, deadline_s=deadline_s)).message

    def watch(self, cursor: str = "", *, campaigns: Sequence[str] = ()) -> "AsyncWatch":
        """Watch events from a cursor on; `begin`: from the oldest retained; empty: from now on."""
        request = messaging_pb2.WatchEventsRequest(cursor=cursor, campaigns=campaigns)
        return AsyncWatch(self._connection, self._channel, request)

    async def add_opt_out(self, recipient: str, *, deadline_s: float | None = None) -> compliance_pb2.OptOut:
        """Stop all messages to a number (E.164); when this returns, none starts and none is on the wire."""
        request = compliance_pb2.AddOptOutRequest(recipient=recipient)
        return (await self.call(contract.ADD_OPT_OUT, request, deadline_s=deadline_s)).opt_out

    async def remove_opt_out(self, recipient: str, *, deadline_s: float | None = None) -> bool:
        """Lift the opt-out of a number (E.164); False when there was none."""
        request = compliance_pb2.RemoveOptOutRequest(recipient=recipient)
        return (await self.call(contract.REMOVE_OPT_OUT, request, deadline_s=deadline_s)).removed

    async def list_opt_outs(
        self, *, page_messages: int = 0, deadline_s: float | None = None
    ) -> AsyncIterator[compliance_pb2.OptOut]:
        """Yield the opt-outs in force, by number."""
        page = compliance_pb2.ListOptOutsRequest(page_size=page_messages)
        while True:
            response = await self.call(contract.LIST_OPT_OUTS, page, deadline_s=deadline_s)
            for opt_out in response.opt_outs:
                yield opt_out
            if not response.next_page_token:
                return
            page.page_token = response.next_page_token

    async def server_info(self, *, deadline_s: float | None = None) -> admin_pb2.GetServerInfoResponse:
        """Return version, durability level and limits of the engine."""
        return await self.call(contract.GET_SERVER_INFO, admin_pb2.GetServerInfoRequest(), deadline_s=deadline_s)

    async def call(
        self, method: Method[Request, Response], request: Request, *, deadline_s: float | None = None
    ) -> Response:
        """Make a unary call of the contract, again where that is safe; `deadline_s` covers all tries.

        Raises:
            LongwaveError: the call failed.
        """
        seams, deadlines = self._connection.seams, self._connection.deadlines
        stub: grpc.aio.UnaryUnaryMultiCallable[Request, Response] = self._channel.unary_unary(
            method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.parse
        )
        attempts = CallAttempts(
            self._connection.retry,
            self._budget,
            seams.random,
            deadline_at=seams.monotonic() + (deadline_s or deadlines.total_s),
            attempt_deadline_s=deadlines.attempt_s,
            repeatable=method.repeatable,
        )
        while True:
            attempt_s = attempts.attempt_deadline_s(seams.monotonic())
            try:
                return await stub(request, timeout=attempt_s, metadata=self._connection.metadata)
            except grpc.aio.AioRpcError as error:
                delay_s = attempts.failed(seams.monotonic(), failure_of(error))
            await asyncio.sleep(delay_s)


class AsyncWatch:
    """Events across connections: iterate over it, keep `cursor`, and hand it to the next watch."""

    def __init__(
        self, connection: Connection, channel: grpc.aio.Channel, request: messaging_pb2.WatchEventsRequest
    ) -> None:
        self._connection = connection
        seams = connection.seams
        self._clock = seams.monotonic
        self._core = WatchCore(request, connection.retry, seams.random, seams.monotonic())
        method = contract.WATCH_EVENTS
        self._call: grpc.aio.UnaryStreamMultiCallable[
            messaging_pb2.WatchEventsRequest, messaging_pb2.WatchEventsResponse
        ] = channel.unary_stream(
            method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.parse
        )

    @property
    def cursor(self) -> str:
        """Resume here: every event before it was given, and dealt with once the next one is asked for."""
        return self._core.cursor

    async def __aiter__(self) -> AsyncIterator[messaging_pb2.Event]:
        """Yield events; it ends only by an error, or when the caller stops asking.

        Raises:
            CursorExpired: events before the oldest retained one are missing.
            LongwaveError: the watch was refused or could not be kept up.
        """
        connection = self._connection
        while True:
            failure: Failure | None = None
            call = self._call(
                self._core.request(), timeout=connection.deadlines.connection_s, metadata=connection.metadata
            )
            try:
                async for response in call:
                    for event in self._core.received(self._clock(), response):
                        yield event
                    self._core.finished()
            except grpc.aio.AioRpcError as error:
                failure = failure_of(error)
            finally:
                call.cancel()
            await asyncio.sleep(self._core.disconnected(self._clock(), failure))
