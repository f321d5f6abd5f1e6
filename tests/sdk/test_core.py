"""The client core in virtual time: whatever the network does, each submission is answered exactly once."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longwave import errors
from longwave.core import Actions, Batch, BatchLimits, Entry, SubmitCore, entry_of
from longwave.results import SubmitResult
from longwave.retry import Failure, Fate, RetryBudget, RetryPolicy
from longwave.v1 import messaging_pb2, verdict_pb2

ACCEPTED = messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_ACCEPTED, message="messages/a", segments=2)
REFUSED = messaging_pb2.SubmitResult(
    verdict=verdict_pb2.VERDICT_INVALID_RECIPIENT, field="recipient", detail="no number"
)
UNKNOWN = messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_STORE_UNAVAILABLE)
QUEUE_FULL = messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_QUEUE_FULL)
QUEUE_FULL.retry_delay.FromMilliseconds(700)
LOST = Failure(errors.Unavailable("gone", status="UNAVAILABLE", outcome_unknown=True), Fate.UNKNOWN)
DENIED = Failure(errors.Unauthenticated("no", status="UNAUTHENTICATED"), Fate.REFUSED)
LATER = Failure(errors.Throttled("much", status="RESOURCE_EXHAUSTED", retry_delay_s=0.5), Fate.LATER, 0.5)
FORBIDDEN = Failure(errors.Unavailable("no more", status="UNAVAILABLE"), Fate.UNKNOWN, forbidden=True)

LIMITS = BatchLimits(
    batch_messages_max=4, batch_bytes_max=200, batches_in_flight_max=2, window_messages_max=12, linger_s=0.01
)
POLICY = RetryPolicy(attempts_max=3, backoff_initial_s=0.1, backoff_max_s=1.0, budget_burst=1000)


def make(*, limits: BatchLimits = LIMITS, policy: RetryPolicy = POLICY, streaming: bool = False) -> SubmitCore[int]:
    return SubmitCore(limits, policy, RetryBudget(policy), lambda: 0.5, attempt_deadline_s=10.0, streaming=streaming)


def entry(sink: int = 0, *, key: str = "", text: str = "hi", deadline_at: float = 30.0) -> Entry[int]:
    submission = messaging_pb2.Submission(campaign="campaigns/c", text=text, ordering_key=key)
    return entry_of(submission, lambda: f"id-{sink}", deadline_at, sink)


def test_a_batch_is_the_bytes_of_its_request() -> None:
    given_id = messaging_pb2.Submission(text="x" * 300, request_id="mine", labels={"a": "b"})
    minted = messaging_pb2.Submission(text="y")
    entries = [entry_of(submission, lambda: "minted", 1.0, 0) for submission in (given_id, minted)]
    batch: Batch[int] = Batch(300, entries, 1.0)
    unary = messaging_pb2.SubmitMessagesRequest.FromString(batch.unary_request())
    stream = messaging_pb2.StreamMessagesRequest.FromString(batch.stream_request())
    assert unary.submissions == stream.submissions
    assert stream.sequence == 300
    assert unary.submissions[0] == given_id
    assert (unary.submissions[1].text, unary.submissions[1].request_id) == ("y", "minted")
    assert minted.request_id == ""  # the caller's message is left alone


def test_single_submissions_wait_for_company_and_leave_together() -> None:
    core = make()
    first = core.submit(0.0, [entry(1)], linger=True)
    assert first.send == []
    assert first.wake_at == pytest.approx(0.01)
    core.submit(0.004, [entry(2)], linger=True)
    (batch,) = core.tick(0.01).send
    assert [e.sink for e in batch.entries] == [1, 2]
    assert batch.deadline_s == 10.0


def test_a_full_batch_leaves_at_once() -> None:
    core = make()
    assert core.submit(0.0, [entry(i) for i in range(3)], linger=True).send == []
    (batch,) = core.submit(0.0, [entry(3)], linger=True).send
    assert len(batch.entries) == 4


def test_a_batch_is_bounded_in_bytes_but_never_empty() -> None:
    core = make()
    batches = core.submit(0.0, [entry(1, text="a" * 500), entry(2)], linger=False).send
    assert [[e.sink for e in batch.entries] for batch in batches] == [[1], [2]]


def test_no_more_than_the_window() -> None:
    core = make()
    core.submit(0.0, [entry(i) for i in range(12)], linger=False)
    assert core.room == 0
    with pytest.raises(OverflowError):
        core.submit(0.0, [entry(99)], linger=True)


def test_unknown_is_sent_again_with_the_same_bytes_until_the_attempts_are_used_up() -> None:
    core = make()
    actions = core.submit(0.0, [entry(7)], linger=False)
    requests, now = [], 0.0
    while actions.send:
        (batch,) = actions.send
        requests.append(batch.unary_request())
        actions = core.error(now, batch.sequence, LOST)
        if not actions.resolve:
            assert actions.wake_at is not None
            now = actions.wake_at
            actions = core.tick(now)
    assert len(requests) == 3
    assert len(set(requests)) == 1
    ((_, result),) = actions.resolve
    assert result.outcome_unknown
    assert result.request_id == "id-7"
    assert now == pytest.approx(0.05 + 0.1)  # half of 0.1 s, then half of 0.2 s


def test_a_refusal_is_never_retried_and_says_why() -> None:
    core = make()
    (batch,) = core.submit(0.0, [entry(1), entry(2)], linger=False).send
    actions = core.reply(0.0, batch.sequence, [REFUSED, ACCEPTED])
    results = {e.sink: result for e, result in actions.resolve}
    assert (results[2].accepted, results[2].message, results[2].segments) == (True, "messages/a", 2)
    error = results[1].error
    assert isinstance(error, errors.Refused)
    assert (error.verdict, error.reason) == (11, "INVALID_RECIPIENT")
    assert error.field_violations == (errors.FieldViolation("recipient", "no number"),)
    assert not error.outcome_unknown
    assert actions.wake_at == 30.0  # nothing but the old deadline is left


def test_a_sentence_is_not_said_twice_and_a_second_one_is_not_lost() -> None:
    once = errors.from_verdict(11, field="recipient", detail="no number")
    assert str(once) == "INVALID_RECIPIENT: no number [recipient]"
    violation = errors.FieldViolation("recipient", "no number")
    other = errors.Refused("two faults", verdict=11, field_violations=(violation,))
    assert str(other) == "INVALID_RECIPIENT: two faults [recipient: no number]"


def test_a_throttled_item_waits_as_long_as_the_server_said_beyond_the_attempts() -> None:
    core = make()
    actions = core.submit(0.0, [entry(1)], linger=False)
    now = 0.0
    for _ in range(10):  # more often than attempts_max
        (batch,) = actions.send
        actions = core.reply(now, batch.sequence, [QUEUE_FULL])
        assert actions.wake_at is not None
        assert actions.wake_at - now == pytest.approx(0.75)  # 0.7 s and half of the first back-off
        now = actions.wake_at
        actions = core.tick(now)
    (batch,) = actions.send
    ((_, result),) = core.reply(now, batch.sequence, [ACCEPTED]).resolve
    assert result.accepted


def test_throttled_until_the_deadline_is_throttled_and_surely_not_stored() -> None:
    core = make()
    (batch,) = core.submit(0.0, [entry(1, deadline_at=0.6)], linger=False).send
    ((_, result),) = core.reply(0.0, batch.sequence, [QUEUE_FULL]).resolve
    assert isinstance(result.error, errors.Throttled)
    assert result.error.retry_delay_s == pytest.approx(0.7)
    assert not result.outcome_unknown


def test_throttled_after_an_unknown_try_stays_unknown() -> None:
    core = make()
    (batch,) = core.submit(0.0, [entry(1, deadline_at=0.6)], linger=False).send
    core.error(0.0, batch.sequence, LOST)
    (batch,) = core.tick(0.05).send
    ((_, result),) = core.reply(0.05, batch.sequence, [QUEUE_FULL]).resolve
    assert result.outcome_unknown


def test_forbidden_and_denied_calls_are_not_made_again() -> None:
    for failure, unknown in ((FORBIDDEN, True), (DENIED, False)):
        core = make()
        (batch,) = core.submit(0.0, [entry(1)], linger=False).send
        ((_, result),) = core.error(0.0, batch.sequence, failure).resolve
        assert result.outcome_unknown is unknown
        assert core.tick(20.0).send == []


def test_the_deadline_answers_what_the_server_does_not() -> None:
    core = make()
    core.submit(0.0, [entry(i, deadline_at=5.0) for i in range(9)], linger=False)  # two batches of four, one waits
    actions = core.tick(5.0)
    assert {e.sink: r.outcome_unknown for e, r in actions.resolve} == {i: i < 8 for i in range(9)}
    assert core.unresolved == 0


def test_a_late_reply_changes_nothing() -> None:
    core = make()
    (batch,) = core.submit(0.0, [entry(1, deadline_at=5.0)], linger=False).send
    assert len(core.tick(5.0).resolve) == 1
    assert core.reply(6.0, batch.sequence, [ACCEPTED]).resolve == []
    assert core.reply(6.0, 999, [ACCEPTED]).resolve == []


def test_a_reply_of_the_wrong_length_is_unknown() -> None:
    core = make()
    (batch,) = core.submit(0.0, [entry(1), entry(2)], linger=False).send
    assert core.reply(0.0, batch.sequence, [ACCEPTED]).resolve == []
    (again,) = core.tick(0.05).send
    assert again.unary_request() == batch.unary_request()


def test_the_retry_budget_bounds_retries() -> None:
    policy = RetryPolicy(backoff_initial_s=0.1, budget_burst=2, budget_ratio=0.0)
    core = make(policy=policy)
    (batch,) = core.submit(0.0, [entry(1)], linger=False).send
    now, sends = 0.0, 1
    while True:
        actions = core.error(now, batch.sequence, LOST)
        if actions.resolve:
            break
        assert actions.wake_at is not None
        now = actions.wake_at
        (batch,) = core.tick(now).send
        sends += 1
    assert sends == 3


def test_one_of_an_ordering_key_at_a_time() -> None:
    core = make()
    entries = [entry(1, key="k"), entry(2, key="k"), entry(3)]
    (batch,) = core.submit(0.0, entries, linger=False).send
    assert [e.sink for e in batch.entries] == [1, 3]
    assert core.reply(0.0, batch.sequence, [QUEUE_FULL, ACCEPTED]).send == []  # 2 waits for the retry of 1
    (batch,) = core.tick(0.75).send
    assert [e.sink for e in batch.entries] == [1]
    (batch,) = core.reply(0.8, batch.sequence, [ACCEPTED]).send
    assert [e.sink for e in batch.entries] == [2]


def test_a_stream_sends_within_its_credit_and_again_after_it_broke() -> None:
    core = make(streaming=True)
    assert core.submit(0.0, [entry(i) for i in range(6)], linger=False).send == []
    batches = core.grant(0.0, 5).send
    assert [len(batch.entries) for batch in batches] == [4, 1]
    assert core.credit == 0
    core.reply(0.0, batches[1].sequence, [ACCEPTED])
    assert core.lost(0.0, LOST).resolve == []
    assert core.tick(0.05).send == []  # no credit on the new stream yet
    sent = [e.sink for batch in core.grant(0.1, 10).send for e in batch.entries]
    assert sorted(sent) == [0, 1, 2, 3, 5]


def test_what_waits_for_credit_after_a_refusal_for_now_is_surely_not_stored() -> None:
    core = make(streaming=True)
    core.submit(0.0, [entry(1, deadline_at=5.0)], linger=False)
    (batch,) = core.grant(0.0, 1).send
    core.reply(0.0, batch.sequence, [QUEUE_FULL])
    assert core.tick(0.75).send == []
    ((_, result),) = core.tick(5.0).resolve
    assert isinstance(result.error, errors.Throttled)
    assert not result.outcome_unknown


def test_stopping_answers_everything() -> None:
    core = make()
    core.submit(0.0, [entry(i) for i in range(9)], linger=False)
    actions = core.stop(0.0, errors.ClientClosed("closed"))
    assert {e.sink: r.outcome_unknown for e, r in actions.resolve} == {i: i < 8 for i in range(9)}
    assert actions.send == []


@dataclass
class World:
    """A server and a network that do anything, and a book-keeper that forgives nothing."""

    core: SubmitCore[int]
    streaming: bool
    now: float = 0.0
    offered: dict[int, Entry[int]] = field(default_factory=dict)
    resolved: dict[int, SubmitResult] = field(default_factory=dict)
    frames: dict[int, bytes] = field(default_factory=dict)
    truly_stored: set[int] = field(default_factory=set)
    final: Counter[int] = field(default_factory=Counter)
    at_server: dict[int, Batch[int]] = field(default_factory=dict)
    credit: int = 0
    order_sent: dict[str, list[int]] = field(default_factory=dict)

    def take(self, actions: Actions[int]) -> None:
        for resolved, result in actions.resolve:
            assert resolved.sink not in self.resolved, "answered twice"
            self.resolved[resolved.sink] = result
            if result.accepted:
                assert resolved.sink in self.truly_stored
            if resolved.sink in self.truly_stored:
                assert result.accepted or result.outcome_unknown, "stored, but the caller was told it was not"
        for batch in actions.send:
            self._check(batch)
            self.at_server[batch.sequence] = batch
        if not self.streaming:
            assert len(self.at_server) <= LIMITS.batches_in_flight_max
        assert self.core.unresolved == len(self.offered) - len(self.resolved) <= LIMITS.window_messages_max
        assert actions.wake_at is None or actions.wake_at > self.now

    def _check(self, batch: Batch[int]) -> None:
        sinks = [sent.sink for sent in batch.entries]
        assert 0 < len(sinks) == len(set(sinks)) <= LIMITS.batch_messages_max
        assert len(sinks) == 1 or len(batch.unary_request()) <= LIMITS.batch_bytes_max
        assert 0 < batch.deadline_s <= 10.0
        if self.streaming:
            self.credit -= len(sinks)
            assert self.credit >= 0, "more in flight than the credit given"
        away = {sent.sink for other in self.at_server.values() for sent in other.entries}
        for sent in batch.entries:
            assert sent.sink not in away, "sent twice at once"
            assert sent.sink not in self.resolved, "sent after its answer"
            assert self.now < sent.deadline_at
            assert self.frames.setdefault(sent.sink, sent.frame) == sent.frame, "a retry differs"
            if sent.order:
                sequence = self.order_sent.setdefault(sent.order, [])
                if sent.sink not in sequence:
                    assert all(earlier in self.resolved for earlier in sequence), "overtook its order"
                    assert not sequence or sequence[-1] < sent.sink
                    sequence.append(sent.sink)

    def offer(self, count: int, key: str, deadline_s: float, *, linger: bool) -> None:
        count = min(count, self.core.room)
        entries = []
        for _ in range(count):
            made = entry(len(self.offered), key=key, deadline_at=self.now + deadline_s)
            self.offered[made.sink] = made
            entries.append(made)
        if entries:
            self.take(self.core.submit(self.now, entries, linger=linger))

    def answer(self, pick: int, answers: list[messaging_pb2.SubmitResult]) -> None:
        if not self.at_server:
            return
        sequence = sorted(self.at_server)[pick % len(self.at_server)]
        batch = self.at_server.pop(sequence)
        given_answers = []
        for position, sent in enumerate(batch.entries):
            # An id that is stored is answered with its first answer, as the engine promises.
            given_answer = ACCEPTED if sent.sink in self.truly_stored else answers[position % len(answers)]
            if given_answer in (ACCEPTED, UNKNOWN):
                self.truly_stored.add(sent.sink)
            given_answers.append(given_answer)
        self.take(self.core.reply(self.now, sequence, given_answers))

    def break_call(self, pick: int, failure: Failure, *, stored: bool) -> None:
        if not self.at_server:
            return
        sequence = sorted(self.at_server)[pick % len(self.at_server)]
        batch = self.at_server.pop(sequence)
        if stored and failure.fate is Fate.UNKNOWN:
            self.truly_stored.update(sent.sink for sent in batch.entries)
        self.take(self.core.error(self.now, sequence, failure))

    def cut(self) -> None:
        self.at_server.clear()
        self.credit = 0
        self.take(self.core.lost(self.now, LOST))

    def grant(self, credit: int) -> None:
        self.credit += credit
        self.take(self.core.grant(self.now, credit))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.core.tick(self.now))


ANSWERS = st.lists(st.sampled_from([ACCEPTED, REFUSED, UNKNOWN, QUEUE_FULL]), min_size=1, max_size=4)
OFFERS = st.tuples(
    st.just("offer"),
    st.integers(1, 6),
    st.sampled_from(["", "", "k", "l"]),
    st.sampled_from([0.3, 2.0, 20.0]),
    st.booleans(),
)
ANSWER = st.tuples(st.just("answer"), st.integers(0, 3), ANSWERS)
BREAK = st.tuples(st.just("break"), st.integers(0, 3), st.sampled_from([LOST, DENIED, LATER, FORBIDDEN]), st.booleans())
WAIT = st.tuples(st.just("wait"), st.floats(0.001, 3.0))
CUT = st.tuples(st.just("cut"))
GRANT = st.tuples(st.just("grant"), st.integers(1, 8))


def play(world: World, steps: list[tuple[object, ...]]) -> None:
    for step in steps:
        match step:
            case ("offer", int(count), str(key), float(deadline_s), bool(linger)):
                world.offer(count, key, deadline_s, linger=linger)
            case ("answer", int(pick), list(answers)):
                world.answer(pick, answers)
            case ("break", int(pick), Failure() as failure, bool(stored)):
                world.break_call(pick, failure, stored=stored)
            case ("wait", float(seconds)):
                world.wait(seconds)
            case ("cut",):
                world.cut()
            case ("grant", int(credit)):
                world.grant(credit)
            case _:
                raise AssertionError(step)
    world.wait(25.0)  # past every deadline
    assert world.resolved.keys() == world.offered.keys(), "lost"
    assert world.core.unresolved == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(OFFERS, ANSWER, BREAK, WAIT), max_size=60))
def test_unary_nothing_is_lost_or_answered_twice(steps: list[tuple[object, ...]]) -> None:
    play(World(make(), streaming=False), steps)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(OFFERS, ANSWER, WAIT, CUT, GRANT, GRANT), max_size=60))
def test_streaming_nothing_is_lost_and_the_credit_holds(steps: list[tuple[object, ...]]) -> None:
    play(World(make(streaming=True), streaming=True), steps)
