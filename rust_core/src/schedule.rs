//! What waits and what goes next: accepted messages come in, those that may go now come out, within every limit.
//!
//! It reads no clock and no store, writes nothing and sends nothing. The wall clock (`now_us`) decides due times, expiry
//! and days; a monotonic one (`mono_us`) decides rates. Both are arguments.
//!
//! Invariants: every message that came in leaves exactly once, as ready, expired, blocked or removed. All limits of a
//! message are checked together and taken together. A lane is served in the order of ids. Of an ordering key at most one
//! message is out. Work per pop depends on what is ready and what became due, never on how many messages wait; what is
//! more than a pop may do is left to the next, which is then due at once.
//!
//! `turns.rs` decides whose turn it is, `meters.rs` what refuses, `take.rs` walks from turn to message, `order.rs` keeps
//! ordering keys, `feedback.rs` takes in what providers and the registry say, `charges.rs` keeps the day ledgers' books,
//! `handover.rs` lets a shard come and go, `startable.rs` counts what only lacks a slot.

mod carriers;
mod charges;
mod feedback;
mod handover;
mod hash;

mod lanes;
mod meters;
mod order;
mod recipients;
mod slab;
mod startable;
mod table;
mod take;
mod turns;
mod wheel;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use feedback::{ParkKind, Reservation};

use crate::admit::{Ahead, Bound};
use crate::message::{Carrier, Held, Micros};
use crate::registry::{CampaignState, Registry};
use carriers::Carriers;
use charges::Charges;
use hash::Seeded;
use lanes::{Gate, LaneKey, Lanes, Status};
use meters::Meters;
use order::{Key, Keys};
use slab::{Place, Slab};
use turns::Turns;
use wheel::{WHEEL_BUCKETS, Wheel};

/// 2^26 messages, whatever the configuration says: slots are numbered in 32 bits and indexes are laid out at start.
const MESSAGES_MAX: usize = 1 << 26;
/// Messages whose memory is asked for at once, before any is worked on: their cache lines (some four each) fit the nearest
/// caches, and the waits for memory overlap.
const TOUCHED_MESSAGES: usize = 64;

/// The scheduler's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Messages in memory, at most 2^26. Nine bytes each are laid out at start (touched only when used).
    pub held_messages_max: usize,
    /// What each class behind more urgent traffic gets at least, in percent; 0 for strict classes; at most 50.
    pub floor_percent: u8,
    /// Recipients whose carrier is remembered; 17 to 35 bytes each.
    pub carriers_max: usize,
    /// Attempts kept for late evidence after their ledgers were charged (unknown outcome or unknown carrier).
    pub charges_remembered_max: usize,
    /// Lanes kept though they are empty.
    pub lanes_idle_max: usize,
    /// Timers, expired, blocked and moved messages one pop handles: bounds its time to a few milliseconds.
    pub pop_work_max: usize,
    /// Key of the provider all of this goes to.
    pub provider: u32,
    /// There are other nodes: rates of a provider and of a tenant are leased from the store, block by block, and those of a
    /// number start empty when it moves to another shard.
    pub leased_budgets: bool,
    /// Of the tables by numbers that callers choose, so that nobody can choose numbers that meet in one place. Nothing that
    /// is told depends on it.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            held_messages_max: 1_000_000,
            floor_percent: 10,
            carriers_max: 1_000_000,
            charges_remembered_max: 65_536,
            lanes_idle_max: 16_384,
            pop_work_max: 4_096,
            provider: 1,
            leased_budgets: false,
            seed: 0,
        }
    }
}

/// What a pop gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Popped {
    /// May go now; their limits are taken.
    pub ready: Vec<Held>,
    /// Their validity ended.
    pub expired: Vec<Held>,
    /// Their campaign was stopped.
    pub blocked: Vec<Held>,
    /// Something is still ready and only `room` kept it.
    pub more_ready: bool,
    /// When to pop again if nothing else happens, from now; 0 at once. The wall clock may be moved meanwhile: wait for a
    /// second at most.
    pub wake_after_us: Option<Micros>,
}

/// How many wait, by what they wait for and by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By class: CRITICAL, TRANSACTIONAL, BULK.
    pub by_class: [usize; 3],
    /// For their turn.
    pub ready: usize,
    /// For their time.
    pub due: usize,
    /// For a limit.
    pub quota: usize,
    /// For a paused campaign or a suspended tenant.
    pub paused: usize,
    /// For an earlier message of their ordering key.
    pub ordering: usize,
    /// To be handed out as blocked.
    pub stopped: usize,
}

impl Counts {
    fn of_status(&mut self, status: Status) -> &mut usize {
        match status {
            Status::Idle | Status::Ready => &mut self.ready,
            Status::Waiting(_) => &mut self.quota,
            Status::Held => &mut self.paused,
            Status::Stopped => &mut self.stopped,
        }
    }
}

impl Ahead for Scheduler {
    fn wait_at_least_us(&self, bound: &Bound) -> Micros {
        self.wait_behind_lane_us(bound)
    }
}

/// All that waits.
pub struct Scheduler {
    config: Config,
    registry: Arc<Registry>,
    /// Wall clock of the last call that gave one.
    now_us: Micros,
    /// Monotonic clock, never going back.
    mono_us: Micros,
    messages_max: usize,
    slab: Slab,
    due: Wheel,
    expiry: Wheel,
    lanes: Lanes,
    turns: Turns,
    meters: Meters,
    charges: Charges,
    carriers: Carriers,
    /// Ordering keys by tenant.
    keys: HashMap<u32, Keys>,
    /// Messages that are out and hold their key.
    out: HashMap<u64, Key, Seeded>,
    /// Beside their lanes until limits change.
    stuck: BTreeSet<u32>,
    /// Lanes to hand out as blocked.
    stopped: BTreeSet<u32>,
    counts: Counts,
    last_ticket: u64,
    /// What this pop gives out: in no line and no wheel any more, but still in their slots.
    leaving: Vec<u32>,
}

impl Scheduler {
    /// An empty scheduler. Rates start empty: what went out in the window before is not known here.
    #[must_use]
    pub fn new(config: Config, registry: Arc<Registry>, mono_us: Micros) -> Self {
        let messages_max = config.held_messages_max.min(MESSAGES_MAX);
        let floor_percent = i64::from(config.floor_percent.min(50));
        let seeded = Seeded::new(config.seed);
        let mut scheduler = Self {
            registry: Arc::clone(&registry),
            now_us: Micros::MIN,
            mono_us,
            messages_max,
            slab: Slab::new(messages_max, seeded),
            due: Wheel::new(0),
            expiry: Wheel::new(WHEEL_BUCKETS),
            lanes: Lanes::new(config.lanes_idle_max, seeded),
            turns: Turns::new(floor_percent),
            meters: Meters::new(floor_percent, seeded, config.leased_budgets),
            charges: Charges::new(config.charges_remembered_max, seeded),
            carriers: Carriers::new(config.carriers_max, seeded),
            keys: HashMap::new(),
            out: HashMap::with_hasher(seeded),
            stuck: BTreeSet::new(),
            stopped: BTreeSet::new(),
            counts: Counts::default(),
            last_ticket: 0,
            leaving: Vec::new(),
            config,
        };
        scheduler.set_registry(registry, mono_us);
        scheduler
    }

    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages that may still be pushed.
    #[must_use]
    pub fn room(&self) -> usize {
        self.messages_max - self.len()
    }

    /// How many wait for what.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Does this message wait here?
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.slab.find(id).is_some()
    }

    /// Takes messages in, by ascending id whatever their order. An id that waits already is ignored. A message that was
    /// out and comes back (not taken, to be sent again) is first of its ordering key again. What does not fit comes back.
    #[must_use]
    pub fn push(&mut self, mut messages: Vec<Held>, now_us: Micros) -> Vec<Held> {
        self.now_us = now_us;
        self.due.start_at(now_us);
        self.expiry.start_at(now_us);
        if !messages.is_sorted_by_key(|held| held.id) {
            messages.sort_by_key(|held| held.id);
        }
        let mut rest = Vec::new();
        let mut messages = messages.into_iter();
        while !messages.as_slice().is_empty() {
            let near = messages.len().min(TOUCHED_MESSAGES);
            self.slab.touch_ids(&messages.as_slice()[..near]);
            for held in messages.by_ref().take(near) {
                if self.contains(held.id) {
                    continue;
                }
                if self.room() == 0 {
                    rest.push(held);
                    continue;
                }
                self.push_one(held);
            }
        }
        rest
    }

    /// The lane that a message would wait in says how long at least: those in line before it pass each of its limits.
    ///
    /// What memory does not hold, and other lanes that the same limits serve, are not counted: it is never more than the
    /// truth.
    fn wait_behind_lane_us(&self, bound: &Bound) -> Micros {
        let key = LaneKey {
            tenant: bound.tenant,
            campaign: bound.campaign,
            sender: bound.sender,
            carrier: self.carriers.peek(bound.recipient),
            class: bound.class,
            kind: bound.kind,
        };
        let Some(lane) = self.lanes.find(&key).map(|lane| self.lanes.at(lane)) else {
            return 0;
        };
        let waits = lane.meters.iter().map(|&meter| {
            self.meters
                .passing_us(meter, lane.key.carrier, lane.len as u64)
        });
        waits.max().unwrap_or(0)
    }

    fn push_one(&mut self, held: Held) {
        let (of, id) = (Key::of(&held), held.id);
        let (due_us, expires_us) = (held.due_us, held.expires_us);
        let key = LaneKey {
            tenant: held.tenant,
            campaign: held.campaign,
            sender: held.sender,
            carrier: self.carriers.get(held.recipient),
            class: held.class,
            kind: held.kind,
        };
        let lane = self.lane_of(key);
        self.lanes.at_mut(lane).members += 1;
        self.counts.by_class[held.class as usize - 1] += 1;
        let slot = self.slab.insert(held, lane);
        if of.ordering != 0 {
            self.enter_key(of, id, slot);
        } else if due_us > self.now_us {
            self.enter(slot);
        } else {
            // The rule, and the shortest way: it has no timer yet and its lane is the one just found.
            self.expiry.insert(&mut self.slab, slot, expires_us);
            self.line_up(slot, lane);
        }
    }

    /// Takes a message out, as for a cancellation; the next of its ordering key may go. But a copy may be on its way of
    /// one with `MAYBE_SENT`: it holds its key until `ordering_released`.
    pub fn remove(&mut self, id: u64) -> Option<Held> {
        let slot = self.slab.find(id)?;
        Some(self.take_out(slot, self.slab.at(slot).maybe_sent()))
    }

    /// Takes out all messages of a tenant to this number, as for an opt-out; of their keys as in `remove`.
    pub fn remove_recipient(&mut self, tenant: u32, recipient: u64) -> Vec<Held> {
        let mut slots = self.slab.of_recipient(recipient);
        slots.retain(|&slot| self.lanes.at(self.slab.at(slot).lane).key.tenant == tenant);
        slots.sort_unstable_by_key(|&slot| self.slab.at(slot).id);
        slots
            .into_iter()
            .map(|slot| self.take_out(slot, self.slab.at(slot).maybe_sent()))
            .collect()
    }

    /// The lane with this key, made if it is new.
    fn lane_of(&mut self, key: LaneKey) -> u32 {
        if let Some(lane) = self.lanes.find(&key) {
            return lane;
        }
        let (gate, meters) = self.terms_of(&key);
        let tenant_at = self.turns.tenant(key.tenant);
        self.lanes.insert(key, tenant_at, gate, meters)
    }

    /// What the registry says of a lane: may it send, and its limits.
    fn terms_of(&mut self, key: &LaneKey) -> (Gate, Vec<u32>) {
        let registry = Arc::clone(&self.registry);
        let campaign = registry.campaign(key.campaign);
        let active = registry
            .tenant(key.tenant)
            .is_some_and(|tenant| tenant.active);
        let gate = match campaign.map(|campaign| campaign.state) {
            Some(CampaignState::Stopped) => Gate::Stopped,
            Some(CampaignState::Active) if active => Gate::Open,
            // A campaign that is missing may be younger than this picture: held, never blocked.
            _ => Gate::Held,
        };
        let meters = self
            .meters
            .of_lane(key, campaign.map(|campaign| campaign.brand));
        (gate, meters)
    }

    /// Puts a message that waits for nothing else into the wheel of due times or into its lane.
    fn enter(&mut self, slot: u32) {
        let waiting = self.slab.at_mut(slot);
        let (due_us, expires_us) = (waiting.due_us, waiting.expires_us);
        if due_us > self.now_us {
            waiting.place = Place::Due;
            self.counts.due += 1;
            self.set_timer(slot, due_us.min(expires_us), true);
        } else {
            self.set_timer(slot, expires_us, false);
            self.enter_lane(slot);
        }
    }

    fn set_timer(&mut self, slot: u32, at_us: Micros, due: bool) {
        if !due && self.expiry.holds(&self.slab, slot) {
            // A message's end never moves; setting it again could only make it later.
            return;
        }
        self.clear_timer(slot);
        let wheel = if due { &mut self.due } else { &mut self.expiry };
        wheel.insert(&mut self.slab, slot, at_us);
    }

    fn clear_timer(&mut self, slot: u32) {
        for wheel in [&mut self.due, &mut self.expiry] {
            if wheel.holds(&self.slab, slot) {
                wheel.remove(&mut self.slab, slot);
            }
        }
    }

    /// Puts a message in line, in the lane of its carrier if that has become known.
    fn enter_lane(&mut self, slot: u32) {
        let lane = self.lane_now(slot);
        self.line_up(slot, lane);
    }

    fn line_up(&mut self, slot: u32, at: u32) {
        let lane = self.lanes.at_mut(at);
        lane.append(&mut self.slab, slot);
        let status = lane.status;
        *self.counts.of_status(status) += 1;
        match status {
            Status::Idle => self.set_status(at, self.open_status(at)),
            Status::Waiting(_) if self.lanes.at(at).first(&self.slab) == Some(slot) => {
                // Another head, another need.
                self.drop_claims(at, None);
                self.set_status(at, Status::Ready);
            }
            _ => {}
        }
    }

    /// The lane a message belongs to now.
    fn lane_now(&mut self, slot: u32) -> u32 {
        let (from, recipient) = (self.slab.at(slot).lane, self.slab.at(slot).recipient);
        let mut key = self.lanes.at(from).key;
        let carrier = self.carriers.get(recipient);
        if carrier == Carrier::Unknown || carrier == key.carrier {
            return from;
        }
        key.carrier = carrier;
        let lane = self.lane_of(key);
        self.slab.at_mut(slot).lane = lane;
        self.lanes.at_mut(lane).members += 1;
        self.lanes.at_mut(from).members -= 1;
        self.lanes.free_if_unused(from);
        lane
    }

    fn open_status(&self, lane: u32) -> Status {
        match self.lanes.at(lane).gate {
            Gate::Open => Status::Ready,
            Gate::Held => Status::Held,
            Gate::Stopped => Status::Stopped,
        }
    }

    /// Takes a message out of where it waits, without its timer.
    fn leave(&mut self, slot: u32) {
        match self.slab.at(slot).place {
            Place::Due => self.counts.due -= 1,
            Place::Follower => self.counts.ordering -= 1,
            Place::Stuck => {
                self.stuck.remove(&slot);
                self.counts.quota -= 1;
            }
            Place::Lane | Place::LaneLate => self.leave_lane(slot),
        }
    }

    fn leave_lane(&mut self, slot: u32) {
        let at = self.slab.at(slot).lane;
        let lane = self.lanes.at_mut(at);
        let first = lane.first(&self.slab) == Some(slot);
        lane.unlink(&mut self.slab, slot);
        let (status, empty) = (lane.status, lane.len == 0);
        *self.counts.of_status(status) -= 1;
        if empty {
            self.set_status(at, Status::Idle);
        } else if first && matches!(status, Status::Waiting(_)) {
            self.set_status(at, Status::Ready);
        }
        if first {
            self.drop_claims(at, None);
        }
    }

    /// Takes a message out for good. `out` if its ordering key is to wait until the caller says so.
    fn take_out(&mut self, slot: u32, out: bool) -> Held {
        self.leave(slot);
        self.clear_timer(slot);
        let held = self.empty(slot);
        if held.ordering != 0 {
            self.leave_key(Key::of(&held), held.id, out);
        }
        held
    }

    /// Empties the slot of a message that is in no line and no wheel any more.
    fn empty(&mut self, slot: u32) -> Held {
        let at = self.slab.at(slot).lane;
        let lane = self.lanes.at_mut(at);
        lane.members -= 1;
        let held = self.slab.remove(slot, &lane.key);
        self.counts.by_class[held.class as usize - 1] -= 1;
        self.lanes.free_if_unused(at);
        held
    }

    fn set_status(&mut self, at: u32, status: Status) {
        let lane = self.lanes.at_mut(at);
        let (before, len, class) = (lane.status, lane.len, lane.key.class);
        if before == status {
            return;
        }
        lane.status = status;
        *self.counts.of_status(before) -= len;
        *self.counts.of_status(status) += len;
        match before {
            Status::Ready => self.turns.unready(class),
            Status::Stopped => {
                self.stopped.remove(&at);
            }
            _ => {}
        }
        match status {
            Status::Ready => self.turns.ready(&mut self.lanes, at),
            Status::Stopped => {
                self.stopped.insert(at);
            }
            _ => {}
        }
    }

    /// Gives up the lane's claims, but for one; whoever waits behind them is looked at again.
    fn drop_claims(&mut self, at: u32, keep: Option<u32>) {
        let lane = self.lanes.at_mut(at);
        if lane.claims.is_empty() {
            lane.ticket = 0;
            return;
        }
        let claim = (lane.key.class, lane.ticket, at);
        let (kept, dropped): (Vec<u32>, Vec<u32>) = std::mem::take(&mut lane.claims)
            .into_iter()
            .partition(|&meter| Some(meter) == keep);
        if kept.is_empty() {
            lane.ticket = 0;
        }
        lane.claims = kept;
        for &meter in &dropped {
            self.meters.at_mut(meter).claims.remove(&claim);
        }
        for meter in dropped {
            self.wake(meter);
        }
    }
}
