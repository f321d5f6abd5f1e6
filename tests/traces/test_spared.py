"""What is kept out of traces, what becomes of refused calls, examples at /metrics, and what a lost collector costs."""

import signal
import threading

import grpc
import pytest

from engine.trace_context import root_of
from engine.wire import message_id_of
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.engine_fixture import API_KEY
from tests.traces.collector import Collector
from tests.traces.conftest import StartEngine
from tests.traces.following import (
    RECIPIENT,
    SAMPLED,
    SENDER,
    TEXT,
    TRACE,
    call,
    count,
    one,
    receipts,
    samples,
    submit,
    told,
)


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


def test_a_stranger_has_nothing_traced_whatever_it_brings(
    start_engine: StartEngine, tenant_key: str, collector: Collector, edge: str
) -> None:
    """No key, or a made-up one: the ratio decides, or anybody could fill the queue and write into others' traces."""
    engine = start_engine(edge=edge, traces_endpoint=collector.endpoint, traces_ratio="0")
    for key in ("wrong", ""):
        for method, request in (
            ("GetMessage", pb.GetMessageRequest(name="messages/0am9afzbw0400")),
            ("SubmitMessage", pb.SubmitMessageRequest(submission=one())),
        ):
            with pytest.raises(grpc.RpcError):
                call(engine, key, method, request, *SAMPLED)
    submit(engine, tenant_key, 0, *SAMPLED)
    collector.until(bool)
    engine.signal(signal.SIGTERM)
    assert engine.end()[0] == 0
    assert [span.attributes["rpc.response.status_code"] for span in collector.spans] == ["OK"]


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
