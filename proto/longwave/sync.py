"""The synchronous client: `Client`, safe to share between threads and between gevent's greenlets.

It decides nothing about batches, retries or cursors (`longwave.core`, `longwave.retry`, `longwave.watching` do). Under
gevent call `grpc.experimental.gevent.init_gevent()` before making one, as grpc asks for.

Invariants:
- every call carries a deadline and the API key;
- importing it starts no thread; a thread of ours exists only for `coalesce=True` and while a stream is open.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import grpc

from longwave import contract
from longwave.channels import Connection, Deadlines, Seams, Tls, channel_options, connection_of
from longwave.contract import Method, Request, Response
from longwave.core import BatchLimits
from longwave.registry import Registry
from longwave.request_ids import RequestIds
from longwave.results import SubmitResult
from longwave.retry import CallAttempts, Failure, RetryBudget, RetryPolicy
from longwave.sync_stream import SyncStream
from longwave.sync_submit import CoalescingThread, failure_of, sender_of, submit_direct
from longwave.v1 import admin_pb2, compliance_pb2, messaging_pb2
from longwave.watching import WatchCore

Results: TypeAlias = list[SubmitResult]  # `list` is a method of the client


class Client:
    """A connection to a Longwave engine, shared by all threads and kept for the life of the process.

    Address and API key come from `LONGWAVE_GRPC_ADDRESS` and `LONGWAVE_API_KEY` where they are not given. With
    `coalesce=True` single submissions of many threads go in common batches, by a thread of the client; without it each
    `submit` is a call of its own. Make it after a fork, never before. Use it in `with`, or call `close`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        insecure: bool = False,
        coalesce: bool = False,
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
            grpc.insecure_channel(self._connection.address, options=channel_options())
            if tls is None
            else grpc.secure_channel(self._connection.address, tls.credentials(), options=channel_options())
        )
        self._budget = RetryBudget(self._connection.retry)
        self._ids = RequestIds(self._connection.seams.wall_ms, self._connection.seams.random_bits)
        self._send = sender_of(self._connection, self._channel)
        self._coalescing = CoalescingThread(self._connection, self._send, self._budget, self._ids) if coalesce else None
        self.registry = Registry(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything on its way: unanswered coalesced submissions raise `ClientClosed` with `outcome_unknown`."""
        if self._coalescing is not None:
            self._coalescing.close()
        self._channel.close()
        if self._coalescing is not None:
            self._coalescing.join()

    def submit(self, submission: messaging_pb2.Submission, *, deadline_s: float | None = None) -> SubmitResult:
        """Hand in one submission; `deadline_s` covers waiting, batching and all tries (30 s by default).

        Raises:
            Refused: it was not accepted and will not be.
            Throttled: the engine had no room for it until the deadline.
            Unavailable: no answer; `outcome_unknown` says to hand it in again with the error's `request_id`.
            WindowFull: it was never sent (with `coalesce=True`).
        """
        total_s = deadline_s or self._connection.deadlines.total_s
        if self._coalescing is not None:
            result = self._coalescing.submit(submission, total_s)
        else:
            (result,) = self._direct([submission], total_s)
        if result.error is not None:
            raise result.error
        return result

    def submit_many(
        self, submissions: Sequence[messaging_pb2.Submission], *, deadline_s: float | None = None
    ) -> Results:
        """Hand in submissions batch by batch and return a result for each, in order; refusals are data.

        `deadline_s` counts for each batch from its first try (30 s by default).

        Raises:
            Refused: all of them were refused for the same reason of the call, such as its API key.
        """
        return self._direct(submissions, deadline_s or self._connection.deadlines.total_s)

    def stream(
        self, submissions: Iterable[messaging_pb2.Submission], *, deadline_s: float | None = None
    ) -> Iterator[SubmitResult]:
        """Hand in submissions on a stream, within the credit the server gives; yield a result for each, in order.

        The input is read in the calling thread, ahead of the results: give it what does not block. `deadline_s` counts
        for each submission from when it was read (30 s by default).

        Raises:
            LongwaveError: the stream was refused or could not be kept up; results known until then come first.
        """
        total_s = deadline_s or self._connection.deadlines.total_s
        return SyncStream(self._connection, self._channel, self._budget, self._ids, total_s).run(submissions)

    def get(self, name: str, *, deadline_s: float | None = None) -> messaging_pb2.GetMessageResponse:
        """Return a message with its timeline; `name` is `messages/{message}`."""
        return self.call(contract.GET_MESSAGE, messaging_pb2.GetMessageRequest(name=name), deadline_s=deadline_s)

    def list(
        self, request: messaging_pb2.ListMessagesRequest | None = None, *, deadline_s: float | None = None
    ) -> Iterator[messaging_pb2.Message]:
        """Yield the messages that the request's filters let through, newest first, page by page."""
        page = messaging_pb2.ListMessagesRequest()
        page.MergeFrom(request or page)
        while True:
            response = self.call(contract.LIST_MESSAGES, page, deadline_s=deadline_s)
            yield from response.messages
            if not response.next_page_token:
                return
            page.page_token = response.next_page_token

    def cancel(self, name: str, *, deadline_s: float | None = None) -> messaging_pb2.Message:
        """Cancel a message that has not left and return it as it is now."""
        request = messaging_pb2.CancelMessageRequest(name=name)
        return self.call(contract.CANCEL_MESSAGE, request, deadline_s=deadline_s).message

    def watch(self, cursor: str = "", *, campaigns: Sequence[str] = ()) -> "Watch":
        """Watch events from a cursor on; `begin`: from the oldest retained; empty: from now on."""
        request = messaging_pb2.WatchEventsRequest(cursor=cursor, campaigns=campaigns)
        return Watch(self._connection, self._channel, request)

    def add_opt_out(self, recipient: str, *, deadline_s: float | None = None) -> compliance_pb2.OptOut:
        """Stop all messages to a number (E.164); when this returns, none starts and none is on the wire."""
        request = compliance_pb2.AddOptOutRequest(recipient=recipient)
        return self.call(contract.ADD_OPT_OUT, request, deadline_s=deadline_s).opt_out

    def remove_opt_out(self, recipient: str, *, deadline_s: float | None = None) -> bool:
        """Lift the opt-out of a number (E.164); False when there was none."""
        request = compliance_pb2.RemoveOptOutRequest(recipient=recipient)
        return self.call(contract.REMOVE_OPT_OUT, request, deadline_s=deadline_s).removed

    def list_opt_outs(
        self, *, page_messages: int = 0, deadline_s: float | None = None
    ) -> Iterator[compliance_pb2.OptOut]:
        """Yield the opt-outs in force, by number."""
        page = compliance_pb2.ListOptOutsRequest(page_size=page_messages)
        while True:
            response = self.call(contract.LIST_OPT_OUTS, page, deadline_s=deadline_s)
            yield from response.opt_outs
            if not response.next_page_token:
                return
            page.page_token = response.next_page_token

    def server_info(self, *, deadline_s: float | None = None) -> admin_pb2.GetServerInfoResponse:
        """Return version, durability level and limits of the engine."""
        return self.call(contract.GET_SERVER_INFO, admin_pb2.GetServerInfoRequest(), deadline_s=deadline_s)

    def call(self, method: Method[Request, Response], request: Request, *, deadline_s: float | None = None) -> Response:
        """Make a unary call of the contract, again where that is safe; `deadline_s` covers all tries.

        Raises:
            LongwaveError: the call failed.
        """
        seams, deadlines = self._connection.seams, self._connection.deadlines
        stub: grpc.UnaryUnaryMultiCallable[Request, Response] = self._channel.unary_unary(
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
                return stub(request, timeout=attempt_s, metadata=self._connection.metadata)
            except grpc.RpcError as error:
                delay_s = attempts.failed(seams.monotonic(), failure_of(error))
            seams.sleep(delay_s)

    def _direct(self, submissions: Sequence[messaging_pb2.Submission], deadline_s: float) -> Results:
        return submit_direct(self._connection, self._send, self._budget, self._ids, submissions, deadline_s=deadline_s)


class Watch:
    """Events across connections: iterate over it, keep `cursor`, and hand it to the next watch."""

    def __init__(
        self, connection: Connection, channel: grpc.Channel, request: messaging_pb2.WatchEventsRequest
    ) -> None:
        self._connection = connection
        seams = connection.seams
        self._clock = seams.monotonic
        self._core = WatchCore(request, connection.retry, seams.random, seams.monotonic())
        method = contract.WATCH_EVENTS
        self._call: grpc.UnaryStreamMultiCallable[
            messaging_pb2.WatchEventsRequest, messaging_pb2.WatchEventsResponse
        ] = channel.unary_stream(
            method.path, request_serializer=method.request.SerializeToString, response_deserializer=method.parse
        )
        # Set by `close` in any thread, read by the iterating one.
        self._closed = threading.Event()
        self._responses: grpc.Call | None = None

    @property
    def cursor(self) -> str:
        """Resume here: every event before it was given, and dealt with once the next one is asked for."""
        return self._core.cursor

    def close(self) -> None:
        """End the iteration, also from another thread."""
        self._closed.set()
        if self._responses is not None:
            self._responses.cancel()

    def __iter__(self) -> Iterator[messaging_pb2.Event]:
        """Yield events; it ends by `close` or an error.

        Raises:
            CursorExpired: events before the oldest retained one are missing.
            LongwaveError: the watch was refused or could not be kept up.
        """
        connection = self._connection
        while not self._closed.is_set():
            failure: Failure | None = None
            self._responses = responses = self._call(
                self._core.request(), timeout=connection.deadlines.connection_s, metadata=connection.metadata
            )
            if self._closed.is_set():  # closed between the check and the call
                responses.cancel()
            try:
                for response in responses:
                    for event in self._core.received(self._clock(), response):
                        yield event
                        if self._closed.is_set():
                            return
                    self._core.finished()
            except grpc.RpcError as error:
                failure = failure_of(error)
            finally:
                responses.cancel()
            if not self._closed.is_set():
                connection.seams.sleep(self._core.disconnected(self._clock(), failure))
