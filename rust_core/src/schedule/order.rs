//! Ordering keys: of a key, one message is out at a time, in the order of ids.
//!
//! It knows nothing of limits. Of the waiting messages of a key only the first stands in a lane or in the wheel of due
//! times, so one that is held or scheduled holds its followers; all others are followers.
//!
//! Invariants: while a message of a key is out, all others of it are followers. A key without messages has no entry.

use std::collections::{BTreeMap, HashMap};

use super::Scheduler;
use super::slab::Place;
use crate::message::Held;

/// An ordering key of a campaign: a hash that has the campaign in it, so the campaign only says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub tenant: u32,
    pub campaign: u32,
    pub ordering: u64,
}

impl Key {
    pub(super) fn of(held: &Held) -> Self {
        Self {
            tenant: held.tenant,
            campaign: held.campaign,
            ordering: held.ordering,
        }
    }
}

/// One tenant's keys: a hash of another tenant's key can never hold up this one's.
#[derive(Default)]
pub(super) struct Keys {
    /// (ordering, id) → slot, of all that wait.
    waiting: BTreeMap<(u64, u64), u32>,
    /// How many of a key are out; more than one only after a restart or a late retry.
    out: HashMap<u64, usize>,
}

impl Keys {
    /// The first two of a key.
    fn first_two(&self, ordering: u64) -> [Option<u32>; 2] {
        let mut waiting = self
            .waiting
            .range((ordering, 0)..=(ordering, u64::MAX))
            .map(|(_, &slot)| slot);
        [waiting.next(), waiting.next()]
    }
}

impl Scheduler {
    /// A predecessor that is in flight, or whose outcome is unknown, holds its key: for recovery.
    pub fn hold_key(&mut self, tenant: u32, campaign: u32, ordering: u64, id: u64) {
        if ordering == 0 || self.out.contains_key(&id) || self.contains(id) {
            return;
        }
        let key = Key {
            tenant,
            campaign,
            ordering,
        };
        self.hold(key, id);
    }

    /// This message is SUBMITTED or at its end: the next of its key may go. Unknown ids change nothing.
    pub fn ordering_released(&mut self, id: u64) {
        let Some(key) = self.release(id) else {
            return;
        };
        self.advance(key.tenant, key.ordering);
        self.forget_if_unused(key.tenant);
    }

    /// A message is out: the first of those that wait is a follower now. (It may have an earlier id: a follower that
    /// expired is out too, until its end is written down.)
    fn hold(&mut self, key: Key, id: u64) {
        self.mark_out(key, id);
        let first = self
            .keys
            .get(&key.tenant)
            .and_then(|keys| keys.first_two(key.ordering)[0]);
        if let Some(first) = first {
            self.make_follower(first);
        }
    }

    fn mark_out(&mut self, key: Key, id: u64) {
        if self.out.insert(id, key).is_none() {
            *self
                .keys
                .entry(key.tenant)
                .or_default()
                .out
                .entry(key.ordering)
                .or_default() += 1;
        }
    }

    fn release(&mut self, id: u64) -> Option<Key> {
        let key = self.out.remove(&id)?;
        let keys = self.keys.entry(key.tenant).or_default();
        if let Some(count) = keys.out.get_mut(&key.ordering) {
            *count -= 1;
            if *count == 0 {
                keys.out.remove(&key.ordering);
            }
        }
        Some(key)
    }

    /// A message with a key comes in: first of its key, or behind.
    pub(super) fn enter_key(&mut self, key: Key, id: u64, slot: u32) {
        let former = self.release(id);
        self.keys
            .entry(key.tenant)
            .or_default()
            .waiting
            .insert((key.ordering, id), slot);
        self.counts.ordering += 1;
        let expires_us = self.slab.at(slot).expires_us;
        self.set_timer(slot, expires_us, false);
        self.advance(key.tenant, key.ordering);
        if let Some(former) = former
            && former.ordering != key.ordering
        {
            self.advance(former.tenant, former.ordering);
        }
    }

    /// A message with a key has left.
    pub(super) fn leave_key(&mut self, key: Key, id: u64, out: bool) {
        if let Some(keys) = self.keys.get_mut(&key.tenant) {
            keys.waiting.remove(&(key.ordering, id));
        }
        if out {
            self.hold(key, id);
        } else {
            self.advance(key.tenant, key.ordering);
            self.forget_if_unused(key.tenant);
        }
    }

    /// Lets the first of a key enter if none is out, and a former first that is not first any more wait behind it.
    fn advance(&mut self, tenant: u32, ordering: u64) {
        let Some(keys) = self.keys.get(&tenant) else {
            return;
        };
        if keys.out.contains_key(&ordering) {
            return;
        }
        let [first, second] = keys.first_two(ordering);
        if let Some(second) = second {
            self.make_follower(second);
        }
        if let Some(first) = first
            && self.slab.at(first).place == Place::Follower
        {
            self.counts.ordering -= 1;
            self.enter(first);
        }
    }

    fn make_follower(&mut self, slot: u32) {
        if self.slab.at(slot).place == Place::Follower {
            return;
        }
        self.leave(slot);
        self.slab.at_mut(slot).place = Place::Follower;
        self.counts.ordering += 1;
        let expires_us = self.slab.at(slot).expires_us;
        self.set_timer(slot, expires_us, false);
    }

    fn forget_if_unused(&mut self, tenant: u32) {
        if self
            .keys
            .get(&tenant)
            .is_some_and(|keys| keys.waiting.is_empty() && keys.out.is_empty())
        {
            self.keys.remove(&tenant);
        }
    }
}
