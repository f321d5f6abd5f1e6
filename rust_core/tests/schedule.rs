//! The scheduler against what a naive reading of its rules allows: random histories first, then each rule by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use _core::admit::{Ahead as _, Bound};
use _core::message::{Carrier, Class, Held, Kind, Micros, flags};
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, ParkKind, Popped, Scheduler};
use _core::settle::Fate;
use _core::shards::{ShardSet, shard_of};
use proptest::prelude::*;

const SECOND_US: i64 = 1_000_000;
const START_US: Micros = 1_750_000_000 * SECOND_US;
/// A timer's tick: so late may an expiry be told.
const TICK_US: i64 = 1 << 13;

fn held(id: u64, campaign: u32) -> Held {
    Held {
        id,
        tenant: campaign / 10,
        campaign,
        sender: 12_025_550_100 + u64::from(campaign),
        recipient: 13_035_550_100 + id % 100,
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

fn quota(key: u32, scope: Scope, subject: u64, amount: u64, burst: u64) -> Quota {
    Quota {
        key,
        scope,
        subject,
        carrier: Carrier::Unknown,
        unit: Unit::Segments,
        amount,
        window_us: 10 * SECOND_US.cast_unsigned(),
        burst,
        reserved_percent: 0,
        reserved_class: Class::Bulk,
    }
}

fn day_quota(key: u32, carrier: Carrier, amount: u64) -> Quota {
    Quota {
        carrier,
        ..quota(key, Scope::BrandCarrierDay, 1, amount, 1)
    }
}

/// Tenants 1 and 2, each with campaigns 10, 11, 20, 21 of brand 1 (tenant 1) and 2.
fn registry(states: &HashMap<u32, CampaignState>, quotas: Vec<Quota>) -> Arc<Registry> {
    let tenants = [1, 2].map(|key| Tenant { key, active: true }).to_vec();
    let campaigns = [10, 11, 20, 21].map(|key| Campaign {
        key,
        tenant: key / 10,
        brand: key / 10,
        id: format!("c{key}"),
        state: states.get(&key).copied().unwrap_or(CampaignState::Active),
        on_unknown: OnUnknown::ByClass,
        messaging_profile: String::new(),
        numbers: vec![12_025_550_100 + u64::from(key)],
    });
    Arc::new(Registry::new(1, tenants, campaigns.to_vec(), quotas))
}

fn scheduler(quotas: Vec<Quota>) -> Scheduler {
    Scheduler::new(Config::default(), registry(&HashMap::new(), quotas), 0)
}

fn ids(messages: &[Held]) -> Vec<u64> {
    messages.iter().map(|held| held.id).collect()
}

fn push(scheduler: &mut Scheduler, messages: Vec<Held>) {
    assert_eq!(scheduler.push(messages, START_US), []);
}

fn pop(scheduler: &mut Scheduler, after_us: i64, room: usize) -> Popped {
    scheduler.pop(START_US + after_us, after_us, room)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        count: u64,
        pick: u64,
    },
    Pop {
        room: usize,
    },
    Wait {
        us: i64,
    },
    Remove {
        pick: usize,
    },
    OptOut {
        pick: usize,
    },
    Release {
        pick: usize,
    },
    Retry {
        pick: usize,
    },
    Settle {
        pick: usize,
        fate: u8,
    },
    Learn {
        pick: usize,
        carrier: i64,
    },
    State {
        campaign: usize,
        state: u8,
    },
    Park {
        campaign: usize,
        carrier: i64,
        cap: bool,
        for_us: i64,
    },
    Hold {
        pick: usize,
    },
    /// A campaign's shard goes to another node, and comes back later.
    HandOver {
        campaign: usize,
        away_us: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    prop_oneof![
        6 => (1_u64..12, any::<u64>()).prop_map(|(count, pick)| Step::Push { count, pick }),
        8 => (0_usize..12).prop_map(|room| Step::Pop { room }),
        6 => (0_i64..4_000_000).prop_map(|us| Step::Wait { us }),
        1 => pick.clone().prop_map(|pick| Step::Remove { pick }),
        1 => pick.clone().prop_map(|pick| Step::OptOut { pick }),
        4 => pick.clone().prop_map(|pick| Step::Release { pick }),
        1 => pick.clone().prop_map(|pick| Step::Retry { pick }),
        4 => (pick.clone(), 0_u8..4).prop_map(|(pick, fate)| Step::Settle { pick, fate }),
        1 => (pick.clone(), 0_i64..6).prop_map(|(pick, carrier)| Step::Learn { pick, carrier }),
        1 => (0_usize..4, 1_u8..=3).prop_map(|(campaign, state)| Step::State { campaign, state }),
        1 => (0_usize..4, 0_i64..6, any::<bool>(), 0_i64..5_000_000)
            .prop_map(|(campaign, carrier, cap, for_us)| Step::Park { campaign, carrier, cap, for_us }),
        1 => pick.prop_map(|pick| Step::Hold { pick }),
        2 => (0_usize..4, 0_i64..2_000_000)
            .prop_map(|(campaign, away_us)| Step::HandOver { campaign, away_us }),
    ]
}

fn all_quotas() -> Vec<Quota> {
    let with = |carrier, quota: Quota| Quota { carrier, ..quota };
    vec![
        quota(1, Scope::Provider, 1, 40, 8),
        quota(2, Scope::Tenant, 1, 30, 6),
        quota(3, Scope::Campaign, 10, 12, 4),
        quota(4, Scope::Campaign, 20, 9, 4),
        quota(5, Scope::Number, 12_025_550_110, 10, 4),
        Quota {
            unit: Unit::Messages,
            ..quota(6, Scope::Campaign, 21, 2, 1)
        },
        with(Carrier::Att, quota(7, Scope::CampaignCarrier, 10, 8, 3)),
        with(Carrier::TMobile, quota(8, Scope::CampaignCarrier, 10, 8, 3)),
        Quota {
            reserved_percent: 20,
            reserved_class: Class::Critical,
            ..day_quota(9, Carrier::TMobile, 40)
        },
        day_quota(10, Carrier::Att, 60),
    ]
}

/// The naive side: lists, searched in full.
struct Model {
    scheduler: Scheduler,
    now: i64,
    next_id: u64,
    /// Ids that were left out, for messages that come late.
    gaps: Vec<u64>,
    waiting: BTreeMap<u64, Held>,
    out: BTreeMap<u64, Held>,
    held_keys: BTreeSet<(u32, u64, u64)>,
    states: HashMap<u32, CampaignState>,
    /// (quota key) → takes.
    taken: HashMap<u32, Vec<(i64, u64)>>,
    learned: HashMap<u64, Carrier>,
    carriers_moved: bool,
    parked: Vec<(u32, i64)>,
    left: usize,
}

const CAMPAIGNS: [u32; 4] = [10, 11, 20, 21];

impl Model {
    fn new() -> Self {
        let mut scheduler = scheduler(all_quotas());
        scheduler.set_days(&[
            (9, 5, START_US + 100_000 * SECOND_US),
            (10, 5, START_US + 100_000 * SECOND_US),
        ]);
        Self {
            scheduler,
            now: 0,
            next_id: 1,
            gaps: Vec::new(),
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
            held_keys: BTreeSet::new(),
            states: HashMap::new(),
            taken: HashMap::new(),
            learned: HashMap::new(),
            carriers_moved: false,
            parked: Vec::new(),
            left: 0,
        }
    }

    fn key_is_out(&self, tenant: u32, ordering: u64) -> bool {
        self.held_keys
            .iter()
            .any(|&(of, key, _)| (of, key) == (tenant, ordering))
    }

    fn push(&mut self, count: u64, pick: u64) {
        let mut batch = Vec::new();
        for n in 0..count {
            let dice = (pick.rotate_left(u32::try_from(n * 7 % 64).unwrap()))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                >> 8;
            let late = pick.is_multiple_of(5) && !self.gaps.is_empty();
            let id = if late {
                self.gaps.swap_remove(dice as usize % self.gaps.len())
            } else {
                // One after the other, in another millisecond, or with one left out.
                let step = [1, 1, 2, 1 << 22][dice as usize / 8 % 4];
                self.next_id += step;
                if step > 1 {
                    self.gaps.push(self.next_id - 1);
                }
                self.next_id
            };
            let mut message = held(id, CAMPAIGNS[dice as usize % 4]);
            message.class = Class::ALL[dice as usize / 4 % 3];
            message.kind = if dice % 13 == 0 { Kind::Mms } else { Kind::Sms };
            message.segments = [1, 2, 3][dice as usize / 16 % 3];
            message.recipient = 13_035_550_100 + dice / 64 % 20;
            message.due_us = START_US + self.now + if dice % 5 == 0 { 2 * SECOND_US } else { 0 };
            if dice % 7 == 0 {
                message.expires_us = START_US + self.now + 3 * SECOND_US;
            }
            message.ordering = if dice % 3 == 0 { dice / 128 % 3 + 1 } else { 0 };
            batch.push(message);
        }
        if pick.is_multiple_of(4) {
            batch.reverse();
        }
        for message in &batch {
            self.waiting.insert(message.id, message.clone());
        }
        // Twice: the second time changes nothing.
        assert_eq!(self.scheduler.push(batch.clone(), START_US + self.now), []);
        assert_eq!(self.scheduler.push(batch, START_US + self.now), []);
    }

    fn leave(&mut self, message: &Held) {
        let known = self.waiting.remove(&message.id);
        assert_eq!(known.as_ref(), Some(message), "left twice, or changed");
        self.left += 1;
    }

    fn mark_out(&mut self, message: &Held) {
        self.out.insert(message.id, message.clone());
        if message.ordering != 0 {
            self.held_keys
                .insert((message.tenant, message.ordering, message.id));
        }
    }

    fn pop(&mut self, room: usize) -> Popped {
        let now_us = START_US + self.now;
        let popped = self.scheduler.pop(now_us, self.now, room);
        assert!(popped.ready.len() <= room);
        for message in &popped.expired {
            assert!(message.expires_us <= now_us);
            self.leave(message);
            self.mark_out(message);
        }
        for message in &popped.blocked {
            assert_eq!(self.states[&message.campaign], CampaignState::Stopped);
            self.leave(message);
            self.mark_out(message);
        }
        for message in &popped.ready {
            self.check_ready(message);
            self.leave(message);
            self.mark_out(message);
        }
        for message in self.waiting.values() {
            assert!(
                message.expires_us + TICK_US > now_us,
                "{} expired and was not told",
                message.id
            );
        }
        self.check_counts();
        popped
    }

    fn check_ready(&mut self, message: &Held) {
        let now_us = START_US + self.now;
        assert!(message.due_us <= now_us && now_us < message.expires_us);
        let state = self
            .states
            .get(&message.campaign)
            .copied()
            .unwrap_or(CampaignState::Active);
        assert_eq!(state, CampaignState::Active);
        for &(campaign, until) in &self.parked {
            assert!(
                campaign != message.campaign || until <= self.now,
                "parked until {until}"
            );
        }
        if message.ordering != 0 {
            assert!(
                !self.key_is_out(message.tenant, message.ordering),
                "two of a key are out"
            );
            let before = self.waiting.values().find(|other| {
                (other.tenant, other.ordering) == (message.tenant, message.ordering)
                    && other.id < message.id
            });
            assert_eq!(before, None, "a key's order");
        }
        if !self.carriers_moved {
            let before = self.waiting.values().find(|other| {
                let lane = |held: &Held| (held.campaign, held.sender, held.class, held.kind);
                lane(other) == lane(message)
                    && other.id < message.id
                    && other.due_us + TICK_US <= now_us
                    && other.expires_us > now_us
                    && other.ordering == 0
            });
            assert_eq!(before, None, "a lane's order");
        }
        let carrier = self
            .learned
            .get(&message.recipient)
            .copied()
            .unwrap_or(Carrier::Unknown);
        let segments = if message.kind == Kind::Mms {
            1
        } else {
            u64::from(message.segments)
        };
        for quota in all_quotas() {
            let subject = match quota.scope {
                Scope::Number => message.sender,
                Scope::Campaign | Scope::CampaignCarrier => u64::from(message.campaign),
                Scope::BrandCarrierDay | Scope::Tenant => u64::from(message.tenant),
                Scope::Provider => 1,
            };
            let of_carrier =
                [carrier, Carrier::Unknown].contains(&quota.carrier) || carrier == Carrier::Unknown;
            if quota.subject == subject && of_carrier && quota.scope != Scope::BrandCarrierDay {
                let cost = if quota.unit == Unit::Messages {
                    1
                } else {
                    segments
                };
                self.taken
                    .entry(quota.key)
                    .or_default()
                    .push((self.now, cost));
            }
        }
    }

    fn check_counts(&self) {
        let counts = self.scheduler.counts();
        let waits = [
            counts.ready,
            counts.due,
            counts.quota,
            counts.paused,
            counts.ordering,
            counts.stopped,
        ];
        assert_eq!(self.scheduler.len(), self.waiting.len());
        assert_eq!(
            waits.iter().sum::<usize>(),
            self.waiting.len(),
            "{counts:?}"
        );
        for class in Class::ALL {
            let waiting = self
                .waiting
                .values()
                .filter(|held| held.class == class)
                .count();
            assert_eq!(counts.by_class[class as usize - 1], waiting);
        }
    }

    fn check_windows(&self) {
        for quota in all_quotas() {
            let taken = self.taken.get(&quota.key).map_or(&[][..], Vec::as_slice);
            for (first, &(start, _)) in taken.iter().enumerate() {
                let window = taken[first..]
                    .iter()
                    .take_while(|(at, _)| at - start < quota.window_us.cast_signed());
                let sum: u64 = window.map(|(_, cost)| cost).sum();
                assert!(
                    sum <= quota.amount,
                    "quota {} let {sum} of {} through",
                    quota.key,
                    quota.amount
                );
            }
        }
    }

    fn check_ledgers(&mut self) {
        for (quota, _, spent, reserved) in self.scheduler.ledger_changes() {
            let cap = if quota == 9 { 40 } else { 60 };
            assert!(spent + reserved <= cap);
        }
    }

    fn release(&mut self, id: u64) {
        self.held_keys.retain(|&(_, _, of)| of != id);
        self.scheduler.ordering_released(id);
    }

    fn set_states(&mut self) {
        self.scheduler
            .set_registry(registry(&self.states, all_quotas()), self.now);
    }

    fn nth<V: Clone>(map: &BTreeMap<u64, V>, pick: usize) -> Option<V> {
        map.values().nth(pick % map.len().max(1)).cloned()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { count, pick } => self.push(count, pick),
            Step::Pop { room } => {
                self.pop(room);
            }
            Step::Wait { us } => self.now += us,
            Step::Remove { pick } => {
                if let Some(message) = Self::nth(&self.waiting, pick) {
                    let removed = self.scheduler.remove(message.id).expect("it waits");
                    self.leave(&removed);
                    assert!(!self.scheduler.contains(message.id));
                    assert_eq!(self.scheduler.remove(message.id), None);
                }
            }
            Step::OptOut { pick } => {
                if let Some(message) = Self::nth(&self.waiting, pick) {
                    let removed = self
                        .scheduler
                        .remove_recipient(message.tenant, message.recipient);
                    for message in &removed {
                        self.leave(message);
                    }
                    let of = |held: &Held| (held.tenant, held.recipient);
                    assert!(self.waiting.values().all(|other| of(other) != of(&message)));
                    assert!(removed.iter().all(|other| of(other) == of(&message)));
                }
            }
            Step::Release { pick } => {
                if let Some(message) = Self::nth(&self.out, pick) {
                    self.release(message.id);
                }
            }
            Step::Retry { pick } => {
                if let Some(mut message) = Self::nth(&self.out, pick)
                    && message.expires_us > START_US + self.now
                    && message.id < 1 << 40
                {
                    self.out.remove(&message.id);
                    self.scheduler.settled(message.id, Fate::NotTaken);
                    self.held_keys.retain(|&(_, _, of)| of != message.id);
                    message.due_us = START_US + self.now + SECOND_US;
                    message.attempt += 1;
                    self.waiting.insert(message.id, message.clone());
                    assert_eq!(self.scheduler.push(vec![message], START_US + self.now), []);
                }
            }
            _ => self.told(step),
        }
    }

    /// What the rest of the engine says.
    fn told(&mut self, step: Step) {
        match step {
            Step::Settle { pick, fate } => {
                if let Some(message) = Self::nth(&self.out, pick) {
                    let parts = Some(u32::from(message.segments));
                    let fates = [
                        Fate::Taken(None),
                        Fate::Taken(parts),
                        Fate::NotTaken,
                        Fate::Unknown,
                    ];
                    self.scheduler.settled(message.id, fates[usize::from(fate)]);
                }
            }
            Step::Learn { pick, carrier } => {
                let all: BTreeMap<u64, Held> = self
                    .waiting
                    .clone()
                    .into_iter()
                    .chain(self.out.clone())
                    .collect();
                let carrier = Carrier::from_number(carrier);
                if let Some(message) = Self::nth(&all, pick)
                    && carrier != Carrier::Unknown
                {
                    self.carriers_moved = true;
                    self.learned.insert(message.recipient, carrier);
                    self.scheduler.learn(message.recipient, carrier);
                }
            }
            Step::State { campaign, state } => {
                let state = match state {
                    1 => CampaignState::Active,
                    2 => CampaignState::Paused,
                    _ => CampaignState::Stopped,
                };
                self.states.insert(CAMPAIGNS[campaign], state);
                self.set_states();
            }
            Step::Park {
                campaign,
                carrier,
                cap,
                for_us,
            } => {
                let (carrier, kind) = (
                    Carrier::from_number(carrier),
                    if cap { ParkKind::Cap } else { ParkKind::Rate },
                );
                let (campaign, until) = (CAMPAIGNS[campaign], self.now + for_us);
                self.scheduler.park(
                    campaign,
                    carrier,
                    kind,
                    START_US + until,
                    START_US + self.now,
                    self.now,
                );
                if carrier == Carrier::Unknown {
                    self.parked.push((campaign, until));
                }
            }
            Step::Hold { pick } => {
                if let Some(message) = Self::nth(&self.waiting, pick)
                    && message.ordering != 0
                {
                    // A predecessor that was never here.
                    let id = 1 << 40 | message.id;
                    self.held_keys
                        .insert((message.tenant, message.ordering, id));
                    self.scheduler
                        .hold_key(message.tenant, message.campaign, message.ordering, id);
                    self.out.insert(id, Held { id, ..message });
                }
            }
            Step::HandOver { campaign, away_us } => self.hand_over(CAMPAIGNS[campaign], away_us),
            _ => unreachable!("handled before"),
        }
    }

    /// All of the shard leaves, and its keys with it; the same comes back.
    fn hand_over(&mut self, campaign: u32, away_us: i64) {
        let shard = ShardSet::of(&[shard_of(campaign)]).expect("a shard");
        let of = |held: &&Held| held.campaign == campaign;
        let waiting: Vec<Held> = self.waiting.values().filter(of).cloned().collect();
        let left = self.scheduler.disown(shard);
        assert_eq!(left, waiting);
        let out = &self.out;
        let is_other = |id: &u64| out.get(id).is_none_or(|held| held.campaign != campaign);
        self.held_keys.retain(|(_, _, id)| is_other(id));
        assert_eq!(self.scheduler.len() + left.len(), self.waiting.len());
        assert!(self.scheduler.disown(shard).is_empty());
        self.now += away_us;
        self.scheduler.own(shard, self.now);
        assert_eq!(self.scheduler.push(left, START_US + self.now), []);
    }

    /// Everything that can go goes, woken by nothing but the scheduler's own word.
    fn drain(&mut self) {
        self.states
            .retain(|_, state| *state == CampaignState::Stopped);
        self.set_states();
        let (start, mut quiet) = (self.now, 0);
        for _ in 0..20_000 {
            let popped = self.pop(3);
            let out = std::mem::take(&mut self.out);
            let told = !out.is_empty();
            for id in out.into_keys() {
                self.release(id);
                self.scheduler.settled(id, Fate::NotTaken);
            }
            if self.waiting.is_empty() {
                return;
            }
            let idle =
                popped.ready.is_empty() && popped.expired.is_empty() && popped.blocked.is_empty();
            quiet = if idle { quiet + 1 } else { 0 };
            assert!(
                quiet < 500,
                "{:?} never leave: {:?}",
                self.waiting.keys(),
                self.scheduler.counts()
            );
            // What is told after a pop may make something ready: then the next pop is due.
            if idle && !told && !popped.more_ready {
                self.now += popped
                    .wake_after_us
                    .expect("something waits, and nothing would wake it");
                // No limit here asks for a minute; an expiry far ahead is no way to wake a lane.
                assert!(
                    self.now - start < 3_600 * SECOND_US,
                    "{:?}",
                    self.scheduler.counts()
                );
            }
        }
        panic!("{} never leave", self.waiting.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_message_leaves_once_in_order_and_within_limits(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            model.check_counts();
            model.check_ledgers();
        }
        // The ledgers' days are full after some hundred messages, and stay so: room for the rest.
        let next_day = START_US + 10_000_000 * SECOND_US;
        model.scheduler.set_days(&[(9, 6, next_day), (10, 6, next_day)]);
        model.drain();
        model.check_windows();
        model.check_ledgers();
        prop_assert_eq!(model.scheduler.counts(), _core::schedule::Counts::default());
    }

    #[test]
    fn any_input_is_answered(
        ids in prop::collection::vec((any::<u64>(), any::<u32>(), any::<i64>(), any::<i64>(), any::<u16>(), 0_u64..3), 0..40),
        times in prop::collection::vec((any::<i64>(), any::<i64>(), 0_usize..5), 0..20),
    ) {
        let mut scheduler = scheduler(vec![quota(1, Scope::Provider, 1, u64::MAX, u64::MAX), quota(2, Scope::Tenant, 1, 0, 0)]);
        let mut messages: Vec<Held> = Vec::new();
        for (id, campaign, due_us, expires_us, segments, ordering) in ids {
            messages.push(Held { due_us, expires_us, segments, ordering, ..held(id, campaign) });
        }
        let all: BTreeSet<u64> = messages.iter().map(|held| held.id).collect();
        let mut seen: Vec<u64> = scheduler.push(messages, times.first().map_or(0, |time| time.0)).iter().map(|held| held.id).collect();
        for (now_us, mono_us, room) in times {
            let popped = scheduler.pop(now_us, mono_us, room);
            for held in popped.ready.iter().chain(&popped.expired).chain(&popped.blocked) {
                seen.push(held.id);
            }
            scheduler.park(10, Carrier::Att, ParkKind::Cap, now_us, mono_us, mono_us);
            scheduler.set_days(&[(1, 3, now_us)]);
            scheduler.restore_ledger(&[(1, 3, u64::MAX, u64::MAX)]);
        }
        let waiting = all.iter().filter(|&&id| scheduler.contains(id)).count();
        prop_assert_eq!(seen.len() + waiting, all.len());
        prop_assert_eq!(scheduler.len(), waiting);
    }
}

#[test]
fn a_lane_keeps_the_order_of_ids_however_they_came() {
    let mut scheduler = scheduler(vec![]);
    push(&mut scheduler, [5, 9, 7].map(|id| held(id, 10)).to_vec());
    push(&mut scheduler, [8, 2, 11].map(|id| held(id, 10)).to_vec());
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [2, 5, 7, 8, 9, 11]);
}

#[test]
fn urgent_passes_bulk_and_bulk_gets_its_floor() {
    let mut scheduler = scheduler(vec![]);
    let of = |class| {
        move |id| Held {
            class,
            ..held(id, 10)
        }
    };
    push(&mut scheduler, (1..=500).map(of(Class::Bulk)).collect());
    push(
        &mut scheduler,
        (1001..=1500).map(of(Class::Critical)).collect(),
    );
    let first = pop(&mut scheduler, 0, 200).ready;
    assert_eq!(first[0].id, 1001);
    let bulk = first
        .iter()
        .filter(|held| held.class == Class::Bulk)
        .count();
    assert!((19..=21).contains(&bulk), "{bulk} of 200");
    // Alone, bulk gets all.
    let rest = pop(&mut scheduler, 0, 1000).ready;
    assert_eq!(rest.len(), 800);
}

#[test]
fn a_floor_of_zero_is_strict() {
    let config = Config {
        floor_percent: 0,
        ..Config::default()
    };
    let mut scheduler = Scheduler::new(config, registry(&HashMap::new(), vec![]), 0);
    push(
        &mut scheduler,
        (1..=50)
            .map(|id| Held {
                class: Class::Bulk,
                ..held(id, 10)
            })
            .collect(),
    );
    push(&mut scheduler, (101..=150).map(|id| held(id, 10)).collect());
    assert!(
        pop(&mut scheduler, 0, 50)
            .ready
            .iter()
            .all(|held| held.class == Class::Transactional)
    );
}

#[test]
fn tenants_share_by_segments_whatever_their_backlogs_and_lanes() {
    let mut scheduler = scheduler(vec![quota(1, Scope::Provider, 1, 1000, 100)]);
    // Tenant 1: two campaigns, short messages; tenant 2: one campaign, long ones.
    push(
        &mut scheduler,
        (1..=2000)
            .map(|id| held(id, 10 + u32::from(id % 2 == 0)))
            .collect(),
    );
    push(
        &mut scheduler,
        (3001..=3400)
            .map(|id| Held {
                segments: 3,
                ..held(id, 20)
            })
            .collect(),
    );
    let mut segments = [0_u64; 3];
    for step in 0..50 {
        for message in pop(&mut scheduler, step * SECOND_US / 10, 100).ready {
            segments[message.tenant as usize] += u64::from(message.segments);
        }
    }
    let [_, first, second] = segments;
    assert!(
        first + second > 400 && first.abs_diff(second) <= 12,
        "{first} and {second}"
    );
}

#[test]
fn a_dear_urgent_message_is_not_starved_by_cheap_bulk() {
    let mut scheduler = scheduler(vec![quota(1, Scope::Campaign, 10, 20, 3)]);
    push(
        &mut scheduler,
        (1..=200)
            .map(|id| Held {
                class: Class::Bulk,
                ..held(id, 10)
            })
            .collect(),
    );
    // The bucket drips 1.7 a second and bulk takes each drop.
    let mut now = 0;
    while now < 5 * SECOND_US {
        pop(&mut scheduler, now, 100);
        now += SECOND_US / 10;
    }
    push(
        &mut scheduler,
        vec![Held {
            class: Class::Critical,
            segments: 3,
            ..held(1000, 10)
        }],
    );
    let asked = now;
    loop {
        let popped = pop(&mut scheduler, now, 100);
        if ids(&popped.ready).contains(&1000) {
            break;
        }
        assert_eq!(
            ids(&popped.ready),
            [0_u64; 0],
            "bulk took what the urgent message waits for"
        );
        now += popped.wake_after_us.expect("a limit");
    }
    assert!(now - asked <= 2 * SECOND_US);
}

#[test]
fn bulk_gets_its_floor_of_a_shared_limit() {
    let mut scheduler = scheduler(vec![quota(1, Scope::Campaign, 10, 100, 5)]);
    push(
        &mut scheduler,
        (1..=2000)
            .map(|id| Held {
                class: Class::Bulk,
                ..held(id, 10)
            })
            .collect(),
    );
    push(
        &mut scheduler,
        (5001..=7000).map(|id| held(id, 10)).collect(),
    );
    let (mut bulk, mut all) = (0, 0);
    for step in 0..1000 {
        let ready = pop(&mut scheduler, step * SECOND_US / 10, 100).ready;
        all += ready.len();
        bulk += ready
            .iter()
            .filter(|held| held.class == Class::Bulk)
            .count();
    }
    assert!(
        all >= 940 && (all / 12..=all / 9).contains(&bulk),
        "{bulk} of {all}"
    );
}

#[test]
fn what_waits_says_until_when_and_is_woken_then() {
    let mut scheduler = scheduler(vec![quota(1, Scope::Number, 12_025_550_110, 1, 1)]);
    push(
        &mut scheduler,
        vec![
            held(1, 10),
            held(2, 10),
            Held {
                due_us: START_US + 700,
                ..held(3, 11)
            },
        ],
    );
    let popped = pop(&mut scheduler, 0, 10);
    assert_eq!((ids(&popped.ready), popped.more_ready), (vec![], false));
    assert!(
        popped
            .wake_after_us
            .is_some_and(|us| (700..=700 + TICK_US).contains(&us))
    );
    assert_eq!((scheduler.counts().quota, scheduler.counts().due), (2, 1));
    let popped = pop(&mut scheduler, TICK_US * 2, 10);
    assert_eq!(ids(&popped.ready), [3]);
    let wake_us = popped.wake_after_us.expect("a limit");
    assert_eq!(TICK_US * 2 + wake_us, 10 * SECOND_US);
    assert_eq!(
        ids(&pop(&mut scheduler, 10 * SECOND_US - 1, 10).ready),
        [0_u64; 0]
    );
    assert_eq!(ids(&pop(&mut scheduler, 10 * SECOND_US, 10).ready), [1]);
}

#[test]
fn paused_waits_stopped_leaves_resumed_goes() {
    let mut scheduler = scheduler(vec![]);
    let mut states = HashMap::from([(10, CampaignState::Paused), (20, CampaignState::Stopped)]);
    scheduler.set_registry(registry(&states, vec![]), 0);
    push(
        &mut scheduler,
        vec![held(1, 10), held(2, 20), held(3, 21), held(4, 99)],
    );
    let popped = pop(&mut scheduler, 0, 10);
    assert_eq!(
        (ids(&popped.ready), ids(&popped.blocked)),
        (vec![3], vec![2])
    );
    // A campaign this picture does not know may be younger than it.
    assert_eq!(scheduler.counts().paused, 2);
    states.clear();
    scheduler.set_registry(registry(&states, vec![]), 0);
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [1]);
}

#[test]
fn deep_messages_of_a_parked_lane_expire_on_time() {
    let mut scheduler = scheduler(vec![]);
    let expires_us = START_US + 60 * SECOND_US;
    push(&mut scheduler, (1..=1000).map(|id| held(id, 10)).collect());
    push(
        &mut scheduler,
        vec![Held {
            expires_us,
            ..held(2000, 10)
        }],
    );
    scheduler.park(
        10,
        Carrier::Unknown,
        ParkKind::Rate,
        START_US + 600 * SECOND_US,
        START_US,
        0,
    );
    let mut popped = pop(&mut scheduler, 0, 10);
    assert_eq!(popped.ready, []);
    let mut now = 0;
    while popped.expired.is_empty() {
        now += popped.wake_after_us.expect("an expiry");
        popped = pop(&mut scheduler, now, 10);
    }
    assert_eq!(ids(&popped.expired), [2000]);
    assert!((60 * SECOND_US..=60 * SECOND_US + TICK_US).contains(&now));
}

#[test]
fn an_ordering_key_waits_for_its_first_even_if_that_is_scheduled() {
    let mut scheduler = scheduler(vec![]);
    let of = |id, class| Held {
        ordering: 77,
        class,
        ..held(id, 10)
    };
    let later = Held {
        due_us: START_US + 5 * SECOND_US,
        ..of(1, Class::Bulk)
    };
    push(
        &mut scheduler,
        vec![of(2, Class::Critical), of(3, Class::Critical)],
    );
    push(&mut scheduler, vec![later]);
    assert_eq!(pop(&mut scheduler, 0, 10).ready, []);
    assert_eq!(scheduler.counts().ordering, 2);
    let at = 5 * SECOND_US + TICK_US;
    assert_eq!(ids(&pop(&mut scheduler, at, 10).ready), [1]);
    assert_eq!(pop(&mut scheduler, at, 10).ready, []);
    scheduler.ordering_released(1);
    assert_eq!(ids(&pop(&mut scheduler, at, 10).ready), [2]);
    // The second failed and comes back: the third still waits.
    push(&mut scheduler, vec![of(2, Class::Critical)]);
    assert_eq!(ids(&pop(&mut scheduler, at, 10).ready), [2]);
    scheduler.ordering_released(2);
    scheduler.hold_key(1, 10, 77, 2);
    assert_eq!(pop(&mut scheduler, at, 10).ready, []);
    scheduler.ordering_released(2);
    assert_eq!(ids(&pop(&mut scheduler, at, 10).ready), [3]);
}

#[test]
fn cancelling_the_first_of_a_key_lets_the_next_go() {
    let mut scheduler = scheduler(vec![]);
    push(
        &mut scheduler,
        [1, 2]
            .map(|id| Held {
                ordering: 7,
                ..held(id, 10)
            })
            .to_vec(),
    );
    assert!(scheduler.remove(1).is_some());
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [2]);
}

const TOMORROW_US: Micros = START_US + 86_400 * SECOND_US;

#[test]
fn an_unknown_carrier_charges_every_ledger_until_it_is_learned() {
    let quotas = vec![
        day_quota(1, Carrier::TMobile, 3),
        day_quota(2, Carrier::Att, 10),
    ];
    let mut scheduler = scheduler(quotas);
    push(&mut scheduler, (1..=5).map(|id| held(id, 10)).collect());
    assert_eq!(pop(&mut scheduler, 0, 10).ready, [], "no day, no message");
    scheduler.set_days(&[(1, 20, TOMORROW_US), (2, 20, TOMORROW_US)]);
    let ready = pop(&mut scheduler, 0, 10).ready;
    assert_eq!(ids(&ready), [1, 2, 3]);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 0, 3), (2, 20, 0, 3)]);
    // An AT&T number gives the T-Mobile share back, and the next may go.
    scheduler.learn(ready[0].recipient, Carrier::Att);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 0, 2)]);
    scheduler.settled(1, Fate::Taken(Some(2)));
    assert_eq!(scheduler.ledger_changes(), [(2, 20, 2, 2)]);
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [4]);
    // A known AT&T number needs no T-Mobile room.
    scheduler.learn(held(5, 10).recipient, Carrier::Att);
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [] as [u64; 0]);
    scheduler.settled(2, Fate::NotTaken);
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [5]);
}

#[test]
fn fates_move_reservations() {
    let mut scheduler = scheduler(vec![day_quota(1, Carrier::TMobile, 6)]);
    scheduler.set_days(&[(1, 20, TOMORROW_US)]);
    for id in 1..=7 {
        scheduler.learn(held(id, 10).recipient, Carrier::TMobile);
    }
    push(&mut scheduler, (1..=7).map(|id| held(id, 10)).collect());
    assert_eq!(pop(&mut scheduler, 0, 10).ready.len(), 6);
    scheduler.settled(1, Fate::Taken(None));
    scheduler.settled(2, Fate::Unknown);
    scheduler.settled(3, Fate::NotTaken);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 2, 3)]);
    // Evidence for an unknown one; a second word for a settled one changes nothing.
    scheduler.settled(2, Fate::Taken(Some(4)));
    scheduler.settled(1, Fate::NotTaken);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 5, 3)]);
    assert_eq!(scheduler.ledger_changes(), []);
    // Past its cap it stops until its day ends and the next is named.
    let popped = pop(&mut scheduler, 0, 10);
    assert_eq!((popped.ready.len(), scheduler.counts().quota), (0, 1));
    scheduler.set_days(&[(1, 21, TOMORROW_US + 86_400 * SECOND_US)]);
    let tomorrow = 86_400 * SECOND_US;
    assert_eq!(ids(&pop(&mut scheduler, tomorrow, 10).ready), [7]);
    scheduler.settled(4, Fate::Taken(None));
    scheduler.settled(7, Fate::Taken(None));
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 6, 2), (1, 21, 1, 0)]);
}

#[test]
fn what_a_batch_has_reserved_can_be_told_apart() {
    let quotas = vec![
        day_quota(1, Carrier::TMobile, 9),
        day_quota(2, Carrier::Att, 9),
    ];
    let mut scheduler = scheduler(quotas);
    scheduler.set_days(&[(1, 20, TOMORROW_US), (2, 20, TOMORROW_US)]);
    push(&mut scheduler, (1..=3).map(|id| held(id, 10)).collect());
    assert_eq!(pop(&mut scheduler, 0, 10).ready.len(), 3);
    let told = |scheduler: &Scheduler| scheduler.reserved_by([1, 2, 99].into_iter());
    assert_eq!(told(&scheduler), [((1, 20), 2), ((2, 20), 2)].into());
    scheduler.learn(held(1, 10).recipient, Carrier::Att);
    assert_eq!(told(&scheduler), [((1, 20), 1), ((2, 20), 2)].into());
    scheduler.settled(1, Fate::Unknown);
    scheduler.settled(2, Fate::NotTaken);
    assert_eq!(told(&scheduler), [].into(), "spent, and given back");
}

#[test]
fn what_was_taken_stays_spent_while_its_carrier_is_unknown() {
    let quotas = vec![
        day_quota(1, Carrier::TMobile, 3),
        day_quota(2, Carrier::Att, 3),
    ];
    let mut scheduler = scheduler(quotas);
    scheduler.set_days(&[(1, 20, TOMORROW_US), (2, 20, TOMORROW_US)]);
    push(&mut scheduler, vec![held(1, 10)]);
    let ready = pop(&mut scheduler, 0, 10).ready;
    scheduler.settled(1, Fate::Taken(Some(2)));
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 2, 0), (2, 20, 2, 0)]);
    // A second word for it changes nothing; its carrier does.
    for fate in [Fate::NotTaken, Fate::Taken(Some(1)), Fate::Unknown] {
        scheduler.settled(1, fate);
        assert_eq!(scheduler.ledger_changes(), []);
    }
    scheduler.settled(1, Fate::NotTaken);
    scheduler.learn(ready[0].recipient, Carrier::Att);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 0, 0)]);
}

#[test]
fn an_attempt_that_charged_nothing_gives_no_former_charge_back() {
    let quotas = vec![day_quota(1, Carrier::TMobile, 6)];
    let mut scheduler = scheduler(quotas.clone());
    scheduler.set_days(&[(1, 20, TOMORROW_US)]);
    scheduler.learn(held(1, 10).recipient, Carrier::TMobile);
    push(&mut scheduler, vec![held(1, 10)]);
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [1]);
    scheduler.settled(1, Fate::Unknown);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 1, 0)]);
    // Sent again while there is no such limit, and that copy leaves the batch.
    scheduler.set_registry(registry(&HashMap::new(), vec![]), 0);
    let again = Held {
        attempt: 1,
        flags: flags::MAYBE_SENT,
        ..held(1, 10)
    };
    push(&mut scheduler, vec![again]);
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [1]);
    scheduler.settled(1, Fate::NotTaken);
    assert_eq!(scheduler.ledger_changes(), []);
}

#[test]
fn a_restart_counts_reservations_as_spent() {
    let mut scheduler = scheduler(vec![day_quota(1, Carrier::TMobile, 6)]);
    scheduler.restore_ledger(&[(1, 20, 3, 2)]);
    scheduler.set_days(&[(1, 20, TOMORROW_US)]);
    push(&mut scheduler, (1..=2).map(|id| held(id, 10)).collect());
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [1]);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 5, 1)]);
}

#[test]
fn unchanged_limits_go_on_and_changed_ones_start_empty() {
    let quotas = |amount| {
        vec![
            quota(1, Scope::Campaign, 10, amount, 5),
            quota(2, Scope::Campaign, 11, 20, 5),
        ]
    };
    let mut scheduler = scheduler(quotas(20));
    let full = 60 * SECOND_US;
    scheduler.set_registry(registry(&HashMap::new(), quotas(21)), full);
    push(
        &mut scheduler,
        (1..=10)
            .map(|id| held(id, 10 + u32::from(id > 5)))
            .collect(),
    );
    assert_eq!(ids(&pop(&mut scheduler, full, 10).ready), [6, 7, 8, 9, 10]);
}

#[test]
fn what_a_changed_limit_can_never_pass_holds_up_nobody() {
    let mut scheduler = scheduler(vec![quota(1, Scope::Campaign, 10, 20, 5)]);
    let expires_us = START_US + 100 * SECOND_US;
    push(
        &mut scheduler,
        vec![
            Held {
                segments: 9,
                expires_us,
                ..held(1, 10)
            },
            held(2, 10),
        ],
    );
    assert_eq!(ids(&pop(&mut scheduler, 50 * SECOND_US, 10).ready), [2]);
    assert_eq!(scheduler.counts().quota, 1);
    assert_eq!(ids(&pop(&mut scheduler, 101 * SECOND_US, 10).expired), [1]);
}

#[test]
fn the_providers_words_hold_what_they_name() {
    let quotas = vec![day_quota(1, Carrier::TMobile, 100)];
    let mut scheduler = scheduler(quotas);
    scheduler.set_days(&[(1, 20, TOMORROW_US)]);
    let of = |id, campaign, recipient| Held {
        recipient,
        ..held(id, campaign)
    };
    scheduler.learn(13_035_550_101, Carrier::TMobile);
    scheduler.learn(13_035_550_102, Carrier::Att);
    scheduler.park(
        10,
        Carrier::TMobile,
        ParkKind::Cap,
        START_US + 60 * SECOND_US,
        START_US,
        0,
    );
    scheduler.park(
        20,
        Carrier::Att,
        ParkKind::Rate,
        START_US + 30 * SECOND_US,
        START_US,
        0,
    );
    push(
        &mut scheduler,
        vec![
            of(1, 10, 13_035_550_101),
            of(2, 11, 13_035_550_101), // the same brand's cap
            of(3, 10, 13_035_550_102),
            of(4, 20, 13_035_550_102),
            of(5, 20, 13_035_550_101),
            of(6, 20, 13_035_550_103), // may be the parked carrier
        ],
    );
    assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [3, 5]);
    let mut later = ids(&pop(&mut scheduler, 30 * SECOND_US, 10).ready);
    later.sort_unstable(); // two lanes
    assert_eq!(later, [4, 6]);
    assert_eq!(ids(&pop(&mut scheduler, 60 * SECOND_US, 10).ready), [1, 2]);
}

#[test]
fn a_clock_that_goes_back_hides_no_timer() {
    let mut scheduler = scheduler(vec![]);
    pop(&mut scheduler, 3_600 * SECOND_US, 10);
    push(
        &mut scheduler,
        vec![Held {
            due_us: START_US + 60 * SECOND_US,
            ..held(1, 10)
        }],
    );
    assert_eq!(scheduler.pop(START_US, 3_601 * SECOND_US, 10).ready, []);
    assert_eq!(
        ids(&scheduler
            .pop(START_US + 61 * SECOND_US, 3_662 * SECOND_US, 10)
            .ready),
        [1]
    );
}

#[test]
fn after_a_clock_that_went_back_a_little_all_is_told_within_a_tick() {
    for back_us in [1, 20_000, 400_000, 600_000, 1_100_000, 5_000_000] {
        let mut scheduler = scheduler(vec![]);
        let long = Held {
            expires_us: START_US + 3_600 * SECOND_US,
            ..held(1, 10)
        };
        push(&mut scheduler, vec![long]);
        assert_eq!(ids(&pop(&mut scheduler, 0, 10).ready), [1]);
        assert_eq!(
            scheduler.push(
                vec![Held {
                    due_us: START_US + 3_600 * SECOND_US,
                    ..held(2, 10)
                }],
                START_US
            ),
            []
        );
        let now_us = START_US - back_us;
        let soon = |us| now_us + us;
        let messages = vec![
            // Ended before it came; due soon; ends soon, behind a campaign's limit or not.
            Held {
                ordering: 1,
                expires_us: now_us - SECOND_US,
                ..held(3, 10)
            },
            Held {
                due_us: soon(30_000),
                ..held(4, 10)
            },
            Held {
                due_us: soon(100_000),
                expires_us: soon(60_000),
                ..held(5, 10)
            },
        ];
        assert_eq!(scheduler.push(messages, now_us), []);
        let (mut ready, mut expired) = (Vec::new(), Vec::new());
        for after_us in (0..120_000).step_by(1_000) {
            let popped = scheduler.pop(soon(after_us), after_us, 10);
            let at = |id| (id, after_us);
            ready.extend(ids(&popped.ready).into_iter().map(at));
            expired.extend(ids(&popped.expired).into_iter().map(at));
        }
        let told = |told: &[(u64, i64)], id, due_us: i64| {
            let at_us = told.iter().find(|(of, _)| *of == id).map(|(_, us)| *us);
            assert!(
                at_us.is_some_and(|us| (due_us..=due_us + TICK_US + 1_000).contains(&us)),
                "{back_us} back: {id} at {at_us:?}"
            );
        };
        told(&expired, 3, 0);
        told(&ready, 4, 30_000);
        told(&expired, 5, 60_000);
        assert_eq!((ready.len(), expired.len(), scheduler.len()), (1, 2, 1));
    }
}

/// One segment a second to a tenant, three at once.
fn a_segment_a_second() -> Scheduler {
    scheduler(vec![quota(1, Scope::Tenant, 1, 13, 3)])
}

#[test]
fn cheap_messages_of_another_lane_do_not_starve_a_dear_one_of_their_class() {
    let mut scheduler = a_segment_a_second();
    let dear = Held {
        segments: 3,
        ..held(1, 10)
    };
    push(&mut scheduler, vec![dear]);
    let mut gone = Vec::new();
    for second in 1..=8 {
        push(&mut scheduler, vec![held(1 + second, 11)]);
        let at_us = i64::try_from(second).expect("small") * SECOND_US;
        gone.extend(ids(&pop(&mut scheduler, at_us, 10).ready));
    }
    assert_eq!(gone.first(), Some(&1), "{gone:?}");
    assert_eq!(gone.len(), 6);
}

#[test]
fn a_lane_whose_head_changes_is_looked_at_again() {
    let mut scheduler = a_segment_a_second();
    let dear = Held {
        segments: 3,
        ..held(5, 10)
    };
    push(&mut scheduler, vec![dear]);
    assert_eq!(pop(&mut scheduler, SECOND_US, 10).ready, []);
    push(&mut scheduler, vec![held(2, 10)]);
    assert_eq!(ids(&pop(&mut scheduler, SECOND_US, 10).ready), [2]);
}

#[test]
fn what_does_not_fit_comes_back() {
    let config = Config {
        held_messages_max: 2,
        ..Config::default()
    };
    let mut scheduler = Scheduler::new(config, registry(&HashMap::new(), vec![]), 0);
    assert_eq!(scheduler.room(), 2);
    let rest = scheduler.push((1..=3).map(|id| held(id, 10)).collect(), START_US);
    assert_eq!((ids(&rest), scheduler.room()), (vec![3], 0));
    assert_eq!(pop(&mut scheduler, 0, 10).ready.len(), 2);
    assert_eq!(scheduler.room(), 2);
}

#[test]
fn a_flood_of_timers_is_handled_in_portions() {
    let config = Config {
        pop_work_max: 100,
        ..Config::default()
    };
    let mut scheduler = Scheduler::new(config, registry(&HashMap::new(), vec![]), 0);
    let expires_us = START_US + SECOND_US;
    push(
        &mut scheduler,
        (1..=1000)
            .map(|id| Held {
                expires_us,
                ..held(id, 10)
            })
            .collect(),
    );
    let mut told = 0;
    for _ in 0..50 {
        let popped = pop(&mut scheduler, 2 * SECOND_US, 0);
        assert!(popped.expired.len() <= 100);
        told += popped.expired.len();
        assert!(told == 1000 || popped.wake_after_us == Some(0));
    }
    assert_eq!(told, 1000);
}

/// More than two of the pieces that memory is laid out in.
const MANY: u64 = 40_000;

#[test]
fn a_number_with_thousands_waiting_is_taken_out_whole_and_nobody_else() {
    let mut scheduler = scheduler(vec![]);
    let number = 13_035_559_999;
    // Everybody's messages among each other, of two tenants, some to the one number.
    let message = |id: u64| Held {
        recipient: if id.is_multiple_of(3) {
            number
        } else {
            13_035_560_000 + id
        },
        ..held(id, if id.is_multiple_of(2) { 10 } else { 20 })
    };
    push(&mut scheduler, (1..=MANY).map(message).collect());
    // Some have gone before, from its front.
    let gone: BTreeSet<u64> = ids(&pop(&mut scheduler, 0, 1_000).ready)
        .into_iter()
        .collect();
    let removed = ids(&scheduler.remove_recipient(1, number));
    let of_it: Vec<u64> = (1..=MANY)
        .filter(|id| id.is_multiple_of(6) && !gone.contains(id))
        .collect();
    assert_eq!(removed, of_it);
    assert_eq!(scheduler.remove_recipient(1, number), []);
    let left = (1..=MANY).filter(|id| scheduler.contains(*id)).count() as u64;
    assert_eq!(left, MANY - gone.len() as u64 - of_it.len() as u64);
    // Their places are used again.
    push(
        &mut scheduler,
        of_it.iter().map(|&id| message(id)).collect(),
    );
    assert_eq!(ids(&scheduler.remove_recipient(1, number)), of_it);
}

#[test]
fn each_of_many_attempts_gives_its_reservation_back() {
    let config = Config {
        charges_remembered_max: 10,
        ..Config::default()
    };
    let quotas = vec![
        day_quota(1, Carrier::TMobile, MANY),
        day_quota(2, Carrier::Att, MANY),
    ];
    let mut scheduler = Scheduler::new(config, registry(&HashMap::new(), quotas), 0);
    scheduler.set_days(&[(1, 20, TOMORROW_US), (2, 20, TOMORROW_US)]);
    // Half of them to one number, whose carrier nobody knows yet.
    let number = 13_035_559_999;
    let message = |id: u64| Held {
        recipient: if id.is_multiple_of(2) {
            number
        } else {
            13_035_560_000 + id
        },
        ..held(id, 10)
    };
    push(&mut scheduler, (1..=MANY).map(message).collect());
    assert_eq!(pop(&mut scheduler, 0, 2 * 40_000).ready.len() as u64, MANY);
    assert_eq!(
        scheduler.ledger_changes(),
        [(1, 20, 0, MANY), (2, 20, 0, MANY)]
    );
    // A quarter is not taken, from the front, the middle and the back of the number's list.
    for id in (1..=MANY).filter(|id| id.is_multiple_of(4)) {
        scheduler.settled(id, Fate::NotTaken);
    }
    assert_eq!(
        scheduler.ledger_changes(),
        [(1, 20, 0, MANY * 3 / 4), (2, 20, 0, MANY * 3 / 4)]
    );
    // The number is AT&T's: the rest of its messages gives T-Mobile's share back.
    scheduler.learn(number, Carrier::Att);
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 0, MANY / 2)]);
    for id in 1..=MANY {
        scheduler.settled(id, Fate::NotTaken);
    }
    assert_eq!(scheduler.ledger_changes(), [(1, 20, 0, 0), (2, 20, 0, 0)]);
}

/// Where `held(_, campaign)` would wait.
fn bound_of(id: u64, campaign: u32) -> Bound {
    let held = held(id, campaign);
    Bound {
        tenant: held.tenant,
        campaign,
        sender: held.sender,
        recipient: held.recipient,
        class: held.class,
        kind: held.kind,
    }
}

/// When the message with this id leaves, with a pop every 10 ms.
fn leaves_us(scheduler: &mut Scheduler, id: u64) -> i64 {
    for after_us in (0..4_000 * SECOND_US).step_by(10_000) {
        if ids(&pop(scheduler, after_us, 1000).ready).contains(&id) {
            return after_us;
        }
    }
    panic!("it never leaves")
}

#[test]
fn what_stands_in_line_says_how_long_at_least() {
    // Ten in ten seconds by campaign; a hundred by tenant.
    let quotas = vec![
        quota(1, Scope::Campaign, 10, 10, 5),
        quota(2, Scope::Tenant, 1, 100, 5),
    ];
    let mut scheduler = scheduler(quotas);
    assert_eq!(scheduler.wait_at_least_us(&bound_of(1, 10)), 0);
    push(&mut scheduler, (1..=95).map(|id| held(id, 10)).collect());
    // Ninety behind a burst of five, at five in ten seconds.
    assert_eq!(
        scheduler.wait_at_least_us(&bound_of(96, 10)),
        180 * SECOND_US
    );
    // The tenant's limit lets another campaign's through: its line is empty.
    assert_eq!(scheduler.wait_at_least_us(&bound_of(96, 11)), 0);
    let bulk = Bound {
        class: Class::Bulk,
        ..bound_of(96, 10)
    };
    assert_eq!(scheduler.wait_at_least_us(&bulk), 0, "a line of its own");
}

#[test]
fn a_day_passes_its_cap_and_what_may_come_back_says_nothing() {
    let mut scheduler = scheduler(vec![day_quota(1, Carrier::TMobile, 10)]);
    push(&mut scheduler, (1..=35).map(|id| held(id, 10)).collect());
    // To carriers that are not known: the reservation may be given back.
    assert_eq!(scheduler.wait_at_least_us(&bound_of(36, 10)), 0);
    let mut scheduler = self::scheduler(vec![day_quota(1, Carrier::TMobile, 10)]);
    for recipient in 0..100 {
        scheduler.learn(13_035_550_100 + recipient, Carrier::TMobile);
    }
    push(&mut scheduler, (1..=35).map(|id| held(id, 10)).collect());
    // Three days' worth stands before it, and around the first midnight two days' worth may go.
    let days_us = 2 * 23 * 3600 * SECOND_US;
    assert_eq!(scheduler.wait_at_least_us(&bound_of(36, 10)), days_us);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_message_leaves_before_what_was_said(
        waiting in 0_u64..120, amount in 1_u64..40, burst in 1_u64..40, number_amount in 1_u64..40,
    ) {
        let quotas = vec![
            quota(1, Scope::Campaign, 10, amount, burst.min(amount)),
            quota(2, Scope::Number, held(1, 10).sender, number_amount, 1),
        ];
        let mut scheduler = scheduler(quotas);
        push(&mut scheduler, (1..=waiting).map(|id| held(id, 10)).collect());
        let least_us = scheduler.wait_at_least_us(&bound_of(waiting + 1, 10));
        push(&mut scheduler, vec![held(waiting + 1, 10)]);
        let left_us = leaves_us(&mut scheduler, waiting + 1);
        prop_assert!(left_us >= least_us, "left after {left_us} us, at least {least_us} said");
        // What may be missing: the buckets start empty, each may keep a token of the other's waiting, and where one at a
        // time passes, each waits for the next pop.
        let tokens_us = [(amount, burst.min(amount)), (number_amount, 1)].map(|(amount, burst)| {
            let (burst, rate) = (burst.min(amount - 1).max(1), amount.saturating_sub(burst).max(1));
            i64::try_from((burst + 1) * 10_000_000 / rate).unwrap_or(0)
        });
        let pops_us = 10_000 * (i64::try_from(waiting).unwrap_or(0) + 2);
        let most_us = least_us + tokens_us[0] + tokens_us[1] + pops_us;
        prop_assert!(left_us <= most_us, "left after {left_us} us, {least_us} said");
    }
}
