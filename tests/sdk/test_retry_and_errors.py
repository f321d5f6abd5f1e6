"""Which answers may be asked for again, what they say, and what a watch remembers."""

import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from longwave import errors
from longwave.request_ids import RequestIds
from longwave.results import Answers, SubmitResult, raise_if_all_refused
from longwave.retry import (
    CallAttempts,
    Failure,
    Fate,
    Reconnect,
    RetryBudget,
    RetryPolicy,
    failure_of_call,
    fate_of_verdict,
)
from longwave.v1 import messaging_pb2, verdict_pb2
from longwave.watching import WatchCore

POLICY = RetryPolicy(attempts_max=4, backoff_initial_s=0.1, backoff_max_s=1.0)


def test_the_fate_of_every_verdict_follows_the_contract() -> None:
    later = {60, 61, 62, 63, 64, 65, 66, 71, 72}
    unknown = {70, 73}
    for name, number in verdict_pb2.Verdict.items():
        if number == 0:
            continue
        expected = (
            Fate.DONE
            if name == "VERDICT_ACCEPTED"
            else Fate.LATER
            if number in later
            else Fate.UNKNOWN
            if number in unknown
            else Fate.REFUSED
        )
        assert fate_of_verdict(number) is expected, name
        assert errors.verdict_name(number) == name.removeprefix("VERDICT_")
        assert errors.from_verdict(number).outcome_unknown is (number in unknown)


@pytest.mark.parametrize(
    ("status", "fate", "kind"),
    [
        ("UNAVAILABLE", Fate.UNKNOWN, errors.Unavailable),
        ("DEADLINE_EXCEEDED", Fate.UNKNOWN, errors.Unavailable),
        ("INTERNAL", Fate.UNKNOWN, errors.Unavailable),
        ("UNKNOWN", Fate.UNKNOWN, errors.Unavailable),
        ("CANCELLED", Fate.UNKNOWN, errors.Unavailable),
        ("RESOURCE_EXHAUSTED", Fate.LATER, errors.Throttled),
        ("INVALID_ARGUMENT", Fate.REFUSED, errors.Refused),
        ("FAILED_PRECONDITION", Fate.REFUSED, errors.Refused),
        ("UNIMPLEMENTED", Fate.REFUSED, errors.Refused),
        ("ALREADY_EXISTS", Fate.REFUSED, errors.Refused),
        ("UNAUTHENTICATED", Fate.REFUSED, errors.Unauthenticated),
        ("PERMISSION_DENIED", Fate.REFUSED, errors.PermissionDenied),
        ("NOT_FOUND", Fate.REFUSED, errors.NotFound),
        ("OUT_OF_RANGE", Fate.REFUSED, errors.CursorExpired),
    ],
)
def test_a_bare_status_is_classified(status: str, fate: Fate, kind: type[errors.LongwaveError]) -> None:
    failure = failure_of_call(status, "text", [])
    assert failure.fate is fate
    assert type(failure.error) is kind
    assert str(failure.error) == f"{status}: text"


def rich(*details: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo) -> bytes:
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    encoded: bytes = status_pb2.Status(details=packed).SerializeToString()
    return encoded


def test_rich_details_are_read() -> None:
    trailing = rich(
        error_details_pb2.ErrorInfo(reason="NOT_READY", metadata={"number": "71"}),
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field="a.b", description="no")]
        ),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000)),
    )
    failure = failure_of_call("UNAVAILABLE", "draining", [("grpc-status-details-bin", trailing)])
    assert (failure.fate, failure.delay_s) == (Fate.LATER, 2.5)  # NOT_READY: definitely not stored
    assert failure.error.verdict == verdict_pb2.VERDICT_NOT_READY
    assert failure.error.field_violations == (errors.FieldViolation("a.b", "no"),)
    assert str(failure.error) == "NOT_READY: draining [a.b: no]"


def test_a_verdict_without_number_is_found_by_its_name() -> None:
    trailing = rich(error_details_pb2.ErrorInfo(reason="CAMPAIGN_STOPPED"))
    error = errors.from_call("FAILED_PRECONDITION", "", [("grpc-status-details-bin", trailing)])
    assert error.verdict == verdict_pb2.VERDICT_CAMPAIGN_STOPPED


@given(st.binary(max_size=64), st.text(max_size=8))
def test_garbage_in_trailing_metadata_never_hides_the_status(garbage: bytes, pushback: str) -> None:
    trailing: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", garbage),
        ("grpc-retry-pushback-ms", pushback),
    ]
    assert failure_of_call("UNAVAILABLE", "", trailing).error.status == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("pushback", "delay_s", "forbidden"),
    [("250", 0.25, False), ("0", 0.0, False), ("-1", None, True), ("soon", None, True), ("9" * 30, None, True)],
)
def test_pushback_delays_or_forbids(pushback: str, delay_s: float | None, *, forbidden: bool) -> None:
    failure = failure_of_call("RESOURCE_EXHAUSTED", "", [("grpc-retry-pushback-ms", pushback)])
    assert (failure.delay_s, failure.forbidden) == (delay_s, forbidden)


def attempts(*, repeatable: bool, budget: RetryBudget | None = None) -> CallAttempts:
    return CallAttempts(
        POLICY,
        budget or RetryBudget(POLICY),
        lambda: 0.5,
        deadline_at=30.0,
        attempt_deadline_s=10.0,
        repeatable=repeatable,
    )


def test_waits_grow_until_the_attempts_are_used_up() -> None:
    lost = failure_of_call("UNAVAILABLE", "", [])
    call = attempts(repeatable=True)
    assert [call.failed(0.0, lost) for _ in range(3)] == pytest.approx([0.05, 0.1, 0.2])
    with pytest.raises(errors.Unavailable) as caught:
        call.failed(0.0, lost)
    assert caught.value.outcome_unknown


def test_what_cannot_be_repeated_is_not_unless_it_surely_was_not_done() -> None:
    with pytest.raises(errors.Unavailable):
        attempts(repeatable=False).failed(0.0, failure_of_call("UNAVAILABLE", "", []))
    assert attempts(repeatable=False).failed(0.0, failure_of_call("RESOURCE_EXHAUSTED", "", [])) > 0


def test_a_call_ends_at_its_deadline() -> None:
    call = attempts(repeatable=True)
    assert call.attempt_deadline_s(0.0) == 10.0
    assert call.attempt_deadline_s(28.0) == 2.0
    with pytest.raises(errors.Unavailable):
        call.failed(29.99, failure_of_call("UNAVAILABLE", "", []))


def test_the_budget_is_shared_and_refills_with_first_tries() -> None:
    policy = RetryPolicy(budget_burst=1, budget_ratio=0.5)
    budget = RetryBudget(policy)
    assert budget.take()
    assert not budget.take()
    budget.first_try()
    assert not budget.take()
    budget.first_try()
    assert budget.take()


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded(failures: int, random: float) -> None:
    assert 0 <= POLICY.backoff_s(failures, random) <= POLICY.backoff_max_s


def test_policies_without_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="attempts_max"):
        RetryPolicy(attempts_max=0)
    with pytest.raises(ValueError, match="backoff_initial_s"):
        RetryPolicy(backoff_initial_s=2, backoff_max_s=1)


def test_reconnecting_gives_up_after_long_silence_only() -> None:
    link = Reconnect(RetryPolicy(reconnect_max_s=100.0), lambda: 0.5, 0.0)
    lost = failure_of_call("UNAVAILABLE", "", [])
    for second in range(99):
        assert link.failed(float(second), lost) < 3.0
    link.progressed(99.0)
    assert link.failed(198.0, None) == pytest.approx(0.05)  # a new count
    with pytest.raises(errors.Unavailable):
        link.failed(199.0, None)


def test_reconnecting_stops_at_a_refusal() -> None:
    link = Reconnect(POLICY, lambda: 0.5, 0.0)
    with pytest.raises(errors.CursorExpired):
        link.failed(0.0, failure_of_call("OUT_OF_RANGE", "oldest is 7", []))


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=20))
def test_request_ids_never_run_backwards(times_ms: list[int]) -> None:
    wall = iter(times_ms)
    ids = RequestIds(lambda: next(wall), lambda bits: (1 << bits) - 1)
    minted = [ids.mint() for _ in times_ms]
    assert minted == sorted(minted)
    assert all(len(one) == 32 and one.isascii() and one.isprintable() for one in minted)


def test_request_ids_carry_time_then_chance() -> None:
    assert RequestIds(lambda: 0x123, lambda _bits: 0xAB).mint() == "000000000123" + "0" * 18 + "ab"


def test_a_whole_refusal_is_raised_and_anything_less_is_data() -> None:
    denied = errors.Unauthenticated("no key", verdict=50, status="UNAUTHENTICATED")
    both = [SubmitResult(f"id{i}", 50, error=denied.about(f"id{i}", outcome_unknown=False)) for i in range(2)]
    with pytest.raises(errors.Unauthenticated):
        raise_if_all_refused(both)
    raise_if_all_refused([both[0], SubmitResult("id1", 1, "messages/a")])
    raise_if_all_refused([both[0], SubmitResult("id1", 50, error=denied.about("id1", outcome_unknown=True))])
    raise_if_all_refused([SubmitResult("id0", 11, error=errors.from_verdict(11))])  # a verdict on one submission
    raise_if_all_refused([])


def test_answers_keep_the_order_of_the_submissions() -> None:
    answers = Answers(2)
    assert not answers.put(1, SubmitResult("b", 1))
    assert answers.put(0, SubmitResult("a", 1))
    assert [result.request_id for result in answers.in_order()] == ["a", "b"]


def event(message: str, seq: int) -> messaging_pb2.Event:
    return messaging_pb2.Event(kind=messaging_pb2.Event.KIND_MESSAGE, message=message, seq=seq)


def watch(cursor: str = "", seen_messages_max: int = 100) -> WatchCore:
    request = messaging_pb2.WatchEventsRequest(cursor=cursor, campaigns=["campaigns/c"])
    return WatchCore(request, POLICY, lambda: 0.5, 0.0, seen_messages_max=seen_messages_max)


def test_a_watch_drops_what_it_has_given_before() -> None:
    core = watch()
    first = messaging_pb2.WatchEventsResponse(events=[event("m/1", 1), event("m/1", 2), event("m/2", 1)], cursor="c1")
    again = messaging_pb2.WatchEventsResponse(events=[event("m/1", 2), event("m/1", 3), event("m/2", 1)], cursor="c2")
    assert len(core.received(0.0, first)) == 3
    assert [(e.message, e.seq) for e in core.received(0.0, again)] == [("m/1", 3)]


def test_consent_events_and_conflicts_pass_as_they_come() -> None:
    core = watch()
    consent = messaging_pb2.Event(kind=messaging_pb2.Event.KIND_OPT_OUT, recipient="+12025550123")
    conflict = event("m/1", 2)
    conflict.kind = messaging_pb2.Event.KIND_STATUS_CONFLICT
    response = messaging_pb2.WatchEventsResponse(events=[consent, consent, event("m/1", 2), conflict])
    assert len(core.received(0.0, response)) == 4


def test_the_cursor_waits_until_the_events_were_dealt_with_but_the_next_connection_does_not() -> None:
    core = watch("begin")
    core.received(0.0, messaging_pb2.WatchEventsResponse(events=[event("m/1", 1)], cursor="c1"))
    assert core.cursor == "begin"
    assert core.request().cursor == "c1"
    assert list(core.request().campaigns) == ["campaigns/c"]
    core.finished()
    assert core.cursor == "c1"


def test_what_a_watch_remembers_is_bounded() -> None:
    core = watch(seen_messages_max=2)
    core.received(0.0, messaging_pb2.WatchEventsResponse(events=[event(f"m/{i}", 1) for i in range(3)]))
    again = messaging_pb2.WatchEventsResponse(events=[event(f"m/{i}", 1) for i in (2, 1, 0)])
    assert [e.message for e in core.received(0.0, again)] == ["m/0"]  # the oldest was forgotten


def test_a_failure_is_paced_by_the_server_only_when_it_named_a_delay() -> None:
    throttled = errors.Throttled("", status="RESOURCE_EXHAUSTED")
    assert Failure(throttled, Fate.LATER, 1.0).server_paced
    assert not Failure(throttled, Fate.LATER).server_paced
    assert not Failure(throttled, Fate.UNKNOWN, 1.0).server_paced
