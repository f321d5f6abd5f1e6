"""Checks a send request, and holds a message that was taken.

It renders nothing (see `payloads.py`) and keeps nothing (see `ledger.py`).

Invariants: no text is altered; a `Draft` never changes. Source of the fields and codes: telnyx notes, sections 2 and 3.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from loadtest.carrier.segments import count_parts, is_gsm7
from loadtest.carrier.urls import is_webhook_url

if TYPE_CHECKING:
    from loadtest.carrier.config import FailureMix

PARTS_MAX: Final = 10
PARTS_RECOMMENDED_MAX: Final = 5
MEDIA_URLS_MAX: Final = 10
# Made up, in the shape of a real one.
PROFILE_ID: Final = "8b0d1f6a-2222-4c2e-8a11-5a5b6c7d8e9f"

_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{5,6}")
_SENDER: Final = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{5,6}|[A-Za-z0-9 ]{1,11}")


class Refusal(NamedTuple):
    """Why a request is refused: HTTP status, provider code, text, JSON pointer to the field."""

    status: int
    code: str
    detail: str
    pointer: str | None = None


class Draft(NamedTuple):
    """A checked send request."""

    sender: str
    to: str
    text: str
    subject: str | None
    media_urls: tuple[str, ...]
    kind: Literal["SMS", "MMS"]
    gsm7: bool
    parts: int
    webhook_url: str | None
    webhook_failover_url: str | None
    profile_id: str

    def content_sha256(self) -> bytes:
        """Hash what the recipient would read: text, subject and media; the callback URL does not count."""
        content = self.text
        if self.media_urls or self.subject:
            content = "\x00".join((self.text, self.subject or "", *self.media_urls))
        return sha256(content.encode()).digest()


class Message:
    """A message taken: its draft, and what became of it so far (times in Unix seconds)."""

    __slots__ = ("carrier", "completed_s", "draft", "failure", "id", "received_s", "sent_s", "status")

    def __init__(self, message_id: str, draft: Draft, carrier: str, received_s: float) -> None:
        """Take a message: its state is queued."""
        self.id: Final = message_id
        self.draft: Final = draft
        self.carrier: Final = carrier
        self.received_s: Final = received_s
        self.status = "queued"
        self.sent_s: float | None = None
        self.completed_s: float | None = None
        self.failure: FailureMix | None = None


def check_send(fields: Mapping[str, object]) -> Draft | Refusal:
    """Check the decoded body of `POST /v2/messages`; unknown fields are ignored."""
    to, sender = fields.get("to"), fields.get("from")
    if to is None:
        return Refusal(400, "10004", "The 'to' parameter is required.", "/to")
    if not isinstance(to, str) or _NUMBER.fullmatch(to) is None:
        return Refusal(400, "40310", "The 'to' address is not one valid number.", "/to")
    profile_id = fields.get("messaging_profile_id")
    if sender is None:
        return Refusal(400, "10004", "The 'from' parameter is required: number pools are not simulated.", "/from")
    if not isinstance(sender, str) or _SENDER.fullmatch(sender) is None:
        return Refusal(400, "40305", "The 'from' address is not valid.", "/from")
    if profile_id is not None and not isinstance(profile_id, str):
        return Refusal(400, "10026", "Must be a string.", "/messaging_profile_id")
    for name in ("webhook_url", "webhook_failover_url"):
        url = fields.get(name)
        if url is not None and not (isinstance(url, str) and is_webhook_url(url)):
            return Refusal(400, "10003", "Must be an http or https URL of at most 2000 characters.", "/" + name)
    if fields.get("send_at") is not None:
        return Refusal(400, "10015", "Scheduled sending is not simulated.", "/send_at")
    return _check_content(fields, to, sender, profile_id or PROFILE_ID)


def _check_content(fields: Mapping[str, Any], to: str, sender: str, profile_id: str) -> Draft | Refusal:
    text, subject, media = fields.get("text"), fields.get("subject"), fields.get("media_urls")
    kind, encoding = fields.get("type"), fields.get("encoding")
    for name, value in (("text", text), ("subject", subject)):
        if value is not None and not isinstance(value, str):
            return Refusal(400, "10026", "Must be a string.", "/" + name)
    if media is not None and not (isinstance(media, list) and all(isinstance(url, str) for url in media)):
        return Refusal(400, "10026", "Must be a list of strings.", "/media_urls")
    if kind not in {None, "SMS", "MMS"}:
        return Refusal(400, "10032", "Must be SMS or MMS.", "/type")
    if encoding not in {None, "auto", "gsm7", "ucs2"}:
        return Refusal(400, "10032", "Must be auto, gsm7 or ucs2.", "/encoding")
    if kind == "SMS" and media:
        return Refusal(400, "40304", "An SMS cannot carry media.", "/media_urls")
    if not text and not media:
        return Refusal(400, "40316", "A message needs a text or media.", "/text")
    if media and len(media) > MEDIA_URLS_MAX:
        return Refusal(400, "40317", f"At most {MEDIA_URLS_MAX} media URLs.", "/media_urls")
    text = text or ""
    sent_as: Literal["SMS", "MMS"] = "MMS" if media or kind == "MMS" else "SMS"
    gsm7 = encoding != "ucs2" and is_gsm7(text)
    if encoding == "gsm7" and not gsm7:
        return Refusal(400, "40009", "The text has characters that GSM-7 cannot encode.", "/text")
    parts = 1 if sent_as == "MMS" else count_parts(text, gsm7=gsm7)
    if parts > PARTS_MAX:
        return Refusal(400, "40302", f"The text makes {parts} parts; at most {PARTS_MAX} are sent.", "/text")
    if fields.get("auto_detect") is True and parts > PARTS_RECOMMENDED_MAX:
        return Refusal(400, "40328", f"The text makes {parts} parts.", "/text")
    return Draft(sender, to, text, subject, tuple(media or ()), sent_as, gsm7, parts, fields.get("webhook_url"),
                 fields.get("webhook_failover_url"), profile_id)  # fmt: skip
