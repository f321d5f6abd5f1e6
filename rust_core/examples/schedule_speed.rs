//! Measures the scheduler with few and with many waiting: push, pop, settle and memory a message, and an opt-out.
//!
//! It proves nothing. Run it with `cargo run --release --example schedule_speed [rounds [waiting ...]]`. Each message
//! passes six limits that never bind, in one of 100 lanes, so that what is measured is the walk and not a refusal.
//!
//! What is measured is a scheduler in use: everything that waited at first was replaced once before, so its places are used
//! for the second time, and it remembers as many attempts as it may. Bodies are made before the push and dropped after the
//! settling, outside what is timed.

mod timing;

use std::sync::Arc;

use _core::message::{Carrier, Class, Held, Kind, Micros};
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, Scheduler};
use _core::settle::Fate;

const CAMPAIGNS: u32 = 100;
const TENANTS: u32 = 10;
const FIRST_NUMBER: u64 = 12_025_550_100;
const BODY_BYTES: usize = 80;
const BATCH_MESSAGES: u32 = 500;
const FILL_MESSAGES: u64 = 10_000;
const ROUNDS: u32 = 400;
/// As many attempts as are remembered for late evidence, and some.
const CYCLED_MESSAGES: u64 = 100_000;
const WAITING: [u64; 3] = [1_000, 100_000, 1_000_000];
const START_US: Micros = 1_750_000_000_000_000;
const DAY_US: Micros = 86_400_000_000;
const PAGE_BYTES: u64 = 4096;

fn wide(key: u32, scope: Scope, subject: u64, carrier: Carrier) -> Quota {
    Quota {
        key,
        scope,
        subject,
        carrier,
        unit: Unit::Segments,
        amount: 1 << 40,
        window_us: 60_000_000,
        burst: 1 << 39,
        reserved_percent: 0,
        reserved_class: Class::Bulk,
    }
}

fn registry() -> Registry {
    let tenants = (0..TENANTS).map(|key| Tenant { key, active: true });
    let mut campaigns = Vec::new();
    let mut quotas = vec![wide(1, Scope::Provider, 1, Carrier::Unknown)];
    for tenant in 0..TENANTS {
        quotas.push(wide(
            2 + tenant,
            Scope::Tenant,
            tenant.into(),
            Carrier::Unknown,
        ));
    }
    for key in 0..CAMPAIGNS {
        let (subject, number) = (u64::from(key), FIRST_NUMBER + u64::from(key));
        for (place, (scope, subject, carrier)) in (0..).zip([
            (Scope::Campaign, subject, Carrier::Unknown),
            (Scope::Number, number, Carrier::Unknown),
            (Scope::CampaignCarrier, subject, Carrier::Att),
            (Scope::BrandCarrierDay, subject, Carrier::Att),
        ]) {
            quotas.push(wide(100 + key * 10 + place, scope, subject, carrier));
        }
        campaigns.push(Campaign {
            key,
            tenant: key % TENANTS,
            brand: key,
            id: key.to_string(),
            state: CampaignState::Active,
            on_unknown: OnUnknown::ByClass,
            messaging_profile: String::new(),
            numbers: vec![number],
        });
    }
    Registry::new(1, tenants.collect(), campaigns, quotas)
}

fn held(id: u64, now_us: Micros) -> Held {
    let campaign = u32::try_from(id % u64::from(CAMPAIGNS)).expect("under 100");
    Held {
        id,
        tenant: campaign % TENANTS,
        campaign,
        sender: FIRST_NUMBER + u64::from(campaign),
        // Hardly any twice: what is kept by recipient costs its full price.
        recipient: 12_000_000_000 + id.wrapping_mul(0x9e37_79b9) % 8_000_000_000,
        class: Class::Transactional,
        kind: Kind::Sms,
        encoding: 1,
        segments: 1,
        seq: 1,
        attempt: 0,
        generation: 1,
        counted: 0,
        flags: 0,
        due_us: now_us,
        expires_us: now_us + DAY_US,
        ordering: 0,
        recipe: 0,
        body: Arc::from(vec![7_u8; BODY_BYTES]),
    }
}

fn batch(from: u64, messages: u64, now_us: Micros) -> Vec<Held> {
    (from..from + messages).map(|id| held(id, now_us)).collect()
}

/// Memory of this process, by the kernel's count.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).expect("the second is resident");
    pages.parse::<u64>().expect("a number") * PAGE_BYTES
}

fn full(waiting: u64, now_us: &mut Micros) -> Scheduler {
    let registry = registry();
    let of_a_day = |quota: &&Quota| quota.scope == Scope::BrandCarrierDay;
    let days: Vec<_> = registry
        .quotas()
        .iter()
        .filter(of_a_day)
        .map(|quota| (quota.key, 1, Micros::MAX))
        .collect();
    let config = Config {
        held_messages_max: usize::try_from(waiting + u64::from(BATCH_MESSAGES)).expect("64 bits"),
        carriers_max: 1_000,
        ..Config::default()
    };
    let mut scheduler = Scheduler::new(config, Arc::new(registry), 0);
    scheduler.set_days(&days);
    let mut next = 1;
    while next <= waiting {
        let messages = FILL_MESSAGES.min(waiting + 1 - next);
        assert!(
            scheduler
                .push(batch(next, messages, *now_us), *now_us)
                .is_empty()
        );
        next += messages;
        *now_us += 100_000;
    }
    scheduler
}

fn measure(waiting: u64, rounds: u32) {
    let mut now_us = START_US;
    let before_bytes = resident_bytes();
    let mut scheduler = full(waiting, &mut now_us);
    let each_bytes = (resident_bytes() - before_bytes) / waiting;
    let (mut pushing, mut popping, mut settling) = (Vec::new(), Vec::new(), Vec::new());
    let room = BATCH_MESSAGES as usize;
    let cycled = waiting.max(CYCLED_MESSAGES).div_ceil(BATCH_MESSAGES.into());
    for round in 0..cycled + u64::from(rounds) {
        let messages = batch(
            waiting + 1 + round * u64::from(BATCH_MESSAGES),
            BATCH_MESSAGES.into(),
            now_us,
        );
        let (push_time, rest) = timing::timed(|| scheduler.push(messages, now_us));
        assert!(rest.is_empty(), "there is room");
        now_us += 10_000;
        let (pop_time, popped) = timing::timed(|| scheduler.pop(now_us, now_us - START_US, room));
        assert_eq!(popped.ready.len(), room, "no limit binds");
        let settle = || {
            for message in &popped.ready {
                scheduler.settled(message.id, Fate::Taken(Some(1)));
            }
        };
        let (settle_time, ()) = timing::timed(settle);
        if round >= cycled {
            pushing.push(push_time);
            popping.push(pop_time);
            settling.push(settle_time);
        }
    }
    // To numbers that hardly anybody else has, from the newest: one message each.
    let newest = waiting + (cycled + u64::from(rounds)) * u64::from(BATCH_MESSAGES);
    let mut opting_out = Vec::new();
    for back in 0..u64::from(rounds).min(waiting) {
        let Held {
            tenant, recipient, ..
        } = held(newest - back, now_us);
        opting_out.push(timing::timed(|| scheduler.remove_recipient(tenant, recipient)).0);
    }
    timing::print_ns(
        &format!("schedule opt-out, {waiting} waiting"),
        1,
        opting_out,
    );
    for (name, times) in [("push", pushing), ("pop", popping), ("settled", settling)] {
        timing::print_ns(
            &format!("schedule {name}, {waiting} waiting"),
            BATCH_MESSAGES,
            times,
        );
    }
    println!(
        "{{\"figure\":\"schedule memory, {waiting} waiting, body of {BODY_BYTES} included\",\"unit\":\"bytes\",\
         \"median\":{each_bytes},\"best\":{each_bytes},\"rounds\":1,\"batch_items\":{waiting}}}"
    );
}

fn main() {
    let rounds = timing::rounds(ROUNDS);
    let asked: Vec<u64> = std::env::args()
        .skip(2)
        .map(|text| text.parse().expect("waiting: a number above 0"))
        .collect();
    let sizes = if asked.is_empty() {
        &WAITING[..]
    } else {
        &asked
    };
    for &waiting in sizes {
        assert!(waiting > 0, "waiting: a number above 0");
        measure(waiting, rounds);
    }
}
