"""A history in which every promise is kept, and the words to break it with.

It asserts nothing; the checker's own tests are made of it.
"""

from dataclasses import replace
from typing import Any

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import registry_pb2 as registry
from tests.corridor.crash_evidence import Change, Consent, Entry, Evidence, Ledger, Quota, Request, Row

QUEUED, DISPATCHING, SUBMITTED, SENT, UNKNOWN = 1, 2, 3, 4, 5
DELIVERED, UNDELIVERED, NO_RECEIPT, UNRESOLVED, FAILED, CANCELLED, EXPIRED, BLOCKED, DEAD = range(16, 25)
S = 1_000_000
TO, SENDER, CAMPAIGN = "+12025550123", "+12025550190", 1
# Why a state was entered, unless a history says otherwise.
REASONS = {
    QUEUED: pb.REASON_RETRY,
    DISPATCHING: pb.REASON_ATTEMPT,
    SUBMITTED: pb.REASON_PROVIDER_TOOK,
    UNKNOWN: pb.REASON_SILENCE,
    UNRESOLVED: pb.REASON_NO_EVIDENCE,
    FAILED: pb.REASON_PROVIDER_REFUSED,
    CANCELLED: pb.REASON_CANCELLED,
    EXPIRED: pb.REASON_EXPIRED,
    BLOCKED: pb.REASON_OPTED_OUT,
    DEAD: pb.REASON_POISON,
}


def change(message: int, seq: int, previous: int, state: int, at_us: int, attempt: int = 1, **more: Any) -> Change:
    reason = REASONS.get(state, pb.REASON_RECEIPT)
    if state == QUEUED and previous in {0, UNKNOWN}:
        reason = pb.REASON_RESEND if previous else pb.REASON_ACCEPTED
    values: dict[str, Any] = {"position": at_us, "reason": reason, "generation": 1, "code": ""} | more
    return Change(message=message, seq=seq, previous=previous, state=state, at_us=at_us, attempt=attempt, **values)


def steps(message: int, *states: int) -> list[Change]:
    """Events one second apart; the id is also the second in which it begins."""
    found, attempt = [], 0
    for seq, (previous, state) in enumerate(zip((0, *states), states, strict=False), 1):
        attempt += state == DISPATCHING
        found.append(change(message, seq, previous, state, (10 * message + seq) * S, attempt))
    return found


def row_of(changes: list[Change], **more: Any) -> Row:
    last = changes[-1]
    entries = tuple(Entry(c.state, c.reason, c.at_us, c.attempt, c.generation, c.code) for c in changes)
    values: dict[str, Any] = {
        "id": last.message, "campaign": CAMPAIGN, "sender": SENDER, "recipient": TO, "message_class": 2, "segments": 1,
        "state": last.state, "seq": last.seq, "attempt": last.attempt, "epoch": 1, "code": "", "timeline": entries,
        "request_id": f"r{last.message}", "text_sha256": f"t{last.message}", "ordering_key": "",
    }  # fmt: skip
    return Row(**values | more)


def request(message: int, at_us: int, **more: Any) -> Request:
    values: dict[str, Any] = {
        "generation": 1, "sender": SENDER, "recipient": TO, "text_sha256": f"t{message}", "body_sha256": "b",
        "taken": True, "final": "delivered", "receipt_faults": (),
    }  # fmt: skip
    return Request(at_us=at_us, message=message, **values | more)


def good() -> Evidence:
    """Message 1 sent twice after an unknown outcome, message 2 at once; everything as promised."""
    first = steps(1, QUEUED, DISPATCHING, UNKNOWN, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)
    second = steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)
    evidence = Evidence(
        rows=[row_of(first), row_of(second)],
        bodies=2,
        request_ids={(0, "r1"): 1, (0, "r2"): 2},
        changes=first + second,
        policies={CAMPAIGN: registry.ON_UNKNOWN_RESEND},
        quotas=[Quota(registry.QUOTA_SCOPE_NUMBER, int(SENDER[1:]), 0, registry.QUOTA_UNIT_MESSAGES, 2, 20 * S)],
        requests=[request(1, 12 * S + 9), request(1, 15 * S + 9), request(2, 22 * S + 9)],
        notes=[
            {"kind": "intended", "at_us": 12 * S + 5, "ids": [1], "epoch": 1},
            {"kind": "intended", "at_us": 15 * S + 5, "ids": [1], "epoch": 1},
            {"kind": "intended", "at_us": 22 * S + 5, "ids": [2], "epoch": 1},
        ],
        client=[{"kind": "life", "at_us": 0, "after": "new", "failpoint": ""}],
    )
    # Two starts within 20 s and the third 7 s after the second: the quota allows three.
    evidence.quotas = [replace(evidence.quotas[0], amount=3)]
    for number in (1, 2):
        line = {"request_id": f"r{number}", "text_sha256": f"t{number}", "recipient": TO, "at_us": number}
        evidence.client += [line | {"kind": "handed_in"}, line | {"kind": "acked", "message": number}]
    return evidence


def note(evidence: Evidence, kind: str, **fields: Any) -> None:
    evidence.client.append({"kind": kind, "at_us": 0} | fields)


def opt_out(evidence: Evidence, at_us: int, *, effective: bool = True, by: str = "stop") -> None:
    """An opt-out that is acknowledged, stored and effective at this time."""
    evidence.opted_out.add((0, TO))
    evidence.consents.append(Consent(at_us, pb.Event.KIND_OPT_OUT, TO, at_us))
    if effective:
        evidence.consents.append(Consent(at_us + 1, pb.Event.KIND_OPT_OUT_EFFECTIVE, TO, at_us + 1))
    note(evidence, "opt_out_acked", recipient=TO, by=by, at_us=at_us + 2)


def rewrite(evidence: Evidence, number: int, changes: list[Change], **more: Any) -> None:
    """Another history of a message, told consistently."""
    evidence.changes = [c for c in evidence.changes if c.message != number] + changes
    evidence.rows[number - 1] = row_of(changes, **more)


def watch(evidence: Evidence, *events: tuple[int, int], caught_up: bool) -> None:
    told = [list(event) for event in events]
    note(evidence, "watched", subscriber="a", tenant=1, events=told, caught_up=caught_up)


def keep_ledger(evidence: Evidence, spent: int) -> None:
    limit = Quota(registry.QUOTA_SCOPE_TENANT, 1, 0, registry.QUOTA_UNIT_MESSAGES, 100, 0)
    evidence.ledgers = [Ledger(limit, spent, 0)]


def sample(evidence: Evidence, **held: int) -> None:
    note(evidence, "sample", at_us=S, **({"rss_bytes": 1, "descriptors": 1} | held))
