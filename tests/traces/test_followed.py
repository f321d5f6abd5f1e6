"""A message followed from its call to its receipt, over either edge, by a real process and a real collector."""

import json
import signal
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from engine.trace_context import root_of
from engine.wire import message_id_of
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import messaging_pb2_grpc
from tests.corridor.carrier_process import QUICK, CarrierProcess
from tests.corridor.engine_fixture import API_KEY
from tests.server.process_fixture import WAIT_S, EngineProcess
from tests.traces.collector import Collector, Seen

StartEngine = Callable[..., EngineProcess]

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
TEXT = "canary-of-a-message-text"
RECIPIENT, SENDER = "+12025550123", "+12025550100"
SUBMIT = "longwave.v1.MessagingService/SubmitMessage"


@pytest.fixture(autouse=True)
def renewed(carrier: CarrierProcess) -> None:
    """The carrier forgets what it took, and does everything at once."""
    control(carrier, "PUT", "config", QUICK)
    control(carrier, "POST", "reset", {})


def control(carrier: CarrierProcess, method: str, path: str, values: dict[str, Any] | None = None) -> bytes:
    body = None if values is None else json.dumps(values).encode()
    url = f"http://127.0.0.1:{carrier.port}/control/{path}"
    request = urllib.request.Request(url, body, method=method)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answered:  # noqa: S310
        found: bytes = answered.read()
        return found


def call(engine: EngineProcess, key: str, method: str, request: Message, *more: tuple[str, str]) -> Any:
    with grpc.insecure_channel(engine.grpc, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = getattr(messaging_pb2_grpc.MessagingServiceStub(channel), method)
        return stub(request, metadata=(("authorization", f"Bearer {key}"), *more), timeout=WAIT_S)


def one(number: int = 0) -> pb.Submission:
    return pb.Submission(
        campaign="campaigns/notices",
        sender=SENDER,
        recipient=RECIPIENT,
        text=f"{TEXT} {number}",
        request_id=f"canary-of-a-request-id-{number}",
        client_reference="canary-of-a-reference",
    )


def submit(engine: EngineProcess, key: str, number: int, *more: tuple[str, str]) -> int:
    answer = call(engine, key, "SubmitMessage", pb.SubmitMessageRequest(submission=one(number)), *more)
    return message_id_of(answer.result.message, "message")


def of(spans: list[Seen], message: int) -> list[Seen]:
    return [span for span in spans if span.trace == root_of(message).trace_hex]


def told(spans: list[Seen], message: int, *names: str) -> bool:
    """Whether the message's trace has all of these."""
    return set(names) <= {span.name for span in of(spans, message)}


def receipts(spans: list[Seen], message: int) -> list[Seen]:
    return [span for span in of(spans, message) if span.name == "POST /webhooks/telnyx"]


def metrics(engine: EngineProcess) -> str:
    headers = {"accept": "application/openmetrics-text; version=1.0.0"}
    request = urllib.request.Request(f"{engine.http}/metrics", headers=headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=WAIT_S) as answered:  # noqa: S310
        assert answered.headers["content-type"].startswith("application/openmetrics-text")
        text: str = answered.read().decode()
        return text


def samples(engine: EngineProcess) -> list[Sample]:
    families = text_string_to_metric_families(metrics(engine))  # type: ignore[no-untyped-call]
    return [sample for family in families for sample in family.samples]


def count(engine: EngineProcess, result: str) -> float:
    labels = {"result": result}
    found = (each for each in samples(engine) if each.name == "longwave_traces_spans_total" and each.labels == labels)
    return sum(each.value for each in found)


def test_a_message_is_followed_from_its_call_to_its_receipt(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="1")
    message = submit(engine, tenant_key, 0, *SAMPLED)
    names = ("message", "admit", "append", "schedule", "dispatch", "POST", "record", SUBMIT)
    # Sent and delivered: two receipts, each recorded, beside the outcome.
    spans = collector.until(
        lambda spans: (
            told(spans, message, *names)
            and len(receipts(spans, message)) == 2
            and sum(span.name == "record" for span in of(spans, message)) == 3
            and any(span.trace == TRACE for span in spans)
        )
    )
    [served] = [span for span in spans if span.trace == TRACE]
    root = root_of(message)
    assert (served.name, served.kind, served.parent) == (SUBMIT, "SERVER", SPAN)
    assert served.links == [(root.trace_hex, root.span_hex)]
    assert served.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": SUBMIT,
        "rpc.response.status_code": "OK",
    }

    trace = of(spans, message)
    by_name = {span.name: span for span in trace}
    assert (by_name["message"].span, by_name["message"].parent) == (root.span_hex, "")
    assert {span.parent for span in trace if span.name != "message"} == {root.span_hex}
    assert by_name[SUBMIT].links == [(served.trace, served.span)]
    assert by_name["append"].attributes["db.system.name"] == "sqlite"
    sent = by_name["POST"]
    assert (sent.kind, sent.attributes["http.response.status_code"], sent.attributes["longwave.attempt"]) == (
        "CLIENT",
        200,
        1,
    )
    facts = sorted(span.attributes["longwave.fact"] for span in trace if span.name == "record")
    assert facts == ["outcome", "receipt", "receipt"]
    begins = [by_name[name].began_ns for name in ("admit", "append", "schedule", "dispatch", "POST")]
    assert begins == sorted(begins)
    assert all(span.began_ns <= span.ended_ns for span in trace)


def test_who_watches_is_told_within_the_messages_trace(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="1")
    message = submit(engine, tenant_key, 0)
    with grpc.insecure_channel(engine.grpc, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = messaging_pb2_grpc.MessagingServiceStub(channel)
        key = (("authorization", f"Bearer {tenant_key}"),)
        watch: Any = stub.WatchEvents(pb.WatchEventsRequest(cursor="begin"), metadata=key, timeout=WAIT_S)
        next(answer for answer in watch if answer.events)
        spans = collector.until(lambda spans: told(spans, message, "notify"))
        watch.cancel()
    told_of = next(span for span in of(spans, message) if span.name == "notify")
    assert told_of.parent == root_of(message).span_hex


def test_messages_of_a_batch_are_linked_and_calls_without_a_caller_begin_traces(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="1")
    request = pb.SubmitMessagesRequest(submissions=[one(number) for number in range(5)])
    answer = call(engine, tenant_key, "SubmitMessages", request)
    messages = [message_id_of(result.message, "message") for result in answer.results]
    single = submit(engine, tenant_key, 9)
    name = "longwave.v1.MessagingService/SubmitMessages"

    def calls(spans: list[Seen]) -> list[Seen]:
        return [span for span in spans if span.kind == "SERVER" and span.parent == "" and span.name in {name, SUBMIT}]

    found = {span.name: span for span in calls(collector.until(lambda spans: len(calls(spans)) == 2))}
    assert found[name].links == [(root_of(each).trace_hex, root_of(each).span_hex) for each in messages]
    assert found[SUBMIT].links == [(root_of(single).trace_hex, root_of(single).span_hex)]


def test_what_the_caller_does_not_trace_is_not_traced_and_none_is_at_a_ratio_of_none(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="0")
    submit(engine, tenant_key, 0, ("traceparent", f"00-{TRACE}-{SPAN}-00"))
    submit(engine, tenant_key, 1, ("traceparent", "nonsense"))
    submit(engine, tenant_key, 2)
    submit(engine, tenant_key, 3, *SAMPLED)
    spans = collector.until(bool)
    engine.signal(signal.SIGTERM)
    assert engine.end()[0] == 0
    assert {(span.name, span.trace) for span in spans} == {(SUBMIT, TRACE)}
    assert len(collector.spans) == 1
    assert spans[0].links == []


def test_a_refused_call_says_its_status_and_counts_as_the_callers_mistake(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="1")
    wrong = one()
    wrong.recipient = "+1202555"
    for more in (SAMPLED, ()):
        with pytest.raises(grpc.RpcError):
            call(engine, tenant_key, "SubmitMessage", pb.SubmitMessageRequest(submission=wrong), *more)
    with pytest.raises(grpc.RpcError):
        call(engine, "wrong", "GetMessage", pb.GetMessageRequest(name="messages/0am9afzbw0400"), *SAMPLED)
    spans = collector.until(lambda spans: len(spans) == 3)
    statuses = {(span.attributes["rpc.response.status_code"], span.attributes["error.type"]) for span in spans}
    assert statuses == {("INVALID_ARGUMENT", "INVALID_ARGUMENT"), ("UNAUTHENTICATED", "UNAUTHENTICATED")}
    assert not any(span.failed for span in spans)


def test_a_receipt_of_a_later_life_is_in_the_same_trace(
    start_engine: StartEngine, tenant_key: str, collector: Collector, carrier: CarrierProcess
) -> None:
    """The process that sent is killed; another one takes the receipt, and knows the trace by the message's id."""
    control(carrier, "PATCH", "config", {"receipt_delay_min_ms": 3000, "receipt_delay_mean_ms": 3001,
                                         "receipt_delay_max_ms": 3002})  # fmt: skip
    first = start_engine(traces_endpoint=collector.endpoint, traces_ratio="1")
    message = submit(first, tenant_key, 0)
    collector.until(lambda spans: told(spans, message, "message", "POST", "record"))
    first.kill()
    assert receipts(collector.spans, message) == []
    start_engine(traces_endpoint=collector.endpoint, traces_ratio="1")
    collector.until(lambda spans: bool(receipts(spans, message)))


def test_no_text_number_or_secret_is_in_what_the_collector_gets(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="1")
    message = submit(engine, tenant_key, 0, *SAMPLED, ("tracestate", "vendor=canary-of-a-state"))
    request = pb.SubmitMessagesRequest(submissions=[one(number) for number in range(1, 4)])
    call(engine, tenant_key, "SubmitMessages", request, *SAMPLED)
    with pytest.raises(grpc.RpcError):
        call(engine, tenant_key, "SubmitMessage", pb.SubmitMessageRequest(submission=pb.Submission(text=TEXT)))
    collector.until(lambda spans: told(spans, message, "POST", "record") and len(receipts(spans, message)) == 2)
    engine.signal(signal.SIGTERM)
    code, logged = engine.end()
    assert code == 0
    everything = b"".join(collector.bodies)
    assert everything
    for canary in ("canary", RECIPIENT[2:], SENDER[2:], tenant_key, tenant_key.rpartition("_")[2], API_KEY, "mac="):
        assert canary.encode() not in everything, canary
        assert canary not in logged, canary


def test_examples_of_latency_name_traces(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="1")
    message = submit(engine, tenant_key, 0, *SAMPLED)
    collector.until(lambda spans: len(receipts(spans, message)) == 2 and told(spans, message, "POST", "record"))
    examples: dict[str, set[str]] = {}
    for sample in samples(engine):
        if sample.exemplar is not None:
            examples.setdefault(sample.name.removesuffix("_bucket"), set()).add(sample.exemplar.labels["trace_id"])
    assert TRACE in examples["longwave_grpc_request_duration_seconds"]
    for stage in ("append", "schedule", "dispatch", "record"):
        assert examples[f"longwave_{stage}_seconds"] == {root_of(message).trace_hex}


def test_a_collector_that_hangs_or_is_away_costs_spans_and_no_message(
    start_engine: StartEngine, tenant_key: str, edge: str
) -> None:
    with Collector() as collector:
        collector.answers = threading.Event()
        engine = start_engine(
            edge=edge,
            traces_endpoint=collector.endpoint,
            traces_ratio="1",
            traces_queue_spans_max="512",
            traces_export_s="60",
        )
        ids = []
        for batch in range(4):
            submissions = [one(1000 * batch + number) for number in range(200)]
            answer = call(engine, tenant_key, "SubmitMessages", pb.SubmitMessagesRequest(submissions=submissions))
            ids += [message_id_of(result.message, "message") for result in answer.results]
        assert len(set(ids)) == 800
        assert count(engine, "dropped") > 0
        assert count(engine, "left_out") > 0
        assert count(engine, "sent") == 0
    submit(engine, tenant_key, 99_999, *SAMPLED)  # now it is away
    engine.signal(signal.SIGTERM)
    code, logged = engine.end()
    assert code == 0
    assert "Traceback" not in logged
