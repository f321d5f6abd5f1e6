"""The checker proves something only if it can fail: each invariant is broken once, on purpose, and must be named."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import registry_pb2 as registry
from tests.corridor import crash_checker
from tests.corridor.checker.histories import (
    CAMPAIGN,
    CANCELLED,
    DELIVERED,
    DISPATCHING,
    QUEUED,
    SUBMITTED,
    TO,
    UNDELIVERED,
    S,
    change,
    good,
    keep_ledger,
    note,
    opt_out,
    request,
    rewrite,
    row_of,
    sample,
    steps,
    watch,
)
from tests.corridor.crash_checker import FORGED_CODE, Promises, check
from tests.corridor.crash_evidence import (
    Entry,
    Evidence,
    Inbound,
    add_events,
    id_of,
    short_of,
    timeline,
)

Break = Callable[[Evidence], None]


def lose_a_message(evidence: Evidence) -> None:
    del evidence.rows[1]
    evidence.bodies = 1


def lose_a_body(evidence: Evidence) -> None:
    evidence.bodies = 1


def alter_a_body(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], text_sha256="other")


def lose_an_opt_out(evidence: Evidence) -> None:
    opt_out(evidence, 50 * S)
    evidence.opted_out.clear()


def never_end(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED))


def accept_twice(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], request_id="r1")


def answer_differently(evidence: Evidence) -> None:
    note(evidence, "acked", request_id="r1", text_sha256="t2", recipient=TO, message=2)


def forget_a_request_id(evidence: Evidence) -> None:
    del evidence.request_ids[0, "r2"]


def accept_other_content(evidence: Evidence) -> None:
    note(evidence, "reused", request_id="r1", accepted=True)


def store_what_nobody_sent(evidence: Evidence) -> None:
    evidence.client = [line for line in evidence.client if line.get("request_id") != "r2"]


def send_what_was_refused(evidence: Evidence) -> None:
    note(evidence, "refused", request_id="no", text_sha256="t2", verdict="INVALID")


def keep_what_was_refused(evidence: Evidence) -> None:
    note(evidence, "refused", request_id="no", text_sha256="no", verdict="INVALID")
    evidence.request_ids[0, "no"] = 3


def refuse_what_was_accepted(evidence: Evidence) -> None:
    note(evidence, "refused", request_id="r2", text_sha256="t2", verdict="OPTED_OUT")


def send_a_phantom(evidence: Evidence) -> None:
    evidence.requests.append(request(3, 40 * S))


def send_another_text(evidence: Evidence) -> None:
    evidence.requests[2] = request(2, 22 * S + 9, text_sha256="other")


def send_before_the_intent(evidence: Evidence) -> None:
    evidence.requests[2] = request(2, 22 * S + 4)


def send_without_a_second_intent(evidence: Evidence) -> None:
    evidence.requests.append(request(2, 23 * S, taken=False))


def lose_an_intent(evidence: Evidence) -> None:
    evidence.notes.append({"kind": "intended", "at_us": 25 * S, "ids": [2], "epoch": 1})


def lose_an_epoch(evidence: Evidence) -> None:
    evidence.notes[2]["epoch"] = 2


def send_again_without_doubt(evidence: Evidence) -> None:
    changes = steps(2, QUEUED, DISPATCHING, QUEUED, DISPATCHING, SUBMITTED, DELIVERED)
    rewrite(evidence, 2, changes)
    evidence.notes.append({"kind": "intended", "at_us": 24 * S + 5, "ids": [2], "epoch": 1})
    evidence.requests.append(request(2, 24 * S + 9))


def resend_against_the_policy(evidence: Evidence) -> None:
    evidence.policies = {CAMPAIGN: registry.ON_UNKNOWN_UNRESOLVED}


def change_bytes_under_a_key(evidence: Evidence) -> None:
    evidence.requests[1] = request(1, 15 * S + 9, body_sha256="other")


def raise_a_generation_unasked(evidence: Evidence) -> None:
    changes = [
        c._replace(generation=2) if c.seq >= 3 else c
        for c in steps(2, QUEUED, DISPATCHING, QUEUED, DISPATCHING, DELIVERED)
    ]
    rewrite(evidence, 2, changes)


def keep_the_epoch_over_a_restart(evidence: Evidence) -> None:
    note(evidence, "life", after="kill", failpoint="", at_us=20 * S)


def change_the_epoch_within_a_life(evidence: Evidence) -> None:
    evidence.notes[0]["epoch"] = 0


def leave_a_terminal_state(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED, UNDELIVERED))


def start_after_the_end(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, CANCELLED, DISPATCHING, DELIVERED))


def start_after_an_opt_out(evidence: Evidence) -> None:
    opt_out(evidence, 14 * S)


def send_after_an_opt_out(evidence: Evidence) -> None:
    """The intents came before, the bytes long after it was effective."""
    opt_out(evidence, 24 * S)
    evidence.requests[2] = request(2, 26 * S)


def send_after_an_answered_opt_out(evidence: Evidence) -> None:
    opt_out(evidence, 24 * S, effective=False, by="api")
    evidence.requests[2] = request(2, 26 * S)


def forget_a_stop(evidence: Evidence) -> None:
    note(evidence, "opt_out_acked", recipient=TO, by="stop", at_us=50 * S)


def leave_a_barrier_open(evidence: Evidence) -> None:
    opt_out(evidence, 50 * S, effective=False)


def start_after_a_stop(evidence: Evidence) -> None:
    opt_out(evidence, 14 * S)


def start_too_many(evidence: Evidence) -> None:
    evidence.quotas = [replace(evidence.quotas[0], amount=2)]


def arrive_too_many(evidence: Evidence) -> None:
    """The starts are spread, the requests are not: more left than was started."""
    evidence.quotas = [replace(evidence.quotas[0], amount=1, window_us=S)]
    evidence.requests.append(request(2, 22 * S + 10, taken=False))


def start_out_of_order(evidence: Evidence) -> None:
    evidence.rows = [replace(row, ordering_key="k") for row in evidence.rows]
    second = [c._replace(position=c.position - 9 * S) for c in evidence.changes if c.message == 2]
    evidence.changes = sorted(second + [c for c in evidence.changes if c.message == 1])


def lose_an_event(evidence: Evidence) -> None:
    evidence.changes = [c for c in evidence.changes if (c.message, c.seq) != (2, 3)]


def swap_events(evidence: Evidence) -> None:
    evidence.changes[-1], evidence.changes[-2] = evidence.changes[-2], evidence.changes[-1]


def jump_over_a_state(evidence: Evidence) -> None:
    evidence.changes[-1] = evidence.changes[-1]._replace(previous=QUEUED)


def change_without_an_event(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], state=UNDELIVERED)


def step_without_an_event(evidence: Evidence) -> None:
    entry = evidence.rows[1].timeline[-1]
    evidence.rows[1] = replace(evidence.rows[1], timeline=(*evidence.rows[1].timeline, entry))


def tell_of_nobody(evidence: Evidence) -> None:
    evidence.changes += steps(3, QUEUED)


def believe_the_later_receipt(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED, UNDELIVERED))


def miss_a_failure(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED, 18))
    evidence.requests[2] = request(2, 22 * S + 9, final="delivery_failed/40008")


def believe_a_forged_code(evidence: Evidence) -> None:
    evidence.conflicts.append(change(2, 0, 0, DELIVERED, 27 * S, code=FORGED_CODE))


def deliver_what_was_not(evidence: Evidence) -> None:
    evidence.requests[2] = request(2, 22 * S + 9, final="delivery_failed/40008")


def fail_what_did_not(evidence: Evidence) -> None:
    rewrite(evidence, 2, steps(2, QUEUED, DISPATCHING, SUBMITTED, UNDELIVERED, DELIVERED))


def answer_a_forger(evidence: Evidence) -> None:
    note(evidence, "webhook_probe", what="stale", status=200, wanted=401)


def drain_with_an_error(evidence: Evidence) -> None:
    note(evidence, "drained", from_us=40 * S, to_us=41 * S, exit_code=1, faultless=True)


def lose_an_outcome_in_a_drain(evidence: Evidence) -> None:
    note(evidence, "drained", from_us=13 * S, to_us=14 * S, exit_code=0, faultless=True)


def leave_an_attempt_open_in_a_drain(evidence: Evidence) -> None:
    note(evidence, "life", after="drain", failpoint="", at_us=13 * S - 1)
    evidence.changes[2] = evidence.changes[2]._replace(reason=pb.REASON_RECOVERED)
    evidence.rows[0] = row_of([c for c in evidence.changes if c.message == 1], epoch=2)
    for line in evidence.notes[1:]:
        line["epoch"] = 2


def write_without_fsync(evidence: Evidence) -> None:
    evidence.settings = {"journal_mode": "wal", "synchronous": "1"}


def send_more_than_was_started(evidence: Evidence) -> None:
    """The history says that an intent was committed; the store never had it."""
    evidence.notes.append({"kind": "intended", "at_us": 23 * S, "ids": [2], "epoch": 1})
    evidence.requests.append(request(2, 24 * S, taken=False))


def reopen_in_disguise(evidence: Evidence) -> None:
    """The event says that it left SENT, though DELIVERED was told before."""
    changes = steps(2, QUEUED, DISPATCHING, SUBMITTED, DELIVERED, UNDELIVERED)
    changes[-1] = changes[-1]._replace(previous=4)
    rewrite(evidence, 2, changes)


def start_after_the_validity(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], expires_us=21 * S)


def skip_an_event_for_a_subscriber(evidence: Evidence) -> None:
    watch(evidence, (1, 1), (2, 1), caught_up=False)
    watch(evidence, (2, 3), caught_up=False)


def keep_the_last_event_from_a_subscriber(evidence: Evidence) -> None:
    watch(evidence, *((c.message, c.seq) for c in evidence.changes[:-1]), caught_up=True)


def store_a_text_twice(evidence: Evidence) -> None:
    evidence.inbound = [Inbound(1, "in-1"), Inbound(1, "in-1")]


def show_anothers_message(evidence: Evidence) -> None:
    note(evidence, "foreign_asked", what="get", found=True)


def send_by_anothers_campaign(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], tenant=1)
    evidence.campaign_tenants = {CAMPAIGN: 2}


def tell_another_tenant(evidence: Evidence) -> None:
    evidence.rows[1] = replace(evidence.rows[1], tenant=1)
    evidence.event_tenants = {2: {1, 2}}


def miscount_segments(evidence: Evidence) -> None:
    evidence.requests[2] = request(2, 22 * S + 9, parts=2)


def spend_too_little(evidence: Evidence) -> None:
    note(evidence, "life", after="kill", failpoint="", at_us=S)
    keep_ledger(evidence, 2)


def spend_too_much(evidence: Evidence) -> None:
    keep_ledger(evidence, 4)


def never_recover(evidence: Evidence) -> None:
    """Message 2 waits; after the fault nothing leaves any more."""
    rewrite(evidence, 2, steps(2, QUEUED))
    note(evidence, "faulted", from_us=22 * S, to_us=23 * S)


def crawl(evidence: Evidence) -> None:
    """Ten a second before the fault; after it one every ten."""
    evidence.changes = [change(n, 1, 0, QUEUED, S) for n in range(200)]
    evidence.changes += [change(n, 2, QUEUED, SUBMITTED, 2 * S + n * S // 10) for n in range(100)]
    evidence.changes += [change(n, 2, QUEUED, SUBMITTED, (n - 100) * 10 * S + 20 * S) for n in range(100, 110)]
    note(evidence, "faulted", from_us=12 * S, to_us=20 * S)


def swallow_memory(evidence: Evidence) -> None:
    sample(evidence, rss_bytes=3 << 30)


def leak_descriptors(evidence: Evidence) -> None:
    for number in range(20):
        sample(evidence, descriptors=20 + 10 * number)


def log_a_number(evidence: Evidence) -> None:
    evidence.sinks["engine.log"] = f'{{"recipient": "{TO}"}}'


def log_a_text(evidence: Evidence) -> None:
    evidence.canaries = {"Your code is 4711"}
    evidence.sinks["metrics.txt"] = 'x{text="Your code is 4711"} 1'


BREAKS: list[tuple[str, Break]] = [
    ("I1", write_without_fsync),
    ("I6", send_more_than_was_started),
    ("I9", reopen_in_disguise),
    ("I10", start_after_the_validity),
    ("I14", skip_an_event_for_a_subscriber),
    ("I14", keep_the_last_event_from_a_subscriber),
    ("I16", store_a_text_twice),
    ("I18", show_anothers_message),
    ("I18", send_by_anothers_campaign),
    ("I18", tell_another_tenant),
    ("I19", miscount_segments),
    ("I19", spend_too_little),
    ("I19", spend_too_much),
    ("I20", never_recover),
    ("I20", crawl),
    ("I21", swallow_memory),
    ("I21", leak_descriptors),
    ("I22", log_a_number),
    ("I22", log_a_text),
    ("I1", lose_a_message),
    ("I1", lose_a_body),
    ("I1", alter_a_body),
    ("I1", lose_an_opt_out),
    ("I2", never_end),
    ("I3", accept_twice),
    ("I3", answer_differently),
    ("I3", forget_a_request_id),
    ("I4", accept_other_content),
    ("I5", store_what_nobody_sent),
    ("I5", send_what_was_refused),
    ("I5", keep_what_was_refused),
    ("I5", refuse_what_was_accepted),
    ("I5", send_a_phantom),
    ("I5", send_another_text),
    ("I6", send_before_the_intent),
    ("I6", send_without_a_second_intent),
    ("I6", lose_an_intent),
    ("I6", lose_an_epoch),
    ("I7", send_again_without_doubt),
    ("I7", resend_against_the_policy),
    ("I7", change_bytes_under_a_key),
    ("I7", raise_a_generation_unasked),
    ("I8", keep_the_epoch_over_a_restart),
    ("I8", change_the_epoch_within_a_life),
    ("I9", leave_a_terminal_state),
    ("I10", start_after_the_end),
    ("I10", start_after_an_opt_out),
    ("I10", send_after_an_opt_out),
    ("I10", send_after_an_answered_opt_out),
    ("I11", forget_a_stop),
    ("I11", leave_a_barrier_open),
    ("I11", start_after_a_stop),
    ("I12", start_too_many),
    ("I12", arrive_too_many),
    ("I13", start_out_of_order),
    ("I14", lose_an_event),
    ("I14", swap_events),
    ("I14", jump_over_a_state),
    ("I15", change_without_an_event),
    ("I15", step_without_an_event),
    ("I15", tell_of_nobody),
    ("I16", believe_the_later_receipt),
    ("I16", miss_a_failure),
    ("I17", believe_a_forged_code),
    ("I17", deliver_what_was_not),
    ("I17", fail_what_did_not),
    ("I17", answer_a_forger),
    ("I24", drain_with_an_error),
    ("I24", lose_an_outcome_in_a_drain),
    ("I24", leave_an_attempt_open_in_a_drain),
]


def test_a_good_history_breaks_nothing() -> None:
    assert check(good(), Promises()) == []


@pytest.mark.parametrize(("invariant", "breaks"), BREAKS, ids=[f"{name}-{act.__name__}" for name, act in BREAKS])
def test_a_broken_history_is_named(invariant: str, breaks: Break) -> None:
    evidence = good()
    breaks(evidence)
    found = check(evidence, Promises())
    assert invariant in {violation.invariant for violation in found}, found


def test_copies_are_not_excused_where_keys_are_honoured() -> None:
    assert {violation.invariant for violation in check(good(), Promises(honours_keys=True))} == {"I7"}


def test_what_is_as_it_should_be_breaks_nothing() -> None:
    """The rules that need lines of their own, each with lines that break nothing."""
    evidence = good()
    watch(evidence, (1, 1), (2, 1), caught_up=False)
    watch(evidence, *((c.message, c.seq) for c in evidence.changes), caught_up=True)
    keep_ledger(evidence, 3)
    note(evidence, "faulted", from_us=13 * S, to_us=14 * S)
    note(evidence, "foreign_asked", what="get", found=False)
    for number in range(40):
        sample(evidence, rss_bytes=1000 + number, descriptors=20 + number % 3)
    evidence.canaries = {"Your code is 4711"}
    evidence.sinks = {"engine.log": "…0123, id 12025550123000001", "history.jsonl": ""}
    evidence.settings = {"journal_mode": "wal", "synchronous": "2"}
    evidence.inbound = [Inbound(1, "in-1"), Inbound(1, "in-2")]
    evidence.rows = [replace(row, expires_us=100 * S, tenant=1) for row in evidence.rows]
    evidence.request_ids = {(1, f"r{number}"): number for number in (1, 2)}
    evidence.campaign_tenants, evidence.event_tenants = {CAMPAIGN: 1}, {1: {1}, 2: {1}}
    assert check(evidence, Promises()) == []


def test_every_rule_is_broken_once() -> None:
    """Each rule alone finds something in one of the broken histories."""
    silent = set(crash_checker.RULES)
    for _, breaks in BREAKS:
        evidence = good()
        breaks(evidence)
        silent -= {rule for rule in silent if list(rule(evidence, Promises()))}
    assert silent == set()


def test_short_ids_and_layouts_are_decoded_as_documented() -> None:
    assert id_of("0000000000001") == 1
    assert short_of(id_of("0123456789abc")) == "0123456789abc"
    entry = bytes([16, 11]) + (3).to_bytes(2, "little") + (2).to_bytes(2, "little") + (7).to_bytes(8, "little")
    assert timeline(entry + b"\x0240" + entry + b"\x00") == (Entry(16, 11, 7, 3, 2, "40"), Entry(16, 11, 7, 3, 2))
    evidence = Evidence()
    event = pb.Event(
        kind=pb.Event.KIND_MESSAGE, message=f"messages/{short_of(5)}", seq=1, state=pb.MESSAGE_STATE_QUEUED
    )
    opted = pb.Event(kind=pb.Event.KIND_OPT_OUT, recipient=TO)
    blob = pb.WatchEventsResponse(events=[event, opted]).SerializeToString()
    add_events(evidence, [(9, blob)])
    assert [(c.position, c.message, c.seq, c.state) for c in evidence.changes] == [(9, 5, 1, QUEUED)]
    assert [(c.position, c.recipient) for c in evidence.consents] == [(9, TO)]
