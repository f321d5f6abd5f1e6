"""Whoever is refused again and again is answered late, and nobody else is."""

import asyncio
import time

import grpc
import grpc.aio
import pytest

from engine.errors import Refused, Verdict
from longwave.v1 import messaging_pb2 as pb
from server import gate, patience
from server.patience import Patience
from tests.proof.abuse import wire
from tests.server.conftest import WAIT_S, Server, StartServer

pytestmark = pytest.mark.timeout(60)
SETTING_CONCURRENT_STREAMS = 3
NOBODY = pb.GetMessageRequest(name="nobody").SerializeToString()


def test_a_second_s_worth_is_answered_at_once_and_comes_back_with_time() -> None:
    held = Patience()
    waits = [held.wait_s("a", 48, 100.0) for _ in range(58)]
    assert waits[:48] == [0] * 48
    assert all(patience.LATE_S_MIN <= wait <= patience.LATE_S_MAX for wait in waits[48:])
    assert [held.wait_s("a", 48, 100.125) > 0 for _ in range(7)] == [False] * 6 + [True]
    assert held.wait_s("a", 48, 50.0) > 0  # a clock that was set back gives nothing
    assert held.wait_s("b", 48, 100.125) == 0


def test_what_it_keeps_is_bounded() -> None:
    held = Patience()
    for number in range(patience.CALLERS_MAX + 100):
        held.wait_s(f"caller {number}", 1, 0.0)
    assert len(held._buckets) == patience.CALLERS_MAX
    held.wait_s("x", 1, 0.0)
    held.held = patience.HELD_MAX
    assert held.wait_s("x", 1, 0.0) == 0


async def timed(call: "grpc.aio.UnaryUnaryCall[bytes, bytes]") -> tuple[float, grpc.StatusCode]:
    """How long it took and how it ended."""
    began = time.monotonic()
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return time.monotonic() - began, error.code()
    return time.monotonic() - began, grpc.StatusCode.OK


@pytest.mark.parametrize("kind", ["no key", "no method", "no sense"])
async def test_only_who_is_refused_too_often_waits(server: Server, kind: str) -> None:
    client = server.client()
    path = "/longwave.v1.MessagingService/" + ("Nothing" if kind == "no method" else "GetMessage")
    metadata = () if kind == "no key" else client.headers
    request = pb.GetMessageRequest(name="nobody").SerializeToString()
    at_once = gate.MISTAKES_A_SECOND if kind == "no sense" else gate.TRIES_A_SECOND

    async def refuse(_number: int) -> tuple[float, grpc.StatusCode]:
        return await timed(client.raw(path)(request, metadata=metadata, timeout=WAIT_S))

    ended = await asyncio.gather(*map(refuse, range(at_once * 2)))
    assert len({code for _, code in ended}) == 1
    late = [seconds for seconds, _ in ended if seconds >= patience.LATE_S_MIN]
    # What came while they were being refused was given back to the bucket: at most some of it.
    assert len(late) >= at_once // 2
    began = time.monotonic()
    waiting = asyncio.gather(*map(refuse, range(at_once * 2)))
    await asyncio.sleep(0)
    await client.call(client.messaging.ListMessages, pb.ListMessagesRequest(), WAIT_S)
    assert time.monotonic() - began < WAIT_S
    assert not waiting.done()
    await waiting


@pytest.mark.parametrize(
    ("method", "request_bytes", "keyed"),
    [("GetMessage", NOBODY, False), ("GetMessage", NOBODY, True), ("SubmitMessage", b"", True)],
)
async def test_what_is_kept_back_counts_as_no_slowness_of_ours(
    server: Server, method: str, request_bytes: bytes, *, keyed: bool
) -> None:
    """Or anybody without a key could burn the objective of latency, and wake somebody."""
    server.corridor.failure = Refused(Verdict.NOT_FOUND, "no such campaign")
    client = server.client()
    path = f"/longwave.v1.MessagingService/{method}"
    metadata = client.headers if keyed else ()
    calls = 2 * gate.MISTAKES_A_SECOND
    ended = await asyncio.gather(
        *(timed(client.raw(path)(request_bytes, metadata=metadata, timeout=WAIT_S)) for _ in range(calls))
    )
    assert sum(seconds >= patience.LATE_S_MIN for seconds, _ in ended) >= calls // 4
    value = server.corridor.metrics.registry.get_sample_value
    name = "longwave_grpc_request_duration_seconds"
    assert value(f"{name}_count", {"method": path}) == calls
    assert value(f"{name}_bucket", {"method": path, "le": "0.5"}) == calls


async def test_a_connection_is_told_how_many_calls_it_may_have(start_server: StartServer) -> None:
    server = await start_server(connection_calls_max=7)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.grpc.port)
    try:
        writer.write(wire.opening())
        async with asyncio.timeout(WAIT_S):
            kind, payload = -1, b""
            while kind != wire.SETTINGS or not payload:
                head = await reader.readexactly(9)
                kind, payload = head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))
    finally:
        writer.close()
    settings = {int.from_bytes(payload[at : at + 2], "big"): int.from_bytes(payload[at + 2 : at + 6], "big")
                for at in range(0, len(payload), 6)}  # fmt: skip
    assert settings[SETTING_CONCURRENT_STREAMS] == 7
