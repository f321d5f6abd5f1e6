"""A message followed from its call to its receipt, over either edge, by a real process and a real collector."""

import signal
from typing import Any

import grpc

from engine.trace_context import root_of
from engine.wire import message_id_of
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import messaging_pb2_grpc
from tests.corridor.carrier_process import CarrierProcess
from tests.server.process_fixture import WAIT_S
from tests.traces.collector import Collector, Seen
from tests.traces.conftest import StartEngine
from tests.traces.following import (
    SAMPLED,
    SPAN,
    SUBMIT,
    TRACE,
    call,
    control,
    of,
    one,
    receipts,
    submit,
    told,
)


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
