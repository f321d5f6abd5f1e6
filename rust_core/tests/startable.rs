//! What only lacks a slot: against a pop with room for all, and against a naive count.

use std::collections::BTreeMap;
use std::sync::Arc;

use _core::message::{Carrier, Class, Held, Kind, Micros};
use _core::owned::Owned;
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, ParkKind, Scheduler};
use _core::shards::{ShardSet, shard_of};
use proptest::prelude::*;

const SECOND_US: i64 = 1_000_000;
const START_US: Micros = 1_750_000_000 * SECOND_US;
/// So much later all limits are full.
const LATER_US: Micros = 1_000 * SECOND_US;
const CAMPAIGNS: [u32; 4] = [10, 11, 20, 21];

fn held(id: u64, campaign: u32) -> Held {
    Held {
        id,
        tenant: campaign / 10,
        campaign,
        sender: 12_025_550_100 + u64::from(campaign),
        recipient: 13_035_550_100,
        class: Class::Transactional,
        kind: Kind::Sms,
        encoding: 1,
        segments: 1,
        seq: 1,
        attempt: 0,
        generation: 1,
        counted: 0,
        flags: 0,
        due_us: START_US,
        expires_us: START_US + 1_000_000 * SECOND_US,
        ordering: 0,
        recipe: 0,
        body: Arc::from([1_u8, 2, 3].as_slice()),
    }
}

fn quota(key: u32, scope: Scope, subject: u64, burst: u64) -> Quota {
    Quota {
        key,
        scope,
        subject,
        carrier: Carrier::Unknown,
        unit: Unit::Segments,
        amount: 2 * burst,
        window_us: 10 * SECOND_US.cast_unsigned(),
        burst,
        reserved_percent: 0,
        reserved_class: Class::Bulk,
    }
}

fn registry(paused: &[u32], quotas: Vec<Quota>) -> Arc<Registry> {
    let tenants = [1, 2].map(|key| Tenant { key, active: true }).to_vec();
    let campaigns = CAMPAIGNS.map(|key| Campaign {
        key,
        tenant: key / 10,
        brand: key / 10,
        id: format!("c{key}"),
        state: if paused.contains(&key) {
            CampaignState::Paused
        } else {
            CampaignState::Active
        },
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_100 + u64::from(key)],
    });
    Arc::new(Registry::new(1, tenants, campaigns.to_vec(), quotas))
}

fn scheduler(quotas: Vec<Quota>, messages: Vec<Held>) -> Scheduler {
    let mut scheduler = Scheduler::new(Config::default(), registry(&[], quotas), 0);
    assert_eq!(scheduler.push(messages, START_US), []);
    scheduler
}

fn startable(scheduler: &Scheduler, after_us: i64) -> usize {
    scheduler.startable(START_US + after_us, after_us)
}

#[test]
fn without_limits_the_whole_backlog_counts_and_what_a_pop_takes_counts_no_more() {
    let mut scheduler = scheduler(vec![], (1..=1_000).map(|id| held(id, 10)).collect());
    assert_eq!(startable(&scheduler, 0), 1_000);
    assert_eq!(scheduler.pop(START_US, 0, 0).ready, []);
    assert_eq!(startable(&scheduler, 0), 1_000);
    assert_eq!(scheduler.pop(START_US, 0, 400).ready.len(), 400);
    assert_eq!(startable(&scheduler, 0), 600);
}

#[test]
fn a_paced_backlog_counts_what_its_limit_has_now_and_nothing_once_that_left() {
    let paced = vec![quota(1, Scope::Campaign, 10, 7)];
    let mut scheduler = scheduler(paced, (1..=1_000_000).map(|id| held(id, 10)).collect());
    assert_eq!(startable(&scheduler, 0), 0);
    assert_eq!(startable(&scheduler, LATER_US), 7);
    let ready = scheduler.pop(START_US + LATER_US, LATER_US, 1_000).ready;
    assert_eq!(ready.len(), 7);
    assert_eq!(startable(&scheduler, LATER_US), 0);
    // No pop in between: what has come since counts all the same.
    assert_eq!(startable(&scheduler, LATER_US + 3 * SECOND_US), 2);
}

#[test]
fn a_limit_that_lanes_share_is_counted_once() {
    let shared = vec![quota(1, Scope::Tenant, 1, 7)];
    let both = (1..=100).map(|id| held(id, if id % 2 == 0 { 10 } else { 11 }));
    let scheduler = scheduler(shared, both.collect());
    assert_eq!(startable(&scheduler, LATER_US), 7);
}

#[test]
fn what_is_for_later_paused_parked_or_behind_its_key_does_not_count() {
    let mut later = held(1, 10);
    later.due_us = START_US + 3_600 * SECOND_US;
    let ordered = [2, 3, 4].map(|id| Held {
        ordering: 9,
        ..held(id, 11)
    });
    let mut messages = vec![later];
    messages.extend(ordered);
    messages.extend((5..=20).map(|id| held(id, 20)));
    let mut scheduler = scheduler(vec![], messages);
    assert_eq!(startable(&scheduler, 0), 1 + 16);
    scheduler.set_registry(registry(&[20], vec![]), 0);
    assert_eq!(startable(&scheduler, 0), 1);
    scheduler.set_registry(registry(&[], vec![]), 0);
    let until_us = START_US + 60 * SECOND_US;
    scheduler.park(20, Carrier::Unknown, ParkKind::Rate, until_us, START_US, 0);
    assert_eq!(startable(&scheduler, 0), 1);
}

#[test]
fn a_message_that_no_limit_can_ever_pass_hides_nobody() {
    let mut dear = held(1, 10);
    dear.segments = 9;
    let scheduler = scheduler(
        vec![quota(1, Scope::Campaign, 10, 7)],
        vec![dear, held(2, 10)],
    );
    assert_eq!(startable(&scheduler, LATER_US), 1);
}

#[test]
fn beyond_what_is_looked_at_the_rest_counts_as_one_segment_each() {
    let wide = vec![quota(1, Scope::Campaign, 10, 50_000)];
    let of_two = (1..=60_000).map(|id| Held {
        segments: 2,
        ..held(id, 10)
    });
    let scheduler = scheduler(wide, of_two.collect());
    // 2^14 of two segments each are looked at; the rest of the limit is one each.
    assert_eq!(
        startable(&scheduler, LATER_US),
        16_384 + (50_000 - 2 * 16_384)
    );
}

#[test]
fn each_node_counts_its_own_shards_and_together_they_count_all() {
    let shards: Vec<u32> = CAMPAIGNS
        .iter()
        .map(|&campaign| shard_of(campaign))
        .collect();
    let counts: Vec<usize> = [true, false]
        .into_iter()
        .map(|first| {
            let mut node = Owned::new(
                Scheduler::new(Config::default(), registry(&[], vec![]), 0),
                1_000,
            );
            let others: Vec<u32> = (0..64)
                .filter(|shard| (*shard == shards[0]) != first)
                .collect();
            node.disown(ShardSet::of(&others).unwrap());
            let messages = (1..=40).map(|id| held(id, CAMPAIGNS[usize::try_from(id % 4).unwrap()]));
            node.push_fresh(messages.collect(), START_US);
            node.schedule.startable(START_US, 0)
        })
        .collect();
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 40);
}

fn scope_of(pick: u8) -> (Scope, u64) {
    match pick % 5 {
        0 => (Scope::Provider, 1),
        1 => (Scope::Tenant, 1 + u64::from(pick / 5 % 2)),
        2 => (
            Scope::Campaign,
            u64::from(CAMPAIGNS[usize::from(pick / 5 % 4)]),
        ),
        3 => (
            Scope::Number,
            12_025_550_100 + u64::from(CAMPAIGNS[usize::from(pick / 5 % 4)]),
        ),
        _ => (
            Scope::CampaignCarrier,
            u64::from(CAMPAIGNS[usize::from(pick / 5 % 4)]),
        ),
    }
}

fn limits() -> impl Strategy<Value = Vec<Quota>> {
    prop::collection::vec((0_u8..40, 1_u64..30, any::<bool>()), 0..8).prop_map(|picks| {
        let made = (1..).zip(picks).map(|(key, (pick, burst, messages))| {
            let (scope, subject) = scope_of(pick);
            Quota {
                unit: if messages {
                    Unit::Messages
                } else {
                    Unit::Segments
                },
                ..quota(key, scope, subject, burst)
            }
        });
        made.collect()
    })
}

fn messages(segments_max: u16) -> impl Strategy<Value = Vec<Held>> {
    prop::collection::vec((0_usize..4, 1_u8..=3, 1..=segments_max), 0..120).prop_map(|picks| {
        let made = (1..)
            .zip(picks)
            .map(|(id, (campaign, class, segments))| Held {
                class: Class::from_number(i64::from(class)).unwrap_or(Class::Bulk),
                segments,
                ..held(id, CAMPAIGNS[campaign])
            });
        made.collect()
    })
}

/// The head of the module, read naively: lanes by class and age, each until a limit refuses.
fn naive(quotas: &[Quota], messages: &[Held]) -> usize {
    let mut lanes: Vec<((Class, usize), Vec<&Held>)> = Vec::new();
    let mut index: BTreeMap<(u32, u8), usize> = BTreeMap::new();
    for message in messages {
        let key = (message.campaign, message.class as u8);
        let at = *index.entry(key).or_insert_with(|| {
            lanes.push(((message.class, lanes.len()), Vec::new()));
            lanes.len() - 1
        });
        lanes[at].1.push(message);
    }
    lanes.sort_by_key(|(order, _)| *order);
    let mut left: Vec<u64> = quotas
        .iter()
        .map(|quota| quota.burst.min(2 * quota.burst - 1))
        .collect();
    let mut counted = 0;
    for (_, lane) in lanes {
        for message in lane {
            let cost = |quota: &Quota| match quota.unit {
                Unit::Messages => 1,
                Unit::Segments => u64::from(message.segments),
            };
            let of_it: Vec<usize> = (0..quotas.len())
                .filter(|&at| {
                    let subject = match quotas[at].scope {
                        Scope::Provider => 1,
                        Scope::Tenant => u64::from(message.tenant),
                        Scope::Number => message.sender,
                        _ => u64::from(message.campaign),
                    };
                    subject == quotas[at].subject
                })
                .collect();
            if of_it.iter().any(|&at| cost(&quotas[at]) > quotas[at].burst) {
                continue;
            }
            let refusing: Vec<usize> = of_it
                .iter()
                .copied()
                .filter(|&at| cost(&quotas[at]) > left[at])
                .collect();
            if refusing.is_empty() {
                for &at in &of_it {
                    left[at] -= cost(&quotas[at]);
                }
                counted += 1;
            } else {
                // Each of one segment: what refuses has nothing left, and closing it changes nothing.
                for at in refusing {
                    left[at] = 0;
                }
                break;
            }
        }
    }
    counted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn with_room_for_all_a_pop_takes_as_many_as_were_counted(quotas in limits(), messages in messages(1)) {
        let total = messages.len();
        let mut scheduler = scheduler(quotas.clone(), messages.clone());
        let counted = startable(&scheduler, LATER_US);
        prop_assert_eq!(counted, naive(&quotas, &messages));
        let ready = scheduler.pop(START_US + LATER_US, LATER_US, usize::MAX).ready;
        prop_assert_eq!(counted, ready.len());
        prop_assert!(counted <= total);
        prop_assert_eq!(startable(&scheduler, LATER_US), 0);
    }

    #[test]
    fn what_is_counted_could_leave_within_every_limit(
        quotas in limits(), messages in messages(3), room in 0_usize..40, wait_us in 0..20 * SECOND_US,
    ) {
        let mut scheduler = scheduler(quotas.clone(), messages.clone());
        // Some leave first, so that limits are used in part and lanes wait at them.
        let first = scheduler.pop(START_US + LATER_US, LATER_US, room).ready.len();
        let after_us = LATER_US + wait_us;
        let counted = startable(&scheduler, after_us);
        prop_assert!(counted + first <= messages.len());
        for quota in &quotas {
            if quota.scope == Scope::Provider {
                prop_assert!(counted as u64 <= quota.burst);
            }
        }
        prop_assert_eq!(startable(&scheduler, after_us), counted);
        let ready = scheduler.pop(START_US + after_us, after_us, usize::MAX).ready;
        // What is left of a limit may be too little for whoever is next there, and enough for another: then one of the two
        // counts says so, of fewer segments a limit than the dearest message has.
        let too_little = 2 * quotas.len();
        prop_assert!(!ready.is_empty() || counted <= too_little, "{} counted", counted);
        prop_assert!(counted > 0 || ready.len() <= too_little, "{} popped", ready.len());
    }
}
