"""Accepting and ending, I1 to I5: what was acknowledged is there and ends; one id, one message; no phantom."""

from collections import Counter, defaultdict
from typing import Final

from longwave.v1 import messaging_pb2 as pb
from tests.corridor.checker.terms import (
    BLOCKED,
    CANCELLED,
    EXPIRED,
    TERMINAL_MIN,
    Found,
    Promises,
    Violation,
    same_tenant,
    state_name,
)
from tests.corridor.crash_evidence import US, Change, Evidence, Row, short_of

SYNCHRONOUS_FULL: Final = 2
# What a message may take to end beyond its validity and the wait for its receipt.
END_SLACK_US: Final = 300 * US
OPTED_OUT: Final = "RECIPIENT_OPTED_OUT"
REUSED: Final = "REQUEST_ID_REUSED"


def acknowledged_exists(evidence: Evidence, _promises: Promises) -> Found:
    """I1: what was acknowledged is there, under the id that was told, as it was handed in."""
    asked = {line["request_id"]: line for line in evidence.of_kind("handed_in")}
    for line in evidence.of_kind("acked"):
        row = evidence.row_of.get(line["message"])
        if row is None:
            yield Violation("I1", short_of(line["message"]), f"acknowledged for {line['request_id']}, and gone")
        elif (row.text_sha256, row.recipient) != (line["text_sha256"], line["recipient"]):
            yield Violation("I1", short_of(row.id), "not the body that was acknowledged")
        elif row.request_id != line["request_id"]:
            yield Violation("I1", short_of(row.id), f"told for {line['request_id']}, stored for {row.request_id}")
        else:
            for what in _altered(evidence, row, asked.get(line["request_id"], {})):
                yield Violation("I1", short_of(row.id), f"its {what} is not what was handed in")
    if evidence.bodies != len(evidence.rows):
        yield Violation("I1", "", f"{len(evidence.rows)} messages but {evidence.bodies} bodies")
    yield from _opt_outs_are_kept(evidence)
    journal, synchronous = evidence.settings.get("journal_mode", "wal"), evidence.settings.get("synchronous", "2")
    if journal != "wal" or int(synchronous) < SYNCHRONOUS_FULL:
        found = f"journal_mode {journal}, synchronous {synchronous}"
        yield Violation("I1", "store", f"acknowledged under {found}: a power cut would lose it")


def _altered(evidence: Evidence, row: Row, asked: dict[str, object]) -> list[str]:
    """The fields of a message that are not as its caller wrote them."""
    campaign = evidence.campaign_names.get(row.campaign)
    stored = {"message_class": row.message_class, "ordering_key": row.ordering_key, "campaign": campaign}
    # A class that the caller left open is the engine's choice; no key is a choice too.
    if not asked.get("message_class", 0):
        del stored["message_class"]
    found = [name for name, value in stored.items() if value is not None and asked.get(name, value) != value]
    owner = evidence.senders.get(row.sender)
    wanted = asked.get("sender")
    if (wanted and wanted != row.sender) or (evidence.senders and (owner is None or owner.campaign != row.campaign)):
        found.append("sender")
    return found


def _opt_outs_are_kept(evidence: Evidence) -> Found:
    for line in evidence.of_kind("opt_out_acked"):
        named = line.get("tenant", 0)
        kept = any(
            recipient == line["recipient"] and same_tenant(named, tenant) for tenant, recipient in evidence.opted_out
        )
        lifted = any(
            consent.kind == pb.Event.KIND_OPT_IN
            and consent.recipient == line["recipient"]
            and same_tenant(named, consent.tenant)
            for consent in evidence.consents
        )
        if not kept and not lifted:
            yield Violation("I1", line["recipient"], "an acknowledged opt-out is gone")


def all_end(evidence: Evidence, promises: Promises) -> Found:
    """I2: every message ends, in time; not before its validity, and for the reason that it names."""
    last_us = max((change.at_us for change in evidence.changes), default=0)
    for row in evidence.rows:
        ends = [change for change in evidence.changes_of.get(row.id, ()) if change.state >= TERMINAL_MIN]
        slack_us = END_SLACK_US + promises.clock_error_us
        until_us = row.expires_us + promises.no_receipt_after_us + slack_us if row.expires_us else None
        if promises.all_final and row.state < TERMINAL_MIN:
            yield Violation("I2", short_of(row.id), f"still {state_name(row.state)}")
        elif until_us is not None and (ends[0].at_us if ends else last_us) > until_us:
            late_s = ((ends[0].at_us if ends else last_us) - until_us) // US
            yield Violation("I2", short_of(row.id), f"not final in time, {late_s} s late")
        for end in ends:
            why_not = _unfounded(evidence, promises, row, end)
            if why_not:
                yield Violation("I2", short_of(row.id), why_not)


def _unfounded(evidence: Evidence, promises: Promises, row: Row, end: Change) -> str:
    """Why this end has no ground; empty when it has one."""
    if end.state == EXPIRED and row.expires_us and end.at_us < row.expires_us - promises.clock_error_us:
        return f"EXPIRED {(row.expires_us - end.at_us) / US:.3f} s before its validity ended"
    if end.state == CANCELLED and all(line["message"] != row.id for line in evidence.of_kind("cancel_asked")):
        return "CANCELLED, though nobody asked"
    if end.state != BLOCKED:
        return ""
    if end.reason == pb.REASON_OPTED_OUT:
        told = [
            consent
            for consent in evidence.consents
            if consent.kind == pb.Event.KIND_OPT_OUT
            and consent.recipient == row.recipient
            and same_tenant(row.tenant, consent.tenant)
            and consent.position <= end.position
        ]
        return "" if told else "BLOCKED, though its recipient had not opted out"
    if end.reason == pb.REASON_CAMPAIGN_STOPPED:
        stopped = row.campaign in evidence.campaigns_stopped or any(
            line["campaign"] == row.campaign for line in evidence.of_kind("campaign_stopped")
        )
        owner = evidence.senders.get(row.sender)
        moved = bool(evidence.senders) and (owner is None or owner.campaign != row.campaign)
        return "" if stopped or moved else "BLOCKED, though its campaign may send"
    return f"BLOCKED for reason {end.reason}"


def one_message_per_request(evidence: Evidence, promises: Promises) -> Found:
    """I3: a request id of a tenant stands for one message at most, whoever asks and how often."""
    for (tenant, request_id), count in Counter((row.tenant, row.request_id) for row in evidence.rows).items():
        if count > 1:
            yield Violation("I3", request_id, f"{count} messages of tenant {tenant} for one request id")
    answers: dict[tuple[int, str], set[int]] = defaultdict(set)
    for line in evidence.of_kind("acked"):
        stored = evidence.row_of.get(line["message"])
        tenant = line.get("tenant", 0) or (stored.tenant if stored is not None else 0)
        answers[tenant, line["request_id"]].add(line["message"])
    for (_, request_id), messages in answers.items():
        if len(messages) > 1:
            yield Violation("I3", request_id, f"answered with {len(messages)} different messages")
    last_us = max((change.at_us for change in evidence.changes), default=0)
    for row in evidence.rows:
        accepted_us = row.timeline[0].at_us if row.timeline else 0
        young = last_us - accepted_us < promises.request_ids_kept_us - promises.clock_error_us
        if young and evidence.request_ids.get((row.tenant, row.request_id)) != row.id:
            yield Violation("I3", short_of(row.id), "its request id is not remembered with it")


def other_content_refused(evidence: Evidence, _promises: Promises) -> Found:
    """I4: the same request id with other content is an error, never a message; the same content is no error."""
    for line in evidence.of_kind("reused"):
        if line["accepted"] or line.get("verdict", REUSED).removeprefix("VERDICT_") == "ACCEPTED":
            yield Violation("I4", line["request_id"], "other content under a used request id was accepted")
        elif line.get("verdict", REUSED).removeprefix("VERDICT_") != REUSED:
            yield Violation("I4", line["request_id"], f"other content was answered {line['verdict']}, not {REUSED}")
    first: dict[str, str] = {}
    for line in evidence.of_kind("acked", "handed_in"):
        first.setdefault(line["request_id"], line["text_sha256"])
    for line in evidence.of_kind("refused"):
        if line["verdict"].removeprefix("VERDICT_") == REUSED and first.get(line["request_id"], "") in {
            "",
            line["text_sha256"],
        }:
            yield Violation("I4", line["request_id"], "refused as used before, though no other content was")


def no_phantom(evidence: Evidence, promises: Promises) -> Found:
    """I5: the carrier gets only what was handed in, and nothing of what was refused."""
    handed_in = {(line["request_id"], line["text_sha256"]) for line in evidence.of_kind("handed_in")}
    for row in evidence.rows:
        if (row.request_id, row.text_sha256) not in handed_in:
            yield Violation("I5", short_of(row.id), "stored, but nobody handed it in")
    acked = {line["request_id"]: line["at_us"] for line in reversed(evidence.of_kind("acked"))}
    stored_ids = {request_id for _, request_id in evidence.request_ids}
    at_carrier = {request.text_sha256: request.message for request in evidence.requests}
    for line in evidence.of_kind("refused"):
        # A node that has not heard of an opt-out yet may take what another one refuses; the attempt's guard has the
        # last word, so it is not sent.
        other_node = (
            promises.nodes > 1
            and line["verdict"].removeprefix("VERDICT_") == OPTED_OUT
            and line["at_us"] <= acked.get(line["request_id"], -1)
        )
        if line["request_id"] in acked and not other_node:
            yield Violation("I5", line["request_id"], f"acknowledged, yet refused with {line['verdict']}")
        elif line["text_sha256"] in at_carrier:
            yield Violation(
                "I5", short_of(at_carrier[line["text_sha256"]]), f"refused with {line['verdict']}, yet sent"
            )
        if line["request_id"] in stored_ids and line["request_id"] not in acked:
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


RULES: Final = (acknowledged_exists, all_end, one_message_per_request, other_content_refused, no_phantom)
