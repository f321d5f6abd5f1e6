"""Handles /control: settings, inbound messages, records, counts, reset. No key is asked: it listens where tests are.

It changes nothing by itself; all it does goes through `state.Carrier`.

- GET, PUT, PATCH /control/config: the settings in force; PUT lays the object over those of start-up, PATCH over these.
- POST /control/inbound `{from, to, text, media, count, duplicates}`: `count` events, each sent 1 + `duplicates` times.
- GET /control/messages?after=N&limit=M: records above N as JSON lines; `x-first-seq` is the oldest still held.
- GET /control/stats: counts since start or reset.
- GET /control/idle?wait_ms=N: `{"idle": bool}` once no receipt is scheduled or on its way, at most N ms later.
- GET /control/public_key: the key's base64, as text.
- POST /control/reset: forgets everything but settings and key.
"""

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import orjson

from loadtest.carrier.config import ConfigError, check_fixed_keys, parse_config
from loadtest.carrier.errors import error_body
from loadtest.carrier.http1 import Exchange, answer, json_answer
from loadtest.carrier.state import Carrier

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS_DEFAULT: Final = 1_000
RECORDS_MAX: Final = 10_000
# One request makes at most this many deliveries.
INBOUND_EVENTS_MAX: Final = 100_000
IDLE_WAIT_MS_MAX: Final = 600_000
IDLE_LOOK_S: Final = 0.005

_NUMBER: Final = re.compile(r"\+?[0-9]{5,15}")


class _BadRequestError(Exception):
    """The request cannot be understood; the text says why."""


def handle_control(carrier: Carrier, exchange: Exchange) -> None:
    """Handle one request under /control."""
    path, _, query = exchange.path.partition(b"?")
    handlers: dict[tuple[bytes, bytes], Callable[[Carrier, Exchange, dict[str, str]], None]] = {
        (b"GET", b"/control/config"): _get_config,
        (b"PUT", b"/control/config"): _change_config,
        (b"PATCH", b"/control/config"): _change_config,
        (b"POST", b"/control/inbound"): _inbound,
        (b"GET", b"/control/messages"): _messages,
        (b"GET", b"/control/stats"): _stats,
        (b"GET", b"/control/idle"): _idle,
        (b"GET", b"/control/public_key"): _public_key,
        (b"POST", b"/control/reset"): _reset,
    }
    handler = handlers.get((exchange.method, path))
    if handler is None:
        exchange.respond(json_answer(error_body("10005", "No such control call."), 404))
        return
    try:
        handler(carrier, exchange, dict(parse_qsl(query.decode("latin-1"))))
    except (_BadRequestError, ConfigError) as error:
        exchange.respond(json_answer(error_body("10015", str(error)), 400))


def _get_config(carrier: Carrier, exchange: Exchange, _query: dict[str, str]) -> None:
    exchange.respond(json_answer(orjson.dumps(asdict(carrier.config))))


def _change_config(carrier: Carrier, exchange: Exchange, _query: dict[str, str]) -> None:
    values = _json_object(exchange)
    check_fixed_keys(values)
    carrier.apply_config(parse_config(values, carrier.start_up.config if exchange.method == b"PUT" else carrier.config))
    _get_config(carrier, exchange, {})


def _inbound(carrier: Carrier, exchange: Exchange, _query: dict[str, str]) -> None:
    values = _json_object(exchange)
    if unknown := sorted(values.keys() - {"from", "to", "text", "media", "count", "duplicates"}):
        raise _BadRequestError(f"unknown key {unknown[0]!r}")
    url = carrier.config.inbound_webhook_url
    if url is None:
        raise _BadRequestError("inbound_webhook_url is not set")
    sender, to = _phone_number(values, "from"), _phone_number(values, "to")
    text, media = values.get("text", ""), values.get("media", [])
    if not isinstance(text, str) or not isinstance(media, list) or not all(isinstance(item, str) for item in media):
        raise _BadRequestError("text must be a text and media a list of URLs")
    count = _whole("count", values.get("count", 1), 1, INBOUND_EVENTS_MAX)
    duplicates = _whole("duplicates", values.get("duplicates", 0), 0, INBOUND_EVENTS_MAX // count)
    network = carrier.dice.carrier_of(sender)
    events = [
        carrier.receipts.receive(
            url=url, sender=sender, to=to, text=text, media_urls=media, carrier=network, duplicates=duplicates
        )
        for _ in range(count)
    ]
    exchange.respond(json_answer(orjson.dumps({"events": events})))


def _messages(carrier: Carrier, exchange: Exchange, query: dict[str, str]) -> None:
    records = carrier.ledger.records
    after = _whole("after", query.get("after", "0"), 0, 2**63)
    lines = records.after(after, _whole("limit", query.get("limit", str(RECORDS_DEFAULT)), 1, RECORDS_MAX))
    headers = b"content-type: application/x-ndjson\r\nx-first-seq: %d\r\n" % records.first_number
    exchange.respond(answer(b"".join(lines), 200, headers))


def _stats(carrier: Carrier, exchange: Exchange, _query: dict[str, str]) -> None:
    stats = {
        "counts": dict(carrier.counts),
        "records": carrier.ledger.records.last_number,
        "connections": len(carrier.connections),
        "keys_in_flight": len(carrier.keys_in_flight),
        "receipts_scheduled": carrier.receipts.scheduled,
        "webhooks_in_hand": carrier.sender.in_hand,
    }
    exchange.respond(json_answer(orjson.dumps(stats)))


def _idle(carrier: Carrier, exchange: Exchange, query: dict[str, str]) -> None:
    wait_ms = _whole("wait_ms", query.get("wait_ms", "0"), 0, IDLE_WAIT_MS_MAX)
    deadline_s = carrier.loop.time() + wait_ms / 1000

    def look() -> None:
        idle = carrier.is_idle()
        if idle or carrier.loop.time() >= deadline_s:
            exchange.respond(json_answer(orjson.dumps({"idle": idle})))
        else:
            carrier.loop.call_later(IDLE_LOOK_S, look)

    look()


def _public_key(carrier: Carrier, exchange: Exchange, _query: dict[str, str]) -> None:
    exchange.respond(answer(carrier.signer.public_key_base64.encode(), 200, b"content-type: text/plain\r\n"))


def _reset(carrier: Carrier, exchange: Exchange, _query: dict[str, str]) -> None:
    carrier.reset()
    exchange.respond(json_answer(b"{}"))


def _json_object(exchange: Exchange) -> dict[str, Any]:
    try:
        values = orjson.loads(exchange.body)
    except orjson.JSONDecodeError as error:
        raise _BadRequestError("the body is not valid JSON") from error
    if not isinstance(values, dict):
        raise _BadRequestError("the body must be a JSON object")
    return values


def _phone_number(values: dict[str, Any], name: str) -> str:
    number = values.get(name)
    if not isinstance(number, str) or _NUMBER.fullmatch(number) is None:
        raise _BadRequestError(f"{name} must be a number")
    return number


def _whole(name: str, value: object, low: int, high: int) -> int:
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value  # noqa: PLR2004
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
        raise _BadRequestError(f"{name} must be a whole number from {low} to {high}")
    return number
