//! Measures settling: batches of 500 outcomes, then of 500 receipts, from rows as read to rows and events to be written.
//!
//! It proves nothing. Run it with `cargo run --release --example settle_speed [rounds]`.

mod timing;

use _core::events::told;
use _core::message::{Carrier, Class, Micros};
use _core::outcome::Outcome;
use _core::registry::{Campaign, CampaignState, OnUnknown, Registry, Tenant};
use _core::settle::{Fact, Policy, Receipt, ReceiptStatus, Row, settle};
use _core::state::State;

const BATCH_MESSAGES: u32 = 500;
const ROUNDS: u32 = 400;
const NOW_US: Micros = 1_750_000_000_000_000;
const HOUR_US: i64 = 3_600_000_000;
const PROVIDER_ID: &str = "40385f64-5717-4562-b3fc-2c963f66afa6";

fn policy() -> Policy {
    Policy {
        attempts_max: 8,
        reconcile_wait_us: 60_000_000,
        no_receipt_after_us: 72 * HOUR_US,
        lookup_after_us: HOUR_US / 2,
        backoff_base_us: 500_000,
        backoff_cap_us: 300_000_000,
        honours_keys: false,
        key_window_us: 23 * HOUR_US,
        day_reset_us: NOW_US + 24 * HOUR_US,
        spend_reset_us: NOW_US + 24 * HOUR_US,
    }
}

fn registry() -> Registry {
    let tenant = Tenant {
        key: 1,
        active: true,
    };
    let campaign = Campaign {
        key: 1,
        tenant: 1,
        brand: 1,
        id: "speed".to_owned(),
        state: CampaignState::Active,
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_100],
    };
    Registry::new(1, vec![tenant], vec![campaign], vec![])
}

fn rows(state: State, seq: u32) -> Vec<Row> {
    let row = |id: u64| Row {
        id,
        tenant: 1,
        campaign: 1,
        recipient: 13_125_550_100 + id % 100,
        class: Class::Transactional,
        segments: 1,
        state,
        reason: 3,
        code: String::new(),
        seq,
        attempt: 1,
        generation: 1,
        counted: 0,
        flags: 0,
        due_us: NOW_US,
        accept_us: NOW_US - 1_000_000,
        expires_us: NOW_US + 24 * HOUR_US,
        updated_us: NOW_US,
        started_us: NOW_US,
        provider: 1,
        provider_id: PROVIDER_ID.to_owned(),
        carrier: Carrier::Att as u8,
        crashes: 0,
        opted_out: false,
    };
    (1..=u64::from(BATCH_MESSAGES)).map(row).collect()
}

fn measure(name: &str, rounds: u32, rows: &[Row], fact: &Fact, becomes: State) {
    let (policy, registry) = (policy(), registry());
    let round = |_| {
        let (rows, facts) = (
            rows.to_vec(),
            rows.iter().map(|row| (row.id, fact.clone())).collect(),
        );
        let (time, (changes, events)) = timing::timed(|| {
            let changes = settle(rows, facts, Vec::new(), &policy, &registry, NOW_US, 1);
            let events = told(
                changes.updates.iter().flat_map(|(_, _, events)| events),
                &registry,
            );
            (changes, events)
        });
        assert_eq!(
            (changes.updates.len(), events.len()),
            (BATCH_MESSAGES as usize, 1)
        );
        assert!(
            changes
                .updates
                .iter()
                .all(|(row, _, _)| row.state == becomes)
        );
        time
    };
    timing::print_ns(name, BATCH_MESSAGES, (0..rounds).map(round).collect());
}

fn main() {
    let rounds = timing::rounds(ROUNDS);
    let taken = Outcome::Taken {
        provider_id: PROVIDER_ID.to_owned(),
        carrier: Carrier::Att,
        parts: Some(1),
    };
    let receipt = Receipt {
        generation: 1,
        status: ReceiptStatus::Delivered,
        code: String::new(),
        carrier: Carrier::Att as u8,
        parts: Some(1),
        provider_id: PROVIDER_ID.to_owned(),
        lookup: false,
    };
    let dispatching = rows(State::Dispatching, 2);
    let outcome = Fact::Outcome(1, taken);
    measure(
        "settle outcome, with its event",
        rounds,
        &dispatching,
        &outcome,
        State::Submitted,
    );
    let sent = rows(State::Sent, 4);
    let delivered = Fact::Receipt(receipt);
    measure(
        "settle receipt, with its event",
        rounds,
        &sent,
        &delivered,
        State::Delivered,
    );
}
