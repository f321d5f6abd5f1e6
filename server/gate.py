"""The one door of all gRPC methods: who calls, how long, how many at once; and what every call ends as.

It knows no method's meaning. Health and reflection pass by it: they need no key. It stands where gRPC looks up
handlers, as the only one: an interceptor would cost every call a coroutine, and a "registered" method costs every call
of the server a future more to wait for.

Invariants: a method of a service that is not listed in `ROLES` is not served; nothing is decoded or done for a caller
before the key was verified and its role allowed it; every error that leaves carries exactly one ErrorInfo
(`server/status.py`); a unary call ends within `UNARY_S_MAX`, whether or not its client set a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import ContextVar
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from typing_extensions import override

from engine.errors import NotReady, Refused, StoreUnavailable, Verdict
from engine.registry.records import Role
from server.auth import Authenticator, Metadata, Principal, require
from server.patience import Patience
from server.status import CODES, DETAILS_KEY, refusal_of, status_of, trailers_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from engine.clock import Clock
    from engine.metrics import Metrics
    from server.call_spans import CallSpan, CallSpans

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
# Refused for these again and again, an address is answered late: a client that works meets them once, if ever.
TRYING: Final = frozenset({Verdict.UNAUTHENTICATED, Verdict.PERMISSION_DENIED, Verdict.UNDECODABLE})
TRIES_A_SECOND: Final = 50
# Wrong calls of a key; more than a list with some wrong numbers in it makes, sent one by one.
MISTAKEN: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND})
MISTAKES_A_SECOND: Final = 200
# What only reads; where their time is up, nothing was done.
READS: Final = ("Get", "List")
# Calls that take submissions: too many bytes there are too large a batch.
SUBMITS: Final = ("SubmitMessage", "SubmitMessages", "StreamMessages")


class Call(NamedTuple):
    """What a handler knows of its call."""

    principal: Principal
    tenant: int
    """Integer key; 0 for an ADMIN key."""
    deadline_us: int
    """On the boot clock; of a unary call never further away than `UNARY_S_MAX`."""


class Refusal(NamedTuple):
    """An error as it is answered."""

    code: grpc.StatusCode
    detail: str
    trailers: tuple[tuple[str, str | bytes], ...]
    wait_s: float
    """How long the answer is to be kept back."""


class RefusedWith(Refused):
    """A refusal whose ErrorInfo says more, such as the cursor to resume from."""

    def __init__(self, verdict: Verdict, detail: str, metadata: dict[str, str], *, retry_delay_us: int = 0) -> None:
        """Keep the parts; `metadata` holds no text, number or key of anyone."""
        super().__init__(verdict, detail, retry_delay_us=retry_delay_us)
        self.metadata = metadata


_CALL: ContextVar[Call] = ContextVar("longwave_call")
# Of the call whose handler was looked up: gRPC decodes it for that, and again for whoever asks the context.
_METADATA: ContextVar[Metadata] = ContextVar("longwave_metadata")
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


class _Bound:
    """Ends unary calls that take longer than the server's own maximum; one timer for all of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started: dict[asyncio.Task[Any], float] = {}  # oldest first
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._started[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)

    def leave(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was this that cancelled the task."""
        self._started.pop(task, None)
        if task in self._late:
            self._late.discard(task)
            return True
        return False

    def _look(self) -> None:
        self._timer = None
        for task, started_s in list(self._started.items()):
            loop = task.get_loop()
            left_s = started_s + self._seconds - loop.time()
            if left_s > 0:
                # At most twenty times a second, however many calls end one by one.
                self._timer = loop.call_later(max(left_s, min(0.05, self._seconds)), self._look)
                return
            del self._started[task]
            self._late.add(task)
            task.cancel()


class Gate(grpc.GenericRpcHandler):
    """Wraps each method once; all state belongs to the loop's thread.

    It takes services as `grpc.aio.Server` does, so that generated code can add them here.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        clock: Clock,
        metrics: Metrics,
        *,
        calls_max: int,
        request_bytes_max: int,
        unary_s_max: float = UNARY_S_MAX,
        spans: CallSpans | None = None,
    ) -> None:
        """Refuse everyone with NOT_READY until `open`: before recovery no key is known.

        `spans` only where calls are traced.
        """
        self._authenticator = authenticator
        self._clock = clock
        self._metrics = metrics
        self._calls_max = calls_max
        self._request_bytes_max = request_bytes_max
        self._unary_s_max = unary_s_max
        self.spans = spans
        self._bound = _Bound(unary_s_max)
        self._patience = Patience()
        self._unknown: Handler = grpc.stream_stream_rpc_method_handler(self._no_such_method)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._guarded: dict[str, Handler] = {}
        self._closed_because: str | None = "the server is starting"
        self.calls = 0
        self.served = 0
        """Calls ever that reached their method, less those that their clients gave up."""

    def open(self) -> None:
        """Let callers in."""
        self._closed_because = None

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Guard the methods of these; for assembly, before the server starts."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Nothing: generated code hands in the same methods a second time, for a way that costs every call more."""

    @override
    def service(self, handler_call_details: Any) -> Handler:
        """The guarded handler of the method; for one that does not exist, a handler that says so."""
        method: str = handler_call_details.method
        _METADATA.set(handler_call_details.invocation_metadata)
        guarded = self._guarded.get(method)
        if guarded is not None:
            return guarded
        handler = next(filter(None, (each.service(handler_call_details) for each in self._handlers)), None)
        if handler is None:
            return self._unknown
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
        late = _deadline_passed if name.startswith(READS) else StoreUnavailable
        bound = self._bound
        counted = self._metrics.calls_of(method)

        async def guarded(request: Any, context: Context) -> Any:
            started_s, refused_s = perf_counter(), 0.0
            span = None if self.spans is None else self.spans.enter(method)
            answered = b""
            code = grpc.StatusCode.OK
            self.calls += 1
            self.served += 1
            try:
                self._enter(role, context, unary=unary)
                span = self._believe(span, method)
                if not handler.request_streaming:
                    if not isinstance(request, bytes):
                        request = await request.unpacked()
                    self.check_bytes(name, request)
                    request = _parsed(parse, request)
                response = await (
                    _within(bound, behaviour(request, context), late) if unary else behaviour(request, context)
                )
                answered = response if render is None or response is None else render(response)
            except grpc.aio.AbortError:
                code = _code_of(context)
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                self.served -= 1
                raise
            except Exception as error:  # noqa: BLE001 - the last place that can answer
                refusal = self.refusal(error, method, partial(_address, context), _prefix)
                # What is kept back from here on is no slowness of ours: a stranger would burn the objective with it.
                code, refused_s = refusal.code, perf_counter()
                # Their frames hold the call, which will hold the error that is raised next.
                error.__traceback__ = error.__context__ = None
                if refusal.wait_s > 0:
                    await self.hold(refusal.wait_s)
                await context.abort(code, refusal.detail, refusal.trailers)
            else:
                return answered
            finally:
                self.calls -= 1
                ended_as, took_s = (
                    "OK" if code is grpc.StatusCode.OK else code.name,
                    (refused_s or perf_counter()) - started_s,
                )
                counted.record(ended_as, took_s)
                if span is not None:
                    span.end(ended_as, answered or b"", counted, took_s)
                # An aborted call holds its error, that this frame, and this frame would hold the call: a hundred
                # thousand objects in such rings stopped the loop for 150 ms when the collector came for them.
                del request, context

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(guarded)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(guarded)
        return grpc.unary_unary_rpc_method_handler(guarded)

    async def _no_such_method(self, _requests: Any, context: Context) -> None:
        try:
            wait_s = self._patience.wait_s(_address(context), TRIES_A_SECOND, perf_counter())
            if wait_s > 0:
                await self.hold(wait_s)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        finally:
            del _requests, context  # or the call would hold itself, as above

    def refusal(self, error: Exception, method: str, address: Callable[[], str], prefix: Callable[[], str]) -> Refusal:
        """What to answer for an error; `address` of the caller and `prefix` of its key are asked where they count."""
        refused = refusal_of(error, method=method)
        code = CODES[refused.verdict]
        wait_s = 0.0
        if refused.verdict in TRYING:
            wait_s = self._patience.wait_s(address(), TRIES_A_SECOND, perf_counter())
        elif code in MISTAKEN:
            wait_s = self._patience.wait_s(prefix(), MISTAKES_A_SECOND, perf_counter())
        return Refusal(code, refused.detail, _trailers(refused), wait_s)

    async def hold(self, wait_s: float) -> None:
        """Keep an answer back."""
        self._patience.held += 1
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._patience.held -= 1

    def let_in(self, calls: int, longest_bytes: int, metadata: Metadata) -> Principal | None:
        """Let in calls of a tenant, of one request each, that came together with one key; None: each is to come alone.

        It does what `guarded` does for each, where there is nothing to refuse; `left` is to be called for each.
        """
        if (
            self._closed_because is not None
            or self.calls + calls > self._calls_max
            or longest_bytes > self._request_bytes_max
        ):
            return None
        principal = self._authenticator.known(metadata, now_us=self._clock.now_us())
        if principal is None or principal.role is not Role.TENANT:
            return None
        self.calls += calls
        self.served += calls
        return principal

    def left(self, calls: int, *, given_up: bool = False) -> None:
        """So many of those have ended."""
        self.calls -= calls
        if given_up:
            self.served -= calls

    def _enter(self, role: Role | None, context: Context, *, unary: bool) -> None:
        """Let a call in and note who it is."""
        if self._closed_because is not None:
            raise NotReady(f"{self._closed_because}; nothing was stored")
        if self.calls > self._calls_max:
            raise Refused(
                Verdict.TOO_MANY_CALLS,
                "as many calls as this server takes are being served; nothing was stored",
                retry_delay_us=TOO_MANY_RETRY_US,
            )
        principal = self._authenticator.authenticate(_METADATA.get(), context.peer, now_us=self._clock.now_us())
        if role is not None:
            require(principal, role)
        left_s = seconds_left(context)
        if left_s is None:
            left_s = self._unary_s_max
        elif left_s <= 0:
            raise _deadline_passed()
        elif unary:
            # Where the client's deadline is the nearer one, gRPC ends the call by itself.
            left_s = min(left_s, self._unary_s_max)
        _CALL.set(Call(principal, principal.tenant or 0, self._clock.mono_us() + int(left_s * US)))

    def _believe(self, span: CallSpan | None, method: str) -> CallSpan | None:
        """The span of a call that was let in."""
        return None if self.spans is None else self.spans.believe(span, method, _METADATA.get())

    def check_bytes(self, name: str, request: bytes) -> None:
        """Raise Refused for a request of more bytes than allowed; also for each request of a stream."""
        if len(request) > self._request_bytes_max:
            verdict = Verdict.INVALID_BATCH if name in SUBMITS else Verdict.INVALID_FIELD
            raise Refused(
                verdict,
                f"the request has {len(request)} bytes, at most {self._request_bytes_max} are taken; nothing is stored",
            )


def _address(context: Any) -> str:
    """Of the peer, without its port."""
    return address_of(context.peer())


def address_of(peer: str) -> str:
    """A peer, as gRPC writes it, without its port."""
    return peer.rpartition(":")[0] or peer


def _prefix() -> str:
    """Of the key of the call that this task serves."""
    return current_call().principal.prefix


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


async def _within(bound: _Bound, work: Awaitable[Result], late: Callable[[], Refused]) -> Result:
    loop = asyncio.get_running_loop()
    task = cast("asyncio.Task[Any]", asyncio.current_task(loop))
    bound.enter(task, loop)
    try:
        return await work
    except asyncio.CancelledError:
        if not bound.leave(task):
            raise
        task.uncancel()
        raise late() from None
    finally:
        bound.leave(task)


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
