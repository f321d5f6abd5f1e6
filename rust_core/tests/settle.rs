//! Facts on rows: what each does to a message, by table; and for any sequence of facts, the promises of the state table.

use _core::message::{Class, flags};
use _core::outcome::{NotTaken, Outcome};
use _core::registry::{Campaign, CampaignState, OnUnknown, Registry, Tenant};
use _core::settle::{
    Changes, Fact, Fate, Gate, Policy, Receipt, ReceiptStatus, Row, rows_from_json, settle,
};
use _core::state::{Reason, State};
use proptest::prelude::*;

const NOW: i64 = 1_790_000_000_000_000;
const MINUTE: i64 = 60_000_000;

fn registry(on_unknown: OnUnknown, state: CampaignState) -> Registry {
    let campaign = Campaign {
        key: 3,
        tenant: 2,
        brand: 1,
        id: "notices".into(),
        state,
        on_unknown,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_100],
    };
    Registry::new(
        1,
        vec![Tenant {
            key: 2,
            active: true,
        }],
        vec![campaign],
        Vec::new(),
    )
}

fn policy() -> Policy {
    Policy {
        attempts_max: 8,
        reconcile_wait_us: MINUTE,
        no_receipt_after_us: 72 * 60 * MINUTE,
        lookup_after_us: 30 * MINUTE,
        backoff_base_us: 500_000,
        backoff_cap_us: 5 * MINUTE,
        honours_keys: false,
        key_window_us: 23 * 60 * MINUTE,
        day_reset_us: NOW + 600 * MINUTE,
        spend_reset_us: NOW + 300 * MINUTE,
    }
}

fn row(state: State, attempt: u16) -> Row {
    Row {
        id: 77,
        tenant: 2,
        campaign: 3,
        recipient: 12_025_550_123,
        class: Class::Transactional,
        segments: 1,
        state,
        reason: Reason::Accepted as u8,
        code: String::new(),
        seq: 4,
        attempt,
        generation: 1,
        counted: 0,
        flags: 0,
        due_us: NOW,
        accept_us: NOW - MINUTE,
        expires_us: NOW + 60 * MINUTE,
        updated_us: NOW - 1_000_000,
        started_us: NOW - 1_000_000,
        provider: 1,
        provider_id: String::new(),
        carrier: 0,
        crashes: 0,
        opted_out: false,
    }
}

fn receipt(status: ReceiptStatus, code: &str, generation: u16) -> Receipt {
    Receipt {
        generation,
        status,
        code: code.into(),
        carrier: 2,
        parts: Some(1),
        provider_id: "p-1".into(),
        lookup: false,
    }
}

fn apply(row: Row, facts: Vec<Fact>) -> Changes {
    let id = row.id;
    let facts = facts.into_iter().map(|fact| (id, fact)).collect();
    settle(
        vec![row],
        facts,
        Vec::new(),
        &policy(),
        &registry(OnUnknown::ByClass, CampaignState::Active),
        NOW,
        7,
    )
}

fn after(changes: &Changes) -> &Row {
    assert_eq!(changes.updates.len(), 1, "{changes:?}");
    &changes.updates[0].0
}

fn taken() -> Outcome {
    Outcome::Taken {
        provider_id: "p-1".into(),
        carrier: _core::message::Carrier::TMobile,
        parts: Some(1),
    }
}

fn not_taken(why: NotTaken) -> Outcome {
    Outcome::NotTaken {
        why,
        retry_after_us: None,
        code: String::new(),
    }
}

#[test]
fn each_outcome_leads_where_the_table_says() {
    let unknown = Outcome::Unknown {
        code: "timeout".into(),
    };
    let for_good = Outcome::RefusedForGood {
        code: "40310".into(),
        opted_out: false,
    };
    let for_now = Outcome::RefusedForNow {
        code: "40006".into(),
        hold_us: 0,
    };
    for (outcome, state, reason, fate) in [
        (
            taken(),
            State::Submitted,
            Reason::ProviderTook,
            Fate::Taken(Some(1)),
        ),
        (
            not_taken(NotTaken::NotConnected),
            State::Queued,
            Reason::NotConnected,
            Fate::NotTaken,
        ),
        (
            not_taken(NotTaken::Throttled),
            State::Queued,
            Reason::Throttled,
            Fate::NotTaken,
        ),
        (
            not_taken(NotTaken::CapDay),
            State::Queued,
            Reason::CapReached,
            Fate::NotTaken,
        ),
        (
            not_taken(NotTaken::Account),
            State::Queued,
            Reason::NotConnected,
            Fate::NotTaken,
        ),
        (for_now, State::Queued, Reason::Retry, Fate::NotTaken),
        (
            for_good,
            State::Failed,
            Reason::ProviderRefused,
            Fate::NotTaken,
        ),
        (unknown, State::Unknown, Reason::Silence, Fate::Unknown),
    ] {
        let changes = apply(
            row(State::Dispatching, 1),
            vec![Fact::Outcome(1, outcome.clone())],
        );
        let row = after(&changes);
        assert_eq!(
            (row.state, row.reason),
            (state, reason as u8),
            "{outcome:?}"
        );
        assert_eq!(changes.fates, [(77, fate)], "{outcome:?}");
        assert_eq!(row.seq, 5);
        assert_eq!(
            row.generation, 1,
            "not taken and unknown keep their generation"
        );
    }
}

#[test]
fn a_days_cap_is_over_for_everyone_within_a_minute() {
    let capped = Fact::Outcome(1, not_taken(NotTaken::CapDay));
    let mut latest_us = 0;
    for seed in 0..100 {
        let changes = settle(
            vec![row(State::Dispatching, 1)],
            vec![(77, capped.clone())],
            Vec::new(),
            &policy(),
            &registry(OnUnknown::ByClass, CampaignState::Active),
            NOW,
            seed,
        );
        let late_us = after(&changes).due_us - policy().day_reset_us;
        assert!((0..=MINUTE).contains(&late_us), "{late_us}");
        latest_us = latest_us.max(late_us);
    }
    assert!(latest_us > MINUTE / 2, "they come back spread, not at once");
}

#[test]
fn a_cap_names_the_carrier_of_whoever_met_it() {
    for (why, code, carrier) in [
        (NotTaken::CapDay, "40016", 2),
        (NotTaken::CapMinute, "40018", 1),
        (NotTaken::CapSpend, "40333", 0),
    ] {
        let open = row(State::Dispatching, 1);
        let told = Fact::Outcome(1, not_taken(why));
        let mut later = receipt(ReceiptStatus::Undelivered, code, 1);
        later.carrier = 0;
        for (from, fact) in [(open, told), (row(State::Sent, 1), Fact::Receipt(later))] {
            let changes = apply(from.clone(), vec![fact.clone()]);
            assert_eq!(changes.parks[0].carrier, carrier, "{fact:?}");
            assert_eq!(after(&changes).carrier, carrier, "{fact:?}");
            let learned: &[(u64, u8)] = &[(12_025_550_123, carrier)];
            let learned = if carrier == 0 { &[] } else { learned };
            assert_eq!(changes.learned, learned, "{fact:?}");
            let mut known = from;
            known.carrier = 3;
            let changes = apply(known, vec![fact]);
            assert_eq!((changes.parks[0].carrier, changes.learned.len()), (3, 0));
        }
    }
}

#[test]
fn refused_for_now_counts_and_ends_failed() {
    let mut last = row(State::Dispatching, 8);
    last.counted = 7;
    let changes = apply(
        last,
        vec![Fact::Outcome(
            8,
            Outcome::RefusedForNow {
                code: "40006".into(),
                hold_us: 0,
            },
        )],
    );
    assert_eq!(
        (after(&changes).state, after(&changes).reason),
        (State::Failed, Reason::AttemptsUsedUp as u8)
    );
    let mut many = row(State::Dispatching, 40);
    many.counted = 7;
    let changes = apply(
        many,
        vec![Fact::Outcome(40, not_taken(NotTaken::NotConnected))],
    );
    assert_eq!(
        (after(&changes).state, after(&changes).counted),
        (State::Queued, 7),
        "not connected never counts"
    );
}

#[test]
fn a_provider_that_blocks_the_recipient_tells_us_of_an_opt_out() {
    let outcome = Outcome::RefusedForGood {
        code: "40300".into(),
        opted_out: true,
    };
    let changes = apply(row(State::Dispatching, 1), vec![Fact::Outcome(1, outcome)]);
    assert_eq!(changes.opt_outs, [(2, 12_025_550_123, "40300".to_owned())]);
    assert_eq!(after(&changes).state, State::Failed);
}

#[test]
fn an_outcome_of_another_attempt_changes_nothing() {
    let changes = apply(row(State::Dispatching, 2), vec![Fact::Outcome(1, taken())]);
    assert!(changes.updates.is_empty() && changes.fates.is_empty());
}

#[test]
fn late_truth_about_an_unknown_attempt_counts() {
    let mut unknown = row(State::Unknown, 1);
    unknown.flags = flags::MAYBE_SENT;
    let changes = apply(unknown, vec![Fact::Outcome(1, taken())]);
    assert_eq!(after(&changes).state, State::Submitted);
}

#[test]
fn late_truth_that_it_was_taken_drops_the_copy_that_waits() {
    let mut again = row(State::Queued, 1);
    again.flags = flags::MAYBE_SENT;
    again.reason = Reason::Resend as u8;
    let changes = apply(again.clone(), vec![Fact::Outcome(1, taken())]);
    assert_eq!(after(&changes).state, State::Submitted);
    assert_eq!(changes.drop, [77]);
    for (maybe_sent, reason) in [(0, Reason::Resend), (flags::MAYBE_SENT, Reason::Retry)] {
        again.flags = maybe_sent;
        again.reason = reason as u8;
        let changes = apply(again.clone(), vec![Fact::Outcome(1, taken())]);
        assert!(
            changes.updates.is_empty(),
            "its outcome was known: not taken"
        );
    }
}

#[test]
fn late_truth_that_it_was_not_taken_sends_nothing_that_was_closed() {
    let later = Outcome::RefusedForNow {
        code: "x".into(),
        hold_us: 0,
    };
    for flag in [flags::CANCEL_REQUESTED, flags::NO_RESEND] {
        for outcome in [not_taken(NotTaken::Throttled), later.clone()] {
            let mut closed = row(State::Unknown, 1);
            closed.flags = flags::MAYBE_SENT | flag;
            let changes = apply(closed, vec![Fact::Outcome(1, outcome)]);
            assert!(changes.updates.is_empty() && changes.requeue.is_empty());
            assert_eq!(changes.fates, [(77, Fate::NotTaken)]);
        }
    }
}

#[test]
fn a_late_refusal_of_a_copy_leaves_the_first_attempt_open() {
    let refused = Outcome::RefusedForGood {
        code: "40310".into(),
        opted_out: false,
    };
    let mut copy = row(State::Unknown, 2);
    copy.flags = flags::MAYBE_SENT;
    let changes = apply(copy, vec![Fact::Outcome(2, refused.clone())]);
    assert!(changes.updates.is_empty());
    assert_ne!(changes.quiet[0].flags & flags::NO_RESEND, 0);
    let mut only = row(State::Unknown, 1);
    only.flags = flags::MAYBE_SENT;
    let changes = apply(only, vec![Fact::Outcome(1, refused)]);
    assert_eq!(after(&changes).state, State::Failed);
}

#[test]
fn receipts_raise_ranks_only() {
    use ReceiptStatus::{Delivered, Queued, Sent, Unconfirmed, Undelivered};
    for (state, status, expected) in [
        (State::Submitted, Queued, None),
        (State::Submitted, Sent, Some(State::Sent)),
        (State::Submitted, Delivered, Some(State::Delivered)),
        (State::Submitted, Undelivered, Some(State::Undelivered)),
        (State::Submitted, Unconfirmed, Some(State::NoReceipt)),
        (State::Sent, Sent, None),
        (State::Sent, Delivered, Some(State::Delivered)),
        (State::Delivered, Sent, None),
        (State::Delivered, Delivered, None),
        (State::Delivered, Unconfirmed, None),
        (State::Undelivered, Delivered, Some(State::Delivered)),
        (State::NoReceipt, Delivered, Some(State::Delivered)),
        (State::NoReceipt, Undelivered, Some(State::Undelivered)),
        (State::Unresolved, Delivered, Some(State::Delivered)),
        (State::Unresolved, Undelivered, Some(State::Undelivered)),
        (State::Unresolved, Sent, None),
        (State::Unknown, Queued, Some(State::Submitted)),
        (State::Unknown, Sent, Some(State::Sent)),
        (State::Unknown, Delivered, Some(State::Delivered)),
    ] {
        let changes = apply(row(state, 1), vec![Fact::Receipt(receipt(status, "", 1))]);
        assert_eq!(
            changes.updates.first().map(|update| update.0.state),
            expected,
            "{state:?} {status:?}"
        );
        assert!(changes.conflicts.is_empty(), "{state:?} {status:?}");
    }
}

#[test]
fn contradictions_are_told_and_change_nothing() {
    for (state, attempt, status) in [
        (State::Delivered, 1, ReceiptStatus::Undelivered),
        (State::Failed, 1, ReceiptStatus::Delivered),
        (State::Cancelled, 0, ReceiptStatus::Sent),
        (State::Expired, 0, ReceiptStatus::Delivered),
        (State::Blocked, 0, ReceiptStatus::Delivered),
        (State::Dead, 1, ReceiptStatus::Delivered),
        (State::Queued, 0, ReceiptStatus::Delivered),
    ] {
        let changes = apply(
            row(state, attempt),
            vec![Fact::Receipt(receipt(status, "", 1))],
        );
        assert_eq!(changes.conflicts.len(), 1, "{state:?} {status:?}");
        assert!(changes.updates.is_empty(), "{state:?} {status:?}");
    }
}

#[test]
fn a_receipt_before_the_outcome_is_kept_and_joined() {
    let early = receipt(ReceiptStatus::Delivered, "", 1);
    let changes = apply(
        row(State::Dispatching, 1),
        vec![Fact::Receipt(early.clone())],
    );
    assert_eq!(changes.keep, [(77, early.clone())]);
    let changes = settle(
        vec![row(State::Dispatching, 1)],
        vec![(77, Fact::Outcome(1, taken()))],
        vec![(77, early)],
        &policy(),
        &registry(OnUnknown::ByClass, CampaignState::Active),
        NOW,
        7,
    );
    assert_eq!(after(&changes).state, State::Delivered);
    assert_eq!(after(&changes).seq, 6, "two transitions, two events");
    assert_eq!(changes.updates[0].2.len(), 2);
    assert_eq!(changes.joined, [77]);
}

#[test]
fn a_receipt_and_its_outcome_at_once_are_joined_at_once() {
    let (sent, delivered) = (
        receipt(ReceiptStatus::Sent, "", 1),
        receipt(ReceiptStatus::Delivered, "", 1),
    );
    let changes = settle(
        vec![row(State::Dispatching, 1)],
        vec![
            (77, Fact::Receipt(delivered)),
            (77, Fact::Outcome(1, taken())),
        ],
        vec![(77, sent)],
        &policy(),
        &registry(OnUnknown::ByClass, CampaignState::Active),
        NOW,
        7,
    );
    assert_eq!(after(&changes).state, State::Delivered);
    assert_eq!(
        changes.keep,
        [],
        "what is kept beside `joined` is thrown away unread"
    );
}

#[test]
fn a_receipt_of_a_generation_that_never_was_is_a_conflict() {
    for state in [State::Submitted, State::Dispatching, State::Unknown] {
        let never = Fact::Receipt(receipt(ReceiptStatus::Delivered, "", 2));
        let changes = apply(row(state, 1), vec![never]);
        assert!(
            changes.updates.is_empty() && changes.keep.is_empty(),
            "{state:?}"
        );
        assert_eq!(changes.conflicts.len(), 1, "{state:?}");
    }
}

#[test]
fn caps_and_retries_of_the_provider_start_a_new_generation() {
    for (code, reason) in [
        ("40016", Reason::CapReached),
        ("40018", Reason::CapReached),
        ("40011", Reason::Throttled),
        ("40006", Reason::Retry),
    ] {
        let changes = apply(
            row(State::Sent, 1),
            vec![Fact::Receipt(receipt(ReceiptStatus::Undelivered, code, 1))],
        );
        let row = after(&changes);
        assert_eq!(
            (row.state, row.reason, row.generation),
            (State::Queued, reason as u8, 2),
            "{code}"
        );
        assert!(row.provider_id.is_empty());
        assert_eq!(changes.requeue, [77]);
    }
    let mut expired = row(State::Sent, 1);
    expired.expires_us = NOW;
    let changes = apply(
        expired,
        vec![Fact::Receipt(receipt(
            ReceiptStatus::Undelivered,
            "40016",
            1,
        ))],
    );
    assert_eq!(
        after(&changes).state,
        State::Undelivered,
        "no validity left"
    );
}

#[test]
fn a_silent_attempt_that_failed_later_for_a_cap_is_tried_again_in_any_order_of_receipts() {
    let queued = || Fact::Receipt(receipt(ReceiptStatus::Queued, "", 1));
    let capped = || Fact::Receipt(receipt(ReceiptStatus::Undelivered, "40016", 1));
    for facts in [vec![queued(), capped()], vec![capped(), queued()]] {
        let mut silent = row(State::Unknown, 1);
        silent.flags = flags::MAYBE_SENT;
        let changes = apply(silent, facts);
        let again = after(&changes);
        assert_eq!((again.state, again.generation), (State::Queued, 2));
        assert_eq!(again.flags & flags::MAYBE_SENT, 0, "no copy is out");
    }
    let mut two = row(State::Unknown, 2);
    two.flags = flags::MAYBE_SENT;
    let changes = apply(two, vec![capped()]);
    assert_eq!(
        after(&changes).state,
        State::Undelivered,
        "another may be out"
    );
}

#[test]
fn a_failure_told_twice_by_the_providers_id_alone_ends_one_generation_only() {
    let mut sent = row(State::Sent, 1);
    sent.provider_id = "p-1".into();
    let capped = || Fact::Receipt(receipt(ReceiptStatus::Undelivered, "40016", 0));
    let changes = apply(sent, vec![capped(), capped()]);
    let again = after(&changes);
    assert_eq!((again.state, again.generation), (State::Queued, 2));
}

#[test]
fn a_receipt_of_an_older_generation_matters_only_when_it_arrived() {
    let mut queued = row(State::Queued, 1);
    queued.generation = 2;
    let changes = apply(
        queued.clone(),
        vec![Fact::Receipt(receipt(
            ReceiptStatus::Undelivered,
            "40016",
            1,
        ))],
    );
    assert!(changes.updates.is_empty() && changes.conflicts.is_empty());
    let changes = apply(
        queued,
        vec![Fact::Receipt(receipt(ReceiptStatus::Delivered, "", 1))],
    );
    assert_eq!(after(&changes).state, State::Delivered);
    assert_eq!(changes.drop, [77], "the waiting copy goes");
}

fn unknown_since(waited_us: i64) -> Row {
    let mut row = row(State::Unknown, 1);
    row.flags = flags::MAYBE_SENT;
    row.updated_us = NOW - waited_us;
    row
}

#[test]
fn unknown_ends_by_policy() {
    let due = |row: Row, on_unknown: OnUnknown, honours_keys: bool| {
        let policy = Policy {
            honours_keys,
            ..policy()
        };
        settle(
            vec![row],
            vec![(77, Fact::Due)],
            Vec::new(),
            &policy,
            &registry(on_unknown, CampaignState::Active),
            NOW,
            7,
        )
    };
    let changes = due(unknown_since(MINUTE), OnUnknown::ByClass, false);
    assert_eq!(after(&changes).state, State::Unresolved);
    let changes = due(unknown_since(MINUTE - 1), OnUnknown::ByClass, false);
    assert!(changes.updates.is_empty(), "evidence has its time");
    assert_eq!(changes.quiet.len(), 1);
    let changes = due(unknown_since(MINUTE), OnUnknown::Resend, false);
    let row = after(&changes);
    assert_eq!(row.state, State::Queued);
    assert_ne!(row.flags & flags::POSSIBLE_DUPLICATE, 0);
    assert_eq!(row.generation, 1, "a resend keeps key and bytes");
    let mut critical = unknown_since(MINUTE);
    critical.class = Class::Critical;
    assert_eq!(
        after(&due(critical, OnUnknown::ByClass, false)).state,
        State::Queued
    );
    let changes = due(unknown_since(0), OnUnknown::ByClass, true);
    assert_eq!(
        after(&changes).state,
        State::Queued,
        "an honoured key is replayed at once"
    );
    assert_eq!(after(&changes).flags & flags::POSSIBLE_DUPLICATE, 0);
    let mut old = unknown_since(MINUTE);
    old.accept_us = NOW - 24 * 60 * MINUTE;
    assert_eq!(
        after(&due(old, OnUnknown::ByClass, true)).state,
        State::Unresolved,
        "the key is forgotten"
    );
}

#[test]
fn only_attempts_without_an_answer_count_against_sending_again() {
    let due = |row: Row| {
        settle(
            vec![row],
            vec![(77, Fact::Due)],
            Vec::new(),
            &policy(),
            &registry(OnUnknown::Resend, CampaignState::Active),
            NOW + 2 * MINUTE,
            7,
        )
    };
    let silence = |attempt: u16| {
        let unknown = Outcome::Unknown {
            code: "reset".into(),
        };
        vec![Fact::Outcome(attempt, unknown)]
    };
    let throttled = row(State::Dispatching, 9); // eight times "too fast" before
    let changes = apply(throttled, silence(9));
    assert_eq!(
        after(&due(after(&changes).clone())).state,
        State::Queued,
        "one attempt was silent: it is sent again"
    );
    let mut current = row(State::Dispatching, 1);
    for attempt in 1..=8 {
        current.state = State::Dispatching;
        current.attempt = attempt;
        current = after(&apply(current, silence(attempt))).clone();
        let wanted = if attempt < 8 {
            State::Queued
        } else {
            State::Unresolved
        };
        let changes = due(current);
        current = after(&changes).clone();
        assert_eq!(current.state, wanted, "after {attempt}");
    }
}

#[test]
fn a_closed_gate_leaves_only_evidence() {
    type Close = fn(&mut Row);
    let closed: [(&str, Close); 4] = [
        ("opted out", |row| row.opted_out = true),
        ("cancelled", |row| row.flags |= flags::CANCEL_REQUESTED),
        ("expired", |row| row.expires_us = NOW),
        ("refused copy", |row| row.flags |= flags::NO_RESEND),
    ];
    for (name, close) in closed {
        let mut row = unknown_since(MINUTE);
        close(&mut row);
        let registry = registry(OnUnknown::Resend, CampaignState::Active);
        let policy = Policy {
            honours_keys: true,
            ..policy()
        };
        let changes = settle(
            vec![row],
            vec![(77, Fact::Due)],
            Vec::new(),
            &policy,
            &registry,
            NOW,
            7,
        );
        assert_eq!(after(&changes).state, State::Unresolved, "{name}");
    }
    for gate in [Gate::OptedOut, Gate::CampaignStopped] {
        let mut copy = row(State::Queued, 1);
        copy.flags = flags::MAYBE_SENT;
        let changes = apply(copy, vec![Fact::GateClosed(gate)]);
        assert_eq!(
            after(&changes).state,
            State::Unknown,
            "a copy waits for evidence"
        );
        assert_ne!(after(&changes).flags & flags::NO_RESEND, 0);
    }
}

#[test]
fn only_what_the_provider_refuses_for_its_own_sake_counts_as_offered_again() {
    let refused = Outcome::RefusedForNow {
        code: "40320".into(),
        hold_us: 0,
    };
    let changes = apply(row(State::Dispatching, 1), vec![Fact::Outcome(1, refused)]);
    assert_eq!((changes.requeue.len(), changes.offered_again), (1, 0));
    let throttled = Outcome::NotTaken {
        why: NotTaken::Throttled,
        retry_after_us: None,
        code: "429".into(),
    };
    let changes = apply(
        row(State::Dispatching, 1),
        vec![Fact::Outcome(1, throttled)],
    );
    assert_eq!((changes.requeue.len(), changes.offered_again), (1, 1));
}

#[test]
fn what_is_not_expired_after_all_goes_back_in_line() {
    let mut early = row(State::Queued, 1);
    early.expires_us = NOW + 1;
    let id = early.id;
    let changes = apply(early.clone(), vec![Fact::GateClosed(Gate::Expired)]);
    assert_eq!(changes.requeue, [id]);
    assert!(changes.updates.is_empty(), "nothing happened to it");
    early.expires_us = NOW;
    let changes = apply(early, vec![Fact::GateClosed(Gate::Expired)]);
    assert_eq!(after(&changes).state, State::Expired);
    assert!(changes.requeue.is_empty());
}

#[test]
fn gates_cancel_and_poison() {
    assert_eq!(
        after(&apply(row(State::Queued, 0), vec![Fact::Cancel])).state,
        State::Cancelled
    );
    assert_eq!(
        apply(row(State::Dispatching, 1), vec![Fact::Cancel]).too_late,
        [77]
    );
    assert_eq!(
        apply(row(State::Submitted, 1), vec![Fact::Cancel]).too_late,
        [77]
    );
    let changes = apply(unknown_since(0), vec![Fact::Cancel]);
    assert_ne!(changes.quiet[0].flags & flags::CANCEL_REQUESTED, 0);
    assert!(
        apply(row(State::Queued, 0), vec![Fact::GateClosed(Gate::Expired)])
            .updates
            .is_empty(),
        "not yet"
    );
    let mut late = row(State::Queued, 0);
    late.expires_us = NOW;
    assert_eq!(
        after(&apply(late, vec![Fact::GateClosed(Gate::Expired)])).state,
        State::Expired
    );
    let changes = apply(row(State::Dispatching, 1), vec![Fact::Crashed]);
    assert_eq!(
        (after(&changes).state, after(&changes).crashes),
        (State::Queued, 1)
    );
    let mut poison = row(State::Dispatching, 2);
    poison.crashes = 1;
    assert_eq!(
        after(&apply(poison, vec![Fact::Crashed])).state,
        State::Dead
    );
}

#[test]
fn what_was_cancelled_too_late_is_not_sent_again() {
    let capped = || Fact::Receipt(receipt(ReceiptStatus::Undelivered, "40018", 1));
    for state in [State::Submitted, State::Sent] {
        let changes = apply(row(state, 1), vec![Fact::Cancel]);
        assert_eq!(changes.too_late, [77], "{state:?}");
        let changes = apply(changes.quiet[0].clone(), vec![capped()]);
        let ended = after(&changes);
        assert_eq!((ended.state, ended.generation), (State::Undelivered, 1));
        assert!(changes.requeue.is_empty());
    }
    let later = Outcome::RefusedForNow {
        code: "x".into(),
        hold_us: 0,
    };
    let answers = [not_taken(NotTaken::Throttled), later];
    let mut facts: Vec<Fact> = answers.map(|answer| Fact::Outcome(2, answer)).into();
    facts.push(Fact::Crashed);
    for fact in facts {
        for (maybe_sent, end) in [(0, State::Cancelled), (flags::MAYBE_SENT, State::Unknown)] {
            let mut open = row(State::Dispatching, 2);
            open.flags = maybe_sent;
            open.crashes = u8::from(maybe_sent == 0); // its second ends it, but not for an operator to take up
            let changes = apply(open, vec![Fact::Cancel]);
            assert_eq!(changes.too_late, [77]);
            let changes = apply(changes.quiet[0].clone(), vec![fact.clone()]);
            let ended = after(&changes);
            assert_eq!(
                (ended.state, ended.reason),
                (end, Reason::Cancelled as u8),
                "{fact:?}"
            );
            assert_eq!(
                changes.updates[0].2.len(),
                2,
                "back in line, then cancelled"
            );
            assert!(changes.requeue.is_empty());
            assert_eq!(changes.fates, [(77, Fate::NotTaken)]);
        }
    }
}

#[test]
fn what_may_be_out_is_never_dead() {
    for state in [State::Queued, State::Dispatching] {
        let mut poison = row(state, 2);
        poison.flags = flags::MAYBE_SENT;
        poison.crashes = 1;
        let changes = apply(poison, vec![Fact::Crashed]);
        let waits = after(&changes);
        assert_eq!(
            (waits.state, waits.reason),
            (State::Unknown, Reason::Poison as u8),
            "{state:?}"
        );
        assert_ne!(waits.flags & flags::NO_RESEND, 0, "no third attempt");
        assert_eq!(waits.due_us, NOW + MINUTE);
        let delivered = receipt(ReceiptStatus::Delivered, "", 1);
        let changes = apply(waits.clone(), vec![Fact::Receipt(delivered)]);
        assert_eq!(after(&changes).state, State::Delivered, "{state:?}");
        assert!(changes.conflicts.is_empty());
    }
}

#[test]
fn silence_of_receipts_asks_the_provider_then_gives_up() {
    let mut sent = row(State::Sent, 1);
    sent.provider_id = "p-1".into();
    let changes = apply(sent.clone(), vec![Fact::Due]);
    assert_eq!(changes.lookups, [(77, "p-1".to_owned(), 1)]);
    assert_eq!(changes.quiet[0].due_us, NOW + 30 * MINUTE);
    sent.started_us = NOW - 72 * 60 * MINUTE;
    assert_eq!(after(&apply(sent, vec![Fact::Due])).state, State::NoReceipt);
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let codes = prop::sample::select(vec![
        "", "40016", "40018", "40006", "40300", "40310", "99999",
    ]);
    let status = prop::sample::select(vec![
        ReceiptStatus::Queued,
        ReceiptStatus::Sent,
        ReceiptStatus::Delivered,
        ReceiptStatus::Undelivered,
        ReceiptStatus::Unconfirmed,
    ]);
    prop_oneof![
        (1_u16..4).prop_map(|attempt| Fact::Outcome(attempt, taken())),
        (1_u16..4).prop_map(|attempt| Fact::Outcome(attempt, not_taken(NotTaken::Throttled))),
        (1_u16..4).prop_map(|attempt| Fact::Outcome(
            attempt,
            Outcome::Unknown {
                code: "reset".into()
            }
        )),
        (1_u16..4).prop_map(|attempt| {
            Fact::Outcome(
                attempt,
                Outcome::RefusedForGood {
                    code: "40310".into(),
                    opted_out: false,
                },
            )
        }),
        (status, codes, 0_u16..3).prop_map(|(status, code, generation)| Fact::Receipt(receipt(
            status, code, generation
        ))),
        Just(Fact::Recovered),
        Just(Fact::Due),
        Just(Fact::Cancel),
        Just(Fact::Crashed),
        prop::sample::select(vec![Gate::Expired, Gate::OptedOut, Gate::CampaignStopped])
            .prop_map(Fact::GateClosed),
    ]
}

proptest! {
    /// Whatever comes, in any order: every change is in the table, has one event, raises seq by one; memory is told.
    #[test]
    fn any_facts_keep_the_state_table(
        facts in prop::collection::vec(any_fact(), 1..12),
        start in prop::sample::select(State::ALL.to_vec()),
        attempt in 0_u16..4,
        flag_bits in 0_u32..32,
        honours_keys: bool,
        opted_out: bool,
    ) {
        let mut current = row(start, attempt);
        current.flags = flag_bits;
        current.opted_out = opted_out;
        let policy = Policy { honours_keys, ..policy() };
        let registry = registry(OnUnknown::Resend, CampaignState::Active);
        for (step, fact) in (0_i64..).zip(facts) {
            let before = current.clone();
            let now = NOW + step * MINUTE;
            let changes = settle(vec![current.clone()], vec![(77, fact.clone())], Vec::new(), &policy, &registry, now, 9);
            let Some((row, seq, events)) = changes.updates.first() else { continue };
            prop_assert_eq!(*seq, before.seq);
            let mut state = before.state;
            for (place, event) in (1_u32..).zip(events) {
                let to = State::from_number(i64::from(event.state)).expect("a state");
                prop_assert!(state.may_become(to), "{:?} to {:?} by {:?}", state, to, fact);
                prop_assert_eq!(event.previous, state as u8);
                prop_assert_eq!(event.seq, before.seq + place);
                state = to;
            }
            prop_assert_eq!(row.state, state);
            prop_assert_eq!(row.seq, before.seq + u32::try_from(events.len()).expect("few"));
            prop_assert_eq!(changes.requeue.contains(&77), row.state == State::Queued);
            if before.state == State::Queued {
                prop_assert!(changes.drop.contains(&77));
            }
            if row.generation != before.generation {
                prop_assert_eq!(row.generation, before.generation + 1);
                prop_assert_eq!(row.state, State::Queued);
            }
            current = row.clone();
        }
    }
}

/// A message's own wait and its lane's, after so many tries and this word of the provider.
fn throttled(class: Class, attempt: u16, retry_after_us: Option<i64>) -> (i64, i64) {
    let mut tried = row(State::Dispatching, attempt);
    tried.class = class;
    let outcome = Outcome::NotTaken {
        why: NotTaken::Throttled,
        retry_after_us,
        code: String::new(),
    };
    let changes = apply(tried, vec![Fact::Outcome(attempt, outcome)]);
    let wait_us = after(&changes).due_us - NOW;
    (wait_us, changes.parks[0].until_us - NOW)
}

#[test]
fn too_fast_again_and_again_waits_ever_longer_whatever_the_provider_says() {
    for said in [None, Some(0), Some(1_000_000)] {
        let (wait_us, lane_us) = throttled(Class::Bulk, 20, said);
        assert!(wait_us >= 5 * MINUTE / 10, "{said:?}: {wait_us}");
        // Its neighbours are not held for the tries of one.
        assert!(lane_us <= 5_000_000, "{said:?}: {lane_us}");
    }
    assert!(throttled(Class::Bulk, 20, Some(30 * MINUTE)).0 >= 30 * MINUTE);
    let (wait_us, _) = throttled(Class::Bulk, 3, Some(MINUTE));
    assert!((MINUTE..=MINUTE * 11 / 10).contains(&wait_us), "{wait_us}");
}

#[test]
fn an_urgent_message_that_was_too_fast_comes_back_within_seconds() {
    let (wait_us, _) = throttled(Class::Critical, 20, Some(1_000_000));
    assert!((1_000_000..=11_000_000).contains(&wait_us), "{wait_us}");
    assert!(throttled(Class::Critical, 20, Some(MINUTE)).0 >= MINUTE);
}

#[test]
fn rows_come_as_json_arrays_in_the_order_of_their_columns() {
    let columns = |class: &str, state: &str, provider_id: &str, opted_out: &str| {
        format!(
            r#"[[18446744073709551615,2,3,12025550123,{class},4,{state},5,"a\"\n\u00e9",6,7,8,9,10,11,12,13,-14,15,16,{provider_id},17,18,{opted_out}]]"#
        )
    };
    let expected = Row {
        id: u64::MAX,
        tenant: 2,
        campaign: 3,
        recipient: 12_025_550_123,
        class: Class::Bulk,
        segments: 4,
        state: State::Submitted,
        reason: 5,
        code: "a\"\né".into(),
        seq: 6,
        attempt: 7,
        generation: 8,
        counted: 9,
        flags: 10,
        due_us: 11,
        accept_us: 12,
        expires_us: 13,
        updated_us: -14,
        started_us: 15,
        provider: 16,
        provider_id: String::new(),
        carrier: 17,
        crashes: 18,
        opted_out: false,
    };
    assert_eq!(
        rows_from_json(&columns("3", "3", "null", "0")).unwrap(),
        std::slice::from_ref(&expected)
    );
    let other = Row {
        provider_id: "p".into(),
        opted_out: true,
        ..expected
    };
    assert_eq!(
        rows_from_json(&columns("3", "3", r#""p""#, "1")).unwrap(),
        [other]
    );
    assert!(rows_from_json("[]").unwrap().is_empty());
    for (wrong, says) in [
        (columns("9", "3", "null", "0"), "unknown class 9"),
        (columns("3", "99", "null", "0"), "unknown state 99"),
        (columns("3", "3", "7", "0"), "invalid type"),
        (columns("3", "3", "null", "0,1"), "trailing characters"),
        ("[[1,2]]".into(), "invalid length"),
    ] {
        let error = rows_from_json(&wrong).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
