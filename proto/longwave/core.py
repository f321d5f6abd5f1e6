"""The client core: takes submissions, gives batches to send, and answers each submission exactly once.

It does no I/O, reads no clock, starts no thread and takes no lock: a transport tells it what happened and when (seconds
of a monotonic clock), and does what the returned `Actions` say. One core serves unary batches (`credit` None) and
streams (`credit` counts down; a lost stream takes it all away).

Invariants:
- every entry offered is resolved once: by a verdict, by an error that is not retried, or at its deadline;
- a submission is sent with the same bytes each time, request id included;
- unresolved entries never exceed `window_messages_max`, unanswered batches never `batches_in_flight_max`, unanswered
  messages on a stream never the credit given;
- of entries with the same ordering key one at a time is unresolved at the server, so a retry cannot overtake.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from longwave import errors, results
from longwave.results import SubmitResult
from longwave.retry import Failure, Fate, RetryBudget, RetryPolicy, fate_of_verdict
from longwave.v1 import messaging_pb2

Sink = TypeVar("Sink")

_REQUEST_ID_TAG: Final = b"\x42"  # field 8 of Submission, length-delimited
_BATCH_TAG: Final = b"\x0a"  # field 1 of SubmitMessagesRequest, length-delimited
_STREAM_TAG: Final = b"\x12"  # field 2 of StreamMessagesRequest, length-delimited
_SEQUENCE_TAG: Final = b"\x08"  # field 1 of StreamMessagesRequest, varint
_TAG_BYTES: Final = 1


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How submissions are put together.

    1,000 messages is the server's own bound. 1 MiB stays well under gRPC's default of 4 MiB a message. Ten batches wait
    in the window while up to four are on their way: enough to keep the pipe full at a round trip of several commits.
    """

    batch_messages_max: int = 1_000
    batch_bytes_max: int = 1 << 20
    batches_in_flight_max: int = 4
    window_messages_max: int = 10_000
    linger_s: float = 0.002
    """How long a single submission waits for company."""

    def __post_init__(self) -> None:
        if min(self.batch_messages_max, self.batch_bytes_max, self.batches_in_flight_max, self.window_messages_max) < 1:
            raise ValueError("every bound of BatchLimits must be at least 1")
        if self.linger_s < 0:
            raise ValueError("linger_s must be at least 0")


@dataclass(slots=True, eq=False)
class Entry(Generic[Sink]):
    """One submission on its way; `sink` is where the transport wants the result, the core never looks into it."""

    frame: bytes
    """Its length as a varint, then the serialised Submission with its request id: what a batch is joined from."""
    request_id: str
    order: str
    """Campaign and ordering key, or empty."""
    deadline_at: float
    sink: Sink
    failures: int = 0
    sent: bool = False
    unknown: bool = False
    holds_order: bool = False
    done: bool = False
    failure: errors.LongwaveError | None = None


@dataclass(frozen=True, slots=True)
class Batch(Generic[Sink]):
    """Entries to be sent in one request, with the deadline of that request from now on."""

    sequence: int
    entries: Sequence[Entry[Sink]]
    deadline_s: float

    def unary_request(self) -> bytes:
        """Return the bytes of its SubmitMessagesRequest."""
        return b"".join([part for entry in self.entries for part in (_BATCH_TAG, entry.frame)])

    def stream_request(self) -> bytes:
        """Return the bytes of its StreamMessagesRequest."""
        head = _SEQUENCE_TAG + _varint(self.sequence)
        return head + b"".join([part for entry in self.entries for part in (_STREAM_TAG, entry.frame)])


@dataclass(slots=True)
class Actions(Generic[Sink]):
    """What the transport is to do now; `wake_at` is when to call `tick` if nothing happens before (None: never)."""

    send: list[Batch[Sink]] = field(default_factory=list)
    resolve: list[tuple[Entry[Sink], SubmitResult]] = field(default_factory=list)
    wake_at: float | None = None


def entry_of(
    submission: messaging_pb2.Submission, mint: Callable[[], str], deadline_at: float, sink: Sink
) -> Entry[Sink]:
    """Make the entry of a submission, with a minted request id where it has none; the submission is not changed."""
    payload = submission.SerializeToString()
    request_id = submission.request_id
    if not request_id:
        request_id = mint()
        payload += _REQUEST_ID_TAG + _varint(len(request_id)) + request_id.encode("ascii")
    order = f"{submission.campaign}\0{submission.ordering_key}" if submission.ordering_key else ""
    return Entry(_varint(len(payload)) + payload, request_id, order, deadline_at, sink)


def _varint(value: int) -> bytes:
    if value < 0x80:  # noqa: PLR2004  one byte holds seven bits
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class SubmitCore(Generic[Sink]):
    """The state machine between callers and one server; see the head of this file."""

    def __init__(
        self,
        limits: BatchLimits,
        policy: RetryPolicy,
        budget: RetryBudget,
        random: Callable[[], float],
        *,
        attempt_deadline_s: float,
        streaming: bool = False,
    ) -> None:
        self._limits = limits
        self._policy = policy
        self._budget = budget
        self._random = random
        self._attempt_deadline_s = attempt_deadline_s
        self._credit: int | None = 0 if streaming else None
        self._sequences = itertools.count(1)
        self._ties = itertools.count()  # heap entries of equal time keep their order
        self._ready: deque[Entry[Sink]] = deque()
        self._ready_bytes = 0
        self._send_by = math.inf
        self._in_flight: dict[int, Batch[Sink]] = {}
        self._retries: list[tuple[float, int, list[Entry[Sink]]]] = []
        self._deadlines: list[tuple[float, int, Sequence[Entry[Sink]]]] = []
        # Present while an entry of that order is unresolved at the server; holds those behind it.
        self._behind: dict[str, deque[Entry[Sink]]] = {}
        self._unresolved = 0
        self._resolved: list[tuple[Entry[Sink], SubmitResult]] = []

    @property
    def room(self) -> int:
        """How many more entries fit into the window."""
        return self._limits.window_messages_max - self._unresolved

    @property
    def unresolved(self) -> int:
        """How many entries are not resolved yet."""
        return self._unresolved

    @property
    def credit(self) -> int:
        """How many more messages may be sent on the stream; 0 where there is none."""
        return self._credit or 0

    @property
    def unanswered(self) -> int:
        """How many batches are sent and not answered."""
        return len(self._in_flight)

    def submit(self, now: float, entries: Sequence[Entry[Sink]], *, linger: bool) -> Actions[Sink]:
        """Take entries that share a deadline; with `linger` they wait a little for company.

        Raises:
            OverflowError: they do not fit into the window; the transport must wait for `room`.
        """
        if len(entries) > self.room:
            raise OverflowError(f"{len(entries)} entries, room for {self.room}")
        self._unresolved += len(entries)
        heapq.heappush(self._deadlines, (min(e.deadline_at for e in entries), next(self._ties), entries))
        self._queue(entries, now + self._limits.linger_s if linger else now)
        return self._step(now)

    def tick(self, now: float) -> Actions[Sink]:
        """Let time pass."""
        return self._step(now)

    def grant(self, now: float, credit_messages: int) -> Actions[Sink]:
        """Add credit of a stream."""
        if self._credit is None:
            raise ValueError("credit belongs to streams")
        self._credit += credit_messages
        return self._step(now)

    def reply(self, now: float, sequence: int, answers: Sequence[messaging_pb2.SubmitResult]) -> Actions[Sink]:
        """Take the server's answers to a batch, one for each entry in order; an unknown sequence changes nothing."""
        batch = self._in_flight.get(sequence)
        if batch is None:
            return self._step(now)
        if len(answers) != len(batch.entries):
            detail = f"the server answered {len(answers)} of {len(batch.entries)} submissions"
            broken = errors.Unavailable(detail, status="INTERNAL", outcome_unknown=True)
            return self.error(now, sequence, Failure(broken, Fate.UNKNOWN))
        del self._in_flight[sequence]
        again: list[tuple[Entry[Sink], Failure]] = []
        for entry, answer in zip(batch.entries, answers, strict=True):
            if entry.done:
                continue
            result = results.from_wire(answer, entry.request_id, unknown=entry.unknown)
            fate = fate_of_verdict(result.verdict)
            if result.error is None or fate is Fate.REFUSED:
                self._resolve(entry, result)
            else:
                again.append((entry, Failure(result.error, fate, result.error.retry_delay_s)))
        self._again(now, again)
        return self._step(now)

    def error(self, now: float, sequence: int, failure: Failure) -> Actions[Sink]:
        """Take the failure of a batch's call."""
        batch = self._in_flight.pop(sequence, None)
        if batch is not None:
            self._again(now, [(entry, failure) for entry in batch.entries if not entry.done])
        return self._step(now)

    def lost(self, now: float, failure: Failure) -> Actions[Sink]:
        """Take the end of a stream: its credit is gone, and what was unanswered goes again on the next one."""
        self._credit = 0
        unanswered = [entry for batch in self._in_flight.values() for entry in batch.entries if not entry.done]
        self._in_flight.clear()
        self._again(now, [(entry, failure) for entry in unanswered])
        return self._step(now)

    def stop(self, now: float, error: errors.LongwaveError) -> Actions[Sink]:
        """Resolve everything with this error; what was sent and not answered is unknown."""
        for _at, _tie, entries in self._deadlines:
            for entry in entries:
                if not entry.done:
                    self._resolve(
                        entry, results.from_error(error, entry.request_id, unknown=self._may_be_stored(entry))
                    )
        self._deadlines.clear()
        return self._step(now)

    def _step(self, now: float) -> Actions[Sink]:
        while self._deadlines and self._deadlines[0][0] <= now:
            self._expire(now, heapq.heappop(self._deadlines)[2])
        while self._retries and self._retries[0][0] <= now:
            self._queue([e for e in heapq.heappop(self._retries)[2] if not e.done], now, first=True)
        actions: Actions[Sink] = Actions(resolve=self._resolved)
        self._resolved = []
        while self._may_send(now):
            batch = self._next_batch(now)
            if batch is not None:
                actions.send.append(batch)
        actions.wake_at = self._wake_at()
        return actions

    def _queue(self, entries: Sequence[Entry[Sink]], send_by: float, *, first: bool = False) -> None:
        if not entries:
            return
        if first:
            self._ready.extendleft(reversed(entries))
        else:
            self._ready.extend(entries)
        self._ready_bytes += sum(len(entry.frame) + _TAG_BYTES for entry in entries)
        self._send_by = min(self._send_by, send_by)

    def _may_send(self, now: float) -> bool:
        if not self._ready or self._credit == 0:
            return False
        if self._credit is None and len(self._in_flight) >= self._limits.batches_in_flight_max:
            return False
        return (
            self._send_by <= now
            or len(self._ready) >= self._limits.batch_messages_max
            or self._ready_bytes >= self._limits.batch_bytes_max
        )

    def _next_batch(self, now: float) -> Batch[Sink] | None:
        """Take what is ready, within the bounds; None when all of it was resolved or waits behind its order."""
        messages_max = self._limits.batch_messages_max
        if self._credit is not None:
            messages_max = min(messages_max, self._credit)
        taken: list[Entry[Sink]] = []
        taken_bytes = 0
        while self._ready and len(taken) < messages_max:
            entry = self._ready[0]
            entry_bytes = len(entry.frame) + _TAG_BYTES
            sendable = not entry.done and (not entry.order or entry.holds_order or entry.order not in self._behind)
            if sendable and taken and taken_bytes + entry_bytes > self._limits.batch_bytes_max:
                break
            self._ready.popleft()
            self._ready_bytes -= entry_bytes
            if not sendable:
                if not entry.done:
                    self._behind[entry.order].append(entry)
                continue
            if entry.order and not entry.holds_order:
                self._behind[entry.order] = deque()
                entry.holds_order = True
            entry.sent = True
            taken.append(entry)
            taken_bytes += entry_bytes
        if not self._ready:
            self._send_by = math.inf
        if not taken:
            return None
        if self._credit is not None:
            self._credit -= len(taken)
        if not any(entry.failures for entry in taken):
            self._budget.first_try()
        remaining_s = max(entry.deadline_at for entry in taken) - now
        batch = Batch(next(self._sequences), taken, min(self._attempt_deadline_s, remaining_s))
        self._in_flight[batch.sequence] = batch
        return batch

    def _again(self, now: float, failed: Sequence[tuple[Entry[Sink], Failure]]) -> None:
        """Put failed entries back where that is allowed and of use, else resolve them; one roll, one leave for all."""
        random = self._random()
        leave: bool | None = None
        waiting: dict[float, list[Entry[Sink]]] = {}
        for entry, failure in failed:
            entry.unknown = entry.unknown or failure.fate is Fate.UNKNOWN
            entry.failure = failure.error
            if not failure.server_paced:
                entry.failures += 1
            at = now + self._policy.delay_s(failure, entry.failures, random)
            useful = not failure.forbidden and failure.fate is not Fate.REFUSED and at < entry.deadline_at
            if useful and not failure.server_paced:
                useful = entry.failures < self._policy.attempts_max
                if useful and leave is None:
                    leave = self._budget.take()
                useful = useful and leave is True
            if useful:
                # On its way back nothing of it is at the server any more, unless it is unknown.
                entry.sent = entry.unknown
                waiting.setdefault(at, []).append(entry)
            else:
                self._resolve(entry, results.from_error(failure.error, entry.request_id, unknown=entry.unknown))
        for at, entries in waiting.items():
            heapq.heappush(self._retries, (at, next(self._ties), entries))

    def _expire(self, now: float, entries: Sequence[Entry[Sink]]) -> None:
        later = [entry for entry in entries if not entry.done and entry.deadline_at > now]
        if later:
            heapq.heappush(self._deadlines, (min(e.deadline_at for e in later), next(self._ties), later))
        for entry in entries:
            if entry.done or entry.deadline_at > now:
                continue
            unknown = self._may_be_stored(entry)
            error = entry.failure or errors.Unavailable(
                "no answer before the deadline" if entry.sent else "not sent before the deadline",
                status="DEADLINE_EXCEEDED",
                outcome_unknown=unknown,
            )
            self._resolve(entry, results.from_error(error, entry.request_id, unknown=unknown))

    @staticmethod
    def _may_be_stored(entry: Entry[Sink]) -> bool:
        return entry.sent or entry.unknown

    def _resolve(self, entry: Entry[Sink], result: SubmitResult) -> None:
        entry.done = True
        self._unresolved -= 1
        self._resolved.append((entry, result))
        if entry.holds_order:
            followers = [follower for follower in self._behind.pop(entry.order) if not follower.done]
            # The first of them takes the order over when it is sent; the others line up behind it again.
            self._queue(followers, -math.inf, first=True)

    def _wake_at(self) -> float | None:
        at = min(
            self._retries[0][0] if self._retries else math.inf,
            self._deadlines[0][0] if self._deadlines else math.inf,
            # Ready entries that only wait for company; those that wait for an answer or credit are woken by it.
            self._send_by if self._ready and self._send_wanted() else math.inf,
        )
        return None if at == math.inf else at

    def _send_wanted(self) -> bool:
        if self._credit is not None:
            return self._credit > 0
        return len(self._in_flight) < self._limits.batches_in_flight_max
