//! What a node has of the shards it owns: the scheduler, what waits in the store alone, and the attempts that are out.
//!
//! It takes no lease and reads no store. A node alone owns every shard and never notices that there are any.
//!
//! Invariants: nothing of a shard that is not owned waits here; what comes of one is told to whoever brought it. An id that
//! waits here, or whose attempt is out under the present ownership, is not taken in a second time. An attempt that was out
//! when its shard went is *foreign*: it counts as open until its send is over or its outcome told, charges what it charged
//! once at most, and keeps no message of its id out, should the shard come back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::message::{Carrier, Held, Micros};
use crate::schedule::{ParkKind, Popped, Reservation, Scheduler};
use crate::settle::{Changes, Fate};
use crate::shards::{Epochs, ShardSet, shard_of};
use crate::spill::{Away, Spill, Stream};

/// Quota, day, spent, reserved.
pub type LedgerRow = (u32, i32, u64, u64);

/// Reservations as the store is to take them, in this order: each (quota, day, units, cap) only while what the row has spent
/// and reserved is at most `cap` with these units.
#[must_use]
pub fn guarded(reservations: &[Reservation]) -> Vec<(u32, i32, u64, u64)> {
    let mut sums: BTreeMap<(u32, i32, u64), u64> = BTreeMap::new();
    for of in reservations {
        *sums.entry((of.quota, of.day, of.cap)).or_default() += of.units;
    }
    let rows = sums.into_iter();
    rows.map(|((quota, day, cap), units)| (quota, day, units, cap))
        .collect()
}

/// An attempt that is written down, or about to be, without outcome.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    tenant: u32,
    campaign: u32,
    recipient: u64,
}

/// See the head of this file.
pub struct Owned {
    /// What waits and what goes next. Messages come in and leave through this file alone.
    pub schedule: Scheduler,
    spill: Spill,
    epochs: Arc<Epochs>,
    /// What came back from the store while all places were taken; pushed again before each pop.
    overflow: Vec<Held>,
    outstanding: HashMap<u64, Attempt>,
    foreign: HashMap<u64, Attempt>,
    /// Attempts of both kinds, by tenant and recipient.
    to: HashMap<(u32, u64), u32>,
    /// Popped, and not written down yet: what they reserved is not the store's to know.
    popped: HashSet<u64>,
    /// Ledger rows that the store does not have as they are: (spent, reserved) by (quota, day).
    ledgers: BTreeMap<(u32, i32), (u64, u64)>,
}

impl Owned {
    /// Every shard, as a node alone has them; `messages_max` is the scheduler's.
    #[must_use]
    pub fn new(schedule: Scheduler, messages_max: usize) -> Self {
        Self {
            schedule,
            spill: Spill::new(messages_max),
            epochs: Arc::new(Epochs::all(0)),
            overflow: Vec::new(),
            outstanding: HashMap::new(),
            foreign: HashMap::new(),
            to: HashMap::new(),
            popped: HashSet::new(),
            ledgers: BTreeMap::new(),
        }
    }

    /// What waits in the store alone.
    #[must_use]
    pub fn spill(&self) -> &Spill {
        &self.spill
    }

    /// The shards and their epochs, as they are now.
    #[must_use]
    pub fn epochs(&self) -> Arc<Epochs> {
        Arc::clone(&self.epochs)
    }

    /// A shard is owned from now on, under this epoch. Unless it was before, its rates start empty: its last owner may have
    /// sent just now. What it has in the store comes by `put_away`, `load` and `hold_key`. False for a number that is no
    /// shard.
    pub fn own(&mut self, shard: u32, epoch: u64, mono_us: Micros) -> bool {
        let Some(set) = ShardSet::of(&[shard]) else {
            return false;
        };
        if !self.epochs.owned().has(shard) {
            self.schedule.own(set, mono_us);
        }
        Arc::make_mut(&mut self.epochs).own(shard, epoch);
        true
    }

    /// These shards are owned no more: all of them leaves memory, and attempts that are out are foreign. Returns the ids
    /// that waited, ascending; those of shards that were not owned are none.
    pub fn disown(&mut self, shards: ShardSet) -> Vec<u64> {
        let shards = shards.and(self.epochs.owned());
        Arc::make_mut(&mut self.epochs).disown(shards);
        let mut left = self.schedule.disown(shards);
        let of_shards = |held: &mut Held| shards.has_campaign(held.campaign);
        left.extend(self.overflow.extract_if(.., of_shards));
        for held in &left {
            self.spill.left(held);
        }
        self.spill.disown(shards);
        let of_shards = |_: &u64, attempt: &mut Attempt| shards.has_campaign(attempt.campaign);
        for (id, attempt) in self.outstanding.extract_if(of_shards) {
            // One that has been foreign all the time since the shard was here before: its send is over long ago.
            if let Some(former) = self.foreign.insert(id, attempt) {
                forget_one(&mut self.to, former);
            }
        }
        let mut ids: Vec<u64> = left.iter().map(|held| held.id).collect();
        ids.sort_unstable();
        ids
    }

    fn owns(&self, campaign: u32) -> bool {
        self.epochs.owned().has_campaign(campaign)
    }

    /// Messages that wait in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.schedule.len() + self.overflow.len()
    }

    fn knows(&self, id: u64) -> bool {
        self.schedule.contains(id)
            || self.outstanding.contains_key(&id)
            || self.overflow.iter().any(|held| held.id == id)
    }

    fn push(&mut self, mut held: Vec<Held>, now_us: Micros) {
        held.append(&mut self.overflow);
        self.overflow = self.schedule.push(held, now_us);
    }

    /// Newly accepted messages: those that memory does not take in wait in the store alone. Returns those of shards owned
    /// elsewhere, by shard, for their owners.
    pub fn push_fresh(&mut self, mut held: Vec<Held>, now_us: Micros) -> Vec<(u32, Vec<u64>)> {
        let mut elsewhere: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        if self.epochs.owned() != ShardSet::ALL {
            for held in held.extract_if(.., |held| !self.owns(held.campaign)) {
                let ids = elsewhere.entry(shard_of(held.campaign)).or_default();
                ids.push(held.id);
            }
        }
        let before = self.held();
        let mut kept = Vec::with_capacity(held.len());
        for held in held {
            if !self.knows(held.id) && self.spill.take_in(&held, before + kept.len()) {
                kept.push(held);
            }
        }
        self.push(kept, now_us);
        elsewhere.into_iter().collect()
    }

    /// Messages from the store: those that are here already are let go. Returns how many came in, and how many are of
    /// shards owned elsewhere.
    pub fn load(&mut self, held: Vec<Held>, now_us: Micros) -> (usize, usize) {
        let mut elsewhere = 0;
        let mut fresh = Vec::with_capacity(held.len());
        for held in held {
            if !self.owns(held.campaign) {
                elsewhere += 1;
            } else if !self.knows(held.id) {
                self.spill.entered(&held);
                fresh.push(held);
            }
        }
        let before = self.held();
        self.push(fresh, now_us);
        (self.held() - before, elsewhere)
    }

    /// Messages of a stream wait in the store. False, and nothing, if its shard is owned elsewhere.
    pub fn put_away(&mut self, away: Away) -> bool {
        let owned = self.owns(away.stream.campaign);
        if owned {
            self.spill.put_away(away);
        }
        owned
    }

    /// Messages of a stream from the store, and everything of it below `next` was read. Returns how many are of shards
    /// owned elsewhere.
    pub fn read_back(
        &mut self,
        held: Vec<Held>,
        stream: Stream,
        next: u64,
        now_us: Micros,
    ) -> usize {
        let (_, elsewhere) = self.load(held, now_us);
        self.spill.read_back(stream, next);
        elsewhere
    }

    /// What may go now, and what ended; what goes is out from now on.
    pub fn pop(&mut self, now_us: Micros, mono_us: Micros, room: usize) -> Popped {
        if !self.overflow.is_empty() {
            self.push(Vec::new(), now_us);
        }
        let popped = self.schedule.pop(now_us, mono_us, room);
        for held in &popped.ready {
            let attempt = Attempt {
                tenant: held.tenant,
                campaign: held.campaign,
                recipient: held.recipient,
            };
            if self.outstanding.insert(held.id, attempt).is_none() {
                *self.to.entry((held.tenant, held.recipient)).or_default() += 1;
            }
        }
        self.popped.extend(popped.ready.iter().map(|held| held.id));
        for held in [&popped.ready, &popped.expired, &popped.blocked]
            .into_iter()
            .flatten()
        {
            self.spill.left(held);
        }
        popped
    }

    /// Takes a message out. False if it does not wait here.
    pub fn remove(&mut self, id: u64) -> bool {
        let removed = self.schedule.remove(id).or_else(|| {
            let place = self.overflow.iter().position(|held| held.id == id)?;
            Some(self.overflow.swap_remove(place))
        });
        if let Some(held) = &removed {
            self.spill.left(held);
        }
        removed.is_some()
    }

    /// Takes out all messages of a tenant to this number; returns their ids.
    pub fn remove_recipient(&mut self, tenant: u32, recipient: u64) -> Vec<u64> {
        let removed = self.schedule.remove_recipient(tenant, recipient);
        for held in &removed {
            self.spill.left(held);
        }
        removed.into_iter().map(|held| held.id).collect()
    }

    /// Attempts whose outcome is open, foreign ones too: each may hold a slot of the way to the provider.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len() + self.foreign.len()
    }

    /// Of these, to this number.
    #[must_use]
    pub fn outstanding_to(&self, tenant: u32, recipient: u64) -> u32 {
        self.to.get(&(tenant, recipient)).copied().unwrap_or(0)
    }

    /// What became of an attempt; a foreign one is over with it.
    pub fn settle(&mut self, id: u64, fate: Fate) {
        self.schedule.settled(id, fate);
        self.popped.remove(&id);
        let attempt = self.outstanding.remove(&id);
        if let Some(attempt) = attempt.or_else(|| self.foreign.remove(&id)) {
            forget_one(&mut self.to, attempt);
        }
    }

    /// The sends of these attempts are over, and what is to be told of them was told. Own attempts are not concerned.
    /// Returns how many were foreign.
    pub fn foreign_ended(&mut self, ids: &[u64]) -> usize {
        let mut ended = 0;
        for id in ids {
            if let Some(attempt) = self.foreign.remove(id) {
                forget_one(&mut self.to, attempt);
                ended += 1;
                if !self.outstanding.contains_key(id) {
                    self.schedule.forget_charge(*id);
                }
            }
        }
        ended
    }

    /// Follows what was settled, before it is stored: what was learned and the charges. May be repeated.
    pub fn charge(&mut self, changes: &Changes) {
        self.learn(changes);
        for &(id, fate) in &changes.fates {
            self.schedule.settled(id, fate);
        }
    }

    /// Follows what was settled and stored.
    pub fn apply(&mut self, changes: &Changes, now_us: Micros, mono_us: Micros) {
        self.learn(changes);
        for &(id, fate) in &changes.fates {
            self.settle(id, fate);
        }
        // What is taken out may still hold its key; what is at its end lets it go.
        for &id in &changes.drop {
            self.remove(id);
        }
        for &id in &changes.released {
            self.schedule.ordering_released(id);
        }
        for park in &changes.parks {
            let kind = if park.cap {
                ParkKind::Cap
            } else {
                ParkKind::Rate
            };
            let carrier = Carrier::from_number(i64::from(park.carrier));
            self.schedule
                .park(park.campaign, carrier, kind, park.until_us, now_us, mono_us);
        }
    }

    fn learn(&mut self, changes: &Changes) {
        for &(recipient, carrier) in &changes.learned {
            self.schedule
                .learn(recipient, Carrier::from_number(i64::from(carrier)));
        }
    }

    /// An attempt whose outcome is open holds its ordering key; not taken in for a shard that is owned elsewhere.
    pub fn hold_key(&mut self, tenant: u32, campaign: u32, ordering: u64, id: u64) {
        if self.owns(campaign) {
            self.schedule.hold_key(tenant, campaign, ordering, id);
        }
    }

    /// The ledger rows to write in the transaction that writes these attempts down, as it leaves them.
    pub fn intended(&mut self, ids: &[u64]) -> Vec<LedgerRow> {
        for id in ids {
            self.popped.remove(id);
        }
        self.ledger_rows()
    }

    /// The ledger rows to write in the transaction that is under way, as it leaves them.
    pub fn ledger_rows(&mut self) -> Vec<LedgerRow> {
        for (quota, day, spent, reserved) in self.schedule.ledger_changes() {
            self.ledgers.insert((quota, day), (spent, reserved));
        }
        if self.ledgers.is_empty() {
            return Vec::new();
        }
        let popped = self.schedule.reserved_by(self.popped.iter().copied());
        let rows = self.ledgers.iter().map(|(&row, &(spent, reserved))| {
            let early = popped.get(&row).copied().unwrap_or(0);
            (row.0, row.1, spent, reserved.saturating_sub(early))
        });
        rows.collect()
    }

    /// These attempts are written down, with these reservations of theirs in rows that other nodes charge too.
    pub fn reserved(&mut self, ids: &[u64], reservations: &[Reservation]) {
        for id in ids {
            self.popped.remove(id);
        }
        self.schedule.reserved(reservations);
    }

    /// Shared ledger rows as they were read, of all nodes. What is popped and not written down counts beside them.
    pub fn ledgers_seen(&mut self, rows: &[LedgerRow]) {
        let early = self.schedule.reserved_by(self.popped.iter().copied());
        self.schedule.ledgers_seen(rows, &early);
    }

    /// These rows are committed: those that did not move since need not be written again.
    pub fn ledgers_stored(&mut self, stored: &[LedgerRow]) {
        for (quota, day, spent, reserved) in self.ledger_rows() {
            // While an attempt that charges it is not written down, a row is still to come.
            let whole = self.ledgers.get(&(quota, day)) == Some(&(spent, reserved));
            if whole && stored.contains(&(quota, day, spent, reserved)) {
                self.ledgers.remove(&(quota, day));
            }
        }
    }
}

/// One attempt less to its number.
fn forget_one(to: &mut HashMap<(u32, u64), u32>, attempt: Attempt) {
    let key = (attempt.tenant, attempt.recipient);
    if let Some(count) = to.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            to.remove(&key);
        }
    }
}
