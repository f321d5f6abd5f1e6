"""Receipts: what comes, how often, in which order, signed by whom."""

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.carrier.conftest import Bench, StartBench


async def test_sent_then_finalized_both_signed(bench: "Bench") -> None:
    message_id = (await bench.send()).json["data"]["id"]
    sent, finalized = await bench.settle()
    assert (sent.kind, sent.status) == ("message.sent", "sent")
    assert (finalized.kind, finalized.status) == ("message.finalized", "delivered")
    assert sent.data["id"] != finalized.data["id"]
    assert sent.data["payload"]["id"] == finalized.data["payload"]["id"] == message_id
    assert sent.is_signed_by(bench.public_key)
    assert finalized.is_signed_by(bench.public_key)
    assert sent.path == "/hooks?message=1"
    assert sent.meta == {"attempt": 1, "delivered_to": bench.receiver.url}
    assert abs(time.time() - int(sent.headers["telnyx-timestamp"])) < 60


async def test_no_url_no_receipt(bench: "Bench") -> None:
    message_id = (await bench.send(webhook_url=None)).json["data"]["id"]
    assert await bench.settle() == []
    assert (await bench.look_up(message_id)).json["data"]["to"][0]["status"] == "delivered"


@pytest.mark.parametrize(
    ("status", "code", "kinds"),
    [
        ("delivery_failed", "40001", ["message.sent", "message.finalized"]),
        ("delivery_unconfirmed", "", ["message.sent", "message.finalized"]),
        ("sending_failed", "40014", ["message.finalized"]),
    ],
)
async def test_asynchronous_failure(start_bench: "StartBench", status: str, code: str, kinds: list[str]) -> None:
    bench = await start_bench(async_failure_share=1, async_failures=[{"code": code, "status": status}])
    message_id = (await bench.send()).json["data"]["id"]
    events = await bench.settle()
    assert [event.kind for event in events] == kinds
    assert events[-1].status == status
    assert [error["code"] for error in events[-1].data["payload"]["errors"]] == ([code] if code else [])
    assert (await bench.look_up(message_id)).json["data"]["to"][0]["status"] == status


async def test_duplicates_keep_the_event_id(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_duplicate_share=1, receipt_duplicate_copies=2)
    await bench.send()
    events = await bench.settle()
    assert len(events) == 6
    assert len({event.data["id"] for event in events}) == 2


async def test_reordered(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_reorder_share=1)
    await bench.send()
    assert [event.kind for event in await bench.settle()] == ["message.finalized", "message.sent"]


async def test_early_receipts_come_before_the_answer(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_early_share=1)
    bench.receiver.hold = asyncio.Event()
    request = asyncio.create_task(bench.send())
    events = await bench.receiver.wait_for(2)
    assert not request.done()
    bench.receiver.hold.set()
    assert events[0].data["payload"]["id"] == (await request).json["data"]["id"]


async def test_delayed_receipts(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_delayed_share=1, receipt_delayed_ms=150)
    began_s = time.monotonic()
    await bench.send()
    await bench.receiver.wait_for(1)
    assert time.monotonic() - began_s >= 0.15
    assert len(await bench.settle()) == 2


async def test_lost_receipts_still_change_the_message(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_lost_share=1)
    message_id = (await bench.send()).json["data"]["id"]
    assert await bench.settle() == []
    assert (await bench.look_up(message_id)).json["data"]["to"][0]["status"] == "delivered"
    assert (await bench.records())[0]["receipt_faults"] == ["sent_lost", "finalized_lost"]


async def test_wrong_signature(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_wrong_signature_share=1)
    await bench.send()
    events = await bench.settle()
    assert len(events) == 2
    assert not any(event.is_signed_by(bench.public_key) for event in events)


async def test_forged_receipt_contradicts_and_is_not_signed(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_forged_share=1)
    await bench.send()
    events = await bench.settle()
    assert sorted((event.kind, event.status, event.is_signed_by(bench.public_key)) for event in events) == [
        ("message.finalized", "delivered", True),
        ("message.finalized", "delivery_failed", False),
        ("message.sent", "sent", True),
    ]


async def test_stale_receipt_is_signed_but_old(start_bench: "StartBench") -> None:
    bench = await start_bench(receipt_stale_share=1)
    await bench.send()
    events = await bench.settle()
    ages_s = sorted(time.time() - int(event.headers["telnyx-timestamp"]) for event in events)
    assert ages_s[-2] < 60
    assert ages_s[-1] > 300
    assert all(event.is_signed_by(bench.public_key) for event in events)


async def test_refused_webhook_is_tried_three_times_signed_afresh(bench: "Bench") -> None:
    bench.receiver.answers = [500, 302, 200]
    await bench.set(receipt_delayed_ms=1)
    await bench.control("PATCH", "config", {"inbound_webhook_url": bench.receiver.url})
    await bench.control("POST", "inbound", {"from": "+12025550123", "to": "+12025550100", "text": "x"})
    events = await bench.settle()
    assert [event.meta["attempt"] for event in events] == [1, 2, 3]
    assert len({event.headers["telnyx-signature-ed25519"] for event in events}) == 3
    assert len({event.data["id"] for event in events}) == 1


async def test_failover_url_then_nothing(bench: "Bench") -> None:
    bench.receiver.answers = [500] * 100
    failover = bench.receiver.url.replace("/hooks", "/failover")
    await bench.send(webhook_failover_url=failover)
    events = [event for event in await bench.settle() if event.kind == "message.sent"]
    assert [event.path.partition("?")[0] for event in events] == ["/hooks"] * 3 + ["/failover"] * 3
    assert [event.meta["attempt"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert (await bench.stats())["counts"]["webhooks_given_up"] == 2


async def test_slow_receiver_is_given_up_and_tried_again(start_bench: "StartBench") -> None:
    bench = await start_bench(webhook_answer_max_ms=100)
    bench.receiver.hold = asyncio.Event()
    await bench.send()
    await bench.receiver.wait_for(6)
    bench.receiver.hold.set()
    await bench.settle()
    assert len(bench.receiver.got) == 6


async def test_nobody_listens(bench: "Bench", unused_tcp_port: int) -> None:
    await bench.send(webhook_url=f"http://127.0.0.1:{unused_tcp_port}/")
    await bench.settle()
    counts = (await bench.stats())["counts"]
    assert (counts["webhook_attempts_failed"], counts["webhooks_given_up"]) == (6, 2)


async def test_connections_are_bounded_and_reused(start_bench: "StartBench") -> None:
    bench = await start_bench(webhook_connections_max=2)
    await asyncio.gather(*(bench.send(text=f"text {number}") for number in range(100)))
    assert len(await bench.settle()) == 200
    [pool] = bench.server.carrier.sender._pools.values()
    assert 1 <= len(pool.all) <= 2
