"""The queue of spans: bounded, counted, and nobody's worry whatever the collector does."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from engine.clock import Clock
from engine.config import Settings
from engine.errors import ConfigError
from engine.metrics import Metrics
from engine.trace_context import SpanContext, root_of
from engine.traces import PASS_SPANS_MAX, Kind, Span, Traces
from engine.traces_otlp import BATCH_SPANS_MAX, OtlpSender, open_traces
from tests.traces.collector import WAIT_S, Collector

HELD = 1000


def settings(endpoint: str, **more: object) -> Settings:
    return Settings(store_url="sqlite:///x.db", traces_endpoint=endpoint, **more)  # type: ignore[arg-type]


def span(number: int) -> Span:
    context = SpanContext(number + 1, number + 1, sampled=True)
    return Span("test", Kind.INTERNAL, context, None, 1_000_000, 1_000_500, {"number": number}, (), failed=False)


def counted(metrics: Metrics, result: str) -> float:
    return metrics.registry.get_sample_value("longwave_traces_spans_total", {"result": result}) or 0


class Stuck(OTLPSpanExporter):
    """Takes as long as it is let."""

    def __init__(self) -> None:
        super().__init__(endpoint="http://127.0.0.1:1/v1/traces")
        self.taking = threading.Event()
        self.goes = threading.Event()
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        self.taking.set()
        self.goes.wait(WAIT_S)
        return self.result


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("0", "sqlite")


async def test_what_is_put_comes_as_it_was(collector: Collector, metrics: Metrics) -> None:
    _, sender = open_traces(settings(collector.endpoint), Clock(0), metrics, "1.2.3")
    sender.start(HELD)
    sender.put(span(1)._replace(parent=root_of(7), links=(root_of(8),), failed=True, kind=Kind.CLIENT))
    [seen] = collector.until(bool)
    await sender.close()
    assert (seen.name, seen.kind, seen.failed, seen.attributes) == ("test", "CLIENT", True, {"number": 1})
    assert (seen.trace, seen.span, seen.parent) == (f"{2:032x}", f"{2:016x}", root_of(7).span_hex)
    assert seen.links == [(root_of(8).trace_hex, root_of(8).span_hex)]
    assert (seen.began_ns, seen.ended_ns) == (1_000_000_000, 1_000_500_000)
    assert collector.resources == [{"service.name": "longwave", "service.version": "1.2.3"}]
    assert counted(metrics, "sent") == 1


async def test_beyond_the_bound_spans_are_dropped_and_counted(metrics: Metrics) -> None:
    stuck = Stuck()
    sender = OtlpSender(stuck, lambda _: ReadableSpan("test"), metrics)
    sender.start(HELD)
    sender.put(span(0))
    assert stuck.taking.wait(WAIT_S)
    for number in range(HELD + 70):
        sender.put(span(number))
    assert counted(metrics, "dropped") == 70
    assert metrics.registry.get_sample_value("longwave_traces_queue_spans") == HELD
    stuck.goes.set()
    await sender.close()
    assert counted(metrics, "sent") + counted(metrics, "dropped") == HELD + 71


async def test_whoever_stops_does_not_wait_for_a_collector_that_hangs(metrics: Metrics) -> None:
    stuck = Stuck()
    sender = OtlpSender(stuck, lambda _: ReadableSpan("test"), metrics)
    sender.start(HELD)
    sender.put(span(0))
    assert stuck.taking.wait(WAIT_S)
    sender.put(span(1))
    await sender.close()
    assert not stuck.goes.is_set()
    assert counted(metrics, "dropped") == 1
    stuck.goes.set()


async def test_what_a_collector_does_not_take_is_counted_and_the_next_is_tried(metrics: Metrics) -> None:
    refusing = Stuck()
    refusing.goes.set()
    refusing.result = SpanExportResult.FAILURE
    sender = OtlpSender(refusing, lambda _: ReadableSpan("test"), metrics)
    sender.start(HELD)
    for number in range(BATCH_SPANS_MAX):
        sender.put(span(number))
    assert refusing.taking.wait(WAIT_S)
    refusing.result = SpanExportResult.SUCCESS
    sender.put(span(0))
    await sender.close()
    assert counted(metrics, "failed") + counted(metrics, "sent") == BATCH_SPANS_MAX + 1
    assert counted(metrics, "failed") > 0


async def test_a_span_that_cannot_be_told_costs_itself_and_no_thread(collector: Collector, metrics: Metrics) -> None:
    _, sender = open_traces(settings(collector.endpoint), Clock(0), metrics, "1")
    sender.start(HELD)
    sender.put(span(1)._replace(attributes={"a": object()}))  # type: ignore[dict-item]
    sender.put(span(2)._replace(context=None))  # type: ignore[arg-type]
    for number in range(BATCH_SPANS_MAX):
        sender.put(span(number))
    collector.until(lambda spans: len(spans) > 0)
    await sender.close()
    assert counted(metrics, "failed") > 0


async def test_headers_for_a_collector_that_asks_for_them_are_the_librarys_own_setting(
    collector: Collector, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20made-up")
    _, sender = open_traces(settings(collector.endpoint), Clock(0), metrics, "1")
    sender.start(HELD)
    sender.put(span(1))
    collector.until(bool)
    await sender.close()
    assert collector.headers[0]["authorization"] == "Bearer made-up"


class Kept:
    """Takes spans as a sender does."""

    def __init__(self) -> None:
        self.taken: list[Span] = []
        self.left = 0

    def put(self, each: Span) -> None:
        self.taken.append(each)

    def left_out(self, spans: int) -> None:
        self.left += spans


def test_a_batch_has_bounded_spans_and_says_so() -> None:
    kept = Kept()
    traces = Traces(kept, Clock(0), ratio=1, parent_based=True, store="sqlite")
    messages = [7 << 22 | number for number in range(PASS_SPANS_MAX + 30)]
    assert traces.passed("schedule", messages, 0) == root_of(messages[0]).trace_hex
    assert (len(kept.taken), kept.left) == (PASS_SPANS_MAX, 30)
    assert {each.attributes["messaging.batch.message_count"] for each in kept.taken} == {len(messages)}


def test_receipts_that_come_together_have_bounded_spans_too() -> None:
    kept = Kept()
    traces = Traces(kept, Clock(0), ratio=1, parent_based=True, store="sqlite")
    traces.received("/webhooks/telnyx", [(7 << 22 | number, 1) for number in range(PASS_SPANS_MAX + 30)], 200)
    assert (len(kept.taken), kept.left) == (PASS_SPANS_MAX, 30)


@pytest.mark.parametrize(
    ("parent_based", "ratio", "sampled", "traced"),
    [(True, 0.0, True, True), (True, 1.0, False, False), (False, 0.0, True, False), (False, 1.0, False, True)],
)
def test_a_call_is_traced_as_its_caller_or_the_ratio_says(
    parent_based: bool,  # noqa: FBT001 - a table
    ratio: float,
    sampled: bool,  # noqa: FBT001
    traced: bool,  # noqa: FBT001
) -> None:
    sender = OtlpSender(Stuck(), lambda _: ReadableSpan("test"), Metrics("0", "sqlite"))
    traces = Traces(sender, Clock(0), ratio=ratio, parent_based=parent_based, store="sqlite")
    parent = SpanContext(5, 6, sampled)
    begun = traces.begins(parent)
    assert (begun is not None) is traced
    assert begun is None or (begun.trace_id == parent.trace_id and begun.span_id != parent.span_id)
    alone = traces.begins(None)
    assert (alone is not None) is (ratio == 1)


def test_without_the_packages_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch, metrics: Metrics) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'longwave-engine\[traces\]'"):
        open_traces(settings("http://127.0.0.1:4318/v1/traces"), Clock(0), metrics, "1")


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector/v1/traces", "http://user:pass@collector/v1/traces"])
def test_what_is_no_place_for_spans_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="LONGWAVE_TRACES_ENDPOINT"):
        settings(url)


def test_the_engine_loads_nothing_of_it_where_traces_are_off() -> None:
    code = "import sys, server.app; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout.strip() == "[]"
