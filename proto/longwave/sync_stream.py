"""Drives the client core over `StreamMessages` with synchronous grpc: submissions in, results out in the same order.

It decides nothing about credit, batches or retries; the core does. It reads the input in the caller's thread, so an
input that blocks (a live feed) holds back results; the asyncio client does not have that.

Invariants:
- at most `window_messages_max` submissions are read from the input and not yet given back as results;
- when the stream breaks, what was unanswered goes again on the next one with the same request ids.
"""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import grpc

from longwave import contract, errors
from longwave.channels import Connection
from longwave.core import Actions, SubmitCore, entry_of
from longwave.request_ids import RequestIds
from longwave.results import SubmitResult
from longwave.retry import Failure, Fate, Reconnect, RetryBudget
from longwave.sync_submit import failure_of
from longwave.v1 import messaging_pb2


@dataclass(slots=True)
class _Slot:
    result: SubmitResult | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    """The connection ended; None: in order."""

    failure: Failure | None


class _Link:
    """One connection: grpc reads requests from a queue in a thread of its own, a second one reads the responses."""

    def __init__(
        self,
        connection: Connection,
        call: "grpc.StreamStreamMultiCallable[bytes, messaging_pb2.StreamMessagesResponse]",
    ) -> None:
        self.events: queue.SimpleQueue[messaging_pb2.StreamMessagesResponse | _Ended] = queue.SimpleQueue()
        self._writes: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # bounded by the credit
        self._responses = call(
            iter(self._writes.get, None), timeout=connection.deadlines.connection_s, metadata=connection.metadata
        )
        self._reader = threading.Thread(target=self._read, name="longwave-stream", daemon=True)
        self._reader.start()

    def write(self, request: bytes) -> None:
        self._writes.put(request)

    def close(self) -> None:
        self._writes.put(None)
        self._responses.cancel()
        self._reader.join()

    def _read(self) -> None:
        failure: Failure | None = None
        try:
            for response in self._responses:
                self.events.put(response)
        except grpc.RpcError as error:
            failure = failure_of(error)
        self.events.put(_Ended(failure))


class SyncStream:
    """One stream of submissions, across as many connections as it takes."""

    def __init__(
        self,
        connection: Connection,
        channel: grpc.Channel,
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
        self._call: grpc.StreamStreamMultiCallable[bytes, messaging_pb2.StreamMessagesResponse] = channel.stream_stream(
            method.path, request_serializer=None, response_deserializer=method.parse
        )
        self._reconnect = Reconnect(connection.retry, connection.seams.random, self._clock())
        self._slots: deque[_Slot] = deque()
        self._link: _Link | None = None
        self._connect_at = self._clock()
        self._wake_at: float | None = None

    def run(self, submissions: Iterable[messaging_pb2.Submission]) -> Iterator[SubmitResult]:
        """Yield a result for each submission in order; raise what ended the stream for good after the last of them."""
        source = iter(submissions)
        ended: errors.LongwaveError | None = None
        exhausted = False
        try:
            while True:
                if not exhausted and ended is None:
                    exhausted = self._feed(source)
                while self._slots and (result := self._slots[0].result) is not None:
                    self._slots.popleft()
                    yield result
                if not self._slots and (exhausted or ended is not None):
                    break
                try:
                    self._wait()
                except errors.LongwaveError as error:
                    ended = error
                    self._apply(self._core.stop(self._clock(), error))
        finally:
            if self._link is not None:
                self._link.close()
        if ended is not None:
            raise ended

    def _feed(self, source: Iterator[messaging_pb2.Submission]) -> bool:
        """Read while there is credit to send, and once a batch without credit; True at the end of the input."""
        limits = self._connection.limits
        while len(self._slots) < limits.window_messages_max and (self._core.credit or not self._core.unresolved):
            # Without credit yet a first piece is read all the same, to be sent when credit comes.
            piece_max = min(limits.batch_messages_max, limits.window_messages_max - len(self._slots))
            if self._core.credit:
                piece_max = min(piece_max, self._core.credit)
            entries = []
            for submission in source:
                slot = _Slot()
                self._slots.append(slot)
                entries.append(entry_of(submission, self._ids.mint, self._clock() + self._deadline_s, slot))
                if len(entries) >= piece_max:
                    break
            if entries:
                self._apply(self._core.submit(self._clock(), entries, linger=False))
            if len(entries) < piece_max:
                return True
        return False

    def _wait(self) -> None:
        """Wait for an answer, the next time to act, or the time to connect.

        Raises:
            LongwaveError: the stream cannot be kept up.
        """
        now = self._clock()
        wait_s = None if self._wake_at is None else max(0.0, self._wake_at - now)
        if self._link is None:
            if now < self._connect_at:
                pause_s = self._connect_at - now
                self._connection.seams.sleep(pause_s if wait_s is None else min(pause_s, wait_s))
                self._apply(self._core.tick(self._clock()))
                return
            self._link = _Link(self._connection, self._call)
        try:
            event = self._link.events.get(timeout=wait_s)
        except queue.Empty:
            self._apply(self._core.tick(self._clock()))
            return
        if isinstance(event, _Ended):
            self._disconnected(event.failure)
        else:
            self._take(event)

    def _take(self, response: messaging_pb2.StreamMessagesResponse) -> None:
        now = self._clock()
        self._reconnect.progressed(now)
        if response.sequence:
            self._apply(self._core.reply(now, response.sequence, response.results))
        if response.credit:
            self._apply(self._core.grant(now, response.credit))

    def _disconnected(self, failure: Failure | None) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        now = self._clock()
        lost = errors.Unavailable("the server ended the stream", status="OK", outcome_unknown=True)
        self._apply(self._core.lost(now, failure or Failure(lost, Fate.UNKNOWN)))
        self._connect_at = now + self._reconnect.failed(now, failure)

    def _apply(self, actions: Actions[_Slot]) -> None:
        for entry, result in actions.resolve:
            entry.sink.result = result
        for batch in actions.send:
            if self._link is not None:  # without one there is no credit, so nothing to send
                self._link.write(batch.stream_request())
        self._wake_at = actions.wake_at
