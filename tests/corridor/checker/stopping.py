"""Stopping, I10 and I11: nothing leaves after an end, a validity or an opt-out; an acknowledged STOP is in force."""

from collections import defaultdict
from typing import Final, NamedTuple

from longwave.v1 import messaging_pb2 as pb
from tests.corridor.checker.terms import (
    ARRIVAL_GRACE_US,
    DISPATCHING,
    TERMINAL_MIN,
    Found,
    Promises,
    Violation,
    same_tenant,
    starts_of,
    starts_to,
    state_name,
    was_frozen,
)
from tests.corridor.crash_evidence import US, Change, Consent, Evidence, Request, short_of

NEVER: Final = float("inf")


class Closing(NamedTuple):
    """An opt-out, from its commit until it was lifted; positions in the event log, times where it took effect."""

    tenant: int
    recipient: str
    position: int
    lifted_position: float
    effective_us: float
    lifted_us: float


def closings(evidence: Evidence) -> list[Closing]:
    """Every opt-out that the event log tells of."""
    found = []
    for (tenant, recipient), told in _consents(evidence).items():
        for index, consent in enumerate(told):
            if consent.kind != pb.Event.KIND_OPT_OUT:
                continue
            lifted = next((c for c in told[index:] if c.kind == pb.Event.KIND_OPT_IN), None)
            effective = next((c for c in told[index:] if c.kind == pb.Event.KIND_OPT_OUT_EFFECTIVE), None)
            if effective is not None and lifted is not None and effective.position > lifted.position:
                effective = None
            found.append(
                Closing(
                    tenant,
                    recipient,
                    consent.position,
                    NEVER if lifted is None else lifted.position,
                    NEVER if effective is None else effective.at_us,
                    NEVER if lifted is None else lifted.at_us,
                )
            )
    return found


def _consents(evidence: Evidence) -> dict[tuple[int, str], list[Consent]]:
    told: dict[tuple[int, str], list[Consent]] = defaultdict(list)
    for consent in evidence.consents:
        told[consent.tenant, consent.recipient].append(consent)
    return told


def nothing_starts_after_the_end(evidence: Evidence, promises: Promises) -> Found:
    """I10: no attempt starts after a terminal state, nor to a number whose opt-out is committed; no byte leaves then.

    Bytes that a freeze held up between the last check and the write are the residue that is counted apart.
    """
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
    yield from _starts_after_an_opt_out(evidence)
    yield from _arrivals_after_effect(evidence, promises)
    for identity, requests in evidence.requests_of.items():
        for request in requests:
            yield from _bytes_after_the_end(evidence, promises, identity, request)


def _starts_after_an_opt_out(evidence: Evidence) -> Found:
    starts = starts_to(evidence)
    for closing in closings(evidence):
        for (tenant, recipient), changes in starts.items():
            if recipient == closing.recipient and same_tenant(closing.tenant, tenant):
                for change in changes:
                    if closing.position < change.position < closing.lifted_position:
                        yield Violation("I10", short_of(change.message), f"started after the opt-out of {recipient}")


def _arrivals_after_effect(evidence: Evidence, promises: Promises) -> Found:
    """The carrier gets nothing for a number once its opt-out is said, or acknowledged, to be effective."""
    shut: list[tuple[int, str, float, float]] = [
        (c.tenant, c.recipient, c.effective_us + promises.clock_error_us, c.lifted_us - promises.clock_error_us)
        for c in closings(evidence)
        if c.effective_us != NEVER
    ]
    for line in evidence.of_kind("opt_out_acked"):
        # A STOP is acknowledged to the provider when it is durable; effective it is when the event says so.
        if line["by"] == "api":
            named = line.get("tenant", 0)
            opened = [
                consent.at_us - promises.clock_error_us
                for consent in evidence.consents
                if consent.kind == pb.Event.KIND_OPT_IN
                and consent.recipient == line["recipient"]
                and same_tenant(named, consent.tenant)
                and consent.at_us + promises.clock_error_us > line["at_us"]
            ]
            shut.append((named, line["recipient"], line["at_us"], min(opened, default=NEVER)))
    for request in evidence.requests:
        row = evidence.row_of.get(request.message)
        tenant = row.tenant if row is not None else 0
        for whose, recipient, from_us, to_us in shut:
            late = from_us + ARRIVAL_GRACE_US < request.at_us < to_us
            if late and recipient == request.recipient and same_tenant(whose, tenant):
                if was_frozen(evidence, _started_us(evidence, request), request.at_us):
                    continue
                late_ms = int(request.at_us - from_us) // 1000
                what = f"reached the carrier {late_ms} ms after {request.recipient} was opted out"
                yield Violation("I10", short_of(request.message), what)
                break


def _started_us(evidence: Evidence, request: Request) -> int:
    """When the attempt of a request was written down."""
    times = [start.at_us for start in starts_of(evidence, request.message) if start.at_us <= request.at_us]
    return max(times, default=0)


def _bytes_after_the_end(evidence: Evidence, promises: Promises, identity: int, request: Request) -> Found:
    row = evidence.row_of.get(identity)
    changes: list[Change] = evidence.changes_of.get(identity, [])
    before = [change for change in changes if change.at_us + promises.clock_error_us <= request.at_us]
    if row is None or not before:
        return
    started_us = _started_us(evidence, request)
    last = before[-1]
    if was_frozen(evidence, started_us, request.at_us):
        return
    if last.state >= TERMINAL_MIN and request.at_us > last.at_us + promises.clock_error_us + ARRIVAL_GRACE_US:
        late_s = (request.at_us - last.at_us) / US
        yield Violation("I10", short_of(identity), f"bytes left {late_s:.1f} s after it was {state_name(last.state)}")
    elif row.expires_us and request.at_us > row.expires_us + promises.clock_error_us:
        # Written down while it was valid, its bytes may still take as long as a whole send may.
        late_s = (request.at_us - started_us) / US
        if request.at_us - started_us > promises.send_max_us + promises.clock_error_us:
            what = f"bytes left after its validity, {late_s:.1f} s after their intent"
            yield Violation("I10", short_of(identity), what)


def stop_is_kept(evidence: Evidence, promises: Promises) -> Found:
    """I11: a STOP that was acknowledged is in force after whatever came next, and so is each one after a START."""
    told = _consents(evidence)
    starts = starts_to(evidence)
    for line in evidence.of_kind("opt_out_acked"):
        recipient, named = line["recipient"], line.get("tenant", 0)
        mine = [c for (t, r), cs in told.items() if r == recipient and same_tenant(named, t) for c in cs]
        until_us = line["at_us"] + promises.clock_error_us
        # In force when it was acknowledged; what came later may have lifted it.
        came = [c for c in mine if c.at_us <= until_us and c.kind != pb.Event.KIND_OPT_OUT_EFFECTIVE]
        if all(c.kind != pb.Event.KIND_OPT_OUT for c in came) or came[-1].kind == pb.Event.KIND_OPT_IN:
            yield Violation("I11", recipient, f"the opt-out acknowledged by {line['by']} is not in force")
            continue
        lifted_us = min((c.at_us for c in mine if c.kind == pb.Event.KIND_OPT_IN and c.at_us > until_us), default=NEVER)
        for (tenant, to), changes in starts.items():
            for change in changes if to == recipient and same_tenant(named, tenant) else ():
                if line["at_us"] + promises.clock_error_us < change.at_us < lifted_us - promises.clock_error_us:
                    what = f"started after the opt-out of {recipient} was acked"
                    yield Violation("I11", short_of(change.message), what)
    for (tenant, recipient), consents in told.items():
        yield from _in_force_and_effective(evidence, promises, tenant, recipient, consents)


def _in_force_and_effective(
    evidence: Evidence, promises: Promises, tenant: int, recipient: str, consents: list[Consent]
) -> Found:
    """Each opt-out takes effect before it is lifted, and only while it is in force; the store says the same."""
    in_force, waits_since_us = False, NEVER
    for consent in consents:
        if consent.kind == pb.Event.KIND_OPT_OUT:
            in_force, waits_since_us = True, consent.at_us
        elif consent.kind == pb.Event.KIND_OPT_IN:
            in_force, waits_since_us = False, NEVER
        elif not in_force:
            yield Violation("I11", recipient, "called effective though it was lifted")
        else:
            waits_since_us = NEVER
    # One that nobody was told of may have been cut short by the end of the last life.
    acked = any(
        line["recipient"] == recipient
        and same_tenant(line.get("tenant", 0), tenant)
        and line["at_us"] + promises.clock_error_us >= waits_since_us
        for line in evidence.of_kind("opt_out_acked")
    )
    if acked:
        yield Violation("I11", recipient, "its opt-out never took effect")
    if in_force != ((tenant, recipient) in evidence.opted_out):
        what = "told to be opted out, the store does not forbid it" if in_force else "forbidden though it was lifted"
        yield Violation("I11", recipient, what)


RULES: Final = (nothing_starts_after_the_end, stop_is_kept)
