"""Turns the fate of a message into events over time: message.sent, message.finalized, and message.received.

It opens no connection (see `webhooks.py`) and draws nothing (see `fate.py`).

Invariants: a message's state moves queued, sent, final even when its receipts are lost, late or forged; an event keeps
its id in every copy; what was scheduled before a reset is dropped.
"""

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Final

from loadtest.carrier.config import Config
from loadtest.carrier.fate import Fate
from loadtest.carrier.messages import Message
from loadtest.carrier.payloads import (
    current_payload,
    event_data,
    forged_payload,
    inbound_payload,
    sent_payload,
)
from loadtest.carrier.webhooks import Delivery, SigningMode, WebhookSender
from loadtest.carrier.wheel import Wheel


class Receipts:
    """Schedules events and hands them to the sender when their moment comes."""

    def __init__(self, sender: WebhookSender, wheel: Wheel, counts: Counter[str], config: Callable[[], Config]) -> None:
        """Prepare; `counts` is shared with the statistics, `config` gives the settings in force."""
        self._sender: Final = sender
        self._counts: Final = counts
        self._config: Final = config
        self._wheel: Final = wheel
        self._event_prefix: Final = new_id_prefix()
        self._events = 0
        self._era = 0
        self.scheduled = 0

    def start(self, message: Message, fate: Fate, early_done: Callable[[], None] | None) -> None:
        """Schedule a message's receipts.

        With `early_done` both are sent now, and it is called when the first attempt of each has ended.
        """
        extra_s = self._config().receipt_delayed_ms / 1000 if fate.delayed else 0.0
        first_s = fate.sent_delay_s + extra_s
        if early_done is not None:
            self._start_early(message, fate, early_done)
        elif fate.reordered:
            self._later(first_s, self._finalize_then_sent, message, fate)
        else:
            self._later(first_s, self._sent, message, fate)
            self._later(first_s + fate.finalized_delay_s, self._finalized, message, fate)

    def receive(
        self, *, url: str, sender: str, to: str, text: str, media_urls: list[str], carrier: str, duplicates: int
    ) -> dict[str, str]:
        """Send message.received to `url`, `1 + duplicates` times; gives the ids of message and event."""
        message_id = self._new_id()
        payload = inbound_payload(
            message_id=message_id, sender=sender, to=to, text=text, media_urls=media_urls, carrier=carrier,
            received_s=time.time(),
        )  # fmt: skip
        event_id, data = self._event("message.received", payload)
        for _ in range(1 + duplicates):
            self._sender.send(Delivery("message.received", data, (url,)))
        self._counts["inbound_events"] += 1
        return {"message_id": message_id, "event_id": event_id}

    def forget_scheduled(self) -> None:
        """Drop every event whose moment has not come."""
        self._era += 1
        self.scheduled = 0

    def _start_early(self, message: Message, fate: Fate, early_done: Callable[[], None]) -> None:
        open_attempts = 2

        def ended() -> None:
            nonlocal open_attempts
            open_attempts -= 1
            if not open_attempts:
                early_done()

        if fate.reordered:
            self._finalized(message, fate, ended)
            self._sent(message, fate, ended)
        else:
            self._sent(message, fate, ended)
            self._finalized(message, fate, ended)

    def _finalize_then_sent(self, message: Message, fate: Fate) -> None:
        if fate.finalized_lost:
            self._later(fate.finalized_delay_s, self._sent, message, fate)
            self._finalized(message, fate)
        else:
            # The order is certain: the later event waits until the receiver has answered for the earlier one.
            self._finalized(message, fate, lambda: self._sent(message, fate))

    def _sent(self, message: Message, fate: Fate, ended: Callable[[], None] | None = None) -> None:
        if message.sent_s is None:
            message.sent_s = time.time()
        if message.status == "queued":
            message.status = "sent"
        # What never reached the network was never sent: no such event.
        lost = fate.sent_lost or fate.final.status == "sending_failed"
        self._emit("message.sent", sent_payload, message, fate, lost=lost, ended=ended)

    def _finalized(self, message: Message, fate: Fate, ended: Callable[[], None] | None = None) -> None:
        final = fate.final
        if message.sent_s is None and final.status != "sending_failed":
            message.sent_s = time.time()
        message.status = final.status
        message.completed_s = time.time()
        message.failure = None if final.status == "delivered" else final
        if fate.forged:
            self._extra("message.finalized", forged_payload(message), message, "wrong")
        if fate.stale:
            self._extra("message.finalized", current_payload(message), message, "stale")
        self._emit("message.finalized", current_payload, message, fate, lost=fate.finalized_lost, ended=ended)

    def _emit(
        self,
        event_type: str,
        render: Callable[[Message], bytes],
        message: Message,
        fate: Fate,
        *,
        lost: bool,
        ended: Callable[[], None] | None,
    ) -> None:
        urls = _urls_of(message)
        if lost or not urls:
            self._counts["receipts_lost" if lost else "receipts_without_url"] += 1
            if ended is not None:
                ended()
            return
        self._counts[event_type] += 1
        _, data = self._event(event_type, render(message))
        mode: SigningMode = "wrong" if fate.wrong_signature else "right"
        self._sender.send(Delivery(event_type, data, urls, mode=mode, first_done=ended))
        if fate.duplicate:
            for copy in range(1, 1 + self._config().receipt_duplicate_copies):
                self._counts["receipts_duplicated"] += 1
                self._later(copy * fate.sent_delay_s, self._send_copy, event_type, data, urls, mode)

    def _send_copy(self, event_type: str, data: bytes, urls: tuple[str, ...], mode: SigningMode) -> None:
        self._sender.send(Delivery(event_type, data, urls, mode=mode))

    def _extra(self, event_type: str, payload: bytes, message: Message, mode: SigningMode) -> None:
        if urls := _urls_of(message):
            self._counts[f"receipts_{mode}"] += 1
            _, data = self._event(event_type, payload)
            self._sender.send(Delivery(event_type, data, urls, mode=mode))

    def _event(self, event_type: str, payload: bytes) -> tuple[str, bytes]:
        event_id = self._new_id()
        return event_id, event_data(event_type, event_id, time.time(), payload)

    def _new_id(self) -> str:
        self._events += 1
        return f"{self._event_prefix}{self._events:012x}"

    def _later(self, delay_s: float, act: Callable[..., None], *arguments: object) -> None:
        self.scheduled += 1
        self._wheel.call_later(delay_s, self._run, self._era, act, arguments)

    def _run(self, era: int, act: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if era == self._era:
            self.scheduled -= 1
            act(*arguments)


def new_id_prefix() -> str:
    """Give the first 24 characters of a UUID, new in every process: ids must not return when a seed does.

    A receiver keeps event ids for days to drop duplicates; a second run would look like copies of the first.
    """
    return str(uuid.UUID(bytes=os.urandom(16), version=4))[:24]


def _urls_of(message: Message) -> tuple[str, ...]:
    draft = message.draft
    return tuple(url for url in (draft.webhook_url, draft.webhook_failover_url) if url)
