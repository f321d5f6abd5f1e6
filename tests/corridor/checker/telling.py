"""Telling, I14 to I17: events are gapless and complete, receipts converge, falsehoods change nothing."""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any, Final

from longwave.v1 import messaging_pb2 as pb
from tests.corridor.checker.terms import (
    DELIVERED,
    FORGED_CODE,
    NO_RECEIPT,
    QUEUED,
    SENT,
    SUBMITTED,
    TERMINAL_MIN,
    UNDELIVERED,
    UNRESOLVED,
    Found,
    Promises,
    Violation,
    starts_of,
    state_name,
)
from tests.corridor.crash_evidence import US, Change, Evidence, Proof, Request, Row, short_of

# A receipt is stamped when it comes in and waits for its signature to be checked: others may be committed meanwhile.
RECEIPT_LAG_US: Final = 5 * US
BY_RECEIPT: Final = {pb.REASON_RECEIPT, pb.REASON_CAP_REACHED, pb.REASON_THROTTLED, pb.REASON_RETRY}
# Unresolved this long after the carrier took it, its receipt was there before.
RECEIPT_SURE_US: Final = 45 * US
SPOILT: Final = {"finalized_lost", "wrong_signature"}


def events_are_gapless(evidence: Evidence, _promises: Promises) -> Found:
    """I14: per message 1, 2, 3 … in the log's order, each from the state the last one entered."""
    for identity, changes in evidence.changes_of.items():
        if [change.seq for change in changes] != list(range(1, len(changes) + 1)):
            yield Violation("I14", short_of(identity), f"seq {[change.seq for change in changes]}")
        elif any(after.previous != before.state for before, after in pairwise(changes)):
            yield Violation("I14", short_of(identity), "an event leaves a state that the one before did not enter")


def subscribers_miss_nothing(evidence: Evidence, _promises: Promises) -> Found:
    """I14: a subscriber gets each message's events in order, none left out; again only after it connected again."""
    subscribers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in evidence.of_kind("watched"):
        subscribers[line["subscriber"]].append(line)
    for name, lines in subscribers.items():
        last: dict[int, int] = defaultdict(int)
        for line in lines:
            here: dict[int, int] = {}
            for message, seq in line["events"]:
                if seq > last[message] + 1:
                    yield Violation("I14", short_of(message), f"{name} got seq {seq} after {last[message]}")
                if seq <= here.get(message, 0):
                    what = f"{name} got seq {seq} after {here[message]} in one connection"
                    yield Violation("I14", short_of(message), what)
                here[message] = seq
                last[message] = max(last[message], seq)
        for row in evidence.rows:
            if lines[-1]["caught_up"] and row.tenant in {0, lines[-1]["tenant"]} and last[row.id] < row.seq:
                yield Violation("I14", short_of(row.id), f"{name} never got seq {last[row.id] + 1} of {row.seq}")


def outbox_is_complete(evidence: Evidence, promises: Promises) -> Found:
    """I15: every state change has its event, and every event its state change; so have texts and consent."""
    for row in evidence.rows:
        changes = evidence.changes_of[row.id]
        told = [(c.state, c.reason, c.at_us, c.attempt, c.generation, c.code) for c in changes]
        if told != [tuple(entry) for entry in row.timeline]:
            yield Violation("I15", short_of(row.id), f"{len(told)} events, {len(row.timeline)} steps of its timeline")
        elif not changes or (changes[-1].state, changes[-1].seq) != (row.state, row.seq):
            yield Violation("I15", short_of(row.id), f"{state_name(row.state)} {row.seq} is not what was told last")
        elif changes[-1].code != row.code:
            what = f"its code is {row.code or 'none'}, told was {changes[-1].code or 'none'}"
            yield Violation("I15", short_of(row.id), what)
        elif not promises.clock_error_us:
            yield from _times(row.id, changes)
    for identity in evidence.changes_of.keys() - evidence.row_of.keys():
        yield Violation("I15", short_of(identity), "events of a message that does not exist")
    yield from _others_are_told(evidence)


def _others_are_told(evidence: Evidence) -> Found:
    """Texts from handsets, and consent: each with its event, each event with its row."""
    if evidence.inbound_told is not None:
        told_of = Counter(identity for _, identity in evidence.inbound_told)
        for text in evidence.inbound:
            if told_of[text.id] != 1:
                yield Violation("I15", text.provider_id, f"a stored text with {told_of[text.id]} events")
        for identity in sorted(told_of.keys() - {text.id for text in evidence.inbound}):
            yield Violation("I15", short_of(identity), "an event of a text that is not stored")
    if evidence.proofs is not None:
        stored: Counter[Proof] = Counter(evidence.proofs)
        events = Counter(Proof(consent.tenant, consent.recipient, consent.kind) for consent in evidence.consents)
        for proof in sorted((stored - events) | (events - stored)):
            kind = pb.Event.Kind.Name(pb.Event.Kind.ValueType(proof.kind))
            what = f"{kind} of tenant {proof.tenant}: {stored[proof]} in the log of consent, {events[proof]} events"
            yield Violation("I15", proof.recipient, what)


def _times(identity: int, changes: list[Change]) -> Found:
    latest_us = 0
    for change in changes:
        lag_us = RECEIPT_LAG_US if change.reason in BY_RECEIPT else 0
        if change.at_us + lag_us < latest_us:
            what = f"seq {change.seq} is {(latest_us - change.at_us) / US:.3f} s before what came before it"
            yield Violation("I15", short_of(identity), what)
        latest_us = max(latest_us, change.at_us)


def receipts_converge(evidence: Evidence, _promises: Promises) -> Found:
    """I16: however receipts came, the end is the one that each copy's fate, told once and in order, gives."""
    for row in evidence.rows:
        copies = [request for request in evidence.requests_of.get(row.id, ()) if request.taken]
        sure = [copy for copy in copies if not SPOILT & set(copy.receipt_faults)]
        changes = evidence.changes_of[row.id]
        if any(copy.final == "delivered" for copy in sure) and row.state != DELIVERED:
            yield Violation("I16", short_of(row.id), f"a copy was delivered, the message is {state_name(row.state)}")
        elif copies and copies == sure and row.state >= TERMINAL_MIN and _by_the_last(evidence, row, copies):
            if all(_failed(copy) for copy in copies) and row.state != UNDELIVERED:
                told = ", ".join(copy.final for copy in copies)
                yield Violation("I16", short_of(row.id), f"{told}, the message is {state_name(row.state)}")
            elif all(_unconfirmed(copy) for copy in copies) and row.state != NO_RECEIPT:
                # What is told after the wait for evidence comes too late: no listed upgrade leads to NO_RECEIPT.
                late = row.state == UNRESOLVED and changes[-1].at_us < copies[0].at_us + RECEIPT_SURE_US
                if not late:
                    yield Violation("I16", short_of(row.id), f"unconfirmed, the message is {state_name(row.state)}")
    yield from _told_once(evidence)
    for (_, provider_id), count in Counter((text.provider, text.provider_id) for text in evidence.inbound).items():
        if count > 1:
            yield Violation("I16", provider_id, f"one text from a handset, stored {count} times")


def _told_once(evidence: Evidence) -> Found:
    """A receipt that contradicts is told of once, however often it came."""
    told: dict[int, set[str]] = defaultdict(set)
    for line in evidence.of_kind("receipt_told"):
        told[line["message"]].add(line["event"])
    for identity, events in told.items():
        conflicts = sum(conflict.message == identity for conflict in evidence.conflicts)
        if conflicts > len(events):
            yield Violation("I16", short_of(identity), f"{conflicts} contradictions of {len(events)} receipts")


def _by_the_last(evidence: Evidence, row: Row, copies: list[Request]) -> bool:
    """Whether the end is that of the copies: no attempt came after them, nor did it end while it waited for one."""
    starts = starts_of(evidence, row.id)
    changes = evidence.changes_of[row.id]
    requests = evidence.requests_of[row.id]
    waited = changes[-1].previous == QUEUED and changes[-1].state not in {DELIVERED, UNDELIVERED, NO_RECEIPT}
    return requests[-1] is copies[-1] and len(starts) == len(requests) and not waited


def _failed(copy: Request) -> bool:
    return copy.final.startswith(("delivery_failed", "sending_failed", "expired"))


def _unconfirmed(copy: Request) -> bool:
    return copy.final.startswith("delivery_unconfirmed")


def falsehoods_change_nothing(evidence: Evidence, _promises: Promises) -> Found:
    """I17: no state rests on a receipt that nobody genuine sent, nor on an answer that the carrier never gave."""
    for change in [*evidence.changes, *evidence.conflicts]:
        copies = [request for request in evidence.requests_of.get(change.message, ()) if request.taken]
        if change.code == FORGED_CODE:
            yield Violation("I17", short_of(change.message), "a forged receipt was believed")
        elif change.state == DELIVERED and not any(copy.final == "delivered" for copy in copies):
            yield Violation("I17", short_of(change.message), "DELIVERED, but no copy was")
        elif change.state == UNDELIVERED and not any(_failed(copy) for copy in copies):
            yield Violation("I17", short_of(change.message), "UNDELIVERED, but no copy failed")
        elif change.state in {SUBMITTED, SENT, NO_RECEIPT} and not copies:
            what = f"{state_name(change.state)}, but the carrier took nothing"
            yield Violation("I17", short_of(change.message), what)
    for line in evidence.of_kind("webhook_probe"):
        if line["status"] != line["wanted"]:
            yield Violation("I17", line["what"], f"answered {line['status']}, not {line['wanted']}")


RULES: Final = (
    events_are_gapless,
    subscribers_miss_nothing,
    outbox_is_complete,
    receipts_converge,
    falsehoods_change_nothing,
)
