"""Drives the client core with blocking calls: in the caller's own thread, or in one that coalesces many callers.

It decides nothing about batches or retries; the core does.

Invariants:
- a direct call starts no thread and shares no state but budget and id source, so it suits threads and greenlets alike;
- the coalescing thread starts with the first submission and ends with `close`; it has one batch on its way at a time,
  and what arrives meanwhile makes the next one.
"""

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, cast

import grpc

from longwave import contract, errors
from longwave.channels import Connection
from longwave.core import Actions, Batch, Entry, Sink, SubmitCore, entry_of
from longwave.request_ids import RequestIds
from longwave.results import Answers, SubmitResult, raise_if_all_refused
from longwave.retry import Failure, Fate, RetryBudget, failure_of_call
from longwave.v1 import messaging_pb2

Sender: TypeAlias = Callable[[bytes, float], Sequence[messaging_pb2.SubmitResult]]


def failure_of(error: grpc.RpcError) -> Failure:
    """Classify a failed call of synchronous grpc."""
    trailing = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    return failure_of_call(error.code().name, error.details() or "", trailing)


def sender_of(connection: Connection, channel: grpc.Channel) -> Sender:
    """Return what sends the bytes of a SubmitMessagesRequest within a deadline in seconds."""
    method = contract.SUBMIT_MESSAGES
    call: grpc.UnaryUnaryMultiCallable[bytes, messaging_pb2.SubmitMessagesResponse] = channel.unary_unary(
        method.path, request_serializer=None, response_deserializer=method.parse
    )

    def send(request: bytes, deadline_s: float) -> Sequence[messaging_pb2.SubmitResult]:
        return call(request, timeout=deadline_s, metadata=connection.metadata).results

    return send


def _core(connection: Connection, budget: RetryBudget) -> SubmitCore[Sink]:
    # Calls block, so a second batch could not be sent before the first is answered.
    limits = dataclasses.replace(connection.limits, batches_in_flight_max=1)
    return SubmitCore(
        limits,
        connection.retry,
        budget,
        connection.seams.random,
        attempt_deadline_s=connection.deadlines.attempt_s,
    )


def submit_direct(
    connection: Connection,
    send: Sender,
    budget: RetryBudget,
    ids: RequestIds,
    submissions: Sequence[messaging_pb2.Submission],
    *,
    deadline_s: float,
) -> list[SubmitResult]:
    """Hand in submissions from the calling thread, batch by batch, and return a result for each in order."""
    answers = Answers(len(submissions))
    limits, seams = connection.limits, connection.seams
    piece_max = min(limits.batch_messages_max, limits.window_messages_max)
    core: SubmitCore[tuple[Answers, int]] = _core(connection, budget)
    for start in range(0, len(submissions), piece_max):
        piece = submissions[start : start + piece_max]
        deadline_at = seams.monotonic() + deadline_s
        entries: list[Entry[tuple[Answers, int]]] = [
            entry_of(submission, ids.mint, deadline_at, (answers, start + offset))
            for offset, submission in enumerate(piece)
        ]
        actions = core.submit(seams.monotonic(), entries, linger=False)
        while True:
            for entry, result in actions.resolve:
                collected, index = entry.sink
                collected.put(index, result)
            if actions.send:
                (batch,) = actions.send
                outcome = _outcome(send, batch)
                actions = _tell(core, seams.monotonic(), batch, outcome)
            elif core.unresolved and actions.wake_at is not None:
                seams.sleep(max(0.0, actions.wake_at - seams.monotonic()))
                actions = core.tick(seams.monotonic())
            else:
                break
    results = answers.in_order()
    raise_if_all_refused(results)
    return results


def _outcome(send: Sender, batch: Batch[Sink]) -> Sequence[messaging_pb2.SubmitResult] | Failure:
    """Send a batch and wait for its answers."""
    try:
        return send(batch.unary_request(), batch.deadline_s)
    except grpc.RpcError as error:
        return failure_of(error)
    except ValueError:  # grpc says so of a channel that was closed meanwhile, before the call left
        return Failure(errors.ClientClosed("the client was closed"), Fate.REFUSED)


def _tell(
    core: SubmitCore[Sink], now: float, batch: Batch[Sink], outcome: Sequence[messaging_pb2.SubmitResult] | Failure
) -> Actions[Sink]:
    if isinstance(outcome, Failure):
        return core.error(now, batch.sequence, outcome)
    return core.reply(now, batch.sequence, outcome)


class _Waiting(Answers):
    """The answer that a thread waits for."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        super().__init__(1)
        self.event = threading.Event()


class CoalescingThread:
    """Puts single submissions of many threads together into batches."""

    def __init__(self, connection: Connection, send: Sender, budget: RetryBudget, ids: RequestIds) -> None:
        self._send = send
        self._clock = connection.seams.monotonic
        self._ids = ids
        self._core: SubmitCore[tuple[_Waiting, int]] = _core(connection, budget)
        # Everything below is written under the lock by callers and by the thread.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._sends: deque[Batch[tuple[_Waiting, int]]] = deque()
        self._wake_at: float | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, submission: messaging_pb2.Submission, deadline_s: float) -> SubmitResult:
        """Hand in one submission and wait for its result; a refusal is data here."""
        deadline_at = self._clock() + deadline_s
        waiting = _Waiting()
        with self._lock:
            while self._core.room < 1 and not self._closed:
                remaining_s = deadline_at - self._clock()
                if remaining_s <= 0 or not self._room.wait(remaining_s):
                    detail = "as many submissions wait as this client holds, and none was answered in time"
                    raise errors.WindowFull(detail, request_id=submission.request_id)
            if self._closed:
                raise errors.ClientClosed("the client is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="longwave-submit", daemon=True)
                self._thread.start()
            entry = entry_of(submission, self._ids.mint, deadline_at, (waiting, 0))
            self._apply(self._core.submit(self._clock(), [entry], linger=True))
        waiting.event.wait()
        return waiting.in_order()[0]

    def close(self) -> None:
        """Resolve what is unresolved with `ClientClosed`; the thread ends once its call on the way returns."""
        with self._lock:
            self._closed = True
            self._apply(self._core.stop(self._clock(), errors.ClientClosed("the client was closed")))
            self._sends.clear()
            self._changed.notify()
            self._room.notify_all()

    def join(self) -> None:
        """Wait until the thread has ended; call it after the channel was closed, which ends its call."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            outcome = _outcome(self._send, batch)
            with self._lock:
                self._apply(_tell(self._core, self._clock(), batch, outcome))

    def _next_batch(self) -> Batch[tuple[_Waiting, int]] | None:
        with self._lock:
            while not self._closed:
                if self._sends:
                    return self._sends.popleft()
                self._changed.wait(None if self._wake_at is None else max(0.0, self._wake_at - self._clock()))
                self._apply(self._core.tick(self._clock()))
            return None

    def _apply(self, actions: Actions[tuple[_Waiting, int]]) -> None:
        for entry, result in actions.resolve:
            waiting, index = entry.sink
            if waiting.put(index, result):
                waiting.event.set()
        if actions.resolve:
            self._room.notify_all()
        earlier = actions.wake_at is not None and (self._wake_at is None or actions.wake_at < self._wake_at)
        self._wake_at = actions.wake_at
        self._sends.extend(actions.send)
        if actions.send or earlier:
            self._changed.notify()
