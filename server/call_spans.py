"""Spans of gRPC calls: below the caller's, with links to the traces of the messages that a call was answered for.

It decides nothing about which calls are traced (`engine/traces.py` does) and reads no request.

Invariant: of a call its method, its status and the ids it was answered with are shown, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.trace_context import CURRENT, TRACEPARENT, SpanContext, read_traceparent, root_of
from engine.traces import Kind, Span, Traces, new_span_id
from engine.wire import message_id_of
from longwave import contract
from longwave.v1 import messaging_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.metrics import MethodCalls
    from engine.traces import Value
    from server.auth import Metadata

# Of one call, as OpenTelemetry's SDK bounds them by itself.
LINKS_MAX: Final = 128
# The caller's mistakes are no failures of the server (semantic conventions of gRPC, server spans).
_FAILED: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
_OK: Final = "OK"


class CallSpans:
    """Makes them; used on the loop's thread only."""

    def __init__(self, traces: Traces) -> None:
        """On top of the engine's."""
        self._traces = traces

    def begin(self, path: str, metadata: Metadata | None) -> CallSpan | None:
        """A call of this method has come; None where it is not traced."""
        parent = parent_of(metadata)
        context = self._traces.begins(parent)
        return None if context is None else CallSpan(self._traces, path, context, parent)

    def enter(self, path: str) -> CallSpan | None:
        """As `begin`, for the task that serves the call: what it logs names the span.

        Who calls is not known yet, so their `traceparent` is not asked: else a stranger would fill the queue of spans.
        """
        span = self.begin(path, None)
        if span is not None:
            CURRENT.set(span.context)
        return span

    def believe(self, span: CallSpan | None, path: str, metadata: Metadata | None) -> CallSpan | None:
        """The caller was let in: of one who brings a span, the call's goes below it, if there is to be one."""
        if parent_of(metadata) is None:
            return span
        below = self.begin(path, metadata)
        CURRENT.set(None if below is None else below.context)
        return below


class CallSpan:
    """One, until its call ends."""

    __slots__ = ("_began_us", "_parent", "_path", "_traces", "context")

    def __init__(self, traces: Traces, path: str, context: SpanContext, parent: SpanContext | None) -> None:
        """Begin now."""
        self._traces = traces
        self._path = path
        self._parent = parent
        self._began_us = traces.now_us()
        self.context = context

    def end(self, code: str, response: bytes, counted: MethodCalls, took_s: float) -> None:
        """The call ended with this status, by name, and this encoded answer: empty for none, or for a stream.

        It was `counted` there, and becomes an example of its time.
        """
        counted.exemplify(took_s, self.context.trace_hex)
        name = self._path.removeprefix("/")
        told: dict[str, Value] = {"rpc.system.name": "grpc", "rpc.method": name, "rpc.response.status_code": code}
        if code != _OK:
            told["error.type"] = code
        failed, ended_us = code in _FAILED, self._traces.now_us()
        messages = self._traces.picked(messages_in(self._path, response))[:LINKS_MAX] if response else ()
        links = [root_of(message) for message in messages]
        span = Span(name, Kind.SERVER, self.context, self._parent, self._began_us, ended_us, told, links, failed)
        self._traces.put(span)
        # In each message's trace the same, with a link back: whoever looks there finds who brought it.
        for root in links:
            here = SpanContext(root.trace_id, new_span_id(), sampled=True)
            self._traces.put(span._replace(context=here, parent=root, links=(self.context,)))


def parent_of(metadata: Metadata | None) -> SpanContext | None:
    """The caller's span, where its metadata has one."""
    for name, value in metadata or ():
        if name == TRACEPARENT and isinstance(value, str):
            return read_traceparent(value)
    return None


def messages_in(path: str, response: bytes) -> Sequence[int]:
    """Ids of messages that an answer to a submission names; none for other methods."""
    if path == contract.SUBMIT_MESSAGE.path:
        names = [messaging_pb2.SubmitMessageResponse.FromString(response).result.message]
    elif path == contract.SUBMIT_MESSAGES.path:
        names = [result.message for result in messaging_pb2.SubmitMessagesResponse.FromString(response).results]
    else:
        return ()
    return [message_id_of(name, "message") for name in names if name]
