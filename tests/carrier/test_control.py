"""The control calls: settings, inbound, records, reset."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.carrier.conftest import Bench, StartBench


async def test_put_starts_from_start_up_and_patch_from_now(start_bench: "StartBench") -> None:
    bench = await start_bench(retry_after_s=9)
    await bench.set(error_share=0.5)
    patched = (await bench.control("PATCH", "config", {"throttle_share": 0.25})).json
    assert (patched["error_share"], patched["throttle_share"], patched["retry_after_s"]) == (0.5, 0.25, 9)
    put = (await bench.control("PUT", "config", {"drop_taken_share": 0.1})).json
    assert (put["error_share"], put["throttle_share"], put["retry_after_s"]) == (0, 0, 9)
    assert (await bench.control("GET", "config")).json == put


async def test_settings_read_are_settings_to_write(bench: "Bench") -> None:
    settings = (await bench.control("GET", "config")).json
    writable = {name: value for name, value in settings.items() if name not in {"records_max", "messages_max"}}
    assert (await bench.control("PUT", "config", writable)).json == settings


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"eror_share": 1}, "unknown setting"),
        ({"error_share": 1.1}, "error_share"),
        ({"error_share": True}, "error_share"),
        ({"error_share": 0.6, "throttle_share": 0.6}, "more than 1"),
        ({"error_share": 1, "errors": []}, "nothing to choose"),
        ({"errors": [{"status": 200, "code": "1"}]}, "errors.status"),
        ({"errors": [{"status": 500, "code": "1", "wait": 1}]}, "unknown key"),
        ({"latency_min_ms": 9}, "latency"),
        ({"latency_mean_ms": -1}, "latency_mean_ms"),
        ({"garbage_kinds": ["mud"]}, "garbage_kinds"),
        ({"idempotency": "maybe"}, "idempotency"),
        ({"async_failures": [{"status": "lost"}]}, "async_failures.status"),
        ({"caps": [{"name": "a", "amount": 1, "code": "1", "time_zone": "Mars/Base"}]}, "time_zone"),
        ({"caps": [{"name": "a", "amount": 1, "code": "1", "status": 200}]}, "status"),
        ({"caps": [{"amount": 1, "code": "1"}]}, "name"),
        ({"caps": {}}, "list"),
        ({"carriers": {"AT&T": 0}}, "carriers"),
        ({"campaigns": {"+12025550100": 1}}, "campaigns"),
        ({"inbound_webhook_url": "x"}, "inbound_webhook_url"),
        ({"late_error_statuses": [200]}, "late_error_statuses"),
        ({"webhook_attempts_max": 0}, "webhook_attempts_max"),
        ({"seed": -1}, "seed"),
        ({"records_max": 5}, "only be set at start"),
        ([], "JSON object"),
    ],
)
async def test_wrong_settings_change_nothing(bench: "Bench", settings: object, problem: str) -> None:
    before = (await bench.control("GET", "config")).json
    answer = await bench.control("PATCH", "config", settings)
    assert answer.status == 400
    assert problem in answer.json["errors"][0]["detail"]
    assert (await bench.control("GET", "config")).json == before


async def test_inbound_becomes_signed_events(bench: "Bench") -> None:
    await bench.set(inbound_webhook_url=bench.receiver.url)
    body = {"from": "+12025550123", "to": "+12025550100", "text": " stop ", "count": 3, "duplicates": 1}
    given = (await bench.control("POST", "inbound", body)).json["events"]
    events = await bench.settle()
    assert len(events) == 6
    assert {event.data["id"] for event in events} == {event["event_id"] for event in given}
    assert {event.data["payload"]["id"] for event in events} == {event["message_id"] for event in given}
    payload = events[0].data["payload"]
    assert events[0].kind == "message.received"
    assert events[0].is_signed_by(bench.public_key)
    assert (payload["direction"], payload["text"], payload["autoresponse_type"]) == ("inbound", " stop ", "STOP")
    assert payload["from"]["phone_number"] == "+12025550123"
    assert payload["to"][0] == {
        "phone_number": "+12025550100",
        "carrier": "Telnyx",
        "line_type": "Wireless",
        "status": "webhook_delivered",
    }


async def test_inbound_media(bench: "Bench") -> None:
    await bench.set(inbound_webhook_url=bench.receiver.url)
    body = {"from": "+12025550123", "to": "+12025550100", "media": ["http://127.0.0.1/a.png"]}
    await bench.control("POST", "inbound", body)
    [event] = await bench.settle()
    assert event.data["payload"]["type"] == "MMS"
    assert event.data["payload"]["media"][0]["url"] == "http://127.0.0.1/a.png"
    assert "autoresponse_type" not in event.data["payload"]


@pytest.mark.parametrize(
    "change",
    [{"from": "x"}, {"to": None}, {"text": 1}, {"media": "x"}, {"count": 0}, {"duplicates": -1}, {"cuont": 1}],
)
async def test_wrong_inbound_is_refused(bench: "Bench", change: dict[str, Any]) -> None:
    await bench.set(inbound_webhook_url=bench.receiver.url)
    body = {"from": "+12025550123", "to": "+12025550100", "text": "x", **change}
    assert (await bench.control("POST", "inbound", body)).status == 400
    assert await bench.settle() == []


async def test_inbound_without_url_is_refused(bench: "Bench") -> None:
    answer = await bench.control("POST", "inbound", {"from": "+12025550123", "to": "+12025550100", "text": "x"})
    assert (answer.status, "inbound_webhook_url" in answer.body.decode()) == (400, True)


async def test_records_are_paged(bench: "Bench") -> None:
    for number in range(5):
        await bench.send(text=f"text {number}")
    page = await bench.control("GET", "messages?after=1&limit=2")
    assert [json.loads(line)["seq"] for line in page.body.splitlines()] == [2, 3]
    assert (await bench.control("GET", "messages?after=5")).body == b""
    assert (await bench.control("GET", "messages?limit=0")).status == 400


async def test_memory_is_bounded_oldest_first(start_bench: "StartBench") -> None:
    bench = await start_bench(records_max=3, messages_max=2)
    ids = [(await bench.send(text=f"text {number}", key=f"k:{number}")).json["data"]["id"] for number in range(5)]
    page = await bench.control("GET", "messages")
    assert [json.loads(line)["seq"] for line in page.body.splitlines()] == [3, 4, 5]
    assert page.headers["x-first-seq"] == "3"
    assert [(await bench.look_up(message_id)).status for message_id in ids] == [404, 404, 404, 200, 200]
    # The forgotten key takes the message anew, the remembered one does not.
    assert (await bench.send(text="text 0", key="k:0")).json["data"]["id"] != ids[0]
    assert (await bench.send(text="text 4", key="k:4")).json["data"]["id"] == ids[4]


async def test_reset_forgets_all_but_settings(bench: "Bench") -> None:
    await bench.set(retry_after_s=5, receipt_delayed_share=1, receipt_delayed_ms=600_000)
    first = (await bench.send(key="m:1")).json["data"]["id"]
    assert (await bench.stats())["receipts_scheduled"] == 2
    await bench.control("POST", "reset")
    stats = await bench.stats()
    assert (stats["records"], stats["counts"], stats["receipts_scheduled"]) == (0, {}, 0)
    assert await bench.records() == []
    assert (await bench.look_up(first)).status == 404
    assert (await bench.send(key="m:1")).json["data"]["id"] != first
    assert (await bench.control("GET", "config")).json["retry_after_s"] == 5


async def test_idle_says_no_when_time_is_up(bench: "Bench") -> None:
    await bench.set(receipt_delayed_share=1, receipt_delayed_ms=600_000)
    await bench.send()
    assert (await bench.control("GET", "idle?wait_ms=20")).json == {"idle": False}


async def test_idle_waits_for_webhooks_on_their_way(bench: "Bench") -> None:
    bench.receiver.hold = asyncio.Event()
    await bench.send()
    await bench.receiver.wait_for(2)
    assert (await bench.control("GET", "idle")).json == {"idle": False}
    bench.receiver.hold.set()
    await bench.settle()


async def test_public_key_and_unknown_call(bench: "Bench") -> None:
    assert (await bench.control("GET", "public_key")).body.decode() == bench.public_key
    assert (await bench.control("GET", "nothing")).status == 404
    assert (await bench.control("PUT", "stats")).status == 404
    assert (await bench.call("PATCH", "/control/config", b"{")).status == 400
