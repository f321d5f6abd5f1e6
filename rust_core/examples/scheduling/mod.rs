//! A scheduler in which six limits a message never bind, in 100 lanes: what the speed and the instruction counts share.
//!
//! It measures nothing.

use std::sync::Arc;

use _core::message::{Carrier, Class, Held, Kind, Micros};
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, Scheduler};

const CAMPAIGNS: u32 = 100;
const TENANTS: u32 = 10;
const FIRST_NUMBER: u64 = 12_025_550_100;
pub const BODY_BYTES: usize = 80;
pub const BATCH_MESSAGES: u32 = 500;
const FILL_MESSAGES: u64 = 10_000;
pub const START_US: Micros = 1_750_000_000_000_000;
const DAY_US: Micros = 86_400_000_000;

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

/// A waiting message of one of the lanes.
pub fn held(id: u64, now_us: Micros) -> Held {
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

/// So many of them.
pub fn batch(from: u64, messages: u64, now_us: Micros) -> Vec<Held> {
    (from..from + messages).map(|id| held(id, now_us)).collect()
}

/// A scheduler in which so many wait; the clock goes on meanwhile.
pub fn full(waiting: u64, now_us: &mut Micros) -> Scheduler {
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
