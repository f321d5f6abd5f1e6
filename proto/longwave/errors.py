"""What can go wrong, as typed exceptions that carry the engine's verdict.

It does not decide whether to try again (`longwave.retry` does) and knows no transport: a failed call comes in as its
status name, its text and its trailing metadata.

Invariants:
- `outcome_unknown` is False only where the submission is known not to be stored; True asks for the same id again.
- `verdict` is 0 when the answer did not come from the engine (a proxy, the network, this client).
- no exception text holds message text or an API key, nor more of a phone number than the server put into its detail.
"""

# ruff: noqa: N818  these names are read in except clauses: `except Refused`

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from longwave.v1 import verdict_pb2

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata that holds a serialised `google.rpc.Status` (gRPC's richer error model)."""

_PREFIX: Final = "VERDICT_"
_NUMBERS: Final = {name.removeprefix(_PREFIX): number for name, number in verdict_pb2.Verdict.items()}
_NAMES: Final[dict[int, str]] = {number: name for name, number in _NUMBERS.items()}


def verdict_name(verdict: int) -> str:
    """Name of a verdict without its prefix, such as `ACCEPTED`; `VERDICT_<number>` for one newer than this client."""
    return _NAMES.get(verdict, f"{_PREFIX}{verdict}")


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field at fault, by its path in the request, and what to do about it."""

    field: str
    description: str


class LongwaveError(Exception):
    """A call or a submission that was not answered with what was asked for.

    Attributes:
        verdict: number of the engine's verdict; 0 when the engine gave none.
        reason: its name without `VERDICT_`, or the gRPC status name where there is none.
        status: the gRPC status name; empty for the verdict on one submission of a batch.
        detail: for people: what happened or what to do.
        field_violations: which fields are at fault.
        retry_delay_s: when the server said to come back, in seconds.
        outcome_unknown: it may have been stored or done: ask again with the same request id.
        request_id: of the submission, where the error is about one.
    """

    def __init__(
        self,
        detail: str,
        *,
        verdict: int = 0,
        status: str = "",
        field_violations: tuple[FieldViolation, ...] = (),
        retry_delay_s: float | None = None,
        outcome_unknown: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(detail)
        self.verdict = verdict
        self.reason = verdict_name(verdict) if verdict else status
        self.status = status
        self.detail = detail
        self.field_violations = field_violations
        self.retry_delay_s = retry_delay_s
        self.outcome_unknown = outcome_unknown
        self.request_id = request_id

    def about(self, request_id: str, *, outcome_unknown: bool) -> "LongwaveError":
        """Return the same error as one about a single submission."""
        return type(self)(
            self.detail,
            verdict=self.verdict,
            status=self.status,
            field_violations=self.field_violations,
            retry_delay_s=self.retry_delay_s,
            outcome_unknown=outcome_unknown,
            request_id=request_id,
        )

    def __str__(self) -> str:
        text = f"{self.reason}: {self.detail}" if self.reason else self.detail
        for violation in self.field_violations:
            # A single field's sentence is the detail already: it is not said twice.
            said = "" if violation.description == self.detail else f": {violation.description}"
            text += f" [{violation.field}{said}]"
        return text


class Refused(LongwaveError):
    """The engine said no, and will say no again: nothing was stored."""


class Unauthenticated(Refused):
    """No API key, or one that is unknown, revoked or expired."""


class PermissionDenied(Refused):
    """The API key's role may not do this, or its tenant is suspended."""


class NotFound(Refused):
    """No such resource for this API key."""


class CursorExpired(Refused):
    """The watch cursor is older than the retained events: events are missing from here on."""


class Throttled(LongwaveError):
    """The engine took nothing because there is too much; `retry_delay_s` says when to come back."""


class Unavailable(LongwaveError):
    """No usable answer: not reachable, too late, or broken. `outcome_unknown` says whether it may have happened."""


class WindowFull(LongwaveError):
    """As many submissions wait in this client as it holds, and none was answered in time: this one was never sent."""


class ClientClosed(LongwaveError):
    """The client was closed."""


class InsecureAddressError(ValueError):
    """The address leaves this machine, and neither TLS nor `insecure=True` was given."""


Detail: TypeAlias = error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo
_DETAILS: Final[tuple[type[Detail], ...]] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
)
_UNKNOWN_VERDICTS: Final = range(70, 80)
_DEFINITE_VERDICTS: Final = frozenset({verdict_pb2.VERDICT_NOT_READY, verdict_pb2.VERDICT_DEADLINE_PASSED})
_THROTTLED_VERDICTS: Final = range(60, 70)
_CLASS_BY_VERDICT: Final[dict[int, type[LongwaveError]]] = {
    verdict_pb2.VERDICT_UNAUTHENTICATED: Unauthenticated,
    verdict_pb2.VERDICT_PERMISSION_DENIED: PermissionDenied,
    verdict_pb2.VERDICT_TENANT_SUSPENDED: PermissionDenied,
    verdict_pb2.VERDICT_NOT_FOUND: NotFound,
    verdict_pb2.VERDICT_CAMPAIGN_NOT_FOUND: NotFound,
    verdict_pb2.VERDICT_CURSOR_EXPIRED: CursorExpired,
}
# DATA_LOSS belongs to the broken answers; ABORTED is what proxies and service meshes say for a cut connection.
_CLASS_BY_STATUS: Final[dict[str, type[LongwaveError]]] = {
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "OUT_OF_RANGE": CursorExpired,
    "RESOURCE_EXHAUSTED": Throttled,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": Unavailable,
    "UNKNOWN": Unavailable,
    "INTERNAL": Unavailable,
    "CANCELLED": Unavailable,
    "ABORTED": Unavailable,
    "DATA_LOSS": Unavailable,
}


def outcome_unknown(verdict: int, status: str) -> bool:
    """Whether an answer leaves open if anything was stored (verdict.proto says it for each number)."""
    if verdict:
        return verdict in _UNKNOWN_VERDICTS and verdict not in _DEFINITE_VERDICTS
    return _CLASS_BY_STATUS.get(status, Refused) is Unavailable


def _class_of(verdict: int, status: str) -> type[LongwaveError]:
    if not verdict:
        return _CLASS_BY_STATUS.get(status, Refused)
    if verdict in _THROTTLED_VERDICTS:
        return Throttled
    if verdict in _UNKNOWN_VERDICTS:
        return Unavailable
    return _CLASS_BY_VERDICT.get(verdict, Refused)


def from_verdict(
    verdict: int,
    *,
    field: str = "",
    detail: str = "",
    retry_delay_s: float | None = None,
    request_id: str = "",
    unknown: bool = False,
) -> LongwaveError:
    """Make the error for the verdict on one submission of a batch; `unknown` tells of an earlier try without answer."""
    violations = (FieldViolation(field, detail),) if field else ()
    return _class_of(verdict, "")(
        detail or verdict_name(verdict),
        verdict=verdict,
        field_violations=violations,
        retry_delay_s=retry_delay_s,
        outcome_unknown=unknown or outcome_unknown(verdict, ""),
        request_id=request_id,
    )


def from_call(status: str, detail: str, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> LongwaveError:
    """Make the error for a failed call from its gRPC status name, text and trailing metadata.

    Details that cannot be decoded are left out: a proxy's garbage must not hide the status.
    """
    verdict = 0
    violations: tuple[FieldViolation, ...] = ()
    retry_delay_s: float | None = None
    for packed in _details(trailing_metadata):
        if isinstance(packed, error_details_pb2.ErrorInfo):
            verdict = _verdict_of(packed)
        elif isinstance(packed, error_details_pb2.BadRequest):
            violations = tuple(FieldViolation(item.field, item.description) for item in packed.field_violations)
        else:
            retry_delay_s = packed.retry_delay.seconds + packed.retry_delay.nanos / 1e9
    return _class_of(verdict, status)(
        detail,
        verdict=verdict,
        status=status,
        field_violations=violations,
        retry_delay_s=retry_delay_s,
        outcome_unknown=outcome_unknown(verdict, status),
    )


def _details(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> list[Detail]:
    found: list[Detail] = []
    for key, value in trailing_metadata:
        if key != STATUS_DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for packed in status.details:
                found.extend(kind.FromString(packed.value) for kind in _DETAILS if packed.Is(kind.DESCRIPTOR))
        except DecodeError:
            continue
    return found


def _verdict_of(info: error_details_pb2.ErrorInfo) -> int:
    number = info.metadata.get("number", "")
    if number.isascii() and number.isdigit() and len(number) <= 9:  # noqa: PLR2004  an int32 at most
        return int(number)
    return _NUMBERS.get(info.reason, 0)
