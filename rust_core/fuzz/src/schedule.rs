//! Any history of the scheduler against a naive reading of its rules: lists, searched in full, and a log of all starts.
//!
//! The bytes choose limits, messages, clocks and what the rest of the engine says. After each step: every message that
//! came in is in exactly one place, counts add up, order and gates were kept. At the end all that may go goes, woken by
//! the scheduler's own word alone, and every rate is held to its bound in every window by brute force over the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use _core::message::{Carrier, Class, Held, Kind, Micros, flags};
use _core::registry::{Campaign, CampaignState, OnUnknown, Quota, Registry, Scope, Tenant, Unit};
use _core::schedule::{Config, Counts, ParkKind, Popped, Scheduler};
use _core::settle::Fate;
use _core::shards::{ShardSet, shard_of};

use super::choices::Choices;

const SECOND_US: i64 = 1_000_000;
const START_US: Micros = 1_750_000_000 * SECOND_US;
/// A timer's tick: so late may an end be told.
const TICK_US: i64 = 1 << 13;
const CAMPAIGNS: [u32; 4] = [10, 11, 20, 21];
const PROVIDER: u32 = 1;
const STEPS_MAX: usize = 250;
const RECIPIENTS: usize = 12;
const FAR_US: i64 = 1_000_000 * SECOND_US;

/// What one limit let through since it began, empty.
struct Meter {
    quota: Quota,
    since_us: i64,
    /// Starts before it, of all messages.
    before: usize,
    /// (monotonic time, cost).
    starts: Vec<(i64, u64)>,
}

/// A start, for the days' ledgers.
struct Start {
    id: u64,
    day: i32,
    recipient: u64,
    brand: u32,
    /// Known at the start or since: the first answer releases the others.
    carrier: Carrier,
    segments: u64,
    /// Proved not taken.
    released: bool,
    settled: bool,
}

/// What an attempt owes a ledger.
struct Part {
    row: (u32, i32),
    carrier: Carrier,
    cost: i64,
    /// The provider's count replaces it.
    by_parts: bool,
}

/// The last attempt of a message, and what it owes.
struct Owed {
    recipient: u64,
    carrier_unknown: bool,
    spent: bool,
    taken: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    spent: i64,
    reserved: i64,
}

struct World {
    scheduler: Scheduler,
    /// Wall clock, which may be moved.
    now_us: Micros,
    latest_us: Micros,
    /// Monotonic clock.
    mono_us: i64,
    day: i32,
    next_id: u64,
    room_max: usize,
    waiting: BTreeMap<u64, Held>,
    out: BTreeMap<u64, Held>,
    /// Who holds a key: (tenant, ordering, id).
    holds: BTreeSet<(u32, u64, u64)>,
    states: HashMap<u32, CampaignState>,
    /// Campaigns that this picture does not know.
    missing: BTreeSet<u32>,
    suspended: BTreeSet<u32>,
    quotas: Vec<Quota>,
    removed: Vec<Quota>,
    meters: HashMap<u32, Meter>,
    starts: Vec<Start>,
    /// The highest cap that a day's ledger had on the day.
    caps: HashMap<(u32, i32), u64>,
    owed: HashMap<u64, Owed>,
    rows: HashMap<(u32, i32), Sums>,
    /// The rows as they were told.
    told: HashMap<(u32, i32), Sums>,
    learned: HashMap<u64, Carrier>,
    carriers_moved: bool,
    parked: Vec<(u32, i64)>,
    ever_parked: bool,
    strict: bool,
    came: usize,
    left: usize,
}

fn terms(quota: &Quota) -> (Scope, u64, Carrier, Unit, u64, u64, u64) {
    (
        quota.scope,
        quota.subject,
        quota.carrier,
        quota.unit,
        quota.amount,
        quota.burst,
        quota.window_us,
    )
}

fn any_quota(key: u32, choices: &mut Choices<'_>) -> Quota {
    let scope = choices.of(&[
        Scope::Number,
        Scope::Campaign,
        Scope::CampaignCarrier,
        Scope::BrandCarrierDay,
        Scope::Provider,
        Scope::Tenant,
        Scope::BrandCarrierDay,
    ]);
    let campaign = choices.of(&CAMPAIGNS);
    let carrier = choices.of(&[Carrier::Att, Carrier::TMobile, Carrier::Other]);
    let subject = match scope {
        Scope::Number => 12_025_550_100 + u64::from(campaign),
        Scope::Campaign | Scope::CampaignCarrier => u64::from(campaign),
        Scope::BrandCarrierDay | Scope::Tenant => u64::from(campaign / 10),
        Scope::Provider => u64::from(PROVIDER),
    };
    let with_carrier = matches!(scope, Scope::CampaignCarrier | Scope::BrandCarrierDay);
    let amount = u64::from(choices.byte() % 40) + 4;
    Quota {
        key,
        scope,
        subject,
        carrier: if with_carrier {
            carrier
        } else {
            Carrier::Unknown
        },
        unit: choices.of(&[Unit::Segments, Unit::Messages]),
        amount: if scope == Scope::BrandCarrierDay {
            amount * 4
        } else {
            amount
        },
        window_us: choices.of(&[1_000_000, 10_000_000, 7_777_777]),
        // Some let the longest messages never pass.
        burst: 1 + u64::from(choices.byte()) % (amount - 1),
        reserved_percent: choices.of(&[0, 0, 25]),
        reserved_class: Class::Critical,
    }
}

impl World {
    fn new(choices: &mut Choices<'_>) -> Self {
        let quotas: Vec<Quota> = (1..=u32::from(choices.byte() % 8))
            .map(|key| any_quota(key, choices))
            .collect();
        let room_max = choices.of(&[1_000, 1_000, 20]);
        let floor_percent = choices.of(&[10, 0, 50]);
        let config = Config {
            held_messages_max: room_max,
            floor_percent,
            carriers_max: 1_000,
            charges_remembered_max: 1_000,
            lanes_idle_max: choices.of(&[16_384, 0, 2]),
            pop_work_max: choices.of(&[4_096, 4_096, 1]),
            provider: PROVIDER,
            leased_budgets: false,
            seed: u64::from(choices.byte()),
        };
        let mut world = Self {
            scheduler: Scheduler::new(config, Arc::new(Registry::default()), 0),
            now_us: START_US,
            latest_us: START_US,
            mono_us: 0,
            day: 5,
            next_id: 1,
            room_max,
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
            holds: BTreeSet::new(),
            states: HashMap::new(),
            missing: BTreeSet::new(),
            suspended: BTreeSet::new(),
            quotas,
            removed: Vec::new(),
            meters: HashMap::new(),
            starts: Vec::new(),
            caps: HashMap::new(),
            owed: HashMap::new(),
            rows: HashMap::new(),
            told: HashMap::new(),
            learned: HashMap::new(),
            carriers_moved: false,
            parked: Vec::new(),
            ever_parked: false,
            strict: floor_percent == 0,
            came: 0,
            left: 0,
        };
        world.show_registry();
        world
    }

    fn state(&self, campaign: u32) -> CampaignState {
        let state = self.states.get(&campaign).copied();
        state.unwrap_or(CampaignState::Active)
    }

    /// Hands the scheduler the picture as it is now; limits that are new or others begin empty.
    fn show_registry(&mut self) {
        let tenants = [1, 2].map(|key| Tenant {
            key,
            active: !self.suspended.contains(&key),
        });
        let known = CAMPAIGNS
            .iter()
            .filter(|campaign| !self.missing.contains(campaign));
        let campaigns = known
            .map(|&key| Campaign {
                key,
                tenant: key / 10,
                brand: key / 10,
                id: format!("c{key}"),
                state: self.state(key),
                on_unknown: OnUnknown::ByClass,
                messaging_profile: String::new(),
                numbers: vec![12_025_550_100 + u64::from(key)],
            })
            .collect();
        let registry = Registry::new(1, tenants.to_vec(), campaigns, self.quotas.clone());
        self.scheduler
            .set_registry(Arc::new(registry), self.mono_us);
        let mut former = std::mem::take(&mut self.meters);
        for quota in &self.quotas {
            let meter = former
                .remove(&quota.key)
                .filter(|meter| terms(&meter.quota) == terms(quota))
                .unwrap_or_else(|| Meter {
                    quota: quota.clone(),
                    since_us: self.mono_us,
                    before: self.starts.len(),
                    starts: Vec::new(),
                });
            self.meters.insert(quota.key, meter);
        }
        self.show_days();
    }

    fn show_days(&mut self) {
        let day_end_us = START_US + FAR_US * i64::from(self.day);
        let ledgers = self
            .quotas
            .iter()
            .filter(|quota| quota.scope == Scope::BrandCarrierDay);
        let days: Vec<_> = ledgers
            .clone()
            .map(|quota| (quota.key, self.day, day_end_us))
            .collect();
        for quota in ledgers {
            let cap = self.caps.entry((quota.key, self.day)).or_default();
            *cap = quota.amount.max(*cap);
        }
        self.scheduler.set_days(&days);
    }

    fn carrier_of(&self, recipient: u64) -> Carrier {
        let carrier = self.learned.get(&recipient).copied();
        carrier.unwrap_or(Carrier::Unknown)
    }

    fn message(&mut self, choices: &mut Choices<'_>) -> Held {
        let campaign = choices.of(&CAMPAIGNS);
        let (dice, more) = (choices.byte(), choices.byte());
        let id = self.next_id;
        self.next_id += 1;
        Held {
            id,
            tenant: campaign / 10,
            campaign,
            sender: 12_025_550_100 + u64::from(campaign),
            recipient: 13_035_550_100 + u64::from(more) % RECIPIENTS as u64,
            class: Class::ALL[usize::from(dice) % 3],
            kind: if dice % 16 == 15 {
                Kind::Mms
            } else {
                Kind::Sms
            },
            encoding: 1,
            segments: u16::from(dice / 3 % 3) + 1,
            seq: 1,
            attempt: 0,
            generation: 1,
            counted: 0,
            flags: if more % 8 == 7 { flags::MAYBE_SENT } else { 0 },
            due_us: match more % 5 {
                0 => self.now_us + 2 * SECOND_US,
                1 => self.now_us + i64::from(dice) * 1_000,
                _ => self.now_us,
            },
            expires_us: if dice % 7 == 0 {
                self.now_us + 3 * SECOND_US
            } else {
                START_US + 100 * FAR_US
            },
            ordering: if more % 3 == 0 {
                u64::from(more / 64) + 1
            } else {
                0
            },
            recipe: 0,
            body: Arc::from([1_u8, 2, 3].as_slice()),
        }
    }

    fn push(&mut self, choices: &mut Choices<'_>) {
        let count = choices.of(&[1, 2, 3, 4, 5, 6, 7, 30]);
        let mut batch: Vec<Held> = (0..count).map(|_| self.message(choices)).collect();
        if choices.one_in(4) {
            batch.reverse();
        }
        let before = self.waiting.len();
        let rest = self.scheduler.push(batch.clone(), self.now_us);
        let room = self.room_max - before;
        assert_eq!(
            rest.len(),
            batch.len().saturating_sub(room),
            "what does not fit comes back"
        );
        for held in batch {
            if rest.contains(&held) {
                continue;
            }
            self.came += 1;
            self.waiting.insert(held.id, held);
        }
        // A second time changes nothing.
        let again: Vec<Held> = self.waiting.values().cloned().collect();
        assert_eq!(self.scheduler.push(again, self.now_us), []);
    }

    fn leave(&mut self, message: &Held) {
        let known = self.waiting.remove(&message.id);
        assert_eq!(known.as_ref(), Some(message), "left twice, or changed");
        assert!(!self.scheduler.contains(message.id));
        self.left += 1;
    }

    fn hold(&mut self, message: &Held) {
        if message.ordering != 0 {
            self.holds
                .insert((message.tenant, message.ordering, message.id));
        }
    }

    fn is_held(&self, message: &Held) -> bool {
        let key = (message.tenant, message.ordering);
        self.holds
            .iter()
            .any(|&(of, ordering, _)| (of, ordering) == key)
    }

    fn pop(&mut self, room: usize) -> Popped {
        let popped = self.scheduler.pop(self.now_us, self.mono_us, room);
        assert!(popped.ready.len() <= room);
        for message in &popped.expired {
            assert!(message.expires_us <= self.now_us, "ended early");
            self.leave(message);
            self.hold(message);
            self.out.insert(message.id, message.clone());
        }
        for message in &popped.blocked {
            assert!(!self.missing.contains(&message.campaign));
            assert_eq!(self.state(message.campaign), CampaignState::Stopped);
            self.leave(message);
            self.hold(message);
            self.out.insert(message.id, message.clone());
        }
        for message in &popped.ready {
            self.check_start(message);
            self.leave(message);
            self.hold(message);
            self.note_start(message);
            self.out.insert(message.id, message.clone());
        }
        self.check_timers(popped.wake_after_us);
        self.check_turns(&popped.ready);
        popped
    }

    /// What ended or came due is told, or the next pop is due at once; and it is due before the next of them.
    fn check_timers(&self, wake_after_us: Option<i64>) {
        if wake_after_us == Some(0) {
            return;
        }
        let mut ends = self.waiting.values().map(|message| message.expires_us);
        let late = ends.find(|ends_us| ends_us + TICK_US <= self.now_us);
        assert!(late.is_none(), "it ended and nobody is told: {late:?}");
        let early = |message: &&Held| message.due_us + TICK_US > self.now_us;
        let early = self.waiting.values().filter(early).count();
        assert!(
            self.scheduler.counts().due <= early,
            "it is due and waits on"
        );
        let next = self.waiting.values().map(|message| message.expires_us);
        if let Some(next_us) = next.min() {
            let wake_us = wake_after_us.expect("it ends, and nothing would wake it");
            assert!(self.now_us + wake_us <= next_us + TICK_US, "asleep");
        }
    }

    /// Where nothing but turns decides: the urgent first, and tenants side by side.
    fn check_turns(&self, ready: &[Held]) {
        if !self.quotas.is_empty() || self.ever_parked {
            return;
        }
        if self.strict {
            assert!(
                ready.is_sorted_by_key(|message| message.class),
                "the urgent first"
            );
        }
        for class in Class::ALL {
            let served = [1, 2].map(|tenant| {
                let of = |held: &&Held| (held.tenant, held.class) == (tenant, class);
                let segments = |held: &Held| i64::from(held.segments);
                ready.iter().filter(of).map(segments).sum::<i64>()
            });
            let both_wait = [1, 2].iter().all(|&tenant| {
                self.waiting.values().any(|held| {
                    (held.tenant, held.class, held.ordering) == (tenant, class, 0)
                        && held.due_us + TICK_US <= self.now_us
                        && held.expires_us > self.now_us
                        && self.state(held.campaign) == CampaignState::Active
                        && !self.missing.contains(&held.campaign)
                        && !self.suspended.contains(&tenant)
                })
            });
            // A turn is eight segments, and a message of three may leave two of them over.
            assert!(
                !both_wait || served[0].abs_diff(served[1]) <= 8 + 2 * 10,
                "{class:?}: {served:?} segments of two tenants who both wait"
            );
        }
    }

    fn check_start(&self, message: &Held) {
        // The clock may have been set back since it came due.
        assert!(message.due_us <= self.latest_us, "before its time");
        assert!(self.now_us < message.expires_us, "after its end");
        assert!(!self.missing.contains(&message.campaign));
        assert!(!self.suspended.contains(&message.tenant));
        assert_eq!(self.state(message.campaign), CampaignState::Active);
        for &(campaign, until_us) in &self.parked {
            assert!(
                campaign != message.campaign || until_us <= self.mono_us,
                "parked"
            );
        }
        let others = || self.waiting.values().filter(|other| other.id < message.id);
        if message.ordering != 0 {
            assert!(!self.is_held(message), "two of a key are out");
            let key = |held: &Held| (held.tenant, held.ordering);
            assert!(
                others().all(|other| key(other) != key(message)),
                "a key's order"
            );
        }
        if !self.carriers_moved && self.latest_us == self.now_us {
            let lane = |held: &Held| (held.campaign, held.sender, held.class, held.kind);
            let before = others().find(|other| {
                lane(other) == lane(message)
                    && other.ordering == 0
                    && other.due_us + TICK_US <= self.now_us
                    && other.expires_us > self.now_us
                    && !self.never_passes(other)
            });
            // Timers beyond one pop's work are left to the next.
            assert!(
                before.is_none() || self.scheduler.counts().due > 0,
                "a lane's order: {before:?}"
            );
        }
    }

    /// A limit lets it pass only if its terms change: it waits beside its lane.
    fn never_passes(&self, message: &Held) -> bool {
        message.kind == Kind::Sms
            && self.quotas.iter().any(|quota| {
                quota.unit == Unit::Segments
                    && quota.scope != Scope::BrandCarrierDay
                    && u64::from(message.segments) > quota.burst
                    && Self::is_limited(message, quota)
            })
    }

    /// This limit counts it, whichever the carrier is.
    fn is_limited(message: &Held, quota: &Quota) -> bool {
        let subject = match quota.scope {
            Scope::Number => message.sender,
            Scope::Campaign | Scope::CampaignCarrier => u64::from(message.campaign),
            Scope::BrandCarrierDay | Scope::Tenant => u64::from(message.tenant),
            Scope::Provider => u64::from(PROVIDER),
        };
        quota.subject == subject
    }

    fn note_start(&mut self, message: &Held) {
        let carrier = self.carrier_of(message.recipient);
        let segments = if message.kind == Kind::Mms {
            1
        } else {
            u64::from(message.segments)
        };
        let mut parts = Vec::new();
        for meter in self.meters.values_mut() {
            let quota = &meter.quota;
            let of_carrier =
                [carrier, Carrier::Unknown].contains(&quota.carrier) || carrier == Carrier::Unknown;
            if Self::is_limited(message, quota) && of_carrier {
                let cost = if quota.unit == Unit::Messages {
                    1
                } else {
                    segments
                };
                meter.starts.push((self.mono_us, cost));
                if quota.scope == Scope::BrandCarrierDay {
                    parts.push(Part {
                        row: (quota.key, self.day),
                        carrier: quota.carrier,
                        cost: i64::try_from(cost).expect("small"),
                        by_parts: quota.unit == Unit::Segments && message.kind == Kind::Sms,
                    });
                }
            }
        }
        for part in &parts {
            self.rows.entry(part.row).or_default().reserved += part.cost;
        }
        let owed = Owed {
            recipient: message.recipient,
            carrier_unknown: carrier == Carrier::Unknown,
            spent: false,
            taken: false,
            parts,
        };
        self.owed.insert(message.id, owed);
        self.starts.push(Start {
            id: message.id,
            day: self.day,
            recipient: message.recipient,
            brand: message.tenant,
            carrier,
            segments,
            released: false,
            settled: false,
        });
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
        assert_eq!(self.came, self.left + self.waiting.len());
        assert_eq!(self.scheduler.room(), self.room_max - self.waiting.len());
        assert_eq!(
            waits.iter().sum::<usize>(),
            self.waiting.len(),
            "{counts:?}"
        );
        for class in Class::ALL {
            let of_class = self.waiting.values().filter(|held| held.class == class);
            assert_eq!(counts.by_class[class as usize - 1], of_class.count());
        }
    }

    /// Every rate in every window, from every start to every later one, and from when it began with nothing.
    fn check_rates(&self) {
        for meter in self.meters.values() {
            let quota = &meter.quota;
            if quota.scope == Scope::BrandCarrierDay {
                continue;
            }
            let burst = i128::from(quota.burst.clamp(1, quota.amount.saturating_sub(1).max(1)));
            let rate = i128::from(quota.amount) - burst;
            let window = i128::from(quota.window_us);
            let mut since_begin = 0;
            for (first, &(start_us, _)) in meter.starts.iter().enumerate() {
                since_begin += i128::from(meter.starts[first].1);
                let age = i128::from(start_us - meter.since_us);
                assert!(
                    since_begin * window <= rate.max(1) * age,
                    "{quota:?} began with something"
                );
                let (mut sum, mut in_window) = (0, 0);
                for &(at_us, cost) in &meter.starts[first..] {
                    let apart = i128::from(at_us - start_us);
                    sum += i128::from(cost);
                    assert!(
                        (sum - burst) * window <= rate.max(1) * apart,
                        "{quota:?} let {sum} in {apart}"
                    );
                    if apart < window {
                        in_window += cost;
                    }
                }
                assert!(
                    in_window <= quota.amount,
                    "{quota:?} let {in_window} in a window"
                );
            }
        }
    }

    /// What started and was not proved not taken, by day, carrier and brand.
    fn check_days(&mut self) {
        for (key, day, spent, reserved) in self.scheduler.ledger_changes() {
            let cap = self.caps.get(&(key, day)).copied().unwrap_or(0);
            assert!(
                spent + reserved <= cap,
                "ledger {key}: {spent} and {reserved} of {cap}"
            );
            let told = Sums {
                spent: i64::try_from(spent).expect("small"),
                reserved: i64::try_from(reserved).expect("small"),
            };
            self.told.insert((key, day), told);
        }
        // Rows before yesterday may be given up.
        for (row, sums) in self.rows.iter().filter(|(row, _)| row.1 >= self.day - 1) {
            let told = self.told.get(row).copied().unwrap_or_default();
            assert_eq!(told, *sums, "ledger {row:?}");
        }
        for meter in self.meters.values() {
            let quota = &meter.quota;
            if quota.scope != Scope::BrandCarrierDay {
                continue;
            }
            // A ledger that came later did not see what went before.
            let counted = self.starts[meter.before..].iter().filter(|start| {
                [quota.carrier, Carrier::Unknown].contains(&start.carrier)
                    && u64::from(start.brand) == quota.subject
                    && start.day == self.day
                    && !start.released
            });
            let cost = |start: &Start| {
                if quota.unit == Unit::Messages {
                    1
                } else {
                    start.segments
                }
            };
            let sum: u64 = counted.map(cost).sum();
            assert!(sum <= quota.amount, "{quota:?}: {sum} started");
        }
    }

    fn release(&mut self, id: u64) {
        self.holds.retain(|&(_, _, of)| of != id);
        self.scheduler.ordering_released(id);
    }

    fn settle(&mut self, id: u64, fate: Fate) {
        self.scheduler.settled(id, fate);
        self.settle_owed(id, fate);
        if let Some(start) = self.starts.iter_mut().rev().find(|start| start.id == id)
            && !start.settled
        {
            start.settled = fate != Fate::Unknown;
            start.released = fate == Fate::NotTaken;
            if let Fate::Taken(Some(parts)) = fate {
                start.segments = u64::from(parts);
            }
        }
    }

    /// Taken or unknown: spent; not taken: given back, unless it was taken for sure.
    fn settle_owed(&mut self, id: u64, fate: Fate) {
        let Some(owed) = self.owed.get_mut(&id).filter(|owed| !owed.taken) else {
            return;
        };
        for part in &mut owed.parts {
            let sums = self.rows.entry(part.row).or_default();
            if owed.spent {
                sums.spent -= part.cost;
            } else {
                sums.reserved -= part.cost;
            }
            match fate {
                Fate::Taken(Some(parts)) if part.by_parts => {
                    part.cost = i64::from(parts);
                }
                Fate::Taken(_) | Fate::Unknown => {}
                Fate::NotTaken => part.cost = 0,
            }
            sums.spent += part.cost;
        }
        owed.spent = true;
        owed.taken = fate != Fate::Unknown;
    }

    /// The first answer releases the other carriers.
    fn learn_owed(&mut self, recipient: u64, carrier: Carrier) {
        let of = |owed: &&mut Owed| owed.recipient == recipient && owed.carrier_unknown;
        for owed in self.owed.values_mut().filter(of) {
            owed.carrier_unknown = false;
            for part in owed.parts.extract_if(.., |part| part.carrier != carrier) {
                let sums = self.rows.entry(part.row).or_default();
                if owed.spent {
                    sums.spent -= part.cost;
                } else {
                    sums.reserved -= part.cost;
                }
            }
        }
    }

    fn nth(of: &BTreeMap<u64, Held>, choices: &mut Choices<'_>) -> Option<Held> {
        let place = choices.below(of.len().max(1));
        of.values().nth(place).cloned()
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(16) {
            0..=2 => self.push(choices),
            3..=5 => {
                let room = choices.below(16);
                self.pop(if room < 12 { room } else { 4 * room });
            }
            6 | 7 => {
                let us = i64::from(choices.wide()) * choices.of(&[1, 50, 1_000]);
                self.mono_us += us;
                self.now_us += us;
            }
            8 => {
                if let Some(message) = Self::nth(&self.out, choices) {
                    self.release(message.id);
                }
            }
            9 => {
                if let Some(message) = Self::nth(&self.out, choices) {
                    // The provider may count less; what it counts more may pass a cap.
                    let less = choices.below(message.segments.into());
                    let own = u32::from(message.segments) - u32::try_from(less).expect("small");
                    let own = (message.kind == Kind::Sms).then_some(own);
                    let fates = [
                        Fate::Taken(None),
                        Fate::Taken(own),
                        Fate::NotTaken,
                        Fate::Unknown,
                    ];
                    let first = choices.of(&fates);
                    self.settle(message.id, first);
                    if choices.one_in(3) {
                        let second = choices.of(&fates);
                        self.settle(message.id, second);
                    }
                }
            }
            10 => self.come_back(choices),
            11 => self.take_out(choices),
            12 => self.change_registry(choices),
            13 => {
                let recipient = 13_035_550_100 + choices.below(RECIPIENTS) as u64;
                let carrier = choices.of(&[Carrier::Att, Carrier::TMobile, Carrier::Other]);
                self.carriers_moved = true;
                self.learned.insert(recipient, carrier);
                self.learn_owed(recipient, carrier);
                let of = |start: &&mut Start| start.recipient == recipient;
                for start in self.starts.iter_mut().filter(of) {
                    if start.carrier == Carrier::Unknown {
                        start.carrier = carrier;
                    }
                }
                self.scheduler.learn(recipient, carrier);
            }
            14 => self.park(choices),
            _ => match choices.below(4) {
                // The wall clock is set, either way.
                0 => self.now_us += (i64::from(choices.wide()) - 32_768) * 200,
                1 => {
                    self.day += 1;
                    self.show_days();
                }
                2 => self.hand_over(choices),
                _ => {
                    if let Some(message) = Self::nth(&self.waiting, choices)
                        && message.ordering != 0
                    {
                        // One before it that was never here.
                        let id = 1 << 40 | message.id;
                        self.holds.insert((message.tenant, message.ordering, id));
                        self.scheduler.hold_key(
                            message.tenant,
                            message.campaign,
                            message.ordering,
                            id,
                        );
                        self.out.insert(id, Held { id, ..message });
                    }
                }
            },
        }
        self.latest_us = self.latest_us.max(self.now_us);
    }

    /// A shard goes to another node with all that waits and its keys, and comes back.
    fn hand_over(&mut self, choices: &mut Choices<'_>) {
        let campaign = choices.of(&CAMPAIGNS);
        let shard = ShardSet::of(&[shard_of(campaign)]).expect("a shard");
        let of = |held: &&Held| held.campaign == campaign;
        let waiting: Vec<Held> = self.waiting.values().filter(of).cloned().collect();
        let left = self.scheduler.disown(shard);
        assert_eq!(left, waiting, "another's, or not all");
        let out = &self.out;
        let is_other = |id: &u64| out.get(id).is_none_or(|held| held.campaign != campaign);
        self.holds.retain(|(_, _, id)| is_other(id));
        self.scheduler.own(shard, self.mono_us);
        assert_eq!(self.scheduler.push(left, self.now_us), []);
    }

    /// Not taken: again in line, first of its key.
    fn come_back(&mut self, choices: &mut Choices<'_>) {
        let Some(mut message) = Self::nth(&self.out, choices) else {
            return;
        };
        let full = self.waiting.len() >= self.room_max;
        if message.expires_us <= self.now_us || message.id >= 1 << 40 || full {
            return;
        }
        self.out.remove(&message.id);
        self.settle(message.id, Fate::NotTaken);
        self.holds.retain(|&(_, _, of)| of != message.id);
        message.due_us = self.now_us + i64::from(choices.byte()) * 10_000;
        message.attempt += 1;
        self.came += 1;
        self.waiting.insert(message.id, message.clone());
        assert_eq!(self.scheduler.push(vec![message], self.now_us), []);
    }

    fn take_out(&mut self, choices: &mut Choices<'_>) {
        let Some(message) = Self::nth(&self.waiting, choices) else {
            return;
        };
        let taken = if choices.one_in(2) {
            vec![self.scheduler.remove(message.id).expect("it waits")]
        } else {
            let (tenant, recipient) = (message.tenant, message.recipient);
            let of = |held: &Held| (held.tenant, held.recipient) == (tenant, recipient);
            let taken = self.scheduler.remove_recipient(tenant, recipient);
            assert_eq!(
                taken.len(),
                self.waiting.values().filter(|held| of(held)).count()
            );
            taken
        };
        assert_eq!(self.scheduler.remove(message.id), None);
        for message in &taken {
            self.leave(message);
            if message.flags & flags::MAYBE_SENT != 0 {
                // A copy may be on its way: it holds its key.
                self.hold(message);
                self.out.insert(message.id, message.clone());
            }
        }
    }

    fn change_registry(&mut self, choices: &mut Choices<'_>) {
        match choices.below(6) {
            0 | 1 => {
                let state = choices.of(&[
                    CampaignState::Active,
                    CampaignState::Paused,
                    CampaignState::Stopped,
                ]);
                self.states.insert(choices.of(&CAMPAIGNS), state);
            }
            2 => {
                let tenant = choices.of(&[1, 2]);
                if !self.suspended.remove(&tenant) {
                    self.suspended.insert(tenant);
                }
            }
            3 => {
                let campaign = choices.of(&CAMPAIGNS);
                if !self.missing.remove(&campaign) {
                    self.missing.insert(campaign);
                }
            }
            4 => {
                // One that was removed comes back, unless its key was given away.
                if let Some(quota) = self.removed.pop()
                    && self.quotas.iter().all(|other| other.key != quota.key)
                {
                    self.quotas.push(quota);
                }
            }
            _ => {
                let key = u32::from(choices.byte() % 8) + 1;
                let gone = self.quotas.extract_if(.., |quota| quota.key == key);
                self.removed.extend(gone);
                if choices.one_in(2) {
                    self.quotas.push(any_quota(key, choices));
                }
            }
        }
        self.show_registry();
    }

    fn park(&mut self, choices: &mut Choices<'_>) {
        self.ever_parked = true;
        let campaign = choices.of(&CAMPAIGNS);
        let carrier = choices.of(&[Carrier::Unknown, Carrier::Att, Carrier::TMobile]);
        let kind = choices.of(&[ParkKind::Rate, ParkKind::Cap]);
        let for_us = i64::from(choices.byte()) * 20_000;
        self.scheduler.park(
            campaign,
            carrier,
            kind,
            self.now_us + for_us,
            self.now_us,
            self.mono_us,
        );
        // To any carrier, and with no limit that a new picture could begin anew: nothing of it goes.
        if carrier == Carrier::Unknown && kind == ParkKind::Cap {
            self.parked.push((campaign, self.mono_us + for_us));
        }
    }

    /// Everything that may go goes, woken by nothing but the scheduler's own word.
    fn drain(&mut self) {
        self.states
            .retain(|_, state| *state == CampaignState::Stopped);
        self.missing.clear();
        self.suspended.clear();
        self.now_us = self.latest_us;
        self.day += 1;
        for quota in &mut self.quotas {
            // At least the longest message, which could never go otherwise.
            quota.burst = quota.burst.max(3);
        }
        self.show_registry();
        let (start_us, mut quiet, mut pops) = (self.mono_us, 0, 0);
        while !self.waiting.is_empty() {
            pops += 1;
            assert!(pops < 20_000, "{} never leave", self.waiting.len());
            if pops % 100 == 0 {
                // The days' ledgers are full after some hundred segments.
                self.day += 1;
                self.show_days();
            }
            let popped = self.pop(3);
            let out = std::mem::take(&mut self.out);
            let told = !out.is_empty();
            for id in out.into_keys() {
                self.release(id);
                self.settle(id, Fate::NotTaken);
            }
            let nothing =
                popped.ready.is_empty() && popped.expired.is_empty() && popped.blocked.is_empty();
            quiet = if nothing { quiet + 1 } else { 0 };
            let counts = self.scheduler.counts();
            assert!(quiet < 2_000, "{:?} never leave: {counts:?}", self.waiting);
            // What is told after a pop may make something ready: then the next pop is due.
            if nothing && !told && !popped.more_ready && !self.waiting.is_empty() {
                let wake_us = popped.wake_after_us;
                let wake_us = wake_us.expect("something waits, and nothing would wake it");
                self.mono_us += wake_us;
                self.now_us += wake_us;
                self.latest_us = self.now_us;
                assert!(self.mono_us - start_us < 7_200 * SECOND_US, "{counts:?}");
            }
        }
    }
}

/// A history as the bytes say.
pub fn schedule(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut world = World::new(&mut choices);
    for _ in 0..STEPS_MAX {
        if choices.used_up() {
            break;
        }
        world.step(&mut choices);
        world.check_counts();
        world.check_days();
    }
    world.drain();
    world.check_rates();
    assert_eq!(world.scheduler.counts(), Counts::default());
    assert!(world.scheduler.is_empty());
}
