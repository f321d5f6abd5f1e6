"""The provider's error codes by title, and the JSON shape errors come in.

It does not decide when an error is given.

Source: telnyx notes, section 3, and the table of codes beside them. `code` is a string on the wire.
"""

from typing import Final

import orjson

TITLES: Final[dict[str, str]] = {
    "10003": "Invalid URL",
    "10004": "Missing required parameter",
    "10005": "Resource not found",
    "10007": "Unexpected error",
    "10008": "Request timeout",
    "10009": "Authentication failed",
    "10010": "Authorization failed",
    "10011": "Too many requests",
    "10012": "Duplicate resource",
    "10015": "Bad request",
    "10016": "Phone number must be in +E.164 format",
    "10023": "Invalid JSON",
    "10025": "String length out of range",
    "10026": "Invalid parameter type",
    "10027": "Unprocessable entity",
    "10028": "Invalid character encoding",
    "10029": "JSON content type expected",
    "10030": "Method not allowed",
    "10032": "Value outside of enumeration",
    "10033": "Value outside of range",
    "10037": "Service unavailable",
    "20008": "Invalid API key",
    "20100": "Insufficient funds",
    "40001": "Not routable",
    "40002": "Blocked as spam, temporary",
    "40003": "Blocked as spam, permanent",
    "40004": "Rejected by destination",
    "40005": "Message expired during transmission",
    "40006": "Recipient server unavailable",
    "40007": "Loop detected",
    "40008": "Undeliverable",
    "40009": "Invalid message body",
    "40010": "Not 10DLC registered",
    "40011": "Upstream rate limit exceeded",
    "40012": "Invalid messaging destination number",
    "40013": "Invalid messaging source number",
    "40014": "Message expired in queue",
    "40015": "Blocked as spam, internal",
    "40016": "T-Mobile 10DLC sending limit reached",
    "40017": "AT&T 10DLC spam message rejected",
    "40018": "AT&T 10DLC sending limit reached",
    "40019": "AT&T 10DLC tag data wrong",
    "40020": "Suspected traffic pumping",
    "40300": "Blocked due to STOP message",
    "40302": "Message too large",
    "40304": "Invalid combination of message content",
    "40305": "Invalid 'from' address",
    "40310": "Invalid 'to' address",
    "40314": "Messaging disabled on account",
    "40316": "No content provided",
    "40317": "Invalid MMS content",
    "40318": "Message queue full",
    "40320": "Sending number temporarily unusable",
    "40322": "Blocked content",
    "40328": "Message has more parts than recommended",
    "40333": "Daily spend limit reached",
}


def title_of(code: str) -> str:
    """Give the title of an error code; an unknown code has a general one."""
    return TITLES.get(code, "Request failed")


def error_body(code: str, detail: str, pointer: str | None = None) -> bytes:
    """Render `{"errors": [...]}` with one error; `pointer` is a JSON pointer into the request body."""
    error: dict[str, object] = {"code": code, "title": title_of(code), "detail": detail}
    if pointer is not None:
        error["source"] = {"pointer": pointer}
    error["meta"] = {"url": "https://developers.telnyx.com/docs/overview/errors/" + code}
    return orjson.dumps({"errors": [error]})
