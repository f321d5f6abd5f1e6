"""Proves promises broken: the invariants of the corridor, checked over what a run with crashes left behind.

It starts nothing and repairs nothing. Each rule takes the evidence and yields what it found; a rule that finds nothing
in a history broken on purpose is a defect (`test_crash_checker.py` breaks one for each; `tests/proof/planted` plants
bugs in the engine).

Times of client, engine and carrier are of one machine's wall clock, so they can be compared.

What each invariant is decided from (client: lines of its log; a rule whose lines are missing decides nothing):

- I1   client acked, opt_out_acked; rows, bodies, opt-outs of the store; settings of the writing connection
- I2   states in the store after healing (`Promises.all_final`)
- I3   client acked; request ids of the store
- I4   client reused
- I5   client handed_in, refused; rows; the carrier's record
- I6   the engine's history, starts in the event log, the carrier's record
- I7   the carrier's record, UNKNOWN in the event log, policies
- I8   the engine's history within client life lines; epochs of rows
- I9   event log, each state against the one told before it
- I10  event log, validity of rows, consent events, the carrier's record
- I11  client opt_out_acked; opt-outs, consent events and starts
- I12  quotas against starts in the event log and against the carrier's record
- I13  event log in its order, ordering keys of rows
- I14  event log; client watched (what a subscriber got, over reconnects)
- I15  event log against rows and their timelines
- I16  the carrier's record against final states; ids of stored texts
- I17  event log against the carrier's record; client webhook_probe
- I18  client foreign_asked; tenants of rows, campaigns and events
- I19  segments of rows against the carrier's count; daily ledgers against the starts in the event log
- I20  client faulted (from, to) against the event log
- I21  client sample (RSS, descriptors of the process)
- I22  recipients, texts and keys looked for in logs, history and metrics
- I23  not here: it takes two versions of the engine
- I24  client drained, life; UNKNOWN in the event log
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Final, NamedTuple

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import registry_pb2 as registry
from tests.corridor.crash_evidence import US, Change, Evidence, Quota, Request, Row, short_of

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
# After healing: so long, and so much of the rate before.
DRAIN_US: Final = 60 * US
RATE_WINDOW_US: Final = 10 * US
DRAIN_SHARE: Final = 0.95
# Fewer samples show no trend.
SAMPLES_MIN: Final = 12
SYNCHRONOUS_FULL: Final = 2
_NUMBER: Final = re.compile(r"(?<!\d)1?([2-9]\d{9})(?!\d)")
# Shorter texts occur by chance.
CANARY_CHARACTERS_MIN: Final = 12


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
    rss_max_bytes: int = 2 << 30
    descriptors_max: int = 4096
    growth_max: float = 2.0
    """So many times what it was in its first half may a process hold in its last quarter."""


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
    journal, synchronous = evidence.settings.get("journal_mode", "wal"), evidence.settings.get("synchronous", "2")
    if journal != "wal" or int(synchronous) < SYNCHRONOUS_FULL:
        found = f"journal_mode {journal}, synchronous {synchronous}"
        yield Violation("I1", "store", f"acknowledged under {found}: a power cut would lose it")


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
        # The history is the engine's own word; what it committed says more.
        started = sum(change.state == DISPATCHING for change in evidence.changes_of[identity])
        if started < len(requests):
            yield Violation("I6", short_of(identity), f"{len(requests)} requests, {started} intents in the store")
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
    """I9: a terminal state changes only along the listed upgrades; what was told before counts, not `previous`."""
    for identity, changes in evidence.changes_of.items():
        told = 0
        for change in changes:
            for previous in sorted({told, change.previous}):
                if previous >= TERMINAL_MIN and (previous, change.state) not in UPGRADES:
                    what = f"{state_name(previous)} became {state_name(change.state)}"
                    yield Violation("I9", short_of(identity), what)
            told = change.state


def nothing_starts_after_the_end(evidence: Evidence, _promises: Promises) -> Found:
    """I10: no attempt starts after a terminal state, nor to a number whose opt-out is committed."""
    for identity, changes in evidence.changes_of.items():
        ended = False
        for change in changes:
            if change.state == DISPATCHING and ended:
                yield Violation("I10", short_of(identity), "an attempt started after its end")
                break
            ended = change.state >= TERMINAL_MIN
    for change in evidence.changes:
        row = evidence.row_of.get(change.message)
        if change.state == DISPATCHING and row is not None and 0 < row.expires_us <= change.at_us:
            yield Violation("I10", short_of(row.id), "an attempt started after its validity")
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


def subscribers_miss_nothing(evidence: Evidence, _promises: Promises) -> Found:
    """I14: a subscriber gets each message's events in order, none left out; again is allowed, never too few."""
    subscribers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in evidence.of_kind("watched"):
        subscribers[line["subscriber"]].append(line)
    for name, lines in subscribers.items():
        last: dict[int, int] = defaultdict(int)
        for message, seq in (event for line in lines for event in line["events"]):
            if seq > last[message] + 1:
                yield Violation("I14", short_of(message), f"{name} got seq {seq} after {last[message]}")
            last[message] = max(last[message], seq)
        for row in evidence.rows:
            if lines[-1]["caught_up"] and row.tenant in {0, lines[-1]["tenant"]} and last[row.id] < row.seq:
                yield Violation("I14", short_of(row.id), f"{name} never got seq {last[row.id] + 1} of {row.seq}")


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
    for (_, provider_id), count in Counter(evidence.inbound).items():
        if count > 1:
            yield Violation("I16", provider_id, f"one text from a handset, stored {count} times")


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


# Tenants, sums, healing, bounds, secrets.


def tenants_are_apart(evidence: Evidence, _promises: Promises) -> Found:
    """I18: nobody gets, changes or is told what is another tenant's."""
    for line in evidence.of_kind("foreign_asked"):
        if line["found"]:
            yield Violation("I18", line["what"], "another tenant's was found, or changed")
    for row in evidence.rows:
        if evidence.campaign_tenants.get(row.campaign, row.tenant) != row.tenant:
            yield Violation("I18", short_of(row.id), "sent by another tenant's campaign")
        strangers = evidence.event_tenants.get(row.id, set()) - {row.tenant}
        if strangers and row.tenant:
            yield Violation("I18", short_of(row.id), f"told to tenants {sorted(strangers)}")


def sums_agree(evidence: Evidence, _promises: Promises) -> Found:
    """I19: segments are what the carrier counts; a daily ledger spent what its attempts cost.

    A crash lets a reservation count as spent though the attempt was refused: then it may be more, never less.
    """
    for identity, requests in evidence.requests_of.items():
        row = evidence.row_of.get(identity)
        for request in requests:
            if row is not None and request.parts and request.parts != row.segments:
                what = f"{row.segments} segments, the carrier counts {request.parts}"
                yield Violation("I19", short_of(identity), what)
                break
    crashed = any(line["after"] == "kill" for line in evidence.of_kind("life"))
    for ledger in evidence.ledgers:
        limit = ledger.limit
        least = most = 0
        for row in evidence.rows:
            of_brand = limit.scope == registry.QUOTA_SCOPE_BRAND_CARRIER_DAY
            if evidence.campaign_brands.get(row.campaign) == limit.subject if of_brand else _counts(limit, row):
                cost = _cost(limit, row) * _charged(evidence.changes_of[row.id])
                least += cost * (row.carrier == limit.carrier)
                # While nobody knows whose number it is, it may count for every carrier.
                most += cost * (row.carrier in {0, limit.carrier})
        if ledger.spent < least or (ledger.spent > most and not crashed):
            what = f"the ledger says {ledger.spent}, its messages {least} to {most}"
            yield Violation("I19", f"scope {limit.scope} subject {limit.subject} carrier {limit.carrier}", what)


def _charged(changes: list[Change]) -> int:
    """Attempts that were taken, or of which nobody knows."""
    return sum(
        before.state == DISPATCHING and (after.state in {SUBMITTED, SENT, UNKNOWN, DELIVERED, UNDELIVERED})
        for before, after in pairwise(changes)
    )


def backlog_drains(evidence: Evidence, _promises: Promises) -> Found:
    """I20: within a minute of healing the backlog is gone, or goes at 95 % of the rate before the fault."""
    accepted: list[int] = []
    taken: dict[int, int] = {}
    for change in evidence.changes:
        if change.previous == 0:
            accepted.append(change.at_us)
        elif change.state >= TERMINAL_MIN or change.state in {SUBMITTED, SENT, UNKNOWN}:
            taken.setdefault(change.message, change.at_us)
    left = sorted(taken.values())
    accepted.sort()
    for line in evidence.of_kind("faulted") if accepted else ():
        from_us, healed_us = line["from_us"], line["to_us"]
        # Ends of attempts are when the backlog can be gone; the first of them may have been the last.
        looks = [healed_us, *(at_us for at_us in left if healed_us < at_us <= healed_us + DRAIN_US)]
        if any(bisect_right(accepted, at_us) <= bisect_right(left, at_us) for at_us in looks):
            continue
        before = _rate(left, max(from_us - RATE_WINDOW_US, accepted[0]), from_us)
        ends = range(healed_us + RATE_WINDOW_US, healed_us + DRAIN_US + 1, US)
        after = max(_rate(left, end - RATE_WINDOW_US, end) for end in ends)
        if after < DRAIN_SHARE * before or not after:
            yield Violation(
                "I20", f"fault at {from_us}", f"{after:.1f}/s a minute after healing, {before:.1f}/s before"
            )


def _rate(times: list[int], from_us: int, to_us: int) -> float:
    return (bisect_right(times, to_us) - bisect_right(times, from_us)) * US / max(to_us - from_us, US)


def resources_are_bounded(evidence: Evidence, promises: Promises) -> Found:
    """I21: a process stays under its bounds, and does not grow and grow."""
    lives = [line["at_us"] for line in evidence.of_kind("life")]
    samples: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in evidence.of_kind("sample"):
        samples[bisect_right(lives, line["at_us"])].append(line)
    bounds = {"rss_bytes": promises.rss_max_bytes, "descriptors": promises.descriptors_max}
    for life, lines in samples.items():
        for what, bound in bounds.items():
            held = [line[what] for line in lines]
            if max(held) > bound:
                yield Violation("I21", f"life {life}", f"{max(held)} {what}, allowed {bound}")
            half, quarter = held[: len(held) // 2], held[-(len(held) // 4) :]
            if len(held) >= SAMPLES_MIN and median(quarter) > promises.growth_max * median(half):
                yield Violation("I21", f"life {life}", f"{what} grew from {median(half):.0f} to {median(quarter):.0f}")


def nothing_personal_leaks(evidence: Evidence, _promises: Promises) -> Found:
    """I22: no number of a recipient, no text and no key in a log, the history or the metrics."""
    numbers = {row.recipient[-10:] for row in evidence.rows}
    for sink, content in evidence.sinks.items():
        for number in sorted(set(_NUMBER.findall(content)) & numbers):
            yield Violation("I22", sink, f"holds a recipient's number, …{number[-4:]}")
        for canary in sorted(evidence.canaries):
            if len(canary) >= CANARY_CHARACTERS_MIN and canary in content:
                yield Violation("I22", sink, f"holds a text or a key, {canary[:4]}…")


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
    subscribers_miss_nothing,
    outbox_is_complete,
    receipts_converge,
    falsehoods_change_nothing,
    tenants_are_apart,
    sums_agree,
    backlog_drains,
    resources_are_bounded,
    nothing_personal_leaks,
    drain_is_clean,
)
