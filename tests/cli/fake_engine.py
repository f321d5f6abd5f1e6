"""A small real gRPC engine for the command line's tests: it accepts, remembers, and delivers when told to.

It judges only what a test scripted, and its registry answers every call with an echo. It can be stopped and started
again on its port with its memory kept, as an engine with a store can.
"""

import threading
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
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

API_KEY = "lw_t_aaaaaaaaaaaa_" + "b" * 32
MADE_KEY = "lw_t_made"
"""What CreateApiKey gives; it works as well."""
POLL_S = 0.02


@dataclass
class FakeEngine:
    """The engine's memory and script."""

    address: str = ""
    batch_messages_max: int = 1000
    refusals: dict[str, int] = field(default_factory=dict)
    """Text → verdict."""
    ends: dict[str, int] = field(default_factory=dict)
    """Text → final state; the others are delivered."""
    hold: bool = False
    """Accept, but end nothing."""
    silent: bool = False
    """End messages without telling watchers."""
    stored: dict[str, tuple[str, messaging_pb2.Submission]] = field(default_factory=dict)
    messages: dict[str, messaging_pb2.Message] = field(default_factory=dict)
    events: list[messaging_pb2.Event] = field(default_factory=list)
    arrivals: list[messaging_pb2.Submission] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    stop_after: int | None = None
    """Set `stopping` and answer UNAVAILABLE from so many arrivals on, once."""
    accepted: threading.Event = field(default_factory=threading.Event)
    """A batch was answered, or is about to be."""
    stopping: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _server: Any = None

    def start(self) -> None:
        self.closed.clear()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
        messaging_pb2_grpc.add_MessagingServiceServicer_to_server(_Messaging(self), self._server)
        compliance_pb2_grpc.add_ComplianceServiceServicer_to_server(_Compliance(self), self._server)
        admin_pb2_grpc.add_ServerServiceServicer_to_server(_Server(self), self._server)
        self._server.add_generic_rpc_handlers((_Registry(self),))
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        assert port
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self.closed.set()
        self._server.stop(grace=None).wait(timeout=10)

    def admit(self, submission: messaging_pb2.Submission) -> messaging_pb2.SubmitResult:
        with self.lock:
            self.arrivals.append(submission)
            refusal = self.refusals.get(submission.text)
            if refusal:
                return messaging_pb2.SubmitResult(
                    verdict=refusal,  # type: ignore[arg-type]
                    field="text",
                    detail="as scripted",
                )
            known = self.stored.get(submission.request_id)
            if known is not None:
                if known[1] != submission:
                    return messaging_pb2.SubmitResult(
                        verdict=verdict_pb2.VERDICT_REQUEST_ID_REUSED, detail="other content before"
                    )
                return self._accepted(known[0])
            name = f"messages/m{len(self.stored) + 1:07d}"
            self.stored[submission.request_id] = (name, submission)
            self._remember(name, submission)
            return self._accepted(name)

    def _remember(self, name: str, submission: messaging_pb2.Submission) -> None:
        state = messaging_pb2.MESSAGE_STATE_QUEUED
        if not self.hold:
            state = self.ends.get(submission.text, messaging_pb2.MESSAGE_STATE_DELIVERED)  # type: ignore[assignment]
        message = messaging_pb2.Message(
            name=name,
            campaign=submission.campaign,
            recipient=submission.recipient,
            text=submission.text,
            state=state,
            reason=messaging_pb2.REASON_RECEIPT,
            segments=1,
        )
        message.accept_time.FromMilliseconds(1_700_000_000_000)
        message.update_time.FromMilliseconds(1_700_000_001_500)
        self.messages[name] = message
        if not self.hold and not self.silent:
            event = messaging_pb2.Event(
                kind=messaging_pb2.Event.KIND_MESSAGE,
                message=name,
                seq=1,
                state=state,
                reason=messaging_pb2.REASON_RECEIPT,
                campaign=submission.campaign,
            )
            event.event_time.FromMilliseconds(1_700_000_001_500)
            self.events.append(event)

    @staticmethod
    def _accepted(name: str) -> messaging_pb2.SubmitResult:
        return messaging_pb2.SubmitResult(
            verdict=verdict_pb2.VERDICT_ACCEPTED,
            message=name,
            segments=1,
            encoding=messaging_pb2.ENCODING_GSM7,
            retry_safe=True,
        )


def _authenticate(context: Any) -> None:
    credential = dict(context.invocation_metadata()).get("authorization")
    if credential not in {f"Bearer {API_KEY}", f"Bearer {MADE_KEY}"}:
        _abort(context, grpc.StatusCode.UNAUTHENTICATED, verdict_pb2.VERDICT_UNAUTHENTICATED, "no valid API key")


def _abort(context: Any, code: grpc.StatusCode, verdict: int, detail: str) -> None:
    name = verdict_pb2.Verdict.Name(verdict).removeprefix("VERDICT_")  # type: ignore[arg-type]
    status = status_pb2.Status(code=code.value[0], message=detail)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=name, domain="longwave", metadata={"number": str(verdict)})
    )
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context.abort(code, detail)


class _Messaging(messaging_pb2_grpc.MessagingServiceServicer):
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def SubmitMessage(self, request: messaging_pb2.SubmitMessageRequest, context: Any) -> Any:  # noqa: ARG002, N802 - gRPC's names
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the SDK sends batches; a single call here is a bug of the client")

    def StreamMessages(self, request_iterator: Any, context: Any) -> Any:  # noqa: ARG002, N802 - gRPC's names
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the command line does not stream")

    def SubmitMessages(self, request: messaging_pb2.SubmitMessagesRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        engine = self.engine
        assert len(request.submissions) <= engine.batch_messages_max
        results = [engine.admit(submission) for submission in request.submissions]
        if engine.stop_after is not None and len(engine.arrivals) >= engine.stop_after:
            engine.stop_after = None
            engine.stopping.set()
            context.abort(grpc.StatusCode.UNAVAILABLE, "stored, never answered")
        engine.accepted.set()
        return messaging_pb2.SubmitMessagesResponse(results=results)

    def GetMessage(self, request: messaging_pb2.GetMessageRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        message = self.engine.messages.get(request.name)
        if message is None:
            _abort(context, grpc.StatusCode.NOT_FOUND, verdict_pb2.VERDICT_NOT_FOUND, "no such resource")
        events = [event for event in self.engine.events if event.message == request.name]
        return messaging_pb2.GetMessageResponse(message=message, timeline=events)

    def ListMessages(self, request: messaging_pb2.ListMessagesRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        self.engine.calls.append(("ListMessages", request))
        names = sorted(self.engine.messages, reverse=True)
        start = int(request.page_token or "0")
        page = names[start : start + request.page_size]
        following = start + request.page_size
        return messaging_pb2.ListMessagesResponse(
            messages=[self.engine.messages[name] for name in page],
            next_page_token=str(following) if following < len(names) else "",
        )

    def CancelMessage(self, request: messaging_pb2.CancelMessageRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        message = messaging_pb2.Message(name=request.name, state=messaging_pb2.MESSAGE_STATE_CANCELLED)
        return messaging_pb2.CancelMessageResponse(message=message)

    def WatchEvents(self, request: messaging_pb2.WatchEventsRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        engine = self.engine
        engine.calls.append(("WatchEvents", request))
        at = {"": len(engine.events), "begin": 0}.get(request.cursor)
        position = int(request.cursor) if at is None else at
        yield messaging_pb2.WatchEventsResponse(cursor=str(position))
        while context.is_active() and not engine.closed.is_set():
            events = engine.events[position:]
            if events:
                position += len(events)
                yield messaging_pb2.WatchEventsResponse(events=events, cursor=str(position))
            engine.closed.wait(POLL_S)


class _Compliance(compliance_pb2_grpc.ComplianceServiceServicer):
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def AddOptOut(self, request: compliance_pb2.AddOptOutRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        opt_out = compliance_pb2.OptOut(recipient=request.recipient, source=compliance_pb2.OPT_OUT_SOURCE_API)
        return compliance_pb2.AddOptOutResponse(opt_out=opt_out)

    def RemoveOptOut(self, request: compliance_pb2.RemoveOptOutRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        return compliance_pb2.RemoveOptOutResponse(removed=request.recipient.endswith("1"))

    def ListOptOuts(self, request: compliance_pb2.ListOptOutsRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        number = "+12025550101" if request.page_token else "+12025550100"
        return compliance_pb2.ListOptOutsResponse(
            opt_outs=[compliance_pb2.OptOut(recipient=number)], next_page_token="" if request.page_token else "more"
        )


class _Server(admin_pb2_grpc.ServerServiceServicer):
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def GetServerInfo(self, request: admin_pb2.GetServerInfoRequest, context: Any) -> Any:  # noqa: N802
        _authenticate(context)
        del request
        limits = admin_pb2.ServerLimits(batch_messages_max=self.engine.batch_messages_max)
        limits.validity_max.FromSeconds(14 * 86_400)
        return admin_pb2.GetServerInfoResponse(
            version="1.2.3", durability_level=admin_pb2.DURABILITY_LEVEL_D1, store="sqlite 3.53", limits=limits
        )


class _Registry(grpc.GenericRpcHandler):
    """Answers each registry call with what its request names."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def service(self, handler_call_details: Any) -> Any:
        _, service, name = handler_call_details.method.split("/")
        if service != "longwave.v1.RegistryService":
            return None
        request_type, response_type = getattr(registry_pb2, f"{name}Request"), getattr(registry_pb2, f"{name}Response")

        def answer(request: Any, context: Any) -> Any:
            _authenticate(context)
            self.engine.calls.append((name, request))
            response = response_type()
            if name == "CreateApiKey":
                response.secret = MADE_KEY
            if name == "SetQuota":
                response.quota.CopyFrom(request.quota)
                response.quota.name = "quotas/7"
            if name == "ListTenants" and not request.page_token:
                response.tenants.add(name="tenants/one", state=registry_pb2.TENANT_STATE_ACTIVE)
                response.next_page_token = "more"
            elif name == "ListTenants":
                response.tenants.add(name="tenants/two", state=registry_pb2.TENANT_STATE_SUSPENDED)
            return response

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request_type.FromString, response_serializer=response_type.SerializeToString
        )
