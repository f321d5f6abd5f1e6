"""Sends ended spans to a collector by OTLP over HTTP, from a thread of its own; the only file that knows OpenTelemetry.

It makes no span. The packages are an extra (`longwave-engine[traces]`), loaded only where traces are on.

Invariants: whoever puts a span never waits: the queue is bounded, and what does not fit is dropped and counted; a
collector that is away, slow or refuses costs spans, which are counted, and nothing else; what is sent at the end of the
process has `END_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from engine.errors import ConfigError
from engine.traces import Kind, Span, Traces

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan

    from engine.clock import Clock
    from engine.config import Settings
    from engine.metrics import Metrics
    from engine.trace_context import SpanContext

_log = structlog.get_logger("longwave.traces")

# Of one request: some 500 bytes a span before compression.
BATCH_SPANS_MAX: Final = 512
# A span waits so long for company at most.
LINGER_S: Final = 1.0
# What is left at the end of the process is given so long.
END_S: Final = 1.0
# Of the exporter's own lines, which would come with every batch; ours come when it changes.
_LIBRARY: Final = "opentelemetry"
_NS: Final = 1000
SERVICE: Final = "longwave"


class OtlpSender:
    """A queue and its thread. `put` and `left_out` belong to the loop's thread, the rest is told where it stands."""

    def __init__(self, exporter: OTLPSpanExporter, readable: Callable[[Span], ReadableSpan], metrics: Metrics) -> None:
        """Send by `exporter`; nothing runs before `start`."""
        self._exporter = exporter
        self._readable = readable
        self._queue: deque[Span] = deque()  # the loop appends, the thread takes
        self._spans_max = 0
        self._metrics = metrics
        self._enough = threading.Event()
        self._ending = False
        self._failing = False  # the thread's own
        self._thread: threading.Thread | None = None

    def start(self, spans_max: int) -> None:
        """Begin to send; hold at most so many spans."""
        self._spans_max = spans_max
        self._metrics.traces_queue.set_function(lambda: len(self._queue))
        # A daemon: a process whose store broke does not wait for a collector.
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def put(self, span: Span) -> None:
        """Take one; dropped where too many wait."""
        waiting = len(self._queue)
        if waiting >= self._spans_max:
            self._metrics.traces_spans.labels("dropped").inc()
            return
        self._queue.append(span)
        if waiting + 1 >= BATCH_SPANS_MAX and not self._enough.is_set():
            self._enough.set()

    def left_out(self, spans: int) -> None:
        """So many of one pass were not made."""
        self._metrics.traces_spans.labels("left_out").inc(spans)

    async def close(self) -> None:
        """Send what waits, for at most `END_S`; what is left is lost, and counted."""
        self._ending = True
        self._enough.set()
        thread = self._thread
        if thread is not None:
            await asyncio.to_thread(thread.join, END_S)
            self._exporter.shutdown()  # type: ignore[no-untyped-call] # ends its waits between tries
        self._count("dropped", len(self._taken(self._spans_max)))

    # On the thread.

    def _run(self) -> None:
        ending = False
        while not ending:
            self._enough.wait(LINGER_S)
            self._enough.clear()
            ending = self._ending  # looked at before the queue: what was put before the end is sent
            self._send_all()

    def _taken(self, spans_max: int) -> list[Span]:
        """The oldest, out of the queue; the end of the process takes from it, too."""
        taken: list[Span] = []
        with contextlib.suppress(IndexError):
            while len(taken) < spans_max:
                taken.append(self._queue.popleft())
        return taken

    def _send_all(self) -> None:
        while taken := self._taken(BATCH_SPANS_MAX):
            try:
                taken_up = self._exporter.export([self._readable(span) for span in taken]).name == "SUCCESS"
            except Exception as error:  # noqa: BLE001 - whatever the library meets, the thread goes on
                _log.error("spans could not be sent", error=type(error).__name__)
                taken_up = False
            self._count("sent" if taken_up else "failed", len(taken))
            if taken_up is self._failing:
                self._failing = not taken_up
                (_log.info if taken_up else _log.warning)("collector takes spans" if taken_up else "collector is away")

    def _count(self, result: str, spans: int) -> None:
        if spans:
            self._metrics.traces_spans.labels(result).inc(spans)


def open_traces(settings: Settings, clock: Clock, metrics: Metrics, version: str) -> tuple[Traces, OtlpSender]:
    """What makes spans, and what sends them where the settings say. Raises ConfigError without the packages."""
    sender = OtlpSender(*_library(settings, version), metrics)
    traces = Traces(
        sender,
        clock,
        ratio=settings.traces_ratio,
        parent_based=settings.traces_parent_based,
        store="sqlite" if settings.store_is_embedded else "mysql",
    )
    return traces, sender


def _library(settings: Settings, version: str) -> tuple[OTLPSpanExporter, Callable[[Span], ReadableSpan]]:
    """The exporter, and what makes a span of ours one of the SDK's."""
    try:
        import requests  # noqa: PLC0415 - an extra, loaded only where it is set
        from opentelemetry import trace as api  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http import Compression  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415
    except ImportError as error:
        message = f"LONGWAVE_TRACES_ENDPOINT is set and {error.name} is missing: pip install 'longwave-engine[traces]'"
        raise ConfigError([message]) from None
    logging.getLogger(_LIBRARY).setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False  # no proxy, no .netrc: a collector is near
    exporter = OTLPSpanExporter(
        endpoint=settings.traces_endpoint,
        timeout=settings.traces_export_s,
        compression=Compression.Gzip,
        session=session,
    )
    resource = Resource({"service.name": SERVICE, "service.version": version})
    scope = InstrumentationScope("longwave", version)
    failed, unset = api.Status(api.StatusCode.ERROR), api.Status()
    kinds = {Kind(kind.value): kind for kind in api.SpanKind}

    def context(of: SpanContext) -> api.SpanContext:
        return api.SpanContext(of.trace_id, of.span_id, is_remote=False, trace_flags=api.TraceFlags(int(of.sampled)))

    def readable(span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=context(span.context),
            parent=None if span.parent is None else context(span.parent),
            resource=resource,
            attributes=span.attributes,
            links=[api.Link(context(link)) for link in span.links],
            kind=kinds[span.kind],
            status=failed if span.failed else unset,
            start_time=span.began_us * _NS,
            end_time=span.ended_us * _NS,
            instrumentation_scope=scope,
        )

    return exporter, readable
