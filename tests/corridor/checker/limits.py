"""Limits and order, I12, I13 and I19: no window and no day holds too much, keys keep their order, sums agree."""

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import registry_pb2 as registry
from tests.corridor.checker.terms import (
    DELIVERED,
    DISPATCHING,
    NO_RECEIPT,
    SENT,
    SUBMITTED,
    TERMINAL_MIN,
    UNDELIVERED,
    UNKNOWN,
    Found,
    Promises,
    Violation,
    starts_of,
)
from tests.corridor.crash_evidence import US, Change, Evidence, Ledger, Quota, Row, short_of

# An attempt's time is read a moment after its tokens were taken.
STAMP_SLACK_US: Final = 50_000
# From its start to the carrier: a commit and a write. What took longer does not tell when it was let go.
ON_THE_WAY_US: Final = 150_000
CHARGED: Final = {SUBMITTED, SENT, UNKNOWN, DELIVERED, UNDELIVERED, NO_RECEIPT}


def limits_hold(evidence: Evidence, promises: Promises) -> Found:
    """I12: no window, nor any day, holds more starts than its quota, over restarts; nor does the carrier's record."""
    arrived = _arrivals(evidence)
    for quota in evidence.quotas:
        costs = {row.id: _cost(quota, row) for row in evidence.rows if _counts(evidence, quota, row)}
        starts = [
            (change.at_us, costs[change.message])
            for change in evidence.changes
            if change.state == DISPATCHING and change.message in costs
        ]
        arrivals = [(at_us, costs[message]) for at_us, message in arrived if message in costs]
        # A clock that was set wrong does not tell how far apart starts were; the carrier's does.
        if not promises.clock_error_us:
            yield from _windows(quota, "starts", starts, quota.window_us - STAMP_SLACK_US)
        yield from _windows(quota, "arrivals", arrivals, quota.window_us - STAMP_SLACK_US - ON_THE_WAY_US)
    for ledger in evidence.ledgers:
        yield from _days(evidence, promises, ledger)


def _arrivals(evidence: Evidence) -> list[tuple[int, int]]:
    """(time, message) of the carrier's requests, but for those that a freeze or a busy machine held up on their way."""
    found = []
    for identity, requests in evidence.requests_of.items():
        starts = [start.at_us for start in starts_of(evidence, identity)]
        for request in requests:
            before = bisect_right(starts, request.at_us)
            if before == 0 or request.at_us - starts[before - 1] <= ON_THE_WAY_US:
                found.append((request.at_us, identity))
    return found


def _counts(evidence: Evidence, quota: Quota, row: Row) -> bool:
    """Whether a message's attempts count for a quota; for one of a carrier, when its recipient is known to be there."""
    if quota.scope == registry.QUOTA_SCOPE_PROVIDER:
        return True  # one in a run
    if quota.carrier and row.carrier != quota.carrier:
        return False
    subjects = {
        registry.QUOTA_SCOPE_NUMBER: int(row.sender[1:]),
        registry.QUOTA_SCOPE_CAMPAIGN: row.campaign,
        registry.QUOTA_SCOPE_CAMPAIGN_CARRIER: row.campaign,
        registry.QUOTA_SCOPE_BRAND_CARRIER_DAY: evidence.campaign_brands.get(row.campaign),
        registry.QUOTA_SCOPE_TENANT: row.tenant or quota.subject,
    }
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
        yield Violation("I12", _name(quota), found)


def _name(quota: Quota) -> str:
    carrier = f" carrier {quota.carrier}" if quota.carrier else ""
    return f"scope {quota.scope} subject {quota.subject}{carrier}"


def _days(evidence: Evidence, promises: Promises, ledger: Ledger) -> Found:
    """What left on a day of the limit's own calendar; a correction by the provider's own count is no start."""
    limit, zone = ledger.limit, ZoneInfo(ledger.time_zone)
    days: Counter[int] = Counter()
    for row in evidence.rows:
        if _counts(evidence, limit, row):
            for start in _charged(evidence.changes_of[row.id]):
                days[datetime.fromtimestamp(start.at_us / US, UTC).astimezone(zone).toordinal()] += _cost(limit, row)
    for day, units in sorted(days.items()):
        if units > limit.amount and not promises.clock_error_us:
            yield Violation("I12", _name(limit), f"{units} on day {day}, allowed {limit.amount}")
    corrected = _corrections(evidence, limit)
    for day, spent, reserved in ledger.days or ((0, ledger.spent, 0),):
        if spent + reserved > limit.amount + corrected:
            what = f"the ledger of day {day} holds {spent} and {reserved} reserved, allowed {limit.amount}"
            yield Violation("I12", _name(limit), what)


def _corrections(evidence: Evidence, limit: Quota, *, only_answered: bool = False) -> int:
    """Segments that the carrier counted beyond ours; `only_answered`: where every copy's answer was recorded."""
    if limit.unit != registry.QUOTA_UNIT_SEGMENTS:
        return 0
    return sum(
        request.parts - row.segments
        for row in evidence.rows
        if _counts(evidence, limit, row)
        for request in evidence.requests_of.get(row.id, ())
        if request.taken and request.parts and (not only_answered or _all_answered(evidence, row))
    )


def _all_answered(evidence: Evidence, row: Row) -> bool:
    answers = sum(change.reason == pb.REASON_PROVIDER_TOOK for change in evidence.changes_of[row.id])
    return answers == sum(request.taken for request in evidence.requests_of[row.id])


def order_holds(evidence: Evidence, _promises: Promises) -> Found:
    """I13: of one ordering key, a message first starts when each accepted before it is known: taken or ended.

    One that was taken and fails later has let its followers go; it is tried again among them.
    """
    accepted = {change.message: change.position for change in evidence.changes if change.previous == 0}
    lanes: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for row in sorted(evidence.rows, key=lambda row: (accepted.get(row.id, 0), row.id)):
        if row.ordering_key:
            lanes[row.tenant, row.campaign, row.ordering_key].append(row.id)
    place = {identity: (lane, number) for lane, ids in lanes.items() for number, identity in enumerate(ids)}
    known: set[int] = set()
    started: set[int] = set()
    for change in evidence.changes:
        if change.state == DISPATCHING and change.message in place and change.message not in started:
            started.add(change.message)
            lane, number = place[change.message]
            for earlier in set(lanes[lane][:number]) - known:
                what = f"started before {short_of(earlier)} of its key was taken or ended"
                yield Violation("I13", short_of(change.message), what)
        elif change.state in {SUBMITTED, SENT} or change.state >= TERMINAL_MIN:
            known.add(change.message)
    yield from _accept_order(evidence, list(lanes.values()))


def _accept_order(evidence: Evidence, lanes: list[list[int]]) -> Found:
    """Who was acknowledged before another was handed in stands before it."""
    handed_in: dict[str, int] = {}
    for line in evidence.of_kind("handed_in"):
        handed_in.setdefault(line["request_id"], line["at_us"])
    acked: dict[int, int] = {}
    asked: dict[int, int] = {}
    for line in evidence.of_kind("acked"):
        acked.setdefault(line["message"], line["at_us"])
        asked.setdefault(line["message"], handed_in.get(line["request_id"], 0))
    for lane in lanes:
        # From the back: when was the first of the later ones acknowledged.
        first_us, first = float("inf"), 0
        for identity in reversed(lane):
            if asked.get(identity, 0) > first_us:
                what = f"stands before {short_of(first)}, which was acknowledged before it was handed in"
                yield Violation("I13", short_of(identity), what)
            if acked.get(identity, first_us) < first_us:
                first_us, first = acked[identity], identity
        if lane != sorted(lane):
            yield Violation("I13", short_of(lane[0]), "ids of its key are not in the order of acceptance")


def sums_agree(evidence: Evidence, promises: Promises) -> Found:
    """I19: segments are what the carrier counts; a daily ledger spent what its attempts cost, over crashes too.

    What is reserved at the end is what open attempts hold.
    """
    for identity, requests in evidence.requests_of.items():
        row = evidence.row_of.get(identity)
        for request in requests:
            if row is not None and request.parts and request.parts != row.segments:
                what = f"{row.segments} segments, the carrier counts {request.parts}"
                yield Violation("I19", short_of(identity), what)
                break
    for ledger in evidence.ledgers:
        yield from _ledger_agrees(evidence, ledger, promises.nodes)


def _ledger_agrees(evidence: Evidence, ledger: Ledger, nodes: int) -> Found:
    limit = ledger.limit
    anybodys = replace(limit, carrier=0)
    least = most = held = 0
    for row in evidence.rows:
        known = _counts(evidence, limit, row)
        # While nobody knows whose number it is, it may count for every carrier.
        if not known and (row.carrier or not _counts(evidence, anybodys, row)):
            continue
        changes = evidence.changes_of[row.id]
        cost = _cost(limit, row) * len(_charged(changes))
        least += cost * known
        most += cost
        held += _cost(limit, row) * (row.state == DISPATCHING)
    # What the carrier answered corrects the ledger for certain; an answer that nobody read may or may not.
    sure, at_most = _corrections(evidence, limit, only_answered=True), _corrections(evidence, limit)
    least, most = least + min(sure, at_most), most + max(sure, at_most)
    name = f"scope {limit.scope} subject {limit.subject} carrier {limit.carrier}"
    # What a node that died beside others had reserved counts as spent, and stays where it is.
    lost = max(0, ledger.reserved - held) if nodes > 1 else 0
    if not least - lost <= ledger.spent <= most:
        yield Violation("I19", name, f"the ledger says {ledger.spent}, its messages {least} to {most}")
    ends = evidence.of_kind("life", "ended")
    killed = bool(ends) and ends[-1]["kind"] == "ended" and ends[-1]["exit_code"] < 0
    # A store that nobody opened again after a kill holds what the last intent wrote.
    if ledger.reserved > held + lost and not killed:
        yield Violation("I19", name, f"{ledger.reserved} reserved, open attempts hold {held}")


def _charged(changes: list[Change]) -> list[Change]:
    """Starts of attempts that were taken, or of which nobody knows."""
    return [before for before, after in pairwise(changes) if before.state == DISPATCHING and after.state in CHARGED]


RULES: Final = (limits_hold, order_holds, sums_agree)
