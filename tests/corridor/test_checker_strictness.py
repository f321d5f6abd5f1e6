"""Histories that look good at first sight: each is broken in one place, and named with the words that say where."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import registry_pb2 as registry
from tests.corridor.checker.histories import (
    BLOCKED,
    CAMPAIGN,
    CANCELLED,
    DEAD,
    DELIVERED,
    DISPATCHING,
    EXPIRED,
    NO_RECEIPT,
    QUEUED,
    SENDER,
    SENT,
    SUBMITTED,
    TO,
    UNKNOWN,
    UNRESOLVED,
    S,
    change,
    good,
    note,
    opt_out,
    request,
    rewrite,
    sample,
    steps,
    watch,
)
from tests.corridor.crash_checker import Promises, check
from tests.corridor.crash_evidence import Consent, Evidence, Inbound, Ledger, Proof, Quota, Sender, short_of

DAY: Final = 86_400 * S
BRAND, TMOBILE, ATT = 7, 3, 1
OTHER: Final = "+12025550777"
Break = Callable[[Evidence], None]


def unsent(evidence: Evidence, *states: int) -> None:
    """Message 2 never left, and went so."""
    rewrite(evidence, 2, steps(2, QUEUED, *states))
    del evidence.requests[2], evidence.notes[2]


def same_texts(evidence: Evidence) -> None:
    evidence.rows = [replace(row, text_sha256="t") for row in evidence.rows]
    evidence.requests = [replace(one, text_sha256="t") for one in evidence.requests]
    for line in evidence.client:
        if "text_sha256" in line:
            line["text_sha256"] = "t"


# I1 to I5.


def swap_answers(evidence: Evidence) -> None:
    """Two messages of one text to one number: each caller is told the other's."""
    same_texts(evidence)
    for line in evidence.of_kind("acked"):
        line["message"] = 3 - line["message"]


def handed_in_as(evidence: Evidence, **fields: object) -> None:
    evidence.of_kind("handed_in")[1].update(fields)


def change_the_class(evidence: Evidence) -> None:
    handed_in_as(evidence, message_class=1)


def change_the_sender(evidence: Evidence) -> None:
    handed_in_as(evidence, sender="+12025550199")


def send_by_a_number_of_another_campaign(evidence: Evidence) -> None:
    evidence.senders = {SENDER: Sender(CAMPAIGN + 1, 0)}


def change_the_campaign(evidence: Evidence) -> None:
    evidence.campaign_names = {CAMPAIGN: "campaigns/one"}
    handed_in_as(evidence, campaign="campaigns/two")


def forget_the_ordering_key(evidence: Evidence) -> None:
    handed_in_as(evidence, ordering_key="k")


def end_far_too_late(evidence: Evidence) -> None:
    changes = steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)
    changes[-1] = changes[-1]._replace(at_us=100 * DAY)
    rewrite(evidence, 2, changes, expires_us=60 * S)


def expire_early(evidence: Evidence) -> None:
    unsent(evidence, EXPIRED)
    evidence.rows[1] = replace(evidence.rows[1], expires_us=DAY)


def block_without_an_opt_out(evidence: Evidence) -> None:
    unsent(evidence, BLOCKED)


def block_before_the_opt_out(evidence: Evidence) -> None:
    unsent(evidence, BLOCKED)
    opt_out(evidence, 90 * S)


def block_for_a_campaign_that_may_send(evidence: Evidence) -> None:
    unsent(evidence, BLOCKED)
    last = steps(2, QUEUED, BLOCKED)[-1]._replace(reason=pb.REASON_CAMPAIGN_STOPPED)
    rewrite(evidence, 2, [steps(2, QUEUED)[0], last])


def cancel_unasked(evidence: Evidence) -> None:
    unsent(evidence, CANCELLED)


def answer_other_content_otherwise(evidence: Evidence) -> None:
    note(evidence, "reused", request_id="r1", accepted=False, verdict="INVALID_RECIPIENT")


def refuse_a_first_submission_as_used(evidence: Evidence) -> None:
    note(evidence, "handed_in", request_id="r9", text_sha256="t9", recipient=TO)
    note(evidence, "refused", request_id="r9", text_sha256="t9", verdict="VERDICT_REQUEST_ID_REUSED")


# I6 to I9.


def send_before_the_stored_intent(evidence: Evidence) -> None:
    """The history tells of the intent in time, the store has it half a second after the bytes."""
    changes = steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)
    changes[1] = changes[1]._replace(at_us=changes[1].at_us + S // 2)
    rewrite(evidence, 2, changes)


def store_another_epoch(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], epoch=7)


def send_under_a_generation_without_intent(evidence: Evidence) -> None:
    evidence.requests[2] = replace(evidence.requests[2], generation=2)


def resend_under_a_new_key(evidence: Evidence) -> None:
    evidence.policies[CAMPAIGN] = registry.ON_UNKNOWN_UNRESOLVED
    again = [c._replace(generation=2) if c.seq >= 5 else c for c in evidence.changes if c.message == 1]
    rewrite(evidence, 1, again)
    evidence.requests[1] = replace(evidence.requests[1], generation=2, body_sha256="b2")


def resend_what_was_not_taken(evidence: Evidence) -> None:
    """No copy more, but sent again although the policy forbids it."""
    evidence.policies[CAMPAIGN] = registry.ON_UNKNOWN_UNRESOLVED
    evidence.requests[0] = replace(evidence.requests[0], taken=False, final="")


def settle_an_attempt_twice(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, QUEUED, SUBMITTED, DELIVERED))


def skip_a_number(evidence: Evidence) -> None:
    changes = [c._replace(attempt=2) if c.seq > 1 else c for c in steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)]
    rewrite(evidence, 2, changes)


def fall_in_epochs(evidence: Evidence) -> None:
    evidence.rows[0] = replace(evidence.rows[0], epoch=5)
    evidence.notes[1]["epoch"] = evidence.notes[0]["epoch"] = 5


def exceed_the_epoch(evidence: Evidence) -> None:
    evidence.rows = [replace(row, epoch=4) for row in evidence.rows]
    evidence.epoch = 3
    for line in evidence.notes:
        line["epoch"] = 4


def fall_in_rank(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SENT, SUBMITTED, DELIVERED))


def cancel_what_was_taken(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED, CANCELLED))
    note(evidence, "cancel_asked", message=2)


def die_though_a_copy_may_be_out(evidence: Evidence) -> None:
    rewrite(evidence, 1, steps(1, QUEUED, DISPATCHING, UNKNOWN, QUEUED, DISPATCHING, DEAD))


# I10 and I11.


def send_before_a_later_opt_in(evidence: Evidence) -> None:
    """Bytes seconds after it was effective; that it is lifted a minute later excuses nothing."""
    opt_out(evidence, 22 * S + 200_000)
    evidence.client = [line for line in evidence.client if line["kind"] != "opt_out_acked"]
    evidence.requests[2] = replace(evidence.requests[2], at_us=26 * S)
    evidence.consents.append(Consent(90 * S, pb.Event.KIND_OPT_IN, TO, 90 * S))
    evidence.opted_out.clear()


def start_before_a_later_opt_in(evidence: Evidence) -> None:
    opt_out(evidence, 14 * S)
    evidence.consents.append(Consent(90 * S, pb.Event.KIND_OPT_IN, TO, 90 * S))
    evidence.opted_out.clear()


def send_after_it_was_given_up(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, UNKNOWN, UNRESOLVED))
    evidence.requests[2] = replace(evidence.requests[2], at_us=3600 * S, taken=False, final="")


def send_long_after_the_validity(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)[:3], expires_us=23 * S)
    evidence.requests[2] = replace(evidence.requests[2], at_us=3600 * S)


def leave_a_second_stop_open(evidence: Evidence) -> None:
    opt_out(evidence, 50 * S)
    evidence.consents.append(Consent(60 * S, pb.Event.KIND_OPT_IN, TO, 60 * S))
    opt_out(evidence, 70 * S, effective=False)


def take_effect_after_it_was_lifted(evidence: Evidence) -> None:
    opt_out(evidence, 50 * S, effective=False)
    evidence.consents.append(Consent(60 * S, pb.Event.KIND_OPT_IN, TO, 60 * S))
    evidence.consents.append(Consent(61 * S, pb.Event.KIND_OPT_OUT_EFFECTIVE, TO, 61 * S))
    evidence.opted_out.clear()


def forbid_what_was_lifted(evidence: Evidence) -> None:
    opt_out(evidence, 50 * S)
    evidence.consents.append(Consent(60 * S, pb.Event.KIND_OPT_IN, TO, 60 * S))


# I12, I13, I19.


def cap_a_day(evidence: Evidence, amount: int, spent: int, reserved: int = 0) -> None:
    """A daily cap of the brand at T-Mobile, where every recipient is."""
    evidence.campaign_brands = {CAMPAIGN: BRAND}
    evidence.rows = [replace(row, carrier=TMOBILE) for row in evidence.rows]
    limit = Quota(registry.QUOTA_SCOPE_BRAND_CARRIER_DAY, BRAND, TMOBILE, registry.QUOTA_UNIT_MESSAGES, amount, 0)
    days = ((719_162, spent, reserved),)
    evidence.ledgers = [Ledger(limit, spent, reserved, days=days)]


def exceed_a_daily_cap(evidence: Evidence) -> None:
    cap_a_day(evidence, amount=1, spent=3)


def hold_more_than_a_daily_cap(evidence: Evidence) -> None:
    cap_a_day(evidence, amount=10, spent=3, reserved=8)


def exceed_a_carriers_minute(evidence: Evidence) -> None:
    evidence.rows = [replace(row, carrier=ATT) for row in evidence.rows]
    limit = registry.QUOTA_SCOPE_CAMPAIGN_CARRIER
    evidence.quotas = [Quota(limit, CAMPAIGN, ATT, registry.QUOTA_UNIT_MESSAGES, 1, 60 * S)]


def in_one_lane(evidence: Evidence) -> None:
    evidence.rows = [replace(row, ordering_key="k") for row in evidence.rows]


def let_a_follower_go_first(evidence: Evidence) -> None:
    """Its first attempt is numbered 2, so that it looks like a retry."""
    in_one_lane(evidence)
    early = [c._replace(position=c.position - 9 * S, attempt=2) for c in evidence.changes if c.message == 2]
    evidence.changes = sorted([*early, *(c for c in evidence.changes if c.message == 1)])


def order_against_acceptance(evidence: Evidence) -> None:
    """Message 2 was acknowledged before message 1 was handed in, and stands behind it."""
    in_one_lane(evidence)
    times = {"r1": (15, 20), "r2": (5, 10)}
    for line in evidence.of_kind("handed_in", "acked"):
        line["at_us"] = times[line["request_id"]][line["kind"] == "acked"]


def number_against_the_log(evidence: Evidence) -> None:
    in_one_lane(evidence)
    evidence.changes = [c._replace(position=1) if (c.message, c.seq) == (2, 1) else c for c in evidence.changes]


def reserve_for_ever(evidence: Evidence) -> None:
    cap_a_day(evidence, amount=10_000, spent=3, reserved=500)


def excuse_a_million_by_a_kill(evidence: Evidence) -> None:
    cap_a_day(evidence, amount=10_000_000, spent=1_000_003)
    note(evidence, "life", at_us=300 * S, after="kill", failpoint="")


def forget_the_carriers_count(evidence: Evidence) -> None:
    """The carrier counted five segments of one message, the ledger three messages of one."""
    cap_a_day(evidence, amount=100, spent=3)
    segments = replace(evidence.ledgers[0].limit, unit=registry.QUOTA_UNIT_SEGMENTS)
    evidence.ledgers = [replace(evidence.ledgers[0], limit=segments)]
    evidence.requests[2] = replace(evidence.requests[2], parts=5)


# I14 to I17.


def repeat_within_a_connection(evidence: Evidence) -> None:
    told = [(c.message, c.seq) for c in evidence.changes]
    watch(evidence, *told, *reversed(told), caught_up=True)


def keep_another_code(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], code="40008")


def run_backwards(evidence: Evidence) -> None:
    changes = steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)
    changes[2] = changes[2]._replace(at_us=changes[1].at_us - 500_000)
    rewrite(evidence, 2, changes)


def keep_a_text_untold(evidence: Evidence) -> None:
    evidence.inbound, evidence.inbound_told = [Inbound(1, "in-1", 9)], []


def prove_no_consent(evidence: Evidence) -> None:
    opt_out(evidence, 50 * S)
    evidence.proofs = [Proof(0, TO, pb.Event.KIND_OPT_OUT)]


def give_up_what_was_unconfirmed(evidence: Evidence) -> None:
    """The carrier said within seconds that it will never know; a minute later it counts as never heard of."""
    changes = steps(2, QUEUED, DISPATCHING, UNKNOWN, UNRESOLVED)
    changes[-1] = changes[-1]._replace(at_us=90 * S)
    rewrite(evidence, 2, changes)
    evidence.requests[2] = replace(evidence.requests[2], final="delivery_unconfirmed")


def miss_the_failure_of_both(evidence: Evidence) -> None:
    rewrite(evidence, 1, steps(1, QUEUED, DISPATCHING, UNKNOWN, QUEUED, DISPATCHING, SUBMITTED, NO_RECEIPT))
    failed = [replace(one, final="delivery_failed/40008") for one in evidence.requests[:2]]
    evidence.requests = [*failed, evidence.requests[2]]


def contradict_twice(evidence: Evidence) -> None:
    for _ in range(2):
        note(evidence, "receipt_told", message=2, event="contrary")
        evidence.conflicts.append(change(2, 0, 0, DELIVERED, 27 * S, code="40008"))


def invent_a_submission(evidence: Evidence) -> None:
    """The carrier never got a byte."""
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED, NO_RECEIPT))
    del evidence.requests[2]


def take_a_refusal_for_sent(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, UNKNOWN, SENT, NO_RECEIPT))
    evidence.requests[2] = replace(evidence.requests[2], taken=False, final="")


# I18 to I24.


def of_tenant_one(evidence: Evidence) -> None:
    evidence.rows = [replace(row, tenant=1) for row in evidence.rows]
    evidence.request_ids = {(1, row.request_id): row.id for row in evidence.rows}


def tell_anothers_opt_out(evidence: Evidence) -> None:
    of_tenant_one(evidence)
    evidence.opted_out = {(1, OTHER)}
    evidence.proofs = [Proof(1, OTHER, pb.Event.KIND_OPT_OUT), Proof(1, OTHER, pb.Event.KIND_OPT_OUT_EFFECTIVE)]
    evidence.consents = [
        Consent(50 * S, pb.Event.KIND_OPT_OUT, OTHER, 50 * S, 2),
        Consent(51 * S, pb.Event.KIND_OPT_OUT_EFFECTIVE, OTHER, 51 * S, 2),
    ]


def hold_back_by_anothers_opt_out(evidence: Evidence) -> None:
    unsent(evidence, BLOCKED)
    of_tenant_one(evidence)
    evidence.opted_out = {(2, TO)}
    evidence.consents = [
        Consent(2, pb.Event.KIND_OPT_OUT, TO, 2, 2),
        Consent(3, pb.Event.KIND_OPT_OUT_EFFECTIVE, TO, 3, 2),
    ]


def keep_anothers_text(evidence: Evidence) -> None:
    evidence.senders = {SENDER: Sender(CAMPAIGN, 0), OTHER: Sender(CAMPAIGN + 1, 2)}
    evidence.inbound = [Inbound(1, "in-1", 9, 1, TO, OTHER)]


def traffic(evidence: Evidence, times: list[tuple[int, int]]) -> None:
    """Only messages that were accepted and taken at these times."""
    evidence.changes = []
    for number, (accepted_us, taken_us) in enumerate(times, 1):
        evidence.changes += [
            change(number, 1, 0, QUEUED, accepted_us, 0),
            change(number, 2, QUEUED, DISPATCHING, taken_us - 2),
            change(number, 3, DISPATCHING, SUBMITTED, taken_us),
        ]
    note(evidence, "faulted", from_us=11 * S, to_us=20 * S)


def drain_for_ten_seconds_only(evidence: Evidence) -> None:
    """Ten a second for ten seconds after healing, then a day of nothing."""
    before = [(n, S + n * S // 10) for n in range(100)]
    burst = [(n, 20 * S + (n - 99) * S // 10) for n in range(100, 200)]
    traffic(evidence, [*before, *burst, *((n, DAY + n * S) for n in range(200, 300))])


def let_new_work_pass_the_retried(evidence: Evidence) -> None:
    """New work goes at the rate of before; what waited at healing stands for two hours."""
    before = [(n, S + n * S // 10) for n in range(100)]
    stands = [(n, 7200 * S + n) for n in range(100, 150)]
    fresh = [(20 * S + n * S // 10, 20 * S + n * S // 10 + S // 2) for n in range(1, 750)]
    traffic(evidence, [*before, *stands, *fresh])


def grow_slowly_but_surely(evidence: Evidence) -> None:
    for number in range(40):
        sample(evidence, rss_bytes=1000 + 20 * number)


def start_tasks_without_end(evidence: Evidence) -> None:
    sample(evidence, tasks=10_001)


def log_the_beginning_of_a_text(evidence: Evidence) -> None:
    evidence.canaries = {"Your code is 471199 for login"}
    evidence.sinks["engine.log"] = "failed: Your code is 471199 "


def log_a_number_as_people_write_it(evidence: Evidence) -> None:
    evidence.sinks["engine.log"] = "called (202) 555-0123 at noon"


def log_a_number_with_international_prefix(evidence: Evidence) -> None:
    evidence.sinks["engine.log"] = "to=0012025550123;"


def log_a_handset_that_only_opted_out(evidence: Evidence) -> None:
    evidence.opted_out.add((0, OTHER))
    evidence.sinks["engine.log"] = f"forbidden {OTHER}"


def drain_for_an_hour(evidence: Evidence) -> None:
    note(evidence, "drained", from_us=100 * S, to_us=3700 * S, exit_code=0, faultless=True)


def cut_an_answered_attempt_in_a_drain(evidence: Evidence) -> None:
    """The carrier has its bad days, but this request it answered well."""
    evidence.requests[0] = replace(evidence.requests[0], answered="ok")
    note(evidence, "drained", from_us=13 * S, to_us=14 * S, exit_code=0, faultless=False)


def begin_when_another_owns(evidence: Evidence) -> None:
    """A node that lost the shard, and does not know: message 2 began at 22 s."""
    shards = list(range(64))
    evidence.notes.append({"kind": "owns", "at_us": 11 * S, "epoch": 1, "shards": shards})
    evidence.notes.append({"kind": "owns", "at_us": 21 * S, "epoch": 2, "shards": shards})


def take_under_a_lower_epoch(evidence: Evidence) -> None:
    evidence.notes.append({"kind": "owns", "at_us": 11 * S, "epoch": 1, "shards": [3]})
    evidence.notes.append({"kind": "owns", "at_us": 12 * S, "epoch": 1, "shards": [3, 4]})


BREAKS: Final[list[tuple[Break, str, str]]] = [
    (swap_answers, "I1", "told for r1, stored for r2"),
    (change_the_class, "I1", "its message_class is not"),
    (change_the_sender, "I1", "its sender is not"),
    (send_by_a_number_of_another_campaign, "I1", "its sender is not"),
    (change_the_campaign, "I1", "its campaign is not"),
    (forget_the_ordering_key, "I1", "its ordering_key is not"),
    (end_far_too_late, "I2", "not final in time"),
    (expire_early, "I2", "EXPIRED 86378.000 s before its validity"),
    (block_without_an_opt_out, "I2", "BLOCKED, though its recipient had not opted out"),
    (block_before_the_opt_out, "I2", "BLOCKED, though its recipient had not opted out"),
    (block_for_a_campaign_that_may_send, "I2", "BLOCKED, though its campaign may send"),
    (cancel_unasked, "I2", "CANCELLED, though nobody asked"),
    (answer_other_content_otherwise, "I4", "not REQUEST_ID_REUSED"),
    (refuse_a_first_submission_as_used, "I4", "though no other content was"),
    (send_before_the_stored_intent, "I6", "came before its intent in the store"),
    (store_another_epoch, "I6", "under epoch 1, the store has 7"),
    (send_under_a_generation_without_intent, "I6", "request 1 of generation 2"),
    (resend_under_a_new_key, "I7", "2 copies under all keys"),
    (resend_under_a_new_key, "I7", "generation 2 without a failure"),
    (resend_what_was_not_taken, "I7", "against the policy"),
    (settle_an_attempt_twice, "I8", "SUBMITTED for attempt 1, whose outcome"),
    (skip_a_number, "I8", "attempt 1 is numbered 2"),
    (fall_in_epochs, "I8", "started under epoch 1 at position"),
    (exceed_the_epoch, "I8", "epoch 4, the store's is 3"),
    (begin_when_another_owns, "I8", "begun under epoch 1, when its shard was owned under 2"),
    (take_under_a_lower_epoch, "I8", "taken under epoch 1, after 1"),
    (fall_in_rank, "I9", "SENT became SUBMITTED"),
    (cancel_what_was_taken, "I9", "SUBMITTED became CANCELLED"),
    (die_though_a_copy_may_be_out, "I9", "DEAD, though a copy may be out"),
    (send_before_a_later_opt_in, "I10", "3799 ms after"),
    (start_before_a_later_opt_in, "I10", f"started after the opt-out of {TO}"),
    (send_after_it_was_given_up, "I10", "after it was UNRESOLVED"),
    (send_long_after_the_validity, "I10", "bytes left after its validity"),
    (leave_a_second_stop_open, "I11", "never took effect"),
    (take_effect_after_it_was_lifted, "I11", "called effective though it was lifted"),
    (forbid_what_was_lifted, "I11", "forbidden though it was lifted"),
    (exceed_a_daily_cap, "I12", "3 on day"),
    (hold_more_than_a_daily_cap, "I12", "holds 3 and 8 reserved"),
    (exceed_a_carriers_minute, "I12", "3 starts in"),
    (let_a_follower_go_first, "I13", "of its key was taken or ended"),
    (order_against_acceptance, "I13", f"stands before {short_of(2)}"),
    (number_against_the_log, "I13", "not in the order of acceptance"),
    (repeat_within_a_connection, "I14", "in one connection"),
    (keep_another_code, "I15", "its code is 40008"),
    (run_backwards, "I15", "seq 3 is 0.500 s before"),
    (keep_a_text_untold, "I15", "a stored text with 0 events"),
    (prove_no_consent, "I15", "0 in the log of consent"),
    (give_up_what_was_unconfirmed, "I16", "unconfirmed, the message is UNRESOLVED"),
    (miss_the_failure_of_both, "I16", "the message is NO_RECEIPT"),
    (contradict_twice, "I16", "2 contradictions of 1 receipts"),
    (invent_a_submission, "I17", "SUBMITTED, but the carrier took nothing"),
    (take_a_refusal_for_sent, "I17", "SENT, but the carrier took nothing"),
    (tell_anothers_opt_out, "I18", "was told to tenant 2"),
    (hold_back_by_anothers_opt_out, "I18", "held back by the opt-out from tenants [2]"),
    (keep_anothers_text, "I18", "kept for tenant 1"),
    (reserve_for_ever, "I19", "500 reserved, open attempts hold 0"),
    (excuse_a_million_by_a_kill, "I19", "the ledger says 1000003"),
    (forget_the_carriers_count, "I19", "the ledger says 3, its messages 7 to 7"),
    (drain_for_ten_seconds_only, "I20", "that waited at healing were still there"),
    (let_new_work_pass_the_retried, "I20", "50 of 50 that waited"),
    (grow_slowly_but_surely, "I21", "rss_bytes grew steadily"),
    (start_tasks_without_end, "I21", "10001 tasks"),
    (log_the_beginning_of_a_text, "I22", "a piece of a text"),
    (log_a_number_as_people_write_it, "I22", "…0123"),
    (log_a_number_with_international_prefix, "I22", "…0123"),
    (log_a_handset_that_only_opted_out, "I22", "…0777"),
    (drain_for_an_hour, "I24", "SIGTERM took 3600 s"),
    (cut_an_answered_attempt_in_a_drain, "I24", "became UNKNOWN while the engine drained"),
]


@pytest.mark.parametrize(
    ("breaks", "invariant", "words"),
    BREAKS,
    ids=[f"{name}-{act.__name__}-{n}" for n, (act, name, _) in enumerate(BREAKS)],
)
def test_a_history_that_looks_good_is_named(breaks: Break, invariant: str, words: str) -> None:
    evidence = good()
    breaks(evidence)
    found = check(evidence, Promises())
    assert any(one.invariant == invariant and words in one.what for one in found), found


@pytest.mark.parametrize(
    ("nodes", "refused_us", "sent", "verdict", "named"),
    [
        (2, 1, False, "RECIPIENT_OPTED_OUT", False),
        (1, 1, False, "RECIPIENT_OPTED_OUT", True),
        (2, 3, False, "RECIPIENT_OPTED_OUT", True),
        (2, 1, True, "RECIPIENT_OPTED_OUT", True),
        (2, 1, False, "INVALID_TEXT", True),
    ],
)
def test_an_opt_out_that_one_of_two_nodes_knows_first(
    nodes: int,
    refused_us: int,
    sent: bool,  # noqa: FBT001 - of a table
    verdict: str,
    named: bool,  # noqa: FBT001 - as above
) -> None:
    """One node refuses what the other takes a moment later; it is not sent, and not refused once it was taken."""
    evidence = good()
    if not sent:
        unsent(evidence, BLOCKED)
    note(evidence, "refused", request_id="r2", text_sha256="t2", verdict=verdict, at_us=refused_us)
    assert named == any(one.invariant == "I5" for one in check(evidence, Promises(nodes=nodes)))


# What is legal and must not be taken for a breach.


def one_request_id_of_two_tenants(evidence: Evidence) -> None:
    evidence.rows = [replace(row, tenant=row.id, request_id="r1") for row in evidence.rows]
    evidence.request_ids = {(1, "r1"): 1, (2, "r1"): 2}
    for line in evidence.client:
        if "request_id" in line:
            line["tenant"] = int(line["request_id"][1:])
            line["request_id"] = "r1"


def late_evidence_for_a_resent_copy(evidence: Evidence) -> None:
    """The first copy's receipt comes while the second waits: it settles the message, and no copy leaves."""
    rewrite(evidence, 1, steps(1, QUEUED, DISPATCHING, UNKNOWN, QUEUED, DELIVERED))
    del evidence.requests[1], evidence.notes[1]


def a_later_failure_tried_again(evidence: Evidence) -> None:
    """The provider took it, then says that a rate was too high: a new key, another copy."""
    changes = steps(2, QUEUED, DISPATCHING, SUBMITTED, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)
    changes[3] = changes[3]._replace(reason=pb.REASON_THROTTLED)
    rewrite(evidence, 2, [c._replace(generation=2) if c.seq >= 4 else c for c in changes])
    evidence.requests[2] = replace(evidence.requests[2], final="delivery_failed/40318")
    evidence.requests.append(request(2, 25 * S + 9, generation=2, body_sha256="b2"))
    evidence.notes.append({"kind": "intended", "at_us": 25 * S + 5, "ids": [2], "epoch": 1})
    evidence.quotas = []


def a_freeze_between_check_and_write(evidence: Evidence) -> None:
    """The residue that is counted apart: the process stood still, and its bytes leave after the opt-out."""
    opt_out(evidence, 24 * S)
    evidence.requests[2] = replace(evidence.requests[2], at_us=32 * S)
    note(evidence, "frozen", from_us=22 * S, to_us=31 * S)
    rewrite(evidence, 2, [c._replace(at_us=c.at_us + 10 * S * (c.seq > 2)) for c in evidence.changes if c.message == 2])


def a_freeze_between_commit_and_note(evidence: Evidence) -> None:
    """Another node owns when the frozen one wakes and tells of what it had committed; nothing leaves any more."""
    evidence.requests = [asked for asked in evidence.requests if asked.message != 2]
    evidence.client.append({"kind": "life", "at_us": 23 * S, "after": "frozen", "failpoint": ""})
    evidence.notes[2] |= {"at_us": 30 * S, "took_us": 8 * S}
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, UNKNOWN, UNRESOLVED))


def an_early_receipt_in_a_drain(evidence: Evidence) -> None:
    """The carrier sends the receipt first, and answers when that was answered; a draining engine takes no webhook."""
    evidence.requests[0] = replace(evidence.requests[0], answered="ok", receipt_faults=("early",))
    note(evidence, "drained", from_us=13 * S, to_us=14 * S, exit_code=0, faultless=False)


def an_opt_out_lifted_again(evidence: Evidence) -> None:
    opt_out(evidence, 2 * S)
    evidence.consents.append(Consent(5 * S, pb.Event.KIND_OPT_IN, TO, 5 * S))
    evidence.opted_out.clear()


def a_daily_cap_that_was_kept(evidence: Evidence) -> None:
    cap_a_day(evidence, amount=3, spent=3)


def memory_that_levels_off(evidence: Evidence) -> None:
    for number in range(40):
        sample(evidence, rss_bytes=1000 + min(number, 12) * 40, tasks=20)


LEGAL: Final = (
    one_request_id_of_two_tenants,
    late_evidence_for_a_resent_copy,
    a_later_failure_tried_again,
    a_freeze_between_check_and_write,
    a_freeze_between_commit_and_note,
    an_early_receipt_in_a_drain,
    an_opt_out_lifted_again,
    a_daily_cap_that_was_kept,
    memory_that_levels_off,
)


@pytest.mark.parametrize("legal", LEGAL)
def test_what_is_legal_breaks_nothing(legal: Break) -> None:
    evidence = good()
    legal(evidence)
    assert check(evidence, Promises()) == []
