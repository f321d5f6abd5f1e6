"""The overload driver and its curve: what is offered is what was asked for, and each call is counted once."""

import asyncio
import contextlib
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from loadtest.overload import curve
from loadtest.overload.__main__ import Row
from loadtest.overload.driver import MIX, Driver, Phase, due_times
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

PHASE = Phase("2 x", 20_000, 1.0)


def test_calls_are_due_in_order_and_in_the_shares_asked_for() -> None:
    due = due_times(PHASE)
    assert [at_s for at_s, _ in due] == sorted(at_s for at_s, _ in due)
    messages = dict.fromkeys(MIX, 0)
    for _, message_class in due:
        messages[message_class] += MIX[message_class][1]
    total = sum(messages.values())
    assert total == pytest.approx(20_000, rel=0.05)
    for message_class, (share, _) in MIX.items():
        assert messages[message_class] / total == pytest.approx(share, abs=0.03)


class Answers(grpc.GenericRpcHandler):
    """CRITICAL is stored, TRANSACTIONAL refused whole, of BULK every second message refused."""

    def service(self, _details: object) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        submissions = pb.SubmitMessagesRequest.FromString(request).submissions
        if submissions[0].message_class == pb.MESSAGE_CLASS_TRANSACTIONAL:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        every = 2 if submissions[0].message_class == pb.MESSAGE_CLASS_BULK else 1
        verdicts = [
            verdict_pb2.VERDICT_ACCEPTED if place % every == 0 else verdict_pb2.VERDICT_OVERLOADED
            for place in range(len(submissions))
        ]
        results = [pb.SubmitResult(verdict=verdict) for verdict in verdicts]
        return pb.SubmitMessagesResponse(results=results).SerializeToString()


@contextlib.asynccontextmanager
async def answering() -> AsyncIterator[Driver]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Answers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    driver = Driver(f"127.0.0.1:{port}", "key")
    try:
        yield driver
    finally:
        await driver.close()
        await server.stop(0)


async def test_each_message_is_counted_once() -> None:
    async with answering() as driver:
        came = await driver.run(PHASE)
    critical, transactional, bulk = (came.classes[name] for name in ("CRITICAL", "TRANSACTIONAL", "BULK"))
    assert (critical.stored, critical.refused, critical.unanswered) == (critical.offered, 0, 0)
    assert (transactional.stored, transactional.refused) == (0, transactional.offered)
    assert (bulk.stored, bulk.refused) == (bulk.offered / 2, bulk.offered / 2)
    assert sum(came.stored_by_second) == critical.stored + bulk.stored
    assert len(critical.latencies_ms) * 10 == critical.offered
    assert not transactional.latencies_ms + bulk.latencies_ms


async def test_what_is_not_answered_in_time_is_counted_as_such() -> None:
    driver = Driver("127.0.0.1:9", "key")  # nobody is there
    came = await asyncio.wait_for(driver.run(Phase("1 x", 2_000, 0.2)), 10)
    await driver.close()
    for counted in came.classes.values():
        assert counted.unanswered == counted.offered


async def test_capacity_is_what_a_few_calls_at_once_give() -> None:
    async with answering() as driver:
        came = await driver.run(Phase("capacity", 0, 0.3))
    assert came.classes["CRITICAL"].stored > 0
    assert came.classes["BULK"].offered > came.classes["CRITICAL"].offered


def row(mode: str, name: str, offered: float, stored: float) -> Row:
    return Row(mode, name, offered, stored, stored / 1000, 10, 20, {"CRITICAL": 100.0}, 0, 0, 100, 0)


def test_the_curve_is_a_drawing_and_the_table_has_every_phase() -> None:
    rows = [row("a", "0.8 x", 800, 800), row("a", "5 x", 5000, 950), row("b", "5 x", 5000, 10)]
    drawing = ET.fromstring(curve.drawn(rows, 1000))  # noqa: S314 - our own
    paths = [path for path in drawing.iter("{http://www.w3.org/2000/svg}path") if path.get("fill") == "none"]
    assert len(paths) == 2
    assert len(curve.table(rows).splitlines()) == 2 + len(rows)
    assert curve.quantile([], 0.99) == 0
    assert curve.quantile([float(value) for value in range(100)], 0.99) == 99
