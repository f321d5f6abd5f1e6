"""Calls of an engine process as tests of traces make them, and what they look for among the spans that came.

It starts nothing.
"""

import json
import urllib.request
from typing import Any

import grpc
from google.protobuf.message import Message
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from engine.trace_context import root_of
from engine.wire import message_id_of
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import messaging_pb2_grpc
from tests.corridor.carrier_process import CarrierProcess
from tests.server.process_fixture import WAIT_S, EngineProcess
from tests.traces.collector import Seen

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
TEXT = "canary-of-a-message-text"
RECIPIENT, SENDER = "+12025550123", "+12025550100"
SUBMIT = "longwave.v1.MessagingService/SubmitMessage"


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
