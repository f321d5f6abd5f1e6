"""Every answer fault can be provoked, and says in the record whether the message was taken."""

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from tests.carrier.conftest import Answer, Bench, StartBench


async def _only_record(bench: "Bench") -> dict[str, Any]:
    [record] = await bench.records()
    return record


async def test_error_mix_by_status_and_code(start_bench: "StartBench") -> None:
    mix = [{"status": 400, "code": "40300", "weight": 1}, {"status": 503, "code": "10037", "weight": 3}]
    bench = await start_bench(error_share=1, errors=mix)
    answers = [await bench.send(text=f"text {number}") for number in range(80)]
    seen = [(answer.status, answer.code) for answer in answers]
    assert set(seen) == {(400, "40300"), (503, "10037")}
    assert seen.count((503, "10037")) > 40
    assert not any(record["taken"] for record in await bench.records())


@pytest.mark.parametrize(("retry_after_s", "header"), [(7, "7"), (0, None)])
async def test_throttle(start_bench: "StartBench", retry_after_s: int, header: str | None) -> None:
    bench = await start_bench(throttle_share=1, retry_after_s=retry_after_s)
    answer = await bench.send()
    assert (answer.status, answer.code) == (429, "10011")
    assert answer.headers.get("retry-after") == header
    assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= answer.headers.keys()
    assert (await _only_record(bench))["taken"] is False


@pytest.mark.parametrize("taken", [True, False])
async def test_silence(start_bench: "StartBench", *, taken: bool) -> None:
    bench = await start_bench(**{f"silence_{'taken' if taken else 'untaken'}_share": 1})
    with pytest.raises(TimeoutError):
        await bench.send(wait_s=0.2)
    assert (await _only_record(bench))["taken"] is taken
    assert len(await bench.settle()) == (2 if taken else 0)


@pytest.mark.parametrize("taken", [True, False])
async def test_dropped_connection(start_bench: "StartBench", *, taken: bool) -> None:
    bench = await start_bench(**{f"drop_{'taken' if taken else 'untaken'}_share": 1})
    with pytest.raises(aiohttp.ClientConnectionError):
        await bench.send()
    records = await bench.records()
    assert {record["taken"] for record in records} == {taken}


async def test_drop_midway(start_bench: "StartBench") -> None:
    bench = await start_bench(drop_midway_share=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await bench.send()
    assert (await _only_record(bench))["outcome"] == "drop_midway"


async def test_error_after_taking(start_bench: "StartBench") -> None:
    bench = await start_bench(late_error_share=1, late_error_statuses=[502])
    assert (await bench.send()).status == 502
    record = await _only_record(bench)
    assert (record["taken"], record["outcome"]) == (True, "late_error:502")
    assert len(await bench.settle()) == 2


async def _garbage(start_bench: "StartBench", kind: str) -> tuple["Bench", "Answer"]:
    bench = await start_bench(garbage_share=1, garbage_kinds=[kind])
    answer = await bench.send()
    record = await _only_record(bench)
    assert (record["taken"], record["outcome"]) == (True, f"garbage:{kind}")
    assert answer.status == 200
    return bench, answer


async def test_garbage_html(start_bench: "StartBench") -> None:
    _, answer = await _garbage(start_bench, "html")
    assert answer.headers["content-type"] == "text/html"
    assert answer.body.startswith(b"<!doctype html>")


async def test_garbage_bad_json(start_bench: "StartBench") -> None:
    _, answer = await _garbage(start_bench, "bad_json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


async def test_garbage_no_id(start_bench: "StartBench") -> None:
    _, answer = await _garbage(start_bench, "no_id")
    assert "id" not in answer.json["data"]


async def test_garbage_bad_gzip(start_bench: "StartBench") -> None:
    _, answer = await _garbage(start_bench, "bad_gzip")
    assert answer.headers["content-encoding"] == "gzip"
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(answer.body)


async def test_garbage_bad_charset(start_bench: "StartBench") -> None:
    _, answer = await _garbage(start_bench, "bad_charset")
    with pytest.raises(UnicodeDecodeError):
        answer.body.decode()


async def _raw_answer(bench: "Bench", wanted_bytes: int, end: bytes = b"never") -> bytes:
    """Send one message over a bare connection and read up to so many bytes of the answer, or to its end."""
    body = json.dumps({"from": "+12025550100", "to": "+12025550123", "text": "x"}).encode()
    head = (
        b"POST /v2/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY_made_up\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    writer.write(head % len(body) + body)
    received = b""
    async with asyncio.timeout(20):
        while len(received) < wanted_bytes and not received.endswith(end):
            piece = await reader.read(wanted_bytes - len(received))
            if not piece:
                break
            received += piece
    writer.close()
    await writer.wait_closed()
    return received


async def test_garbage_endless(start_bench: "StartBench") -> None:
    bench = await start_bench(garbage_share=1, garbage_kinds=["endless"])
    received = await _raw_answer(bench, 1_000_000)
    assert b"transfer-encoding: chunked" in received
    assert len(received) == 1_000_000
    async with asyncio.timeout(20):  # It ends when the caller leaves.
        while (await bench.stats())["connections"] > 1:
            pass


async def test_garbage_drip(start_bench: "StartBench") -> None:
    bench = await start_bench(garbage_share=1, garbage_kinds=["drip"])
    assert await _raw_answer(bench, 1) == b"H"
    with pytest.raises(TimeoutError):
        await bench.send(wait_s=0.2)


async def test_garbage_wrong_lengths(start_bench: "StartBench") -> None:
    bench = await start_bench(garbage_share=1, garbage_kinds=["length_long"])
    head, _, body = (await _raw_answer(bench, 100_000)).partition(b"\r\n\r\n")
    assert f"content-length: {len(body) + 100}".encode() in head
    await bench.set(garbage_kinds=["length_short"])
    head, _, body = (await _raw_answer(bench, 100_000, b"false}}")).partition(b"\r\n\r\n")
    assert int(head.partition(b"content-length: ")[2]) == len(body) // 2
    json.loads(body)  # All of it came, twice as much as was promised.


async def test_latency_is_waited_for(start_bench: "StartBench") -> None:
    bench = await start_bench(latency_min_ms=60, latency_mean_ms=60, latency_max_ms=60)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await bench.send()
    assert loop.time() - began_s >= 0.06


async def test_faults_switch_while_running(bench: "Bench") -> None:
    assert (await bench.send()).status == 200
    await bench.set(error_share=1, errors=[{"status": 500, "code": "10007"}])
    assert (await bench.send()).status == 500
    await bench.control("PUT", "config", {})
    assert (await bench.send()).status == 200
