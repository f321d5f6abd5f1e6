"""A collector for tests: takes OTLP over HTTP as it is on the wire and decodes it with OpenTelemetry's own messages.

It keeps what came and says nothing of whether it should have come.
"""

import gzip
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

WAIT_S: Final = 30
PATH: Final = "/v1/traces"


class Seen(NamedTuple):
    """One span as it came."""

    name: str
    kind: str
    trace: str
    span: str
    parent: str
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    """(trace, span) of each."""
    failed: bool
    began_ns: int
    ended_ns: int


class Collector(AbstractContextManager["Collector"]):
    """Listens on a free port from entry to exit."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.spans: list[Seen] = []
        self.resources: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        """Unpacked, as they came."""
        self.headers: list[dict[str, str]] = []
        self.answers: threading.Event | None = None
        """While it is set to an event, no request is answered until that comes."""
        self._came = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._take(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """An engine that was killed resets its connection."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def endpoint(self) -> str:
        """As LONGWAVE_TRACES_ENDPOINT takes it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{PATH}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self.answers is not None:
            self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT_S)

    def until(self, found: Callable[[list[Seen]], bool]) -> list[Seen]:
        """Wait until what came is so; gives all of it."""
        with self._came:
            came = self._came.wait_for(lambda: found(self.spans), WAIT_S)
            assert came, sorted({(span.name, span.trace[:6]) for span in self.spans})
            return list(self.spans)

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        if self.answers is not None:
            self.answers.wait(WAIT_S)
        assert request.path == PATH
        assert request.headers["content-type"] == "application/x-protobuf"
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        asked = ExportTraceServiceRequest.FromString(body)
        with self._came:
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
            self.bodies.append(body)
            for each in asked.resource_spans:
                self.resources.append(_values(list(each.resource.attributes)))
                self.spans += [_seen(span) for scope in each.scope_spans for span in scope.spans]
            self._came.notify_all()
        answer = ExportTraceServiceResponse().SerializeToString()
        request.send_response(200)
        request.send_header("content-type", "application/x-protobuf")
        request.send_header("content-length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)


def _values(pairs: list[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


def _seen(span: Span) -> Seen:
    return Seen(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _values(list(span.attributes)),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.status.code == Status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )
