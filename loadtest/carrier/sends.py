"""Handles `POST /v2/messages`: check, repeat by key, draw the fate, take, answer.

It holds no state of its own and renders no JSON (see `messages.py`).

Order of a request: key and JSON, idempotency key, fields, fate, caps, taking, receipts, answer. Invariants: every
request that is a JSON object leaves one record; a message is charged to caps exactly when it is taken; the same key is
never handled twice at once.
"""

import hmac
import re
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import orjson

from loadtest.carrier.config import Cap, FailureMix
from loadtest.carrier.errors import error_body
from loadtest.carrier.fate import UNTAKEN, Fate
from loadtest.carrier.garbage import give_garbage
from loadtest.carrier.http1 import Exchange, json_answer
from loadtest.carrier.messages import Draft, Message, Refusal, check_send
from loadtest.carrier.payloads import queued_answer
from loadtest.carrier.state import Carrier

_KEY: Final = re.compile(r"[A-Za-z0-9_:-]{1,255}")
# What an API request limit looks like; the real numbers are unpublished.
_RATE_LIMIT: Final = b"x-ratelimit-limit: 50\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: %d\r\n"


def authorization_refusal(carrier: Carrier, exchange: Exchange) -> Refusal | None:
    """Check the API key of a request under /v2."""
    given = exchange.headers.get(b"authorization")
    if given is None:
        return Refusal(401, "10009", "No API key was given.")
    if not hmac.compare_digest(given, carrier.authorization):
        return Refusal(401, "20008", "The API key is not valid.")
    return None


def refuse(exchange: Exchange, refusal: Refusal, headers: bytes = b"") -> None:
    """Answer with an error in Telnyx's form."""
    body = error_body(refusal.code, refusal.detail, refusal.pointer)
    exchange.respond(json_answer(body, refusal.status, headers))


def handle_send(carrier: Carrier, exchange: Exchange) -> None:
    """Handle one request to send a message."""
    carrier.counts["send_requests"] += 1
    refusal = authorization_refusal(carrier, exchange)
    if refusal is None and not exchange.headers.get(b"content-type", b"").lower().startswith(b"application/json"):
        refusal = Refusal(415, "10029", "The content type must be application/json.")
    fields: object = None
    if refusal is None:
        try:
            fields = orjson.loads(exchange.body)
        except orjson.JSONDecodeError:
            refusal = Refusal(400, "10023", "The body is not valid JSON.")
    if refusal is None and not isinstance(fields, dict):
        refusal = Refusal(400, "10015", "The body must be a JSON object.")
    if refusal is not None or not isinstance(fields, dict):
        carrier.counts["refused"] += 1
        refuse(exchange, refusal or Refusal(400, "10015", "The body must be a JSON object."))
        return
    _Send(carrier, exchange, fields).handle()


class _Send:
    """One send request on its way through the steps."""

    __slots__ = ("body_sha256", "carrier", "exchange", "fields", "key", "received_s")

    def __init__(self, carrier: Carrier, exchange: Exchange, fields: dict[str, object]) -> None:
        self.carrier: Final = carrier
        self.exchange: Final = exchange
        self.fields: Final = fields
        self.received_s: Final = time.time()
        self.body_sha256: Final = sha256(exchange.body).digest()
        self.key: Final = exchange.headers.get(b"idempotency-key", b"").decode("latin-1")

    def handle(self) -> None:
        if self._is_settled_by_key():
            return
        draft = check_send(self.fields)
        if isinstance(draft, Refusal):
            self.carrier.counts["refused"] += 1
            self._record(f"refused:{draft.status}/{draft.code}", taken=False)
            refuse(self.exchange, draft)
            return
        content_sha256 = draft.content_sha256()
        copy = self.carrier.ledger.count_copy(draft.to, content_sha256)
        fate = self.carrier.dice.fate(draft.to, content_sha256, copy)
        network = self.carrier.dice.carrier_of(draft.to)
        cap = None if fate.answer in UNTAKEN else self._charge_caps(draft, network)
        if cap is not None and cap.status:
            self._refuse_for_cap(cap, fate, draft, network, copy)
        elif fate.answer in UNTAKEN:
            self._leave(fate, draft, network, copy)
        else:
            if cap is not None:
                fate.final = FailureMix(cap.code)
            self._take(fate, draft, network, copy)

    def _is_settled_by_key(self) -> bool:
        """Answer from the idempotency key alone where it decides; say whether it did."""
        carrier, exchange, key = self.carrier, self.exchange, self.key
        if not key or carrier.config.idempotency == "ignored":
            return False
        if _KEY.fullmatch(key) is None:
            outcome, refusal = "refused:400/10015", Refusal(400, "10015", "The idempotency key is malformed.")
        elif key in carrier.keys_in_flight:
            outcome, refusal = "key_in_flight", Refusal(409, "10012", "A request with this key is being handled.")
        elif (remembered := carrier.ledger.find_key(key, carrier.loop.time())) is None:
            return False
        elif remembered.body_sha256 != self.body_sha256:
            outcome, refusal = "key_reused", Refusal(422, "10027", "This key was used with another body.")
        else:
            message = remembered.message
            carrier.counts["replayed"] += 1
            self._record("replayed", taken=False, message=message, replayed=True)
            self._answer_later(
                carrier.config.latency_mean_ms / 1000, lambda: exchange.respond(json_answer(queued_answer(message)))
            )
            return True
        carrier.counts[outcome] += 1
        self._record(outcome, taken=False)
        refuse(exchange, refusal)
        return True

    def _charge_caps(self, draft: Draft, network: str) -> Cap | None:
        if not self.carrier.config.caps:
            return None
        return self.carrier.caps.charge(
            self.carrier.config, carrier=network, sender=draft.sender, parts=draft.parts,
            monotonic_s=self.carrier.loop.time(), unix_s=self.received_s,
        )  # fmt: skip

    def _refuse_for_cap(self, cap: Cap, fate: Fate, draft: Draft, network: str, copy: int) -> None:
        self.carrier.counts["capped"] += 1
        self._record(f"cap:{cap.name}", taken=False, draft=draft, network=network, copy=copy)
        refusal = Refusal(cap.status, cap.code, f"The limit {cap.name} is reached.")
        headers = self._throttle_headers() if cap.status == 429 else b""  # noqa: PLR2004 - too many requests
        self._hold_key(fate.latency_s, refuse, self.exchange, refusal, headers)

    def _leave(self, fate: Fate, draft: Draft, network: str, copy: int) -> None:
        """Do not take the message."""
        refusal = fate.refusal
        outcome = fate.answer if refusal is None else f"{fate.answer}:{refusal.status}/{refusal.code}"
        self.carrier.counts[f"answer_{fate.answer}"] += 1
        self._record(outcome, taken=False, draft=draft, network=network, copy=copy)
        if fate.answer == "drop_untaken":
            self._hold_key(fate.latency_s, self.exchange.abort)
        elif refusal is not None:
            headers = self._throttle_headers() if refusal.status == 429 else b""  # noqa: PLR2004 - too many requests
            given = Refusal(refusal.status, refusal.code, "Refused as configured.")
            self._hold_key(fate.latency_s, refuse, self.exchange, given, headers)

    def _take(self, fate: Fate, draft: Draft, network: str, copy: int) -> None:
        carrier = self.carrier
        message = Message(carrier.ledger.next_message_id(), draft, network, self.received_s)
        carrier.ledger.add_message(message)
        carrier.counts["taken"] += 1
        carrier.counts["taken_parts"] += draft.parts
        carrier.counts[f"answer_{fate.answer}"] += 1
        remembered = carrier.config.idempotency == "honoured" or (
            carrier.config.idempotency == "forgets_failed" and fate.answer == "ok"
        )
        if self.key and remembered:
            carrier.ledger.remember_key(self.key, message, self.body_sha256, carrier.loop.time())
        self._record(_outcome_of(fate), taken=True, message=message, copy=copy, fate=fate)
        if fate.early:
            self._claim_key()
            carrier.receipts.start(
                message, fate, lambda: self._answer_later(fate.latency_s, self._answer, fate, message)
            )
        else:
            carrier.receipts.start(message, fate, None)
            self._hold_key(fate.latency_s, self._answer, fate, message)

    def _answer(self, fate: Fate, message: Message) -> None:
        """Answer for a message taken, or fail to."""
        exchange = self.exchange
        match fate.answer:
            case "ok":
                exchange.respond(json_answer(queued_answer(message)))
            case "drop_taken":
                exchange.abort()
            case "drop_midway":
                good = json_answer(queued_answer(message))
                exchange.respond(good[: len(good) // 2], close=True)
            case "late_error":
                code = "10037" if fate.late_status == 503 else "10007"  # noqa: PLR2004 - service unavailable
                refuse(exchange, Refusal(fate.late_status, code, "Failed after taking the message, as configured."))
            case "garbage" if fate.garbage is not None:
                give_garbage(exchange, fate.garbage, queued_answer(message))

    def _hold_key(self, latency_s: float, give: Callable[..., None], *arguments: object) -> None:
        """Answer after the latency; until then a second request with the key is a conflict."""
        self._claim_key()
        self._answer_later(latency_s, give, *arguments)

    def _claim_key(self) -> None:
        if self.key and self.carrier.config.idempotency != "ignored":
            self.carrier.keys_in_flight.add(self.key)

    def _answer_later(self, latency_s: float, give: Callable[..., None], *arguments: object) -> None:
        self.carrier.wheel.call_later(latency_s, self._answer_now, give, arguments)

    def _answer_now(self, give: Callable[..., None], arguments: tuple[object, ...]) -> None:
        self.carrier.keys_in_flight.discard(self.key)
        give(*arguments)

    def _throttle_headers(self) -> bytes:
        wait_s = self.carrier.config.retry_after_s
        return _RATE_LIMIT % max(wait_s, 1) + (b"retry-after: %d\r\n" % wait_s if wait_s else b"")

    def _record(
        self,
        outcome: str,
        *,
        taken: bool,
        message: Message | None = None,
        draft: Draft | None = None,
        network: str | None = None,
        copy: int | None = None,
        fate: Fate | None = None,
        replayed: bool = False,
    ) -> None:
        draft = message.draft if message is not None else draft
        network = message.carrier if message is not None else network
        fields: dict[str, Any] = self.fields
        text = fields.get("text")
        self.carrier.record(
            {
                "id": message.id if message is not None else None,
                "idempotency_key": self.key or None,
                "from": fields.get("from"),
                "to": fields.get("to"),
                "text_sha256": sha256(text.encode()).hexdigest() if isinstance(text, str) else None,
                "body_sha256": self.body_sha256.hex(),
                "taken_at_us": int(self.received_s * 1e6),
                "taken": taken,
                "replayed": replayed,
                "copy": copy,
                "carrier": network,
                "parts": draft.parts if draft is not None else None,
                "webhook_url": fields.get("webhook_url"),
                "outcome": outcome,
                "final": f"{fate.final.status}/{fate.final.code}".rstrip("/") if fate is not None else None,
                "receipt_faults": fate.receipt_faults() if fate is not None else [],
            }
        )


def _outcome_of(fate: Fate) -> str:
    if fate.answer == "late_error":
        return f"late_error:{fate.late_status}"
    return f"garbage:{fate.garbage}" if fate.answer == "garbage" else fate.answer
