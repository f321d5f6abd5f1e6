"""The one door of all gRPC methods: who calls, how long, how many at once; and what every call ends as.

It knows no method's meaning. Health and reflection pass by it: they need no key.

Invariants: a method of a service that is not listed in `ROLES` is not served; nothing is decoded or done for a caller
before the key was verified and its role allowed it; every error that leaves carries exactly one ErrorInfo
(`server/status.py`); a unary call ends within `UNARY_S_MAX`, whether or not its client set a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from typing_extensions import override

from engine.errors import NotReady, Refused, StoreUnavailable, Verdict
from engine.registry.records import Role
from server.auth import Authenticator, Principal, require
from server.status import CODES, DETAILS_KEY, refusal_of, status_of, trailers_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from engine.clock import Clock
    from engine.metrics import Metrics

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Result = TypeVar("Result")

PACKAGE: Final = "longwave.v1."
MESSAGING: Final = PACKAGE + "MessagingService"
COMPLIANCE: Final = PACKAGE + "ComplianceService"
REGISTRY: Final = PACKAGE + "RegistryService"
SERVER: Final = PACKAGE + "ServerService"
# The role that a service needs; None: any key, and the service itself says more.
ROLES: Final[dict[str, Role | None]] = {
    MESSAGING: Role.TENANT,
    COMPLIANCE: Role.TENANT,
    REGISTRY: None,
    SERVER: None,
}
OPEN: Final = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})
# Longer than any commit or barrier takes (an attempt ends within 15 s); a call that takes longer hangs.
UNARY_S_MAX: Final = 30.0
# Enough for a burst of this size to be worked off, at some thousand calls a second.
TOO_MANY_RETRY_US: Final = 1_000_000
US: Final = 1_000_000
# What only reads; where their time is up, nothing was done.
READS: Final = ("Get", "List")
# Calls that take submissions: too many bytes there are too large a batch.
SUBMITS: Final = ("SubmitMessage", "SubmitMessages", "StreamMessages")


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler knows of its call."""

    principal: Principal
    tenant: int
    """Integer key; 0 for an ADMIN key."""
    deadline_us: int
    """On the boot clock; of a unary call never further away than `UNARY_S_MAX`."""


class RefusedWith(Refused):
    """A refusal whose ErrorInfo says more, such as the cursor to resume from."""

    def __init__(self, verdict: Verdict, detail: str, metadata: dict[str, str], *, retry_delay_us: int = 0) -> None:
        """Keep the parts; `metadata` holds no text, number or key of anyone."""
        super().__init__(verdict, detail, retry_delay_us=retry_delay_us)
        self.metadata = metadata


_CALL: ContextVar[Call] = ContextVar("longwave_call")
# Work that outlives its caller.
_finishing: set[asyncio.Task[Any]] = set()


def current_call() -> Call:
    """The call that this task serves; LookupError outside of one."""
    return _CALL.get()


async def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end even when the caller goes away: what a commit is followed by must not be cut off."""
    task = asyncio.get_running_loop().create_task(work)
    _finishing.add(task)
    task.add_done_callback(_finishing.discard)
    return await asyncio.shield(task)


class Gate(grpc.aio.ServerInterceptor):
    """Wraps each method once; all state belongs to the loop's thread."""

    def __init__(
        self,
        authenticator: Authenticator,
        clock: Clock,
        metrics: Metrics,
        *,
        calls_max: int,
        request_bytes_max: int,
        unary_s_max: float = UNARY_S_MAX,
    ) -> None:
        """Refuse everyone with NOT_READY until `open`: before recovery no key is known."""
        self._authenticator = authenticator
        self._clock = clock
        self._metrics = metrics
        self._calls_max = calls_max
        self._request_bytes_max = request_bytes_max
        self._unary_s_max = unary_s_max
        self._guarded: dict[str, Handler] = {}
        self._closed_because: str | None = "the server is starting"
        self.calls = 0

    def open(self) -> None:
        """Let callers in."""
        self._closed_because = None

    @override
    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], handler_call_details: Any
    ) -> Handler | None:
        """The guarded handler of the method; None for one that does not exist."""
        method: str = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is not None:
            return guarded
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        service = method.split("/")[1]
        guarded = handler if service in OPEN else self._guard(method, ROLES[service], handler)
        self._guarded[method] = guarded
        return guarded

    def _guard(self, method: str, role: Role | None, handler: Handler) -> Handler:
        name = method.rpartition("/")[2]
        parse, render = handler.request_deserializer, handler.response_serializer
        behaviour: Any = (
            handler.stream_stream if handler.request_streaming else (handler.unary_stream or handler.unary_unary)
        )
        unary = not handler.request_streaming and not handler.response_streaming
        late = self._late_read if name.startswith(READS) else StoreUnavailable
        metrics = self._metrics
        # Resolved once: nearly every call ends like this.
        label = metrics.bounded("method", method)
        count_ok = metrics.grpc_requests.labels(label, grpc.StatusCode.OK.name).inc
        observe = metrics.grpc_request_seconds.labels(label).observe

        async def guarded(request: Any, context: Context) -> Any:
            started_s = perf_counter()
            code = grpc.StatusCode.OK
            self.calls += 1
            try:
                wait_s = self._enter(role, context, unary=unary)
                if not handler.request_streaming:
                    self.check_bytes(name, request)
                    request = _parsed(parse, request)
                if wait_s is None:
                    response = await behaviour(request, context)
                else:
                    response = await _within(wait_s, behaviour(request, context), late)
                return response if render is None or response is None else render(response)
            except grpc.aio.AbortError:
                code = _code_of(context)
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:  # noqa: BLE001 - the last place that can answer
                refused = refusal_of(error, method=method)
                code = CODES[refused.verdict]
                await context.abort(code, refused.detail, _trailers(refused))
            finally:
                self.calls -= 1
                seconds = perf_counter() - started_s
                if code is grpc.StatusCode.OK:
                    count_ok()
                    observe(seconds)
                else:
                    metrics.count_grpc(method, code.name, seconds)

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(guarded)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(guarded)
        return grpc.unary_unary_rpc_method_handler(guarded)

    def _enter(self, role: Role | None, context: Context, *, unary: bool) -> float | None:
        """Let a call in and note who it is. Returns the seconds it may take where no deadline of the client says."""
        if self._closed_because is not None:
            raise NotReady(f"{self._closed_because}; nothing was stored")
        if self.calls > self._calls_max:
            raise Refused(
                Verdict.TOO_MANY_CALLS,
                "as many calls as this server takes are being served; nothing was stored",
                retry_delay_us=TOO_MANY_RETRY_US,
            )
        principal = self._authenticator.authenticate(
            context.invocation_metadata(), context.peer(), now_us=self._clock.now_us()
        )
        if role is not None:
            require(principal, role)
        left_s = seconds_left(context)
        if left_s is not None and left_s <= 0:
            raise _deadline_passed()
        wait_s = self._unary_s_max if left_s is None or unary else left_s
        wait_s = min(wait_s, left_s or wait_s)
        _CALL.set(Call(principal, principal.tenant or 0, self._clock.mono_us() + int(wait_s * US)))
        # Where the client's deadline is the nearer one, gRPC ends the call by itself.
        return wait_s if unary and (left_s is None or wait_s < left_s) else None

    def check_bytes(self, name: str, request: bytes) -> None:
        """Raise Refused for a request of more bytes than allowed; also for each request of a stream."""
        if len(request) > self._request_bytes_max:
            verdict = Verdict.INVALID_BATCH if name in SUBMITS else Verdict.INVALID_FIELD
            raise Refused(
                verdict,
                f"the request has {len(request)} bytes, at most {self._request_bytes_max} are taken; nothing is stored",
            )

    @staticmethod
    def _late_read() -> Refused:
        return _deadline_passed()


def seconds_left(context: Any) -> float | None:
    """Until the client's deadline; None without one, which gRPC's annotations leave out."""
    left_s: float | None = context.time_remaining()
    return left_s


def _code_of(context: Any) -> grpc.StatusCode:
    """What an aborted call was ended with."""
    code: grpc.StatusCode | None = context.code()
    return code or grpc.StatusCode.UNKNOWN


def _deadline_passed() -> Refused:
    return Refused(Verdict.DEADLINE_PASSED, "the deadline passed before the call was taken up; nothing was stored")


def _parsed(parse: Callable[[bytes], Any] | None, request: bytes) -> Any:
    if parse is None:
        return request
    try:
        return parse(request)
    except DecodeError:
        raise Refused(Verdict.UNDECODABLE, "the bytes are not a request of this method") from None


async def _within(wait_s: float, work: Awaitable[Result], late: Callable[[], Refused]) -> Result:
    bound = asyncio.timeout(wait_s)
    try:
        async with bound:
            return await work
    except TimeoutError:
        if not bound.expired():
            raise
        raise late() from None


def _trailers(refused: Refused) -> tuple[tuple[str, str | bytes], ...]:
    """As `status.trailers_of`, with what a `RefusedWith` says in its ErrorInfo."""
    trailers = trailers_of(refused)
    if not isinstance(refused, RefusedWith):
        return trailers
    status = status_of(refused)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            info.metadata.update(refused.metadata)
            detail.Pack(info)
    return ((DETAILS_KEY, status.SerializeToString()), *(pair for pair in trailers if pair[0] != DETAILS_KEY))


def see(future: asyncio.Future[Any]) -> None:
    """Done-callback for a future that nobody may come to await: its error was told to someone else."""
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
