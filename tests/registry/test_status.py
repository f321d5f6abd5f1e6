"""Refusals as gRPC statuses."""

import pytest
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from engine.errors import NotReady, Refused, StoreBroken, StoreFull, StoreUnavailable, Verdict
from server.status import DETAILS_KEY, PUSHBACK_KEY, refusal_of, status_of, trailers_of


def unpacked(status: status_pb2.Status) -> list[object]:
    kinds = {
        kind.DESCRIPTOR.full_name: kind
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    }
    found: list[object] = []
    for detail in status.details:
        message = kinds[detail.TypeName()]()
        assert detail.Unpack(message)
        found.append(message)
    return found


def test_a_refusal_has_one_error_info_a_violation_and_a_delay() -> None:
    status = status_of(Refused(Verdict.INVALID_FIELD, "what to do", field="a.b", retry_delay_us=1_500_000))
    assert (status.code, status.message) == (3, "what to do")
    info, bad_request, retry = unpacked(status)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("INVALID_FIELD", "longwave.dev", {"number": "24"})
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad_request.field_violations] == [("a.b", "what to do")]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMicroseconds() == 1_500_000


def test_a_refusal_without_field_and_delay_has_the_error_info_only() -> None:
    refused = Refused(Verdict.NOT_FOUND, "no")
    assert len(status_of(refused).details) == 1
    assert [name for name, _ in trailers_of(refused)] == [DETAILS_KEY]


@pytest.mark.parametrize(("delay_us", "pushback"), [(1, "1"), (1000, "1"), (1001, "2"), (2_000_000, "2000")])
def test_the_delay_is_also_given_as_pushback(delay_us: int, pushback: str) -> None:
    trailers = dict(trailers_of(Refused(Verdict.QUEUE_FULL, "", retry_delay_us=delay_us)))
    assert trailers[PUSHBACK_KEY] == pushback
    details = trailers[DETAILS_KEY]
    assert isinstance(details, bytes)
    assert status_pb2.Status.FromString(details).code == 8


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (StoreUnavailable(), Verdict.STORE_UNAVAILABLE),
        (StoreFull(), Verdict.STORE_FULL),
        (NotReady(), Verdict.NOT_READY),
        (StoreBroken("fsync"), Verdict.STORE_UNAVAILABLE),
    ],
)
def test_errors_of_the_store_are_refusals_that_say_when_to_come_back(error: Exception, verdict: Verdict) -> None:
    refused = refusal_of(error, method="Any")
    assert refused.verdict is verdict
    assert refused.retry_delay_us > 0


def test_a_bug_shows_its_type_and_place_but_not_its_text() -> None:
    numbers: dict[str, int] = {}
    with pytest.raises(KeyError) as raised:
        numbers["+12025550123"]
    with capture_logs() as logged:
        refused = refusal_of(raised.value, method="GetNumber")
    assert refused.verdict is Verdict.INTERNAL
    assert "2025550123" not in refused.detail + str(logged)
    assert (logged[0]["error"], logged[0]["method"], logged[0]["file"]) == ("KeyError", "GetNumber", "test_status.py")
