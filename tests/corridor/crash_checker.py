"""Proves promises broken: the invariants of the corridor, checked over what a run with crashes left behind.

It starts nothing and repairs nothing. Each rule takes the evidence and yields what it found; a rule that finds nothing
in a history broken on purpose is a defect (`test_crash_checker.py` breaks one for each).

Times of client, engine and carrier are of one machine's wall clock, so they can be compared.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import registry_pb2 as registry
from tests.corridor.crash_evidence import Change, Evidence, Quota, Request, Row, short_of

QUEUED: Final = pb.MESSAGE_STATE_QUEUED
DISPATCHING: Final = pb.MESSAGE_STATE_DISPATCHING
SUBMITTED: Final = pb.MESSAGE_STATE_SUBMITTED
SENT: Final = pb.MESSAGE_STATE_SENT
UNKNOWN: Final = pb.MESSAGE_STATE_UNKNOWN
DELIVERED: Final = pb.MESSAGE_STATE_DELIVERED
UNDELIVERED: Final = pb.MESSAGE_STATE_UNDELIVERED
NO_RECEIPT: Final = pb.MESSAGE_STATE_NO_RECEIPT
UNRESOLVED: Final = pb.MESSAGE_STATE_UNRESOLVED
FAILED: Final = pb.MESSAGE_STATE_FAILED
CANCELLED: Final = pb.MESSAGE_STATE_CANCELLED
DEAD: Final = pb.MESSAGE_STATE_DEAD
TERMINAL_MIN: Final = 16
UPGRADES: Final = {
    (UNRESOLVED, DELIVERED),
    (UNRESOLVED, UNDELIVERED),
    (NO_RECEIPT, DELIVERED),
    (NO_RECEIPT, UNDELIVERED),
    (UNDELIVERED, DELIVERED),
    (DEAD, QUEUED),
}
RECOVERED: Final = pb.REASON_RECOVERED
# No carrier says this; a receipt that does was made up by whoever may not be believed.
FORGED_CODE: Final = "66666"
# The carrier stamps a request when it comes to it: bytes that were on their way when the engine was killed may be
# stamped a little after the next engine found that nothing is on its way.
ARRIVAL_GRACE_US: Final = 200_000
# An attempt's time is read a moment after its tokens were taken.
STAMP_SLACK_US: Final = 50_000
# From its start to the carrier: a commit and a write. What took longer does not tell when it was let go.
ON_THE_WAY_US: Final = 150_000


class Violation(NamedTuple):
    """A promise that was broken."""

    invariant: str
    subject: str
    """Short id of the message, or a number or quota."""
    what: str


@dataclass(frozen=True, slots=True)
class Promises:
    """What was promised in this run beside what the store says."""

    honours_keys: bool = False
    all_final: bool = True


Found = Iterator[Violation]


def check(evidence: Evidence, promises: Promises) -> list[Violation]:
    """Every violation found, by invariant."""
    found = [violation for rule in RULES for violation in rule(evidence, promises)]
    return sorted(found)


def state_name(state: int) -> str:
    """The word for a state."""
    return pb.MessageState.Name(pb.MessageState.ValueType(state)).removeprefix("MESSAGE_STATE_")


# Accepting.


def acknowledged_exists(evidence: Evidence, _promises: Promises) -> Found:
    """I1: what was acknowledged is there, as it was handed in."""
    for line in evidence.of_kind("acked"):
        row = evidence.row_of.get(line["message"])
        if row is None:
            yield Violation("I1", short_of(line["message"]), f"acknowledged for {line['request_id']}, and gone")
        elif (row.text_sha256, row.recipient) != (line["text_sha256"], line["recipient"]):
            yield Violation("I1", short_of(row.id), "not the body that was acknowledged")
    if evidence.bodies != len(evidence.rows):
        yield Violation("I1", "", f"{len(evidence.rows)} messages but {evidence.bodies} bodies")
    for line in evidence.of_kind("opt_out_acked"):
        if line["recipient"] not in evidence.opted_out:
            yield Violation("I1", line["recipient"], "an acknowledged opt-out is gone")


def all_end(evidence: Evidence, promises: Promises) -> Found:
    """I2: after healing and waiting every message is final."""
    for row in evidence.rows:
        if promises.all_final and row.state < TERMINAL_MIN:
            yield Violation("I2", short_of(row.id), f"still {state_name(row.state)}")


def one_message_per_request(evidence: Evidence, _promises: Promises) -> Found:
    """I3: a request id stands for one message at most, whoever asks and how often."""
    for request_id, count in Counter(row.request_id for row in evidence.rows).items():
        if count > 1:
            yield Violation("I3", request_id, f"{count} messages for one request id")
    answers: dict[str, set[int]] = defaultdict(set)
    for line in evidence.of_kind("acked"):
        answers[line["request_id"]].add(line["message"])
    for request_id, messages in answers.items():
        if len(messages) > 1:
            yield Violation("I3", request_id, f"answered with {len(messages)} different messages")
    for row in evidence.rows:
        if evidence.request_ids.get(row.request_id) != row.id:
            yield Violation("I3", short_of(row.id), "its request id is not remembered with it")


def other_content_refused(evidence: Evidence, _promises: Promises) -> Found:
    """I4: the same request id with other content is an error, never a message."""
    for line in evidence.of_kind("reused"):
        if line["accepted"]:
            yield Violation("I4", line["request_id"], "other content under a used request id was accepted")


def no_phantom(evidence: Evidence, _promises: Promises) -> Found:
    """I5: the carrier gets only what was handed in, and nothing of what was refused."""
    handed_in = {(line["request_id"], line["text_sha256"]) for line in evidence.of_kind("handed_in")}
    for row in evidence.rows:
        if (row.request_id, row.text_sha256) not in handed_in:
            yield Violation("I5", short_of(row.id), "stored, but nobody handed it in")
    acked = {line["request_id"] for line in evidence.of_kind("acked")}
    at_carrier = {request.text_sha256: request.message for request in evidence.requests}
    for line in evidence.of_kind("refused"):
        if line["request_id"] in acked:
            yield Violation("I5", line["request_id"], f"acknowledged, yet refused with {line['verdict']}")
        elif line["text_sha256"] in at_carrier:
            yield Violation(
                "I5", short_of(at_carrier[line["text_sha256"]]), f"refused with {line['verdict']}, yet sent"
            )
        if line["request_id"] in evidence.request_ids and line["request_id"] not in acked:
            yield Violation("I5", line["request_id"], f"refused with {line['verdict']}, yet stored")
    for request in evidence.requests:
        stored = evidence.row_of.get(request.message)
        if stored is None:
            yield Violation("I5", short_of(request.message), "the carrier got it, the store never had it")
        elif (request.text_sha256, request.recipient, request.sender) != (
            stored.text_sha256,
            stored.recipient,
            stored.sender,
        ):
            yield Violation("I5", short_of(stored.id), "the carrier got something else than was accepted")


# Sending.


def intent_before_bytes(evidence: Evidence, _promises: Promises) -> Found:
    """I6: the n-th request of a message comes after its n-th committed intent, under that intent's epoch."""
    intended: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for note in evidence.notes:
        if note["kind"] == "intended":
            for identity in note["ids"]:
                intended[identity].append((note["at_us"], note["epoch"]))
    for identity, requests in evidence.requests_of.items():
        times = [at_us for at_us, _ in intended.get(identity, ())]
        for number, request in enumerate(requests, 1):
            if bisect_right(times, request.at_us) < number:
                yield Violation(
                    "I6", short_of(identity), f"request {number} reached the carrier before intent {number}"
                )
                break
    for identity, notes in intended.items():
        started = sum(1 for change in evidence.changes_of[identity] if change.state == DISPATCHING)
        row = evidence.row_of.get(identity)
        if started < len(notes):
            yield Violation("I6", short_of(identity), f"{len(notes)} intents told, {started} in the store")
        elif row is None or row.epoch < notes[-1][1]:
            yield Violation("I6", short_of(identity), f"the store lacks epoch {notes[-1][1]} of its last intent")


def copies_are_counted(evidence: Evidence, promises: Promises) -> Found:
    """I7: copies beyond the first are paid for by attempts of unknown outcome; none where keys or the policy say so."""
    for identity, requests in evidence.requests_of.items():
        row = evidence.row_of.get(identity)
        if row is None:
            continue
        changes = evidence.changes_of[identity]
        for generation in {request.generation for request in requests}:
            of_it = [request for request in requests if request.generation == generation]
            taken = sum(request.taken for request in of_it)
            unknown = 0 if promises.honours_keys or not resends(evidence, row) else _unknown(changes, generation)
            if taken - 1 > unknown:
                yield Violation("I7", short_of(identity), f"{taken} copies, {unknown} of unknown outcome may be resent")
            if len({request.body_sha256 for request in of_it}) > 1:
                yield Violation("I7", short_of(identity), f"other bytes under the key of generation {generation}")
        yield from _generations(identity, changes)


def _unknown(changes: list[Change], generation: int) -> int:
    return sum(
        change.state == UNKNOWN and change.previous == DISPATCHING and change.generation == generation
        for change in changes
    )


def _generations(identity: int, changes: list[Change]) -> Found:
    """A new generation follows only upon the provider's own word that the last one failed."""
    starts = [change for change in changes if change.state == DISPATCHING]
    for before, after in pairwise(starts):
        between = [change for change in changes if before.seq < change.seq < after.seq]
        failed = any(change.previous in {SUBMITTED, SENT, UNKNOWN} and change.state == QUEUED for change in between)
        if after.generation != before.generation and not failed:
            yield Violation("I7", short_of(identity), f"generation {after.generation} without a failure of the last")


def resends(evidence: Evidence, row: Row) -> bool:
    """Whether the policy sends again after an unknown outcome."""
    policy = evidence.policies.get(row.campaign, registry.ON_UNKNOWN_UNSPECIFIED)
    if policy == registry.ON_UNKNOWN_UNSPECIFIED:
        return row.message_class == pb.MESSAGE_CLASS_CRITICAL
    return policy == registry.ON_UNKNOWN_RESEND


def epochs_rise(evidence: Evidence, _promises: Promises) -> Found:
    """I8: each life of the engine has an epoch of its own, higher than any before."""
    lives = [line["at_us"] for line in evidence.of_kind("life")]
    epochs: dict[int, set[int]] = defaultdict(set)
    for note in evidence.notes:
        if note["kind"] == "intended":
            epochs[bisect_right(lives, note["at_us"])].add(note["epoch"])
    for life, seen in sorted(epochs.items()):
        if len(seen) > 1:
            yield Violation("I8", f"life {life}", f"wrote under epochs {sorted(seen)}")
    for (early, before), (late, after) in pairwise(sorted(epochs.items())):
        if max(before) >= min(after):
            yield Violation("I8", f"life {late}", f"epoch {min(after)} is not above {max(before)} of life {early}")


def terminal_stays(evidence: Evidence, _promises: Promises) -> Found:
    """I9: a terminal state changes only along the listed upgrades."""
    for change in evidence.changes:
        if change.previous >= TERMINAL_MIN and (change.previous, change.state) not in UPGRADES:
            what = f"{state_name(change.previous)} became {state_name(change.state)}"
            yield Violation("I9", short_of(change.message), what)


def nothing_starts_after_the_end(evidence: Evidence, _promises: Promises) -> Found:
    """I10: no attempt starts after a terminal state, nor to a number whose opt-out is committed."""
    for identity, changes in evidence.changes_of.items():
        ended = False
        for change in changes:
            if change.state == DISPATCHING and ended:
                yield Violation("I10", short_of(identity), "an attempt started after its end")
                break
            ended = change.state >= TERMINAL_MIN
    starts = _starts_to(evidence)
    for recipient, (closed, opened) in _closings(evidence):
        for change in starts[recipient]:
            if closed.position < change.position < opened:
                yield Violation("I10", short_of(change.message), f"started after the opt-out of {recipient}")
    yield from _arrivals_after_effect(evidence)


def _starts_to(evidence: Evidence) -> dict[str, list[Change]]:
    """Starts of attempts by recipient."""
    starts: dict[str, list[Change]] = defaultdict(list)
    for change in evidence.changes:
        row = evidence.row_of.get(change.message)
        if change.state == DISPATCHING and row is not None:
            starts[row.recipient].append(change)
    return starts


def _closings(evidence: Evidence) -> "Iterator[tuple[str, tuple[ConsentAt, float]]]":
    """(recipient, (the opt-out, position of the opt-in that ends it))."""
    for index, consent in enumerate(evidence.consents):
        if consent.kind == pb.Event.KIND_OPT_OUT:
            lifted = [
                later.position
                for later in evidence.consents[index:]
                if later.recipient == consent.recipient and later.kind == pb.Event.KIND_OPT_IN
            ]
            yield consent.recipient, (ConsentAt(consent.position, consent.at_us), min(lifted, default=float("inf")))


class ConsentAt(NamedTuple):
    """Where and when an opt-out was committed."""

    position: int
    at_us: int


def _arrivals_after_effect(evidence: Evidence) -> Found:
    """The carrier gets nothing for a number once its opt-out is said, or acknowledged, to be effective."""
    lifted = {consent.recipient for consent in evidence.consents if consent.kind == pb.Event.KIND_OPT_IN}
    effective: dict[str, int] = {}
    for consent in evidence.consents:
        if consent.kind == pb.Event.KIND_OPT_OUT_EFFECTIVE:
            effective.setdefault(consent.recipient, consent.at_us)
    for line in evidence.of_kind("opt_out_acked"):
        # A STOP is acknowledged to the provider when it is durable; effective it is when the event says so.
        if line["by"] == "api":
            effective[line["recipient"]] = min(line["at_us"], effective.get(line["recipient"], line["at_us"]))
    for request in evidence.requests:
        at_us = effective.get(request.recipient)
        if at_us is not None and request.recipient not in lifted and request.at_us > at_us + ARRIVAL_GRACE_US:
            late_ms = (request.at_us - at_us) // 1000
            what = f"reached the carrier {late_ms} ms after {request.recipient} was opted out"
            yield Violation("I10", short_of(request.message), what)


def stop_is_kept(evidence: Evidence, _promises: Promises) -> Found:
    """I11: a STOP that was acknowledged to the provider is in force after whatever came next."""
    told = {consent.recipient for consent in evidence.consents if consent.kind == pb.Event.KIND_OPT_OUT}
    effective = {consent.recipient for consent in evidence.consents if consent.kind == pb.Event.KIND_OPT_OUT_EFFECTIVE}
    starts = _starts_to(evidence)
    for line in evidence.of_kind("opt_out_acked"):
        recipient = line["recipient"]
        if recipient not in evidence.opted_out or recipient not in told:
            yield Violation("I11", recipient, f"the opt-out acknowledged by {line['by']} is not in force")
        elif recipient not in effective:
            yield Violation("I11", recipient, "its opt-out never took effect")
        for change in starts[recipient]:
            if change.at_us > line["at_us"]:
                yield Violation("I11", short_of(change.message), f"started after the opt-out of {recipient} was acked")


# Limits and order.


def limits_hold(evidence: Evidence, _promises: Promises) -> Found:
    """I12: no window holds more starts than its quota, across restarts; nor does the carrier's own record."""
    arrived = _arrivals(evidence)
    for quota in evidence.quotas:
        costs = {row.id: _cost(quota, row) for row in evidence.rows if _counts(quota, row)}
        starts = [
            (change.at_us, costs[change.message])
            for change in evidence.changes
            if change.state == DISPATCHING and change.message in costs
        ]
        arrivals = [(at_us, costs[message]) for at_us, message in arrived if message in costs]
        yield from _windows(quota, "starts", starts, quota.window_us - STAMP_SLACK_US)
        yield from _windows(quota, "arrivals", arrivals, quota.window_us - STAMP_SLACK_US - ON_THE_WAY_US)


def _arrivals(evidence: Evidence) -> list[tuple[int, int]]:
    """(time, message) of the carrier's requests, but for those that a freeze or a busy machine held up on their way."""
    found = []
    for identity, requests in evidence.requests_of.items():
        starts = [change.at_us for change in evidence.changes_of[identity] if change.state == DISPATCHING]
        for request in requests:
            before = bisect_right(starts, request.at_us)
            if before == 0 or request.at_us - starts[before - 1] <= ON_THE_WAY_US:
                found.append((request.at_us, identity))
    return found


def _counts(quota: Quota, row: Row) -> bool:
    subjects = {
        registry.QUOTA_SCOPE_NUMBER: int(row.sender[1:]),
        registry.QUOTA_SCOPE_CAMPAIGN: row.campaign,
    }
    if quota.scope in {registry.QUOTA_SCOPE_PROVIDER, registry.QUOTA_SCOPE_TENANT}:
        return True  # one of each in a run
    return subjects.get(registry.QuotaScope.ValueType(quota.scope)) == quota.subject


def _cost(quota: Quota, row: Row) -> int:
    return row.segments if quota.unit == registry.QUOTA_UNIT_SEGMENTS else 1


def _windows(quota: Quota, what: str, starts: list[tuple[int, int]], window_us: int) -> Found:
    starts.sort()
    first, units, worst = 0, 0, 0
    for at_us, cost in starts:
        units += cost
        while starts[first][0] <= at_us - window_us:
            units -= starts[first][1]
            first += 1
        worst = max(worst, units)
    if worst > quota.amount:
        found = f"{worst} {what} in {quota.window_us} µs, allowed {quota.amount}"
        yield Violation("I12", f"scope {quota.scope} subject {quota.subject}", found)


def order_holds(evidence: Evidence, _promises: Promises) -> Found:
    """I13: of one ordering key, a message first starts when each before it has been known: taken or ended.

    One that was taken and fails later has let its followers go; it is tried again among them.
    """
    lanes: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row in evidence.rows:
        if row.ordering_key:
            lanes[row.campaign, row.ordering_key].append(row.id)
    place = {identity: (lane, number) for lane, ids in lanes.items() for number, identity in enumerate(ids)}
    known: set[int] = set()
    for change in evidence.changes:
        if change.state == DISPATCHING and change.attempt == 1 and change.message in place:
            lane, number = place[change.message]
            for earlier in set(lanes[lane][:number]) - known:
                what = f"started before {short_of(earlier)} of its key was taken or ended"
                yield Violation("I13", short_of(change.message), what)
        elif change.state in {SUBMITTED, SENT} or change.state >= TERMINAL_MIN:
            known.add(change.message)


# Events.


def events_are_gapless(evidence: Evidence, _promises: Promises) -> Found:
    """I14: per message 1, 2, 3 … in the log's order, each from the state the last one entered."""
    for identity, changes in evidence.changes_of.items():
        if [change.seq for change in changes] != list(range(1, len(changes) + 1)):
            yield Violation("I14", short_of(identity), f"seq {[change.seq for change in changes]}")
        elif any(after.previous != before.state for before, after in pairwise(changes)):
            yield Violation("I14", short_of(identity), "an event leaves a state that the one before did not enter")


def outbox_is_complete(evidence: Evidence, _promises: Promises) -> Found:
    """I15: every state change has its event, and every event its state change."""
    for row in evidence.rows:
        changes = evidence.changes_of[row.id]
        told = [(change.state, change.reason, change.at_us, change.attempt, change.generation) for change in changes]
        if told != [tuple(entry) for entry in row.timeline]:
            yield Violation("I15", short_of(row.id), f"{len(told)} events, {len(row.timeline)} steps of its timeline")
        elif not changes or (changes[-1].state, changes[-1].seq) != (row.state, row.seq):
            yield Violation("I15", short_of(row.id), f"{state_name(row.state)} {row.seq} is not what was told last")
    for identity in evidence.changes_of.keys() - evidence.row_of.keys():
        yield Violation("I15", short_of(identity), "events of a message that does not exist")


# Receipts.


def receipts_converge(evidence: Evidence, _promises: Promises) -> Found:
    """I16: however receipts came, the end is the one that each copy's fate, told once and in order, gives."""
    for row in evidence.rows:
        copies = [request for request in evidence.requests_of.get(row.id, ()) if request.taken]
        sure = [copy for copy in copies if not {"finalized_lost", "wrong_signature"} & set(copy.receipt_faults)]
        if any(copy.final == "delivered" for copy in sure) and row.state != DELIVERED:
            yield Violation("I16", short_of(row.id), f"a copy was delivered, the message is {state_name(row.state)}")
        retried = sum(change.state == QUEUED for change in evidence.changes_of[row.id]) > 1
        if len(copies) == len(sure) == 1 and not retried and _failed(copies[0]) and row.state != UNDELIVERED:
            yield Violation("I16", short_of(row.id), f"{copies[0].final}, the message is {state_name(row.state)}")


def _failed(copy: Request) -> bool:
    return copy.final.startswith(("delivery_failed", "sending_failed", "expired"))


def falsehoods_change_nothing(evidence: Evidence, _promises: Promises) -> Found:
    """I17: no state rests on a receipt that nobody genuine sent."""
    for change in [*evidence.changes, *evidence.conflicts]:
        copies = [request for request in evidence.requests_of.get(change.message, ()) if request.taken]
        if change.code == FORGED_CODE:
            yield Violation("I17", short_of(change.message), "a forged receipt was believed")
        elif change.state == DELIVERED and not any(copy.final == "delivered" for copy in copies):
            yield Violation("I17", short_of(change.message), "DELIVERED, but no copy was")
        elif change.state == UNDELIVERED and not any(_failed(copy) for copy in copies):
            yield Violation("I17", short_of(change.message), "UNDELIVERED, but no copy failed")
    for line in evidence.of_kind("webhook_probe"):
        if line["status"] != line["wanted"]:
            yield Violation("I17", line["what"], f"answered {line['status']}, not {line['wanted']}")


# Stopping.


def drain_is_clean(evidence: Evidence, _promises: Promises) -> Found:
    """I24: SIGTERM within the grace makes no attempt UNKNOWN, and the exit code is 0."""
    for line in evidence.of_kind("drained"):
        if line["exit_code"] != 0:
            yield Violation("I24", "", f"SIGTERM ended with exit code {line['exit_code']}")
        for change in evidence.changes:
            if change.state == UNKNOWN and line["faultless"] and line["from_us"] <= change.at_us <= line["to_us"]:
                yield Violation("I24", short_of(change.message), "became UNKNOWN while the engine drained")
    for line in evidence.of_kind("life"):
        if line["after"] == "drain":
            ends = [later["at_us"] for later in evidence.of_kind("life", "ended") if later["at_us"] > line["at_us"]]
            for change in evidence.changes:
                recovered = change.state == UNKNOWN and change.reason == RECOVERED
                if recovered and line["at_us"] <= change.at_us < min(ends, default=change.at_us + 1):
                    yield Violation("I24", short_of(change.message), "was left open by an engine that drained")


RULES: Final[tuple[Callable[[Evidence, Promises], Found], ...]] = (
    acknowledged_exists,
    all_end,
    one_message_per_request,
    other_content_refused,
    no_phantom,
    intent_before_bytes,
    copies_are_counted,
    epochs_rise,
    terminal_stays,
    nothing_starts_after_the_end,
    stop_is_kept,
    limits_hold,
    order_holds,
    events_are_gapless,
    outbox_is_complete,
    receipts_converge,
    falsehoods_change_nothing,
    drain_is_clean,
)
