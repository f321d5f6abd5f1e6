"""Running, I18, I20 to I22 and I24: tenants are apart, backlogs drain, bounds and secrets hold, a stop is clean."""

import re
from bisect import bisect_right
from collections import defaultdict
from itertools import pairwise
from statistics import median
from typing import Any, Final

from longwave.v1 import messaging_pb2 as pb
from tests.corridor.checker.terms import (
    DISPATCHING,
    QUEUED,
    RECOVERED,
    SENT,
    SUBMITTED,
    TERMINAL_MIN,
    UNKNOWN,
    Found,
    Promises,
    Violation,
    same_tenant,
)
from tests.corridor.crash_evidence import US, Change, Evidence, short_of

# After healing: so long, and so much of the rate before.
DRAIN_US: Final = 60 * US
RATE_WINDOW_US: Final = 10 * US
DRAIN_SHARE: Final = 0.95
# Held for a reason that healing does not lift.
HELD: Final = {pb.REASON_SCHEDULED, pb.REASON_CAP_REACHED}
# Fewer samples show no trend.
SAMPLES_MIN: Final = 12
# Growth that goes on: a twentieth in each quarter, the last no less than three quarters of the first.
GROWTH_MIN: Final = 0.05
GROWTH_LEVELS: Final = 0.75
# Ten digits however people write them: after +1, 1, 001 or nothing, with blanks, points, dashes and brackets between.
_NUMBER: Final = re.compile(r"(?<!\d)(?:00|\+)?1?[ ().-]{0,2}([2-9]\d\d)[ ().-]{0,2}(\d{3})[ .-]?(\d{4})(?!\d)")
# Shorter pieces of a text occur by chance, and so do pieces of few different characters.
PIECE_CHARACTERS: Final = 12
DIFFERENT_MIN: Final = 6


def tenants_are_apart(evidence: Evidence, _promises: Promises) -> Found:
    """I18: nobody gets, changes or is told what is another tenant's, nor does it count against anybody else."""
    for line in evidence.of_kind("foreign_asked"):
        if line["found"]:
            yield Violation("I18", line["what"], "another tenant's was found, or changed")
    for row in evidence.rows:
        if evidence.campaign_tenants.get(row.campaign, row.tenant) != row.tenant:
            yield Violation("I18", short_of(row.id), "sent by another tenant's campaign")
        owner = evidence.senders.get(row.sender)
        if owner is not None and owner.tenant != row.tenant:
            yield Violation("I18", short_of(row.id), "sent from another tenant's number")
        strangers = evidence.event_tenants.get(row.id, set()) - {row.tenant}
        if strangers and row.tenant:
            yield Violation("I18", short_of(row.id), f"told to tenants {sorted(strangers)}")
        yield from _blocked_by_a_stranger(evidence, row.tenant, row.recipient, evidence.changes_of.get(row.id, []))
    yield from _consent_is_apart(evidence)
    told_to = {identity: tenant for tenant, identity in evidence.inbound_told or ()}
    for text in evidence.inbound:
        owner = evidence.senders.get(text.recipient)
        if owner is not None and owner.tenant != text.tenant:
            yield Violation("I18", text.provider_id, f"a text to tenant {owner.tenant}, kept for tenant {text.tenant}")
        if text.id and told_to.get(text.id, text.tenant) != text.tenant:
            yield Violation("I18", text.provider_id, f"told to tenant {told_to[text.id]}")


def _blocked_by_a_stranger(evidence: Evidence, tenant: int, recipient: str, changes: list[Change]) -> Found:
    for change in changes:
        if change.reason == pb.REASON_OPTED_OUT:
            whose = {
                consent.tenant
                for consent in evidence.consents
                if consent.kind == pb.Event.KIND_OPT_OUT and consent.recipient == recipient
            }
            if whose and not any(same_tenant(tenant, one) for one in whose):
                what = f"held back by the opt-out from tenants {sorted(whose)}"
                yield Violation("I18", short_of(change.message), what)


def _consent_is_apart(evidence: Evidence) -> Found:
    """An opt-out is told to the tenant that it is from, and kept for that tenant."""
    acked: dict[str, set[int]] = defaultdict(set)
    for line in evidence.of_kind("opt_out_acked"):
        if line.get("tenant"):
            acked[line["recipient"]].add(line["tenant"])
    for consent in evidence.consents:
        proved = {proof.tenant for proof in evidence.proofs or () if proof.recipient == consent.recipient}
        proved |= acked[consent.recipient]
        if proved and consent.tenant and consent.tenant not in proved:
            what = f"its opt-out from tenants {sorted(proved)} was told to tenant {consent.tenant}"
            yield Violation("I18", consent.recipient, what)


def backlog_drains(evidence: Evidence, _promises: Promises) -> Found:
    """I20: within a minute of healing the backlog goes at 95 % of the rate before the fault, until it is gone."""
    accepted: list[int] = []
    taken: dict[int, int] = {}
    for change in evidence.changes:
        if change.previous == 0:
            accepted.append(change.at_us)
        elif _gone(change):
            taken.setdefault(change.message, change.at_us)
    left = sorted(taken.values())
    accepted.sort()
    for line in evidence.of_kind("faulted") if accepted else ():
        from_us, healed_us = line["from_us"], line["to_us"]
        waiting = _backlog(evidence, healed_us)
        if not waiting:
            continue
        before = _rate(left, max(from_us - RATE_WINDOW_US, accepted[0]), from_us)
        took_us = int(len(waiting) / (DRAIN_SHARE * before) * US) if before else 0
        until_us = healed_us + DRAIN_US + took_us
        late = [at_us for at_us in waiting if at_us is None or at_us > until_us]
        if late:
            stay = sum(at_us is None for at_us in late)
            what = f"{len(late)} of {len(waiting)} that waited at healing were still there after "
            what += f"{(until_us - healed_us) / US:.0f} s, {stay} for ever; {before:.1f}/s before"
            yield Violation("I20", f"fault at {from_us}", what)


def _gone(change: Change) -> bool:
    """It waits no more: the provider has it, or may have it, or it has ended."""
    return change.state >= TERMINAL_MIN or change.state in {SUBMITTED, SENT, UNKNOWN}


def _backlog(evidence: Evidence, healed_us: int) -> list[int | None]:
    """When each message that waited at healing went, one that was sent before and came back too; None: never."""
    found: list[int | None] = []
    key_of = {row.id: (row.tenant, row.campaign, row.ordering_key) for row in evidence.rows if row.ordering_key}
    first_held: dict[tuple[int, int, str], int] = {}
    waited: dict[int, int | None] = {}
    for message, changes in evidence.changes_of.items():
        before = [change for change in changes if change.at_us <= healed_us]
        after = changes[len(before) :]
        if before and before[-1].state in {QUEUED, DISPATCHING}:
            if before[-1].reason in HELD or any(change.reason in HELD for change in after):
                key = key_of.get(message)
                if key is not None:
                    first_held[key] = min(message, first_held.get(key, message))
            else:
                waited[message] = next((change.at_us for change in after if _gone(change)), None)
    for message, gone in waited.items():
        # Behind one of its ordering key that is held, it is held too.
        if message <= first_held.get(key_of.get(message, (0, 0, "")), message):
            found.append(gone)
    return found


def _rate(times: list[int], from_us: int, to_us: int) -> float:
    return (bisect_right(times, to_us) - bisect_right(times, from_us)) * US / max(to_us - from_us, US)


def resources_are_bounded(evidence: Evidence, promises: Promises) -> Found:
    """I21: a process stays under its bounds, and does not grow and grow, be it slowly."""
    lives = [line["at_us"] for line in evidence.of_kind("life")]
    samples: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in evidence.of_kind("sample"):
        samples[bisect_right(lives, line["at_us"])].append(line)
    bounds = {
        "rss_bytes": promises.rss_max_bytes,
        "descriptors": promises.descriptors_max,
        "tasks": promises.tasks_max,
    }
    for life, lines in samples.items():
        for what, bound in bounds.items():
            held = [line[what] for line in lines if what in line]
            if held and max(held) > bound:
                yield Violation("I21", f"life {life}", f"{max(held)} {what}, allowed {bound}")
            if len(held) < SAMPLES_MIN:
                continue
            half, quarter = held[: len(held) // 2], held[-(len(held) // 4) :]
            if median(quarter) > promises.growth_max * median(half):
                yield Violation("I21", f"life {life}", f"{what} grew from {median(half):.0f} to {median(quarter):.0f}")
            elif _grows_on(held):
                yield Violation("I21", f"life {life}", f"{what} grew steadily, from {held[0]} to {held[-1]}")


def _grows_on(held: list[int]) -> bool:
    """Whether it rises in every quarter, and no less at the end than at first: what fills up levels off."""
    size = len(held) // 4
    middles = [median(held[number * size : (number + 1) * size]) for number in range(4)]
    rises = [after - before for before, after in pairwise(middles)]
    return min(rises) >= GROWTH_MIN * middles[0] and rises[-1] >= GROWTH_LEVELS * rises[0]


def nothing_personal_leaks(evidence: Evidence, _promises: Promises) -> Found:
    """I22: no number of a handset, no text or piece of one and no key in a log, the history or the metrics."""
    numbers = {row.recipient[-10:] for row in evidence.rows}
    numbers |= {recipient[-10:] for _, recipient in evidence.opted_out}
    numbers |= {consent.recipient[-10:] for consent in evidence.consents}
    numbers |= {text.sender[-10:] for text in evidence.inbound}
    pieces = {
        canary[start : start + PIECE_CHARACTERS]
        for canary in evidence.canaries
        for start in range(0, len(canary) - PIECE_CHARACTERS + 1, PIECE_CHARACTERS)
    }
    for sink, content in evidence.sinks.items():
        found = {"".join(parts) for parts in _NUMBER.findall(content)}
        for number in sorted(found & numbers):
            yield Violation("I22", sink, f"holds a handset's number, …{number[-4:]}")
        for piece in sorted(pieces):
            if len(set(piece)) >= DIFFERENT_MIN and piece in content:
                yield Violation("I22", sink, f"holds a piece of a text or a key, {piece[:4]}…")


def drain_is_clean(evidence: Evidence, promises: Promises) -> Found:
    """I24: SIGTERM ends within the grace, makes no attempt UNKNOWN of itself, and the exit code is 0."""
    for line in evidence.of_kind("drained"):
        if line["exit_code"] != 0:
            yield Violation("I24", "", f"SIGTERM ended with exit code {line['exit_code']}")
        if line["to_us"] - line["from_us"] > promises.drain_max_us:
            yield Violation("I24", "", f"SIGTERM took {(line['to_us'] - line['from_us']) / US:.0f} s")
        for change in evidence.changes:
            if change.state == UNKNOWN and line["from_us"] <= change.at_us <= line["to_us"]:
                requests = [r for r in evidence.requests_of.get(change.message, ()) if r.at_us <= change.at_us]
                # A carrier that answers badly, or not at all, makes attempts UNKNOWN whether the engine drains or not;
                # and one that sends the receipt first waits with its answer for a webhook that is refused meanwhile.
                soundly = (
                    requests and requests[-1].answered in {"", "ok"} and "early" not in requests[-1].receipt_faults
                )
                if line["faultless"] or soundly:
                    yield Violation("I24", short_of(change.message), "became UNKNOWN while the engine drained")
    for line in evidence.of_kind("life"):
        if line["after"] == "drain":
            ends = [later["at_us"] for later in evidence.of_kind("life", "ended") if later["at_us"] > line["at_us"]]
            for change in evidence.changes:
                recovered = change.state == UNKNOWN and change.reason == RECOVERED
                if recovered and line["at_us"] <= change.at_us < min(ends, default=change.at_us + 1):
                    yield Violation("I24", short_of(change.message), "was left open by an engine that drained")


RULES: Final = (
    tenants_are_apart,
    backlog_drains,
    resources_are_bounded,
    nothing_personal_leaks,
    drain_is_clean,
)
