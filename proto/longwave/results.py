"""What became of one submission at the door, as the caller sees it.

It does not raise: a refusal is data here, and `SubmitResult.error` is ready to be raised by who wants that.

Invariants:
- exactly one of `accepted` and `error` holds;
- `request_id` is the id the submission was sent with: handing it in again with that id is safe.
"""

from dataclasses import dataclass

from longwave import errors
from longwave.v1 import messaging_pb2, verdict_pb2


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """The verdict on one submission."""

    request_id: str
    verdict: int
    """Number of the verdict; 0 when no answer came (see `error`)."""
    message: str = ""
    """`messages/{message}` when accepted."""
    segments: int = 0
    """How many segments it counts."""
    encoding: int = 0
    """`messaging_pb2.Encoding`."""
    error: errors.LongwaveError | None = None
    """Why it was not accepted."""

    @property
    def accepted(self) -> bool:
        """Whether the engine took durable responsibility."""
        return self.error is None

    @property
    def reason(self) -> str:
        """Name of the verdict, or of the gRPC status where the engine gave no verdict."""
        return errors.verdict_name(self.verdict) if self.error is None else self.error.reason

    @property
    def outcome_unknown(self) -> bool:
        """Whether it may have been accepted all the same: hand it in again with the same request id."""
        return self.error is not None and self.error.outcome_unknown


def from_wire(result: messaging_pb2.SubmitResult, request_id: str, *, unknown: bool) -> SubmitResult:
    """Make the result from the server's answer; `unknown` tells of an earlier try of which nothing is known."""
    verdict = int(result.verdict)
    if verdict == verdict_pb2.VERDICT_ACCEPTED:
        return SubmitResult(request_id, verdict, result.message, result.segments, result.encoding)
    error = errors.from_verdict(
        verdict,
        field=result.field,
        detail=result.detail,
        retry_delay_s=delay_of(result),
        request_id=request_id,
        unknown=unknown,
    )
    return SubmitResult(request_id, verdict, error=error)


def from_error(error: errors.LongwaveError, request_id: str, *, unknown: bool) -> SubmitResult:
    """Make the result of a submission whose call failed for good."""
    about = error.about(request_id, outcome_unknown=unknown or error.outcome_unknown)
    return SubmitResult(request_id, error.verdict, error=about)


def delay_of(result: messaging_pb2.SubmitResult) -> float | None:
    """Return when to come back, in seconds, if the server said so."""
    if not result.HasField("retry_delay"):
        return None
    return max(0.0, result.retry_delay.seconds + result.retry_delay.nanos / 1e9)


class Answers:
    """Collects the results of submissions handed in together, whatever order they come in."""

    __slots__ = ("_missing", "_results")

    def __init__(self, messages: int) -> None:
        self._results: list[SubmitResult | None] = [None] * messages
        self._missing = messages

    def put(self, index: int, result: SubmitResult) -> bool:
        """Take the result of one submission; True when it was the last one missing."""
        self._results[index] = result
        self._missing -= 1
        return not self._missing

    def in_order(self) -> list[SubmitResult]:
        """Return the results so far in the order of the submissions."""
        return [result for result in self._results if result is not None]


def raise_if_all_refused(answers: list[SubmitResult]) -> None:
    """Raise the error of a call that was refused as a whole (such as for its API key); nothing was stored then.

    Raises:
        Refused: the error that all submissions share.
    """
    shared = answers[0].error if answers else None
    if not isinstance(shared, errors.Refused) or not shared.status:
        return
    if all(_same_refusal(answer.error, shared) for answer in answers):
        raise shared


def _same_refusal(error: errors.LongwaveError | None, shared: errors.Refused) -> bool:
    return (
        error is not None
        and not error.outcome_unknown
        and (error.status, error.verdict) == (shared.status, shared.verdict)
    )
