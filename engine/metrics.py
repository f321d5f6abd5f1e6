"""Every metric of the engine, in one registry of its own, with bounded labels.

It measures nothing itself and serves nothing: stages call it, `server/ops.py` exposes it.

Invariants:

- Names without the prefix `longwave_` are those of the operations guide and do not change.
- No phone number, message id or text is ever a label. A label whose values come from outside goes through `bounded`:
  the first N distinct values keep their name until the process ends, the rest counts as `other`.
- So the number of series is bounded by the table below, whatever callers send.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

_M = TypeVar("_M", bound=MetricWrapperBase)

OTHER: Final = "other"
STAGES: Final = ("admit", "append", "schedule", "dispatch", "record", "notify")

# The operations guide's buckets (0.1 s and up) with finer ones below: a receipt is to be answered within 0.2 s.
_HTTP_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# One pass of a stage over a batch: from a scheduler pop (tens of µs) to a dispatch that runs into its 15 s.
_STAGE_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 15)
# Look-ups take 0.2 to 1 ms, accepts 1 to 500. 0.2 s is the objective and 2 s the alert: bounds, no guess between two.
_GRPC_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# A carrier answers in 20 to 500 ms; 3 s is the time to connect, 15 s the end of any attempt (LONGWAVE_SEND_S).
_ATTEMPT_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 15)

_GRPC_REQUESTS: Final = "longwave_grpc_requests_total"
_GRPC_REQUESTS_TEXT: Final = "gRPC calls ended, by method and status code."
_GRPC_SECONDS: Final = "longwave_grpc_request_duration_seconds"
_GRPC_SECONDS_TEXT: Final = "Time of one gRPC call, less what a refusal is kept back."

# The label of examples: Grafana's way from a histogram to a trace.
_TRACE_ID: Final = "trace_id"

# Distinct values kept per label. Campaigns: 200 x 2 directions x 12 states = 4,800 series at the very most.
LABEL_VALUES_MAX: Final = {
    "campaign_id": 200,
    "method": 64,
    "provider": 16,
    "reason": 32,
    "route": 32,
    "scope": 16,
    "tenant": 200,
    "verdict": 128,
}

# Series that are resolved once and kept: each group of calls counts into a few of them.
SERIES_KEPT: Final = 1024


class StageMetrics:
    """Time and messages of one stage; its children are resolved once, as every batch passes here."""

    def __init__(self, seconds: Histogram, messages: Counter) -> None:
        self._observe: Final = seconds.observe
        self._count: Final = messages.inc

    def record(self, seconds: float, messages: int, trace: str | None = None) -> None:
        """Count one pass over a batch of `messages` that took `seconds`; `trace` is its example."""
        if trace is None:
            self._observe(seconds)
        else:
            self._observe(seconds, {_TRACE_ID: trace})
        self._count(messages)


class MethodCalls:
    """Calls of one gRPC method."""

    def __init__(self) -> None:
        self.codes: Final = {"OK": 0}
        self.buckets: Final = [0] * (len(_GRPC_BUCKETS_S) + 1)
        self.examples: Final[dict[int, Exemplar]] = {}
        """The last traced call of each bucket."""
        self.seconds = 0.0

    def record(self, code: str, seconds: float, calls: int = 1) -> None:
        """Count one that ended, or several that took so long each."""
        self.codes[code] = self.codes.get(code, 0) + calls
        self.buckets[bisect_left(_GRPC_BUCKETS_S, seconds)] += calls
        self.seconds += seconds * calls

    def exemplify(self, seconds: float, trace: str) -> None:
        """Keep one that was recorded, and traced, as an example."""
        bucket = bisect_left(_GRPC_BUCKETS_S, seconds)
        self.examples[bucket] = Exemplar({_TRACE_ID: trace}, seconds, time.time())


class _GrpcCalls:
    """Counts all gRPC calls, in plain numbers: each passes here, and would pay the library's locks six times more.

    Counted and read on the loop's thread.
    """

    def __init__(self) -> None:
        self.methods: Final[dict[str, MethodCalls]] = {}
        self._bounds: Final = [*map(floatToGoString, _GRPC_BUCKETS_S), "+Inf"]

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        requests = CounterMetricFamily(_GRPC_REQUESTS, _GRPC_REQUESTS_TEXT, labels=("method", "code"))
        seconds = HistogramMetricFamily(_GRPC_SECONDS, _GRPC_SECONDS_TEXT, labels=("method",))
        for method, calls in self.methods.items():
            for code, count in calls.codes.items():
                requests.add_metric((method, code), count)
            below = 0
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for place, (bound, count) in enumerate(zip(self._bounds, calls.buckets, strict=True)):
                below += count
                example = calls.examples.get(place)
                buckets.append((bound, below) if example is None else (bound, below, example))
            seconds.add_metric((method,), buckets, calls.seconds)
        yield requests
        yield seconds


class Metrics:
    """All metrics of one process. Safe from any thread, except `bounded` and gRPC's, which belong to the loop's."""

    def __init__(self, version: str, store: str) -> None:
        """Register everything; `version` of the build and the kind of `store` become labels of one series."""
        disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each counter, which nothing reads
        self.registry: Final = CollectorRegistry(auto_describe=True)
        self._rows: list[tuple[str, str, tuple[str, ...], str]] = []
        self._seen: dict[str, set[str]] = {label: set() for label in LABEL_VALUES_MAX}
        self._make_guide_metrics()
        self._make_stage_metrics()
        self._make_dispatch_metrics()
        self._make_store_metrics()
        self._processed_of = lru_cache(SERIES_KEPT)(self._find_processed)
        self._verdict_of = lru_cache(SERIES_KEPT)(self._find_verdict)
        self._tenant_of = lru_cache(SERIES_KEPT)(self._find_tenant)
        build = self._gauge("longwave_build_info", "Always 1; what runs is in the labels.", "version", "store")
        build.labels(version, store).set(1)
        self._make_limit_metrics()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def bounded(self, label: str, value: str) -> str:
        """Give `value`, or `other` when the label already has its number of distinct values (`LABEL_VALUES_MAX`)."""
        seen = self._seen[label]
        if value in seen:
            return value
        if len(seen) >= LABEL_VALUES_MAX[label]:
            return OTHER
        seen.add(value)
        return value

    def count_processed(self, direction: str, status: str, campaign_id: str, messages: int = 1) -> None:
        """Count messages that reached `status`; `direction` is `outbound` or `inbound`."""
        self._processed_of(direction, status, campaign_id).inc(messages)

    def count_tenant(self, tenant: str, status: str, messages: int = 1) -> None:
        """Count outbound messages of a tenant that reached `status`, or were refused at the door."""
        self._tenant_of(tenant, status).inc(messages)

    def count_verdict(self, verdict: str, messages: int = 1) -> None:
        """Count verdicts of admit by name."""
        self._verdict_of(verdict).inc(messages)

    def count_attempts(self, provider: str, outcome: str, attempts: int = 1) -> None:
        """Count ended attempts by outcome, a word of the outcome table."""
        self.attempts.labels(self.bounded("provider", provider), outcome).inc(attempts)

    def count_http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one HTTP request; `route` is a template, never a path."""
        route = self.bounded("route", route)
        self.http_requests.labels(method, route, str(status)).inc()
        self.http_request_seconds.labels(method, route).observe(seconds)

    def count_grpc(self, method: str, code: str, seconds: float) -> None:
        """Count one gRPC call; `method` is the full method name, `code` the status by name."""
        self.calls_of(method).record(code, seconds)

    def calls_of(self, method: str) -> MethodCalls:
        """Where calls of a method are counted; whoever counts many asks once."""
        return self._grpc_calls.methods.setdefault(self.bounded("method", method), MethodCalls())

    def _find_processed(self, direction: str, status: str, campaign_id: str) -> Counter:
        return self.messages_processed.labels(direction, status, self.bounded("campaign_id", campaign_id))

    def _find_verdict(self, verdict: str) -> Counter:
        return self.admit_verdicts.labels(self.bounded("verdict", verdict))

    def _find_tenant(self, tenant: str, status: str) -> Counter:
        return self.tenant_messages.labels(self.bounded("tenant", tenant), status)

    def describe(self) -> str:
        """Render the table of docs/METRICS.md: one row a metric, sorted by name, process metrics last."""
        lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        for name, kind, labels, text in sorted(self._rows):
            shown = ", ".join(f"`{label}`" for label in labels)
            lines.append(f"| `{name}` | {kind} | {shown} | {text} |")
        lines.append("| `process_*` | counter, gauge | | The process: CPU, memory, open files, start time. |")
        lines.append("| `python_gc_*` | counter | `generation` | The garbage collector of the interpreter. |")
        return "\n".join(lines) + "\n"

    def _make_guide_metrics(self) -> None:
        self.messages_processed = self._counter(
            "messages_processed_total",
            "Messages by direction, the state they reached and campaign (the first 200 campaigns by name).",
            "direction",
            "status",
            "campaign_id",
        )
        self.message_queue = self._gauge(
            "message_queue_length", "Messages accepted and not yet final: the whole backlog, in memory or not."
        )
        self.backlog = self._gauge(
            "longwave_backlog_messages", "The same by state, as one node counts it for all.", "state"
        )
        self.tenant_messages = self._counter(
            "longwave_tenant_messages_total",
            "Outbound messages by tenant (the first 200 by name) and the state they reached, or `refused` at the door "
            "once their campaign was found.",
            "tenant",
            "status",
        )
        self.custom_queue = self._gauge(
            "custom_queue_length",
            "Messages that more processes could take over now: waiting for their group commit, or allowed by every "
            "limit and without a slot. Never what is paused, for later, or held back by a limit or the provider.",
        )
        self.active_connections = self._gauge("active_connections", "Open database connections.")
        self.http_requests = self._counter(
            "http_requests_total", "HTTP requests answered.", "method", "route", "status_code"
        )
        self.http_request_seconds = self._histogram(
            "http_request_duration_seconds",
            "Time from the last byte of an HTTP request to its answer.",
            _HTTP_BUCKETS_S,
            "method",
            "route",
        )

    def _make_stage_metrics(self) -> None:
        made = {}
        for stage in STAGES:
            seconds = self._histogram(
                f"longwave_{stage}_seconds", f"Time of one pass of the stage {stage} over a batch.", _STAGE_BUCKETS_S
            )
            messages = self._counter(f"longwave_{stage}_messages_total", f"Messages that passed the stage {stage}.")
            made[stage] = StageMetrics(seconds, messages)
        self.stages = made
        self.admit_verdicts = self._counter(
            "longwave_admit_verdicts_total",
            "Verdicts given at the door, by name; of calls refused unread about so many.",
            "verdict",
        )
        self.admit_floor = self._gauge(
            "longwave_admit_floor_levels",
            "Levels of urgency answered OVERLOADED now: up to 16 some BULK, to 32 some TRANSACTIONAL, 48 everything.",
        )
        self.schedule_waiting = self._gauge(
            "longwave_schedule_waiting_messages", "Messages that wait, by what they wait for.", "reason"
        )
        self._grpc_calls = _GrpcCalls()
        self.registry.register(self._grpc_calls)
        self._rows.append((_GRPC_REQUESTS, "counter", ("method", "code"), _GRPC_REQUESTS_TEXT))
        self._rows.append((_GRPC_SECONDS, "histogram", ("method",), _GRPC_SECONDS_TEXT))

    def _make_dispatch_metrics(self) -> None:
        self.attempts = self._counter(
            "longwave_attempts_total", "Attempts ended, by provider and outcome.", "provider", "outcome"
        )
        self.messages_set_aside = self._counter(
            "longwave_messages_set_aside_total",
            "Times a message was set aside because the store refused its row by itself; looked at again each minute.",
        )
        self.unknown_attempts = self._counter(
            "longwave_unknown_attempts_total", "Attempts of which nobody knows whether the provider took them."
        )
        self.dispatch_in_flight = self._gauge(
            "longwave_dispatch_in_flight", "Attempts sent and not yet answered.", "provider"
        )
        self.dispatch_slots = self._gauge("longwave_dispatch_slots", "Attempts the link may hold at once.", "provider")
        self.attempt_seconds = self._histogram(
            "longwave_attempt_seconds",
            "Time from the hand-over of an attempt to its connection until it ended, by provider.",
            _ATTEMPT_BUCKETS_S,
            "provider",
        )
        self.breaker_open = self._gauge(
            "longwave_breaker_open", "1 while the circuit breaker holds attempts back, else 0.", "provider"
        )
        self.quota_parks = self._counter(
            "longwave_quota_parks_total", "Holds because a provider reported a limit, by kind: rate or cap.", "kind"
        )
        self.receipts = self._counter(
            "longwave_receipts_total",
            "Webhooks of carriers: stored (duplicates included), bad_signature, garbage, not_stored, shed; wrong_mac "
            "counts those among the stored that change nothing.",
            "provider",
            "result",
        )

    def _make_limit_metrics(self) -> None:
        self.held_messages_max = self._gauge(
            "longwave_held_messages_max", "Messages that memory holds at most; what waits beyond stays in the store."
        )
        self.memory_limit = self._gauge(
            "longwave_memory_limit_bytes", "Memory that this process may use: its container's limit, or the machine's."
        )
        self.processor_limit = self._gauge(
            "longwave_processor_limit_cores",
            "Processors that this process may use: its container's quota, or those it may run on.",
        )

    def _make_store_metrics(self) -> None:
        self.store_up = self._gauge(
            "longwave_store_up", "1 while the store answers when its durability is looked at, else 0."
        )
        self.store_durable = self._gauge(
            "longwave_store_durable", "1 while the store keeps its durability level, else 0 and nothing is accepted."
        )
        self.store_full = self._gauge("longwave_store_full", "1 while the store's disk is full, else 0.")
        self.owner = self._gauge("longwave_owner", "1 while this process sends: while it owns shards, else 0.")
        self.shards = self._gauge("longwave_shards", "Shards that this process owns, of 64.")
        self.takeovers = self._counter(
            "longwave_takeovers_total", "Times this process took over sending, its start included."
        )
        self.inbox_rows = self._gauge(
            "longwave_inbox_rows", "What nodes handed to the shards of this one and it has not taken up."
        )
        self.inbox_oldest_seconds = self._gauge(
            "longwave_inbox_oldest_seconds", "Age of the oldest of these, 0 without one."
        )
        self.redis_up = self._gauge("longwave_redis_up", "1 while hints of other nodes are heard over Redis, else 0.")
        self.hints = self._counter(
            "longwave_hints_total", "Hints over Redis: told, heard, tell_failed, hear_failed.", "result"
        )
        self.hint_seconds = self._histogram(
            "longwave_hint_seconds", "Time until Redis had taken a hint; nobody waits for it.", _STAGE_BUCKETS_S
        )
        self.cache_lookups = self._counter(
            "longwave_cache_lookups_total",
            "Look-ups of one message, by what answered: local (memory), redis, store.",
            "level",
        )
        self.cache_bytes = self._gauge(
            "longwave_cache_bytes", "Bytes of answers in memory to look-ups of messages that never change again."
        )
        self.cache_redis_errors = self._counter(
            "longwave_cache_redis_errors_total",
            "Times Redis failed or was late: find (the store answered), keep (other nodes ask the store).",
            "doing",
        )
        self.store_connections_in_use = self._gauge(
            "longwave_store_connections_in_use", "Connections to a store on a server that work runs on."
        )
        self.store_connections_waiting = self._gauge(
            "longwave_store_connections_waiting", "Pieces of work that wait for a connection to the store's server."
        )
        self.store_acquire_seconds = self._histogram(
            "longwave_store_acquire_seconds", "Time that work waited for such a connection.", _STAGE_BUCKETS_S
        )
        self.store_partitions_dropped = self._counter(
            "longwave_store_partitions_dropped_total",
            "Partitions, each a day of messages past their retention, that a server's store dropped.",
        )
        self.store_late_rows = self._counter(
            "longwave_store_late_rows_total",
            "Rows of messages and bodies stored before their day had a partition, and moved into it: nobody had made "
            "days ahead for two weeks.",
        )
        self._make_event_metrics()

    def _make_event_metrics(self) -> None:
        self.event_log_position = self._gauge(
            "longwave_event_log_position", "Newest position of the event log, summed over shards."
        )
        self.event_log_oldest_seconds = self._gauge(
            "longwave_event_log_oldest_seconds", "Age of the oldest event still kept."
        )
        self.event_log_subscribers = self._gauge(
            "longwave_event_log_subscribers", "Open event subscriptions (WatchEvents)."
        )
        self.traces_spans = self._counter(
            "longwave_traces_spans_total",
            "Spans of traces: sent, failed (the collector did not take them), dropped (too many waited), left_out (too "
            "many messages of one batch were traced).",
            "result",
        )
        self.traces_queue = self._gauge("longwave_traces_queue_spans", "Spans that wait to be sent.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._note(name, "counter", text, labels, Counter(name, text, labels, registry=self.registry))

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return self._note(name, "gauge", text, labels, Gauge(name, text, labels, registry=self.registry))

    def _histogram(self, name: str, text: str, buckets_s: tuple[float, ...], *labels: str) -> Histogram:
        made = Histogram(name, text, labels, registry=self.registry, buckets=buckets_s)
        return self._note(name, "histogram", text, labels, made)

    def _note(self, name: str, kind: str, text: str, labels: tuple[str, ...], metric: _M) -> _M:
        self._rows.append((name, kind, labels, text))
        return metric
