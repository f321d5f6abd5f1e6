//! Lanes: messages with one order and one set of limits, (campaign, sender's number, carrier, class, kind).
//!
//! The number is part of the key because numbers have limits of their own: two numbers of a campaign must not stand in
//! one line. This file keeps the line and the lane's state; who goes first is decided in `turns.rs`, what refuses in
//! `meters.rs`.
//!
//! Invariants: a lane's head is its message with the smallest id, whatever order they came in. A freed lane is referred
//! to by no message and stands in no tenant's queue.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use super::hash::Seeded;
use super::slab::{NIL, Place, Slab};
use crate::message::{Carrier, Class, Kind};

/// What makes messages share a lane; the tenant follows from the campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneKey {
    pub tenant: u32,
    pub campaign: u32,
    pub sender: u64,
    pub carrier: Carrier,
    pub class: Class,
    pub kind: Kind,
}

impl Hash for LaneKey {
    /// Two words instead of six. Numbers have at most fifteen digits, which leaves the low bits to the rest.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.tenant) << 32 | u64::from(self.campaign));
        let rest = (self.carrier as u64) << 3 | (self.class as u64) << 1 | (self.kind as u64 & 1);
        state.write_u64(self.sender.rotate_left(8) ^ rest);
    }
}

/// May the lane's campaign send at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Paused, suspended, or not in this picture of the registry yet.
    Held,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Empty.
    Idle,
    /// In its tenant's queue.
    Ready,
    /// Refused by this meter, which wakes it.
    Waiting(u32),
    Held,
    Stopped,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub key: LaneKey,
    /// Index of the tenant in `turns.rs`.
    pub tenant_at: u32,
    pub status: Status,
    pub gate: Gate,
    /// Messages in line.
    pub len: usize,
    /// Messages in line, due later, behind an ordering key or beside it: what refers to this lane.
    pub members: usize,
    /// Stands in its tenant's queue, even if it is not ready any more.
    pub queued: bool,
    /// Every limit its messages need.
    pub meters: Vec<u32>,
    /// Limits that refused its head and must not be used up by those behind it.
    pub claims: Vec<u32>,
    /// Age of the head's first refusal; 0 without.
    pub ticket: u64,
    head: u32,
    tail: u32,
    tail_id: u64,
    /// Those that came after a message with a larger id: retries, due times, released keys.
    late: BTreeMap<u64, u32>,
}

impl Lane {
    /// The slot of its smallest id.
    pub(super) fn first(&self, slab: &Slab) -> Option<u32> {
        let late = self.late.first_key_value();
        if self.head == NIL {
            return late.map(|(_, &slot)| slot);
        }
        match late {
            Some((&id, &slot)) if id < slab.at(self.head).id => Some(slot),
            _ => Some(self.head),
        }
    }

    /// Its slots by id.
    pub(super) fn slots<'a>(&'a self, slab: &'a Slab) -> impl Iterator<Item = u32> + 'a {
        let line = |slot: u32| (slot != NIL).then_some(slot);
        let following = move |&slot: &u32| line(slab.at(slot).lane_next);
        let mut line = std::iter::successors(line(self.head), following).peekable();
        let mut late = self.late.iter().peekable();
        std::iter::from_fn(move || match (line.peek(), late.peek()) {
            (Some(&slot), Some(&(&id, _))) if slab.at(slot).id < id => line.next(),
            (_, Some(_)) => late.next().map(|(_, &slot)| slot),
            _ => line.next(),
        })
    }

    pub(super) fn append(&mut self, slab: &mut Slab, slot: u32) {
        self.len += 1;
        let id = slab.at(slot).id;
        if self.tail != NIL && self.tail_id > id {
            slab.at_mut(slot).place = Place::LaneLate;
            self.late.insert(id, slot);
            return;
        }
        let waiting = slab.at_mut(slot);
        waiting.place = Place::Lane;
        waiting.lane_prev = self.tail;
        waiting.lane_next = NIL;
        if self.tail == NIL {
            self.head = slot;
        } else {
            slab.at_mut(self.tail).lane_next = slot;
        }
        self.tail = slot;
        self.tail_id = id;
    }

    pub(super) fn unlink(&mut self, slab: &mut Slab, slot: u32) {
        self.len -= 1;
        let waiting = slab.at(slot);
        if waiting.place == Place::LaneLate {
            self.late.remove(&waiting.id);
            return;
        }
        let (next, prev) = (waiting.lane_next, waiting.lane_prev);
        if next == NIL {
            self.tail = prev;
            if prev != NIL {
                self.tail_id = slab.at(prev).id;
            }
        } else {
            slab.at_mut(next).lane_prev = prev;
        }
        if prev == NIL {
            self.head = next;
        } else {
            slab.at_mut(prev).lane_next = next;
        }
    }
}

/// All lanes.
pub(super) struct Lanes {
    all: Vec<Lane>,
    index: HashMap<LaneKey, u32, Seeded>,
    free: Vec<u32>,
    idle_max: usize,
}

impl Lanes {
    /// Empty lanes are kept while there are at most `idle_max` lanes: making one costs some look-ups.
    pub(super) fn new(idle_max: usize, seeded: Seeded) -> Self {
        Self {
            all: Vec::new(),
            index: HashMap::with_hasher(seeded),
            free: Vec::new(),
            idle_max,
        }
    }

    pub(super) fn at(&self, lane: u32) -> &Lane {
        &self.all[lane as usize]
    }

    pub(super) fn at_mut(&mut self, lane: u32) -> &mut Lane {
        &mut self.all[lane as usize]
    }

    pub(super) fn find(&self, key: &LaneKey) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// All that are in use, by number: the order of the index is its seed's.
    pub(super) fn live(&self) -> Vec<u32> {
        let mut live: Vec<u32> = self.index.values().copied().collect();
        live.sort_unstable();
        live
    }

    /// All that hold messages in line.
    pub(super) fn filled(&self) -> impl Iterator<Item = (u32, &Lane)> {
        let numbered = (0..).zip(&self.all);
        numbered.filter(|(_, lane)| lane.len > 0)
    }

    pub(super) fn insert(
        &mut self,
        key: LaneKey,
        tenant_at: u32,
        gate: Gate,
        meters: Vec<u32>,
    ) -> u32 {
        let lane = Lane {
            key,
            tenant_at,
            status: Status::Idle,
            gate,
            len: 0,
            members: 0,
            queued: false,
            meters,
            claims: Vec::new(),
            ticket: 0,
            head: NIL,
            tail: NIL,
            tail_id: 0,
            late: BTreeMap::new(),
        };
        let at = if let Some(at) = self.free.pop() {
            self.all[at as usize] = lane;
            at
        } else {
            self.all.push(lane);
            u32::try_from(self.all.len() - 1).unwrap_or(NIL)
        };
        self.index.insert(key, at);
        at
    }

    /// Frees an empty lane when there are more than are kept.
    pub(super) fn free_if_unused(&mut self, lane: u32) {
        let unused = self.at(lane);
        if unused.members == 0 && !unused.queued && self.index.len() > self.idle_max {
            let key = unused.key;
            if self.index.get(&key) == Some(&lane) {
                self.index.remove(&key);
                self.free.push(lane);
            }
        }
    }
}
