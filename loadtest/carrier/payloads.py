"""Renders messages as the API and the webhooks show them, straight to JSON bytes.

It changes no message and signs nothing.

Invariants: `queued_answer` depends only on what never changes after taking a message, so that a replay of an
idempotency key is the same bytes. Outbound messages are rendered by one template instead of a dictionary of 28 members:
a third of the cost, three times a message. Source of the shapes: telnyx notes, sections 2 and 5.
"""

from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import orjson

from loadtest.carrier.errors import title_of
from loadtest.carrier.messages import PROFILE_ID
from loadtest.carrier.segments import count_parts, is_gsm7

if TYPE_CHECKING:
    from loadtest.carrier.messages import Message

VALIDITY_S: Final = 3_600
# Made up, in the shape of a real one.
ORGANIZATION_ID: Final = "1c2d3e4f-3333-4d4e-9a22-6b6c7d8e9f00"

# The automatic keywords of telnyx notes, section 6.
_AUTORESPONSES: Final = {
    **dict.fromkeys(("STOP", "STOPALL", "STOP ALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT"), "STOP"),
    **dict.fromkeys(("START", "UNSTOP"), "START"),
    "HELP": "HELP",
}

# Every %b is a JSON value, but for the bare texts between quotes, which their patterns keep free of quotes and escapes.
_OUTBOUND: Final = (
    b'{"record_type":"message","direction":"outbound","type":"%b","id":"%b","messaging_profile_id":%b,'
    b'"organization_id":"'
    + ORGANIZATION_ID.encode()
    + b'","from":{"phone_number":"%b","carrier":"Telnyx","line_type":"Wireless"},'
    b'"to":[{"phone_number":"%b","status":"%b","carrier":%b,"line_type":"Wireless"}],"cc":[],"text":%b,'
    b'"subject":%b,"media":%b,"webhook_url":%b,"webhook_failover_url":%b,"encoding":"%b","parts":%d,"tags":[],'
    b'"cost":%b,"tcr_campaign_id":null,"tcr_campaign_billable":true,"tcr_campaign_registered":"REGISTERED",'
    b'"received_at":"%b","sent_at":%b,"completed_at":%b,"valid_until":%b,"errors":%b,"smart_encoding_applied":false}'
)
_PROFILE_JSON: Final = orjson.dumps(PROFILE_ID)


def queued_answer(message: "Message") -> bytes:
    """Render the answer to the send request: `{"data": {...}}` in state queued, always the same bytes."""
    return b'{"data":%b}' % _outbound(message, b"queued", None, None, b"[]")


def current_answer(message: "Message") -> bytes:
    """Render the answer to a look-up: `{"data": {...}}` in the message's present state."""
    return b'{"data":%b}' % current_payload(message)


def current_payload(message: "Message") -> bytes:
    """Show the message as it stands, for look-ups and webhooks."""
    failure = message.failure
    errors = b"[]" if failure is None or not failure.code else _errors(failure.code)
    return _outbound(message, message.status.encode(), message.sent_s, message.completed_s, errors)


def sent_payload(message: "Message") -> bytes:
    """Show the message as it was when its network took it, whatever came since."""
    return _outbound(message, b"sent", message.sent_s, None, b"[]")


def forged_payload(message: "Message") -> bytes:
    """Show the message with an end that contradicts its fate: whoever believes it records a falsehood."""
    status, errors = (b"delivery_failed", _errors("40003")) if message.failure is None else (b"delivered", b"[]")
    return _outbound(message, status, message.sent_s, message.received_s, errors)


def event_data(event_type: str, event_id: str, occurred_s: float, payload: bytes) -> bytes:
    """Render the `data` member of a webhook around a payload."""
    return b'{"event_type":"%b","id":"%b","occurred_at":"%b","payload":%b,"record_type":"event"}' % (
        event_type.encode(),
        event_id.encode(),
        iso_time(occurred_s),
        payload,
    )


def inbound_payload(
    *, message_id: str, sender: str, to: str, text: str, media_urls: list[str], carrier: str, received_s: float
) -> bytes:
    """Show an inbound message as `message.received` does."""
    gsm7 = is_gsm7(text)
    payload: dict[str, object] = {
        "record_type": "message",
        "direction": "inbound",
        "type": "MMS" if media_urls else "SMS",
        "id": message_id,
        "messaging_profile_id": PROFILE_ID,
        "organization_id": ORGANIZATION_ID,
        "from": {"phone_number": sender, "carrier": carrier, "line_type": "Wireless", "status": "received"},
        "to": [{"phone_number": to, "carrier": "Telnyx", "line_type": "Wireless", "status": "webhook_delivered"}],
        "cc": [],
        "text": text,
        "media": [
            {"url": url, "content_type": None, "sha256": sha256(url.encode()).hexdigest(), "size": 0}
            for url in media_urls
        ],
        "encoding": "GSM-7" if gsm7 else "UCS-2",
        "parts": 1 if media_urls else count_parts(text, gsm7=gsm7),
        "tags": [],
        "cost": {"amount": "0.0000", "currency": "USD"},
        "errors": [],
        "received_at": iso_time(received_s).decode(),
        "sent_at": None,
        "completed_at": None,
        "valid_until": None,
        "webhook_url": None,
        "webhook_failover_url": None,
    }
    if (answer := _AUTORESPONSES.get(" ".join(text.split()).upper())) is not None:
        payload["autoresponse_type"] = answer
    return orjson.dumps(payload)


def iso_time(unix_s: float) -> bytes:
    """Write a time as the API does: UTC, milliseconds, `+00:00`."""
    second = int(unix_s)
    return b"%b.%03d+00:00" % (_iso_second(second), int((unix_s - second) * 1000))


@lru_cache(maxsize=64)  # Now and an hour from now; the seconds of messages in hand.
def _iso_second(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@lru_cache(maxsize=64)  # At most ten parts and a handful of networks and codes.
def _cost(parts: int) -> bytes:
    # 0.0051 USD a part, of which 0.00305 is the network's: the figures of the notes' example.
    return (
        f'{{"amount":"{parts * 0.0051:.4f}","currency":"USD"}},"cost_breakdown":{{'
        f'"carrier_fee":{{"amount":"{parts * 0.00305:.5f}","currency":"USD"}},'
        f'"rate":{{"amount":"{parts * 0.00205:.5f}","currency":"USD"}}}}'
    ).encode()


@lru_cache(maxsize=64)
def _errors(code: str) -> bytes:
    return orjson.dumps([{"code": code, "title": title_of(code), "detail": title_of(code) + "."}])


@lru_cache(maxsize=64)
def _name(name: str) -> bytes:
    return orjson.dumps(name)


def _optional_time(unix_s: float | None) -> bytes:
    return b"null" if unix_s is None else b'"%b"' % iso_time(unix_s)


def _outbound(
    message: "Message", status: bytes, sent_s: float | None, completed_s: float | None, errors: bytes
) -> bytes:
    draft = message.draft
    media = draft.media_urls
    return _OUTBOUND % (
        draft.kind.encode(),
        message.id.encode(),
        _PROFILE_JSON if draft.profile_id is PROFILE_ID else orjson.dumps(draft.profile_id),
        draft.sender.encode(),
        draft.to.encode(),
        status,
        _name(message.carrier),
        orjson.dumps(draft.text),
        b"null" if draft.subject is None else orjson.dumps(draft.subject),
        orjson.dumps([{"url": url, "content_type": None, "size": None} for url in media]) if media else b"[]",
        b"null" if draft.webhook_url is None else orjson.dumps(draft.webhook_url),
        b"null" if draft.webhook_failover_url is None else orjson.dumps(draft.webhook_failover_url),
        b"GSM-7" if draft.gsm7 else b"UCS-2",
        draft.parts,
        _cost(draft.parts),
        iso_time(message.received_s),
        _optional_time(sent_s),
        _optional_time(completed_s),
        _optional_time(message.received_s + VALIDITY_S) if sent_s is None else b"null",
        errors,
    )
