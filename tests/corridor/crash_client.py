"""The sender of a run with crashes: hands messages in by gRPC, keeps a log of every answer, retries with the same ids.

It starts no process (`crash_harness.py` does) and checks nothing (`crash_checker.py` does).

Lines of its log, each flushed before the next step; all have `kind` and `at_us` (wall clock):

- handed_in: request_id, text_sha256, recipient, campaign, sender, message_class, ordering_key; written before the first
  call that carries it
- acked: request_id, message, text_sha256, recipient
- refused: request_id, text_sha256, verdict
- reused: request_id, accepted, verdict; other content was tried under an id that was accepted before
- cancel_asked: message; written before the call
- opt_out_acked: recipient, by (`api` or `stop`)
- webhook_probe: what, status, wanted; a webhook that nobody may believe
- life: after (what ended the last one), failpoint; the engine is about to be started
- ended: exit_code
- drained: from_us, to_us, exit_code, faultless
"""

import asyncio
import base64
import itertools
import json
import os
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from longwave.v1 import compliance_pb2, compliance_pb2_grpc, messaging_pb2_grpc, verdict_pb2
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.crash_checker import FORGED_CODE
from tests.corridor.crash_evidence import US, handed_in, id_of, sha256

CALL_S: Final = 10
STALE_S: Final = 400
RESEND: Final = "resend"
CAREFUL: Final = "careful"
METERED: Final = "metered"
SENDERS: Final = {RESEND: "+12025550190", CAREFUL: "+12025550191", METERED: "+12025550192"}
# Area codes as the plan forms them: no 9 in the middle, no service code.
_AREAS: Final = [area for area in range(201, 370) if area // 10 % 10 != 9 and area % 100 != 11]
RECIPIENTS_MAX: Final = 100 * len(_AREAS)
# What a call that ended so may have done is unknown or nothing: the same ids are tried again.
AGAIN: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
TEXTS: Final = ("Your parcel is on its way.", "Votre colis est en route ✓", "A long one. " * 20)
_HEADERS: Final = ("telnyx-timestamp", "telnyx-signature-ed25519")


def now_us() -> int:
    """Wall clock."""
    return time.time_ns() // 1000


def fictitious(index: int) -> str:
    """A fictitious number of its own for each index below `RECIPIENTS_MAX`: exchange 555, line 0100 to 0199."""
    return f"+1{_AREAS[index // 100]}555{100 + index % 100:04d}"


class ClientLog:
    """JSON lines that survive this process."""

    def __init__(self, path: Path) -> None:
        """Append to `path`."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, kind: str, **fields: Any) -> None:
        """Write one line."""
        line = json.dumps({"kind": kind, "at_us": now_us()} | fields)
        os.write(self._descriptor, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Item:
    """A message to hand in."""

    request_id: str
    submission: pb.Submission

    @property
    def text_sha256(self) -> str:
        """Of its text."""
        return sha256(self.submission.text)


def plan(seed: int, messages: int, recipients: int, texts: Sequence[str] = ()) -> Iterator[Item]:
    """So many good messages of three campaigns, mixed with a few that must be refused; the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - it must repeat
    for number in range(messages):
        campaign = draw.choices((RESEND, CAREFUL, METERED), (5, 5, 2))[0]
        text = texts[number % len(texts)] if texts else draw.choice(TEXTS)
        submission = pb.Submission(
            campaign=f"campaigns/{campaign}",
            recipient=fictitious(draw.randrange(recipients)),
            text=f"{text} #{number}",
            message_class=draw.choice(
                (pb.MESSAGE_CLASS_CRITICAL, pb.MESSAGE_CLASS_TRANSACTIONAL, pb.MESSAGE_CLASS_BULK)
            ),
            request_id=f"run-{seed}-{number}",
        )
        if draw.random() < 0.1:
            submission.ordering_key = f"key-{draw.randrange(5)}"
        yield Item(submission.request_id, submission)
        if draw.random() < 0.05:
            yield _refused(draw, seed, number)


def _refused(draw: random.Random, seed: int, number: int) -> Item:
    submission = pb.Submission(
        campaign=f"campaigns/{RESEND}", recipient=fictitious(0), text=f"must not leave {seed} {number}",
        request_id=f"refused-{seed}-{number}",
    )  # fmt: skip
    match draw.randrange(3):
        case 0:
            submission.recipient = "+1202"
        case 1:
            submission.campaign = "campaigns/nobody"
        case _:
            submission.validity.FromSeconds(400 * 86_400)
    return Item(submission.request_id, submission)


class Sender:
    """Hands in; knows what is still unanswered. Made anew calls go to whoever listens on the address."""

    def __init__(
        self, log: ClientLog, address: str, api_key: str, items: Iterator[Item], seed: int, batch: int
    ) -> None:
        """Open nothing. `batch` messages go in one call."""
        self._batch = batch
        self._log = log
        self._address = address
        self._metadata = (("authorization", f"Bearer {api_key}"),)
        self._items = items
        self._again: deque[Item] = deque()
        self._opt_outs: deque[str] = deque()
        self._draw = random.Random(seed)  # noqa: S311 - it must repeat
        self._channel: grpc.aio.Channel | None = None
        self.accepted: dict[str, tuple[str, Item]] = {}
        """request id → (message name, item)"""
        self.refused: set[str] = set()
        self.exhausted = False

    async def connect(self) -> None:
        """Begin a life: new channel."""
        await self.disconnect()
        self._channel = grpc.aio.insecure_channel(self._address)

    async def disconnect(self) -> None:
        """End the channel."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    def stop_feeding(self) -> None:
        """Nothing fresh from now on; what is unanswered stays to be settled."""
        self._items = iter(())
        self.exhausted = True

    @property
    def unanswered(self) -> int:
        """Calls to be made again."""
        return len(self._again) + len(self._opt_outs)

    def _next(self) -> list[Item]:
        """Unanswered ones first; the rest fresh. A fresh one is in the log before it leaves."""
        batch = [self._again.popleft() for _ in range(min(self._batch, len(self._again)))]
        fresh = list(itertools.islice(self._items, self._batch - len(batch)))
        self.exhausted = len(batch) + len(fresh) < self._batch
        for item in fresh:
            self._log.note("handed_in", **handed_in(item.submission))
        return batch + fresh

    async def step(self) -> bool:
        """One batch; False when the engine did not answer."""
        batch = self._next()
        if not batch:
            return True
        try:
            await self._submit(batch)
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
            self._again.extend(batch)
            return False
        return True

    async def _submit(self, batch: list[Item]) -> None:
        assert self._channel is not None
        request = pb.SubmitMessagesRequest(submissions=[item.submission for item in batch])
        stub = messaging_pb2_grpc.MessagingServiceStub(self._channel)
        response = await stub.SubmitMessages(request, timeout=CALL_S, metadata=self._metadata)
        assert len(response.results) == len(batch)
        for item, result in zip(batch, response.results, strict=True):
            self._take(item, result)

    def _take(self, item: Item, result: pb.SubmitResult) -> None:
        """Log the answer before anything else happens."""
        if result.verdict == verdict_pb2.VERDICT_ACCEPTED:
            self._log.note(
                "acked",
                request_id=item.request_id,
                message=id_of(result.message.removeprefix("messages/")),
                text_sha256=item.text_sha256,
                recipient=item.submission.recipient,
            )
            self.accepted[item.request_id] = (result.message, item)
        elif result.HasField("retry_delay"):
            self._again.append(item)
        else:
            verdict = verdict_pb2.Verdict.Name(result.verdict)
            self._log.note("refused", request_id=item.request_id, text_sha256=item.text_sha256, verdict=verdict)
            self.refused.add(item.request_id)

    # What else callers do.

    async def reuse(self) -> None:
        """Try other content under an accepted id, and an accepted message again."""
        if not self.accepted or self._channel is None:
            return
        request_id = self._draw.choice(list(self.accepted))
        _, item = self.accepted[request_id]
        other = pb.Submission()
        other.CopyFrom(item.submission)
        other.text += " changed"
        request = pb.SubmitMessagesRequest(submissions=[other, item.submission])
        stub = messaging_pb2_grpc.MessagingServiceStub(self._channel)
        try:
            response = await stub.SubmitMessages(request, timeout=CALL_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
            return
        changed, same = response.results
        if not changed.HasField("retry_delay"):
            accepted = changed.verdict == verdict_pb2.VERDICT_ACCEPTED
            verdict = verdict_pb2.Verdict.Name(changed.verdict)
            self._log.note("reused", request_id=request_id, accepted=accepted, verdict=verdict)
        self._take(item, same)

    async def opt_out(self) -> None:
        """Forbid a recipient that messages wait for, or one whose call was not answered."""
        if self._channel is None or not self.accepted:
            return
        if not self._opt_outs:
            _, item = self._draw.choice(list(self.accepted.values())[-self._batch :])
            self._opt_outs.append(item.submission.recipient)
        recipient = self._opt_outs[0]
        stub = compliance_pb2_grpc.ComplianceServiceStub(self._channel)
        request = compliance_pb2.AddOptOutRequest(recipient=recipient)
        try:
            await stub.AddOptOut(request, timeout=CALL_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
            return
        self._opt_outs.popleft()
        self._log.note("opt_out_acked", recipient=recipient, by="api")

    async def cancel(self) -> None:
        """Cancel one of the last; too late is as good."""
        if self._channel is None or not self.accepted:
            return
        name, _ = self._draw.choice(list(self.accepted.values())[-self._batch :])
        self._log.note("cancel_asked", message=id_of(name.removeprefix("messages/")))
        stub = messaging_pb2_grpc.MessagingServiceStub(self._channel)
        try:
            await stub.CancelMessage(pb.CancelMessageRequest(name=name), timeout=CALL_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN | {grpc.StatusCode.FAILED_PRECONDITION}:
                raise

    async def settle(self) -> bool:
        """Make the unanswered calls again; True when none is left and all is handed in."""
        while self._opt_outs:
            before = len(self._opt_outs)
            await self.opt_out()
            if len(self._opt_outs) == before:
                return False
        return await self.step() and self.exhausted and not self._again


class Handsets:
    """People who write STOP, and forgers: whoever else calls the receipts edge."""

    def __init__(self, log: ClientLog, session: aiohttp.ClientSession, url: str, key: Ed25519PrivateKey) -> None:
        """`url` is where inbound messages go, `key` signs as the carrier does."""
        self._log = log
        self._session = session
        self._url = url
        self._key = key
        self._numbers = itertools.count(1)
        self._stops: deque[tuple[str, bytes]] = deque()

    @property
    def unanswered(self) -> int:
        """STOPs not yet acknowledged."""
        return len(self._stops)

    async def stop(self, recipient: str | None) -> None:
        """Write STOP to our number; one that was not acknowledged goes first, as the carrier would."""
        if recipient is not None:
            number = next(self._numbers)
            payload = {
                "id": f"stop-{number}", "from": {"phone_number": recipient}, "text": "STOP",
                "to": [{"phone_number": SENDERS[RESEND]}],
            }  # fmt: skip
            data = {"event_type": "message.received", "id": f"event-{recipient}-{number}", "payload": payload}
            self._stops.append((recipient, json.dumps({"data": data}).encode()))
        while self._stops:
            recipient, body = self._stops[0]
            if await self._post(self._url, body, now_us() // US) != 200:
                return
            self._stops.popleft()
            self._log.note("opt_out_acked", recipient=recipient, by="stop")

    async def probe(self, callbacks: Sequence[str]) -> None:
        """Send what nobody may believe about messages of these callback URLs (two of different messages)."""
        first, second = callbacks
        body = json.dumps(
            {"data": {
                "event_type": "message.finalized", "id": f"forged-{next(self._numbers)}",
                "payload": {"id": "nobody", "to": [{"status": "delivery_failed"}], "errors": [{"code": FORGED_CODE}]},
            }}
        ).encode()  # fmt: skip
        at_s = now_us() // US
        forger = Ed25519PrivateKey.generate()
        # Another message's MAC: as a tenant would who tells falsehoods about another's message.
        mixed = {**parse_qs(urlsplit(first).query), "s": parse_qs(urlsplit(second).query)["s"]}
        first = f"{self._url}?{urlsplit(first).query}"
        crossed = f"{self._url}?{urlencode(mixed, doseq=True)}"
        for what, wanted, status in (
            ("wrong signature", 401, await self._post(first, body, at_s, key=forger)),
            ("stale", 401, await self._post(first, body, at_s - STALE_S)),
            ("another's MAC", 200, await self._post(crossed, body, at_s)),
        ):
            if status:
                self._log.note("webhook_probe", what=what, status=status, wanted=wanted)

    async def _post(self, url: str, body: bytes, at_s: int, key: Ed25519PrivateKey | None = None) -> int:
        """HTTP status; 0 when there was no answer or the engine asks for another try."""
        timestamp = str(at_s).encode()
        signature = base64.b64encode((key or self._key).sign(timestamp + b"|" + body))
        headers = dict(zip(_HEADERS, (timestamp.decode(), signature.decode()), strict=True))
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                return 0 if response.status == 503 else response.status
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError):
            return 0
