"""The HTTP edge: order, bounds, broken requests."""

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.carrier.conftest import Bench, StartBench


def _request(text: str, version: bytes = b"1.1") -> bytes:
    body = json.dumps({"from": "+12025550100", "to": "+12025550123", "text": text}).encode()
    return (
        b"POST /v2/messages HTTP/%b\r\nhost: x\r\nAuthorization: Bearer KEY_made_up\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    ) % (version, len(body), body)


async def _answers(bench: "Bench", data: bytes) -> bytes:
    """Send bytes, then give all that comes until the carrier closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    writer.write(data)
    async with asyncio.timeout(20):
        received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def test_pipelined_requests_are_answered_in_order(start_bench: "StartBench") -> None:
    bench = await start_bench(latency_min_ms=0, latency_mean_ms=5, latency_max_ms=10)
    texts = [f"number {position}" for position in range(40)]
    received = await _answers(bench, b"".join(map(_request, texts)) + b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    places = [received.index(f'"text":"{text}"'.encode()) for text in texts]
    assert places == sorted(places)
    assert received.count(b"HTTP/1.1 200 OK") == 40


async def test_request_in_single_bytes(bench: "Bench") -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    for byte in _request("slowly"):
        writer.write(bytes((byte,)))
        await writer.drain()
    async with asyncio.timeout(20):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await writer.wait_closed()


async def test_connection_without_keep_alive_is_closed(bench: "Bench") -> None:
    received = await _answers(bench, _request("old", b"1.0") + _request("never looked at"))
    assert received.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST /v2/messages HTTP/1.1\r\ncontent-length: x\r\n\r\n", b"400"),
        (b"POST /v2/messages HTTP/1.1\r\ncontent-length: 1001\r\n\r\n" + b"a" * 1001, b"413"),
        (b"POST /v2/messages HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n" + b"a" * 40_000, b"413"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000, b"431"),
    ],
)
async def test_broken_request_is_answered_and_cut(start_bench: "StartBench", data: bytes, status: bytes) -> None:
    bench = await start_bench(body_bytes_max=1000)
    assert (await _answers(bench, data)).startswith(b"HTTP/1.1 " + status)


async def test_endless_pipelining_is_cut(start_bench: "StartBench") -> None:
    bench = await start_bench(silence_untaken_share=1)
    # Seen as an end or as a reset; a carrier that went on reading would let this wait in vain.
    with contextlib.suppress(ConnectionError):
        assert await _answers(bench, b"".join(map(_request, ["x"] * 66))) == b""
