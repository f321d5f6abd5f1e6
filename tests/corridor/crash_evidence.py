"""Reads what a run with crashes left behind: the client's log, the store, the carrier's record, the engine's history.

It judges nothing (`crash_checker.py` does) and imports nothing of the engine: ids, events and timelines are decoded
once more here, from the contract and the documented layouts, so that a fault of the engine cannot hide itself.

Invariants: the store is only read; every list is in the order in which things happened.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from longwave.v1 import messaging_pb2 as pb

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    # The library with the WAL-reset fix, as the engine's: an older one may not read beside a writer.
    from pysqlite3 import dbapi2 as dbapi

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
HISTORY_HEAD_BYTES: Final = 15
US: Final = 1_000_000
# So many texts are looked for in every log.
CANARY_TEXTS_MAX: Final = 200


def sha256(text: str) -> str:
    """The hash by which client, store and carrier are compared."""
    return hashlib.sha256(text.encode()).hexdigest()


def id_of(short: str) -> int:
    """The id of thirteen characters of Crockford's alphabet."""
    identity = 0
    for character in short:
        identity = identity << 5 | ALPHABET.index(character)
    return identity


def short_of(identity: int) -> str:
    """Thirteen characters of Crockford's alphabet."""
    return "".join(ALPHABET[identity >> shift & 31] for shift in range(60, -1, -5))


class Change(NamedTuple):
    """A state change, as the event log tells it."""

    position: int
    message: int
    seq: int
    previous: int
    state: int
    reason: int
    at_us: int
    attempt: int
    generation: int
    code: str


class Consent(NamedTuple):
    """A consent event."""

    position: int
    kind: int
    recipient: str
    at_us: int
    tenant: int = 0
    """To whom it is told; 0: not known."""


class Proof(NamedTuple):
    """An entry of the log that proves consent; `kind` is the event's that tells of it."""

    tenant: int
    recipient: str
    kind: int


class Inbound(NamedTuple):
    """A stored text from a handset."""

    provider: int
    provider_id: str
    id: int = 0
    tenant: int = 0
    sender: str = ""
    recipient: str = ""
    """Our number."""


class Sender(NamedTuple):
    """Whose a number of ours is."""

    campaign: int
    tenant: int


class Entry(NamedTuple):
    """A step of a message's own timeline."""

    state: int
    reason: int
    at_us: int
    attempt: int
    generation: int
    code: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A message as the store has it."""

    id: int
    campaign: int
    sender: str
    recipient: str
    message_class: int
    segments: int
    state: int
    seq: int
    attempt: int
    epoch: int
    code: str
    timeline: tuple[Entry, ...]
    request_id: str
    text_sha256: str
    ordering_key: str
    tenant: int = 0
    expires_us: int = 0
    """0: not known."""
    carrier: int = 0
    """The recipient's, once it is known."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send, as the carrier got it."""

    at_us: int
    message: int
    generation: int
    sender: str
    recipient: str
    text_sha256: str
    body_sha256: str
    taken: bool
    final: str
    """What the network said in the end, such as `delivered` or `delivery_failed/40008`; empty when it was not taken."""
    receipt_faults: tuple[str, ...]
    parts: int = 0
    """Segments by the carrier's own count; 0: not known."""
    answered: str = ""
    """What the carrier did with it: `ok`, or the name of a fault; empty: not known."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A rate limit as the store has it: `scope` is the contract's number, `subject` its key or a number's digits."""

    scope: int
    subject: int
    carrier: int
    unit: int
    amount: int
    window_us: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a daily limit counted over all its days, and what it is a limit of."""

    limit: Quota
    spent: int
    reserved: int
    time_zone: str = "America/Los_Angeles"
    days: tuple[tuple[int, int, int], ...] = ()
    """(ordinal of the date, spent, reserved)."""


@dataclass
class Evidence:
    """All of it."""

    client: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the client's log; `crash_client.py` says what they hold.

    Others may write beside those (all optional, with `kind` and `at_us`):

    - watched: subscriber, tenant, events (list of [message, seq] in the order in which it got them), caught_up
    - foreign_asked: what, found; a tenant asked for another's
    - faulted: from_us, to_us; something was broken from then to then
    - sample: rss_bytes, descriptors, tasks (where they can be counted); of the engine's process
    - frozen: from_us, to_us; the process had no time at all from then to then
    - cancel_asked: message; written before the call
    - campaign_stopped: campaign (its key)
    - receipt_told: message, event (the provider's id of it); how often one that contradicts was told

    Lines that name a recipient or a request id may name the `tenant` too; without it there is one only.
    """
    rows: list[Row] = field(default_factory=list)
    bodies: int = 0
    """How many the store holds."""
    request_ids: dict[tuple[int, str], int] = field(default_factory=dict)
    """By tenant and request id."""
    changes: list[Change] = field(default_factory=list)
    conflicts: list[Change] = field(default_factory=list)
    consents: list[Consent] = field(default_factory=list)
    opted_out: set[tuple[int, str]] = field(default_factory=set)
    """(tenant, recipient)."""
    proofs: list[Proof] | None = None
    """The log of consent, in its order; None where it was not read."""
    policies: dict[int, int] = field(default_factory=dict)
    """`on_unknown` of each campaign."""
    quotas: list[Quota] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    """Lines of the engine's history; `right_us` beside `at_us` where its clock was set wrong."""
    settings: dict[str, str] = field(default_factory=dict)
    """`journal_mode` and `synchronous` of the writing connection, where they could be asked."""
    inbound: list[Inbound] = field(default_factory=list)
    inbound_told: list[tuple[int, int]] | None = None
    """(tenant, id) of each event that tells of one; None where events were not read."""
    senders: dict[str, Sender] = field(default_factory=dict)
    """Our numbers."""
    epoch: int = 0
    """The store's, at the end; 0: not known."""
    campaign_tenants: dict[int, int] = field(default_factory=dict)
    campaign_brands: dict[int, int] = field(default_factory=dict)
    campaign_names: dict[int, str] = field(default_factory=dict)
    campaigns_stopped: set[int] = field(default_factory=set)
    event_tenants: dict[int, set[int]] = field(default_factory=dict)
    """To whom a message's events are told."""
    ledgers: list[Ledger] = field(default_factory=list)
    sinks: dict[str, str] = field(default_factory=dict)
    """What leaves the engine for people and machines that may know no numbers and texts: logs, history, metrics."""
    canaries: set[str] = field(default_factory=set)
    """Texts and keys that may be in no sink; recipients' numbers are known from the rows."""
    _indexed: int = field(default=-1, init=False, repr=False)
    _lines: dict[str, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict, init=False, repr=False)

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        """Lines of the client's log of these kinds, in their order."""
        if self._indexed != len(self.client):
            self._lines = defaultdict(list)
            for place, line in enumerate(self.client):
                self._lines[line["kind"]].append((place, line))
            self._indexed = len(self.client)
        if len(kinds) == 1:
            return [line for _, line in self._lines.get(kinds[0], ())]
        return [
            line
            for _, line in sorted((found for kind in kinds for found in self._lines.get(kind, ())), key=itemgetter(0))
        ]

    @cached_property
    def row_of(self) -> dict[int, Row]:
        """By id."""
        return {row.id: row for row in self.rows}

    @cached_property
    def changes_of(self) -> dict[int, list[Change]]:
        """By id, in the log's order."""
        found: dict[int, list[Change]] = defaultdict(list)
        for change in self.changes:
            found[change.message].append(change)
        return found

    @cached_property
    def requests_of(self) -> dict[int, list[Request]]:
        """By id, in order of arrival."""
        found: dict[int, list[Request]] = defaultdict(list)
        for request in self.requests:
            found[request.message].append(request)
        return found


def read_evidence(*, client: Path, store: Path, carrier: Path, history: Path) -> Evidence:
    """Read everything; `engine.log` and `metrics.txt` beside the store count as sinks. The engine must have ended."""
    evidence = Evidence(client=read_lines(client), notes=read_lines(history), requests=read_requests(carrier))
    read_store(store, evidence)
    for sink in (history, store.with_name("engine.log"), store.with_name("metrics.txt")):
        if sink.exists():
            evidence.sinks[sink.name] = sink.read_text(errors="replace")
    return evidence


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; none when the file was never made."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def read_requests(carrier: Path) -> list[Request]:
    """The carrier's record of requests to send."""
    return [request_of(line) for line in read_lines(carrier)]


def request_of(line: dict[str, Any]) -> Request:
    """One line of that record."""
    short, _, generation = (line["idempotency_key"] or "").partition(":")
    return Request(
        at_us=line["taken_at_us"],
        message=id_of(short),
        generation=int(generation),
        sender=line["from"],
        recipient=line["to"],
        text_sha256=line["text_sha256"] or "",
        body_sha256=line["body_sha256"],
        taken=line["taken"],
        final=line["final"] or "",
        receipt_faults=tuple(line["receipt_faults"]),
        parts=line.get("parts") or 0,
        answered=line.get("outcome") or "",
    )


def handed_in(submission: pb.Submission) -> dict[str, Any]:
    """The fields of a `handed_in` line: what the store and the carrier are to have, as the caller wrote it."""
    return {
        "request_id": submission.request_id,
        "text_sha256": sha256(submission.text),
        "recipient": submission.recipient,
        "campaign": submission.campaign,
        "sender": submission.sender,
        "message_class": submission.message_class,
        "ordering_key": submission.ordering_key,
    }


def open_store(path: Path) -> "dbapi.Connection":
    """A reader that changes nothing, not even by a checkpoint."""
    connection = dbapi.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    connection.execute("PRAGMA query_only = ON")
    return connection


def unfinished(path: Path) -> dict[int, int]:
    """How many messages are in each state that is not final."""
    return _count(path, "state < 16")


def untried(path: Path) -> dict[int, int]:
    """How many messages wait for their first attempt."""
    return _count(path, "state = 1 AND attempt = 0")


def _count(path: Path, which: str) -> dict[int, int]:
    connection = open_store(path)
    try:
        statement = f"SELECT state, count(*) FROM messages WHERE {which} GROUP BY state"  # noqa: S608 - two constants
        return dict(connection.execute(statement))
    finally:
        connection.close()


def timeline(history: bytes) -> tuple[Entry, ...]:
    """Decode the `history` column: state 1, reason 1, attempt 2, generation 2, time 8, bytes of the code 1, code."""
    entries = []
    while history:
        entries.append(
            Entry(
                state=history[0],
                reason=history[1],
                at_us=int.from_bytes(history[6:14], "little"),
                attempt=int.from_bytes(history[2:4], "little"),
                generation=int.from_bytes(history[4:6], "little"),
                code=history[HISTORY_HEAD_BYTES : HISTORY_HEAD_BYTES + history[14]].decode(),
            )
        )
        history = history[HISTORY_HEAD_BYTES + history[14] :]
    return tuple(entries)


def read_store(path: Path, evidence: Evidence) -> None:
    """Read the store. Raises AssertionError when SQLite finds it damaged."""
    connection = open_store(path)
    try:
        [verdict] = connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise AssertionError(f"the store is damaged: {verdict}")
        evidence.rows = [_row(*columns) for columns in connection.execute(_SELECT_ROWS)]
        [evidence.bodies] = connection.execute("SELECT count(*) FROM bodies").fetchone()
        request_ids = connection.execute("SELECT tenant, request_id, id FROM request_ids")
        evidence.request_ids = {(tenant, request_id): identity for tenant, request_id, identity in request_ids}
        opt_outs = connection.execute("SELECT tenant, recipient FROM opt_outs")
        evidence.opted_out = {(tenant, f"+{number}") for tenant, number in opt_outs}
        proofs = connection.execute("SELECT tenant, recipient, action FROM consent_log ORDER BY position")
        evidence.proofs = [
            Proof(tenant, f"+{number}", _TOLD_BY[action]) for tenant, number, action in proofs if action in _TOLD_BY
        ]
        senders = connection.execute("SELECT number, campaign, tenant FROM numbers")
        evidence.senders = {f"+{number}": Sender(campaign, tenant) for number, campaign, tenant in senders}
        [evidence.epoch] = connection.execute("SELECT value FROM facts WHERE name = 'epoch'").fetchone()
        evidence.policies = dict(connection.execute("SELECT key, on_unknown FROM campaigns"))
        quotas = "SELECT scope, subject, carrier, unit, amount, window_us FROM quotas WHERE time_zone = ''"
        evidence.quotas = [Quota(*columns) for columns in connection.execute(quotas)]
        evidence.ledgers = _ledgers(connection)
        inbound = "SELECT provider, provider_id, id, tenant, sender, recipient FROM inbound ORDER BY id"
        evidence.inbound = [
            Inbound(provider, provider_id, identity, tenant, f"+{sender}", f"+{recipient}")
            for provider, provider_id, identity, tenant, sender, recipient in connection.execute(inbound)
        ]
        evidence.campaign_tenants = dict(connection.execute("SELECT key, tenant FROM campaigns"))
        evidence.campaign_brands = dict(connection.execute("SELECT key, brand FROM campaigns"))
        evidence.campaign_names = dict(connection.execute("SELECT key, 'campaigns/' || id FROM campaigns"))
        stopped = connection.execute("SELECT key FROM campaigns WHERE state NOT IN (1, 2)")
        evidence.campaigns_stopped = {key for [key] in stopped}
        texts = connection.execute("SELECT record FROM bodies ORDER BY id LIMIT ?", (CANARY_TEXTS_MAX,))
        evidence.canaries |= {pb.Submission.FromString(record).text for (record,) in texts}
        add_events(evidence, connection.execute("SELECT position, events, tenant FROM events ORDER BY position"))
    finally:
        connection.close()


_SELECT_ROWS: Final = """
SELECT m.id, m.campaign, m.sender, m.recipient, m.class, m.segments, m.state, m.seq, m.attempt, m.epoch, m.code,
  m.history, b.record, m.tenant, m.expires_us, m.carrier
FROM messages AS m LEFT JOIN bodies AS b ON b.id = m.id ORDER BY m.id
"""


_SELECT_LEDGERS: Final = """
SELECT q.key, q.scope, q.subject, q.carrier, q.unit, q.amount, q.window_us, q.time_zone, l.day, l.spent, l.reserved
FROM quotas AS q LEFT JOIN ledgers AS l ON l.quota = q.key WHERE q.time_zone <> '' ORDER BY q.key, l.day
"""
# Actions of the log of consent that have an event; a repeated opt-out has none.
_TOLD_BY: Final = {1: pb.Event.KIND_OPT_OUT, 2: pb.Event.KIND_OPT_OUT_EFFECTIVE, 3: pb.Event.KIND_OPT_IN}


def _ledgers(connection: "dbapi.Connection") -> list[Ledger]:
    """A daily limit has a ledger for each day."""
    found: dict[int, Ledger] = {}
    for key, *limit, time_zone, day, spent, reserved in connection.execute(_SELECT_LEDGERS):
        before = found.get(key) or Ledger(Quota(*limit), 0, 0, time_zone)
        days = before.days if day is None else (*before.days, (day, spent, reserved))
        found[key] = Ledger(before.limit, sum(d[1] for d in days), sum(d[2] for d in days), time_zone, days)
    return list(found.values())


def _row(*columns: Any) -> Row:
    *numbers, code, history, record, tenant, expires_us, carrier = columns
    identity, campaign, sender, recipient, message_class, segments, state, seq, attempt, epoch = numbers
    body = pb.Submission.FromString(record or b"")
    return Row(
        id=identity,
        campaign=campaign,
        sender=f"+{sender}",
        recipient=f"+{recipient}",
        message_class=message_class,
        segments=segments,
        state=state,
        seq=seq,
        attempt=attempt,
        epoch=epoch,
        code=code,
        timeline=timeline(history),
        request_id=body.request_id,
        text_sha256=sha256(body.text),
        ordering_key=body.ordering_key,
        tenant=tenant,
        expires_us=expires_us,
        carrier=carrier,
    )


def add_events(evidence: Evidence, rows: Iterable[Sequence[Any]]) -> None:
    """Decode rows (position, events, and whose they are where that is known) of the event log."""
    evidence.inbound_told = evidence.inbound_told or []
    for position, encoded, *tenant in rows:
        for event in pb.WatchEventsResponse.FromString(encoded).events:
            at_us = event.event_time.ToMicroseconds()
            if event.kind in {pb.Event.KIND_MESSAGE, pb.Event.KIND_STATUS_CONFLICT}:
                change = Change(
                    position=position,
                    message=id_of(event.message.removeprefix("messages/")),
                    seq=event.seq,
                    previous=event.previous_state,
                    state=event.state,
                    reason=event.reason,
                    at_us=at_us,
                    attempt=event.attempt,
                    generation=event.generation,
                    code=event.code,
                )
                (evidence.changes if event.kind == pb.Event.KIND_MESSAGE else evidence.conflicts).append(change)
                evidence.event_tenants.setdefault(change.message, set()).update(tenant)
            elif event.kind == pb.Event.KIND_INBOUND:
                told = id_of(event.message.removeprefix("inbound/"))
                evidence.inbound_told.append((tenant[0] if tenant else 0, told))
            else:
                evidence.consents.append(Consent(position, event.kind, event.recipient, at_us, *tenant))
