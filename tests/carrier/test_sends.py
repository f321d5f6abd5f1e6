"""The send call: what is taken, what is refused, what a repeated key does."""

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.carrier.conftest import Bench, StartBench


async def test_message_is_taken_recorded_and_found(bench: "Bench") -> None:
    answer = await bench.send(key="m:1", text="Gruesse")
    data = answer.json["data"]
    assert answer.status == 200
    assert data["to"][0]["status"] == "queued"
    assert data["to"][0]["carrier"] in {"AT&T", "T-Mobile", "Verizon", "US Cellular"}
    assert (data["parts"], data["encoding"], data["text"]) == (1, "GSM-7", "Gruesse")
    await bench.settle()
    found = (await bench.look_up(data["id"])).json["data"]
    assert found["to"][0]["status"] == "delivered"
    assert found["completed_at"] is not None
    [record] = await bench.records()
    assert record["id"] == data["id"]
    assert record["seq"] == 1
    assert record["taken"] is True
    assert record["idempotency_key"] == "m:1"
    assert record["text_sha256"] == hashlib.sha256(b"Gruesse").hexdigest()
    assert record["webhook_url"] == bench.receiver.url
    assert (record["outcome"], record["final"]) == ("ok", "delivered")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": None}, "10004"),
        ({"to": "2025550123"}, "40310"),
        ({"to": ["+12025550123"]}, "40310"),
        ({"from_": None}, "10004"),
        ({"from_": "+1"}, "40305"),
        ({"text": None}, "40316"),
        ({"text": ""}, "40316"),
        ({"text": 5}, "10026"),
        ({"media_urls": "x"}, "10026"),
        ({"media_urls": ["http://127.0.0.1/a"] * 11}, "40317"),
        ({"media_urls": ["http://127.0.0.1/a"], "type": "SMS"}, "40304"),
        ({"type": "FAX"}, "10032"),
        ({"encoding": "utf8"}, "10032"),
        ({"encoding": "gsm7", "text": "á"}, "40009"),
        ({"text": "a" * 1531}, "40302"),
        ({"text": "a" * 1000, "auto_detect": True}, "40328"),
        ({"webhook_url": "ftp://127.0.0.1/"}, "10003"),
        ({"webhook_url": "http://127.0.0.1/a b"}, "10003"),
        ({"webhook_url": "http://127.0.0.1/\r\nx: y"}, "10003"),
        ({"webhook_url": "http://127.0.0.1/" + "a" * 2000}, "10003"),
        ({"send_at": "2030-01-01T00:00:00Z"}, "10015"),
        ({"messaging_profile_id": 7}, "10026"),
    ],
)
async def test_wrong_field_is_refused(bench: "Bench", fields: dict[str, Any], code: str) -> None:
    answer = await bench.send(**fields)
    assert (answer.status, answer.code) == (400, code)
    [record] = await bench.records()
    assert record["taken"] is False
    assert record["outcome"] == f"refused:400/{code}"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"text": "€" * 153, "encoding": "gsm7"}, ("GSM-7", 3, "SMS")),
        ({"text": "abc", "encoding": "ucs2"}, ("UCS-2", 1, "SMS")),
        ({"text": "ж" * 71}, ("UCS-2", 2, "SMS")),
        ({"text": "a" * 500, "media_urls": ["http://127.0.0.1/a.png"]}, ("GSM-7", 1, "MMS")),
        ({"text": None, "media_urls": ["http://127.0.0.1/a.png"]}, ("GSM-7", 1, "MMS")),
    ],
)
async def test_parts_are_real(bench: "Bench", fields: dict[str, Any], shown: tuple[str, int, str]) -> None:
    data = (await bench.send(**fields)).json["data"]
    assert (data["encoding"], data["parts"], data["type"]) == shown


@pytest.mark.parametrize("text", ['quotes " and \\ and \n', "😀 €", "\x00", "%s %(x)s {}"])
async def test_text_comes_back_unaltered(bench: "Bench", text: str) -> None:
    answer = await bench.send(text=text)
    assert answer.json["data"]["text"] == text
    await bench.settle()
    assert [event.data["payload"]["text"] for event in bench.receiver.got] == [text, text]


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "10023"), (b"[]", "10015"), (b'{"text":"\\ud800"}', "10023"), (b"\xff", "10023"), (b"", "10023")],
)
async def test_wrong_json_is_refused(bench: "Bench", body: bytes, code: str) -> None:
    headers = {"authorization": "Bearer KEY_made_up", "content-type": "application/json"}
    answer = await bench.call("POST", "/v2/messages", body, headers)
    assert (answer.status, answer.code) == (400, code)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "application/json"}, 401, "10009"),
        ({"content-type": "application/json", "authorization": "Bearer other"}, 401, "20008"),
        ({"content-type": "text/plain", "authorization": "Bearer KEY_made_up"}, 415, "10029"),
    ],
)
async def test_wrong_headers_are_refused(bench: "Bench", headers: dict[str, str], status: int, code: str) -> None:
    answer = await bench.call("POST", "/v2/messages", b"{}", headers)
    assert (answer.status, answer.code) == (status, code)


async def test_look_up_needs_key_and_known_id(bench: "Bench") -> None:
    message_id = (await bench.send()).json["data"]["id"]
    assert (await bench.call("GET", f"/v2/messages/{message_id}")).status == 401
    assert (await bench.look_up("00000000-0000-4000-8000-000000000001")).code == "10005"
    assert (await bench.look_up(message_id[:-1] + "9")).status == 404
    assert (await bench.call("GET", "/v2/other")).status == 404
    assert (await bench.call("DELETE", "/v2/messages")).status == 405


async def test_same_key_same_body_is_the_same_answer(bench: "Bench") -> None:
    first, second = await bench.send(key="m:1"), await bench.send(key="m:1")
    assert first.status == second.status == 200
    assert first.body == second.body
    await bench.settle()
    assert (await bench.send(key="m:1")).body == first.body
    assert [(record["taken"], record["replayed"]) for record in await bench.records()] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    assert len(bench.receiver.got) == 2


async def test_same_key_other_body_is_refused(bench: "Bench") -> None:
    await bench.send(key="m:1", text="one")
    answer = await bench.send(key="m:1", text="two")
    assert (answer.status, answer.code) == (422, "10027")
    assert (await bench.stats())["counts"]["taken"] == 1


async def test_same_key_at_once_is_a_conflict(bench: "Bench") -> None:
    bench.receiver.hold = asyncio.Event()
    await bench.set(receipt_early_share=1)
    first = asyncio.create_task(bench.send(key="m:1"))
    await bench.receiver.wait_for(2)  # The first request is taken and waits for its early receipts.
    answer = await bench.send(key="m:1")
    assert answer.status == 409
    bench.receiver.hold.set()
    assert (await first).status == 200
    assert (await bench.send(key="m:1")).body == (await first).body


async def test_malformed_key_is_refused(bench: "Bench") -> None:
    assert (await bench.send(key="a b")).status == 400
    assert (await bench.send(key="a" * 256)).status == 400


async def test_refused_request_does_not_bind_its_key(bench: "Bench") -> None:
    assert (await bench.send(key="m:1", text="")).status == 400
    assert (await bench.send(key="m:1", text="now with text")).status == 200


@pytest.mark.parametrize(("idempotency", "copies"), [("honoured", 1), ("forgets_failed", 2), ("ignored", 2)])
async def test_repeat_after_late_error(start_bench: "StartBench", idempotency: str, copies: int) -> None:
    bench = await start_bench(idempotency=idempotency, late_error_share=1)
    assert (await bench.send(key="m:1")).status >= 500
    await bench.set(late_error_share=0)
    assert (await bench.send(key="m:1")).status == 200
    assert (await bench.stats())["counts"]["taken"] == copies


async def test_ignored_keys_take_every_request(start_bench: "StartBench") -> None:
    bench = await start_bench(idempotency="ignored")
    first, second = await bench.send(key="m:1"), await bench.send(key="m:1", text="other")
    assert first.json["data"]["id"] != second.json["data"]["id"]
