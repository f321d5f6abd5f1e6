"""Turns a refusal into a gRPC status with its details; the only place that does.

It decides nothing: the verdict says the code.

Invariants: exactly one ErrorInfo (reason = the verdict's name, domain `longwave.dev`, metadata `number`); a retry delay
is given twice, as RetryInfo and as `grpc-retry-pushback-ms`, since gRPC clients obey only the latter; an error that is
no `Refused` shows nothing of itself.
"""

from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from engine.errors import Refused, StoreBroken, StoreUnavailable, Verdict

if TYPE_CHECKING:
    from google.protobuf.message import Message

DOMAIN: Final = "longwave.dev"
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
MILLISECOND_US: Final = 1000

_INVALID_ARGUMENT: Final = frozenset(
    {
        *(verdict for verdict in Verdict if Verdict.UNDECODABLE <= verdict <= Verdict.REQUEST_ID_REUSED),
        Verdict.SENDER_NOT_IN_CAMPAIGN,
        Verdict.EXCEEDS_QUOTA,
    }
)
CODES: Final[dict[Verdict, grpc.StatusCode]] = {
    **dict.fromkeys(_INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT),
    Verdict.UNSPECIFIED: grpc.StatusCode.INTERNAL,
    Verdict.ACCEPTED: grpc.StatusCode.OK,
    Verdict.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Verdict.NOT_CANCELLABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Verdict.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Verdict.CAMPAIGN_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Verdict.CAMPAIGN_STOPPED: grpc.StatusCode.FAILED_PRECONDITION,
    Verdict.NO_SENDER: grpc.StatusCode.FAILED_PRECONDITION,
    Verdict.RECIPIENT_OPTED_OUT: grpc.StatusCode.FAILED_PRECONDITION,
    Verdict.TENANT_SUSPENDED: grpc.StatusCode.PERMISSION_DENIED,
    Verdict.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Verdict.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Verdict.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Verdict.CURSOR_EXPIRED: grpc.StatusCode.OUT_OF_RANGE,
    Verdict.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Verdict.STORE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Verdict.CREDIT_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Verdict.SUBSCRIBER_TOO_SLOW: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Verdict.TOO_MANY_CALLS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Verdict.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Verdict.BACKLOG_TOO_LONG: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Verdict.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Verdict.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    Verdict.DEADLINE_PASSED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Verdict.INTERNAL: grpc.StatusCode.INTERNAL,
}

_log = structlog.get_logger(__name__)


def status_of(refused: Refused) -> status_pb2.Status:
    """The google.rpc.Status of a refusal."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=refused.verdict.name, domain=DOMAIN, metadata={"number": str(int(refused.verdict))}
        )
    ]
    if refused.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=refused.field, description=refused.detail)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if refused.retry_delay_us > 0:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(refused.retry_delay_us)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=CODES[refused.verdict].value[0], message=refused.detail)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def trailers_of(refused: Refused) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that goes with a refusal: the status with its details, and the pushback if any."""
    details = (DETAILS_KEY, status_of(refused).SerializeToString())
    if refused.retry_delay_us <= 0:
        return (details,)
    # Rounded up: a client that comes back a millisecond early meets the same answer.
    return (details, (PUSHBACK_KEY, str(-(-refused.retry_delay_us // MILLISECOND_US))))


def refusal_of(error: Exception, *, method: str) -> Refused:
    """What to answer for any error of a handler; one that is no refusal is logged by type and answered as INTERNAL."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, StoreBroken):
        return StoreUnavailable()
    # The text of a foreign error may hold the caller's content: its type and place are enough to find the bug.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    _log.error(
        "handler failed",
        stage="call",
        method=method,
        error=type(error).__qualname__,
        file=frame.tb_frame.f_code.co_filename.rpartition("/")[2] if frame else "",
        line=frame.tb_lineno if frame else 0,
    )
    return Refused(Verdict.INTERNAL, "a bug; unknown whether stored: retry with the same request_id")


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", refused: Refused) -> NoReturn:
    """End the call with this refusal. Never returns: grpc raises to leave the handler."""
    await context.abort(CODES[refused.verdict], refused.detail, trailers_of(refused))
    raise AssertionError
