"""A small real gRPC server with scripted behaviour, for the tests of both transports.

It is no engine: it checks no content and delivers nothing. It remembers request ids as the engine promises to (same id,
same content: same answer), counts credit, and does the rude things a test asked for.
"""

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Never

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from longwave.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    compliance_pb2,
    compliance_pb2_grpc,
    messaging_pb2,
    messaging_pb2_grpc,
    registry_pb2,
    verdict_pb2,
)

API_KEY = "lw_test_key"


@dataclass(frozen=True)
class Seen:
    """A call as it arrived."""

    method: str
    authorization: str
    deadline_s: float


@dataclass(frozen=True)
class Fail:
    """Answer the next call of a method with an error; `after_storing` does the work first and hides it."""

    code: grpc.StatusCode
    verdict: int = 0
    retry_delay_s: float | None = None
    pushback_ms: str | None = None
    field: str = ""
    after_storing: bool = False


@dataclass
class FakeServer:
    """The server's memory and script; tests read and write it while it serves."""

    address: str = ""
    seen: list[Seen] = field(default_factory=list)
    failures: dict[str, deque[Fail]] = field(default_factory=dict)
    refusals: dict[str, deque[messaging_pb2.SubmitResult]] = field(default_factory=dict)
    stored: dict[str, tuple[str, messaging_pb2.Submission]] = field(default_factory=dict)
    arrivals: list[messaging_pb2.Submission] = field(default_factory=list)
    batch_messages: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    credit_first: int = 10
    credit_returned: bool = True
    credit_exceeded: int = 0
    streams_cut: deque[int] = field(default_factory=deque)
    watch_script: deque[list[messaging_pb2.WatchEventsResponse | Fail]] = field(default_factory=deque)
    watch_cursors: list[str] = field(default_factory=list)
    opt_outs: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, method: str, *failures: Fail) -> None:
        self.failures.setdefault(method, deque()).extend(failures)

    def refuse(self, recipient: str, *answers: messaging_pb2.SubmitResult) -> None:
        self.refusals.setdefault(recipient, deque()).extend(answers)

    def count(self, method: str) -> int:
        return sum(call.method == method for call in self.seen)

    def admit(self, submission: messaging_pb2.Submission) -> messaging_pb2.SubmitResult:
        with self.lock:
            self.arrivals.append(submission)
            known = self.stored.get(submission.request_id)
            if known is not None:
                if known[1] != submission:
                    return messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_REQUEST_ID_REUSED)
                return messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_ACCEPTED, message=known[0], segments=1)
            script = self.refusals.get(submission.recipient)
            if script:
                return script.popleft()
            name = f"messages/m{len(self.stored) + 1}"
            self.stored[submission.request_id] = (name, submission)
        return messaging_pb2.SubmitResult(verdict=verdict_pb2.VERDICT_ACCEPTED, message=name, segments=1)

    def enter(self, method: str, context: Any) -> Fail | None:
        metadata = dict(context.invocation_metadata())
        self.seen.append(Seen(method, str(metadata.get("authorization", "")), context.time_remaining()))
        self.arrived.release()
        self.gate.wait(timeout=30)
        script = self.failures.get(method)
        return script.popleft() if script else None

    def deadlines_within(self, *bounds_s: float) -> bool:
        """Whether the calls seen had these deadlines at most (the last one for all that follow).

        One hundredth is left for gRPC, which rounds a deadline up when it writes it into a header.
        """
        bounds = [*bounds_s, *[bounds_s[-1]] * (len(self.seen) - len(bounds_s))]
        return all(0 < call.deadline_s <= bound * 1.01 for call, bound in zip(self.seen, bounds, strict=True))

    def copies(self) -> Counter[str]:
        """How often each request id arrived."""
        return Counter(submission.request_id for submission in self.arrivals)


def abort(context: Any, failure: Fail) -> Never:
    """End a call with rich details, as the engine does."""
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = []
    if failure.verdict:
        name = verdict_pb2.Verdict.Name(failure.verdict).removeprefix("VERDICT_")  # type: ignore[arg-type]
        details.append(
            error_details_pb2.ErrorInfo(reason=name, domain="longwave", metadata={"number": str(failure.verdict)})
        )
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=failure.field, description="is wrong")
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if failure.retry_delay_s is not None:
        delay = duration_pb2.Duration(nanos=int(failure.retry_delay_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=failure.code.value[0], message="scripted")
    for detail in details:
        status.details.add().Pack(detail)
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    if failure.pushback_ms is not None:
        trailing.append(("grpc-retry-pushback-ms", failure.pushback_ms))
    context.set_trailing_metadata(trailing)
    context.abort(failure.code, "scripted")
    raise AssertionError("abort raises")


class Messaging(messaging_pb2_grpc.MessagingServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def SubmitMessage(self, request: messaging_pb2.SubmitMessageRequest, context: Any) -> Any:  # noqa: N802
        """Refuse: the SDK hands in single submissions by the batch call too."""
        del request
        abort(context, Fail(grpc.StatusCode.UNIMPLEMENTED))

    def SubmitMessages(self, request: messaging_pb2.SubmitMessagesRequest, context: Any) -> Any:  # noqa: N802
        failure = self.fake.enter("SubmitMessages", context)
        if failure is not None and not failure.after_storing:
            abort(context, failure)
        self.fake.batch_messages.append(len(request.submissions))
        results = [self.fake.admit(submission) for submission in request.submissions]
        if failure is not None:
            abort(context, failure)
        return messaging_pb2.SubmitMessagesResponse(results=results)

    def StreamMessages(  # noqa: N802
        self, request_iterator: Iterator[messaging_pb2.StreamMessagesRequest], context: Any
    ) -> Iterator[messaging_pb2.StreamMessagesResponse]:
        failure = self.fake.enter("StreamMessages", context)
        if failure is not None:
            abort(context, failure)
        cut_after = self.fake.streams_cut.popleft() if self.fake.streams_cut else -1
        granted = [self.fake.credit_first]
        requests: queue.SimpleQueue[messaging_pb2.StreamMessagesRequest | None] = queue.SimpleQueue()

        def read() -> None:
            # Counts what arrives before it is answered: a client that sends ahead of its credit is seen.
            try:
                for request in request_iterator:
                    granted[0] -= len(request.submissions)
                    self.fake.credit_exceeded += granted[0] < 0
                    requests.put(request)
            except grpc.RpcError:
                pass  # the client went away
            requests.put(None)

        threading.Thread(target=read, daemon=True).start()
        yield messaging_pb2.StreamMessagesResponse(credit=self.fake.credit_first)
        while (request := requests.get()) is not None:
            results = [self.fake.admit(submission) for submission in request.submissions]
            if cut_after == 0:
                abort(context, Fail(grpc.StatusCode.UNAVAILABLE))  # stored, never answered
            cut_after -= 1
            again = len(request.submissions) if self.fake.credit_returned else 0
            granted[0] += again
            yield messaging_pb2.StreamMessagesResponse(sequence=request.sequence, results=results, credit=again)

    def GetMessage(self, request: messaging_pb2.GetMessageRequest, context: Any) -> Any:  # noqa: N802
        failure = self.fake.enter("GetMessage", context)
        if failure is not None:
            abort(context, failure)
        return messaging_pb2.GetMessageResponse(message=messaging_pb2.Message(name=request.name))

    def ListMessages(self, request: messaging_pb2.ListMessagesRequest, context: Any) -> Any:  # noqa: N802
        self.fake.enter("ListMessages", context)
        page = int(request.page_token or "0")
        names = [messaging_pb2.Message(name=f"messages/{request.campaign}-{page}-{i}") for i in range(2)]
        # The second page is empty: a page may hold fewer than asked and still have a next one.
        return messaging_pb2.ListMessagesResponse(
            messages=[] if page == 1 else names, next_page_token=str(page + 1) if page < 2 else ""
        )

    def CancelMessage(self, request: messaging_pb2.CancelMessageRequest, context: Any) -> Any:  # noqa: N802
        failure = self.fake.enter("CancelMessage", context)
        if failure is not None:
            abort(context, failure)
        message = messaging_pb2.Message(name=request.name, state=messaging_pb2.MESSAGE_STATE_CANCELLED)
        return messaging_pb2.CancelMessageResponse(message=message)

    def WatchEvents(  # noqa: N802
        self, request: messaging_pb2.WatchEventsRequest, context: Any
    ) -> Iterator[messaging_pb2.WatchEventsResponse]:
        self.fake.enter("WatchEvents", context)
        self.fake.watch_cursors.append(request.cursor)
        for step in self.fake.watch_script.popleft() if self.fake.watch_script else []:
            if isinstance(step, Fail):
                abort(context, step)
            yield step


class Compliance(compliance_pb2_grpc.ComplianceServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def AddOptOut(self, request: compliance_pb2.AddOptOutRequest, context: Any) -> Any:  # noqa: N802
        failure = self.fake.enter("AddOptOut", context)
        self.fake.opt_outs.add(request.recipient)
        if failure is not None:
            abort(context, failure)
        return compliance_pb2.AddOptOutResponse(opt_out=compliance_pb2.OptOut(recipient=request.recipient))

    def RemoveOptOut(self, request: compliance_pb2.RemoveOptOutRequest, context: Any) -> Any:  # noqa: N802
        self.fake.enter("RemoveOptOut", context)
        removed = request.recipient in self.fake.opt_outs
        self.fake.opt_outs.discard(request.recipient)
        return compliance_pb2.RemoveOptOutResponse(removed=removed)

    def ListOptOuts(self, request: compliance_pb2.ListOptOutsRequest, context: Any) -> Any:  # noqa: N802
        self.fake.enter("ListOptOuts", context)
        numbers = sorted(self.fake.opt_outs)
        at = int(request.page_token or "0")
        return compliance_pb2.ListOptOutsResponse(
            opt_outs=[compliance_pb2.OptOut(recipient=number) for number in numbers[at : at + 1]],
            next_page_token=str(at + 1) if at + 1 < len(numbers) else "",
        )


class Server(admin_pb2_grpc.ServerServiceServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def GetServerInfo(self, request: admin_pb2.GetServerInfoRequest, context: Any) -> Any:  # noqa: N802
        failure = self.fake.enter("GetServerInfo", context)
        if failure is not None:
            abort(context, failure)
        del request
        return admin_pb2.GetServerInfoResponse(version="1.2.3")


class _AnyRegistryCall(grpc.GenericRpcHandler):
    """Answers each registry call with its empty response."""

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake

    def service(self, handler_call_details: Any) -> Any:
        _, service, name = handler_call_details.method.split("/")
        if service != "longwave.v1.RegistryService":
            return None
        request, response = getattr(registry_pb2, f"{name}Request"), getattr(registry_pb2, f"{name}Response")

        def answer(_request: Any, context: Any) -> Any:
            self.fake.enter(name, context)
            return response()

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=response.SerializeToString
        )


def start(fake: FakeServer) -> Callable[[], None]:
    """Serve on a free port of 127.0.0.1, set `fake.address`, and return what stops it."""
    fake.gate.set()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    messaging_pb2_grpc.add_MessagingServiceServicer_to_server(Messaging(fake), server)
    compliance_pb2_grpc.add_ComplianceServiceServicer_to_server(Compliance(fake), server)
    admin_pb2_grpc.add_ServerServiceServicer_to_server(Server(fake), server)
    server.add_generic_rpc_handlers((_AnyRegistryCall(fake),))
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    def stop() -> None:
        fake.gate.set()
        server.stop(grace=None).wait(timeout=10)

    return stop
