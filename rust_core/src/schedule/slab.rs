//! Where waiting messages lie: fixed slots, linked through each other, found by id and by recipient.
//!
//! It decides nothing about order or time; lanes and wheels own their links, this file owns slots and the two indexes.
//!
//! Bytes a message beside its body: slot 112, two index heads 8 to 16, the body's reference counts 16 and about 16 of the
//! allocator: 152 to 160; an ordering key adds a tree entry (about 35), a late arrival in a lane another (about 24).

use std::sync::Arc;

use super::lanes::LaneKey;
use crate::message::{Held, Micros, flags};

/// No slot.
pub(super) const NIL: u32 = u32::MAX;
/// Not in a wheel.
pub(super) const NO_BUCKET: u16 = u16::MAX;
/// Slots are allocated by so many, so that growing never copies: 1,024 × 112 bytes.
const CHUNK_SLOTS: usize = 1024;

/// What a message waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    /// The wheel of due times.
    Due,
    /// Its lane, in line.
    Lane,
    /// Its lane, among those that came after a later one.
    LaneLate,
    /// Behind an earlier message of its ordering key.
    Follower,
    /// Beside its lane: a quota can never let it pass.
    Stuck,
}

/// A slot. What the lane knows (tenant, campaign, sender, class, kind) is not repeated.
#[derive(Debug)]
pub(super) struct Waiting {
    pub id: u64,
    pub recipient: u64,
    pub due_us: Micros,
    pub expires_us: Micros,
    pub ordering: u64,
    body: Option<Arc<[u8]>>,
    pub lane: u32,
    seq: u32,
    flags: u32,
    recipe: u32,
    pub lane_next: u32,
    pub lane_prev: u32,
    pub timer_next: u32,
    pub timer_prev: u32,
    id_next: u32,
    recipient_next: u32,
    recipient_prev: u32,
    pub segments: u16,
    attempt: u16,
    generation: u16,
    counted: u16,
    pub bucket: u16,
    encoding: u8,
    pub place: Place,
}

impl Waiting {
    /// An attempt of unknown outcome came before.
    pub(super) fn maybe_sent(&self) -> bool {
        self.flags & flags::MAYBE_SENT != 0
    }
}

/// All slots and their indexes.
pub(super) struct Slab {
    chunks: Vec<Vec<Waiting>>,
    /// First of the free slots, linked by `id_next`.
    free: u32,
    len: usize,
    /// First slot of each chain; as many chains as messages are allowed, so they stay short and are never rebuilt.
    ids: Vec<u32>,
    recipients: Vec<u32>,
}

/// Spreads ids (time-ordered) and numbers (dense) over chains.
fn spread(value: u64) -> u64 {
    let mixed = (value ^ (value >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

impl Slab {
    pub(super) fn new(messages_max: usize) -> Self {
        let chains = messages_max.max(1).next_power_of_two();
        Self {
            chunks: Vec::new(),
            free: NIL,
            len: 0,
            ids: vec![NIL; chains],
            recipients: vec![NIL; chains],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn chain(&self, value: u64) -> usize {
        // The mask keeps what a usize holds.
        usize::try_from(spread(value) & (self.ids.len() as u64 - 1)).unwrap_or(0)
    }

    pub(super) fn at(&self, slot: u32) -> &Waiting {
        &self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Waiting {
        &mut self.chunks[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
    }

    pub(super) fn find(&self, id: u64) -> Option<u32> {
        let mut slot = self.ids[self.chain(id)];
        while slot != NIL {
            let waiting = self.at(slot);
            if waiting.id == id {
                return Some(slot);
            }
            slot = waiting.id_next;
        }
        None
    }

    /// Slots of this recipient, of every tenant.
    pub(super) fn of_recipient(&self, recipient: u64) -> Vec<u32> {
        let mut found = Vec::new();
        let mut slot = self.recipients[self.chain(recipient)];
        while slot != NIL {
            let waiting = self.at(slot);
            if waiting.recipient == recipient {
                found.push(slot);
            }
            slot = waiting.recipient_next;
        }
        found
    }

    /// Stores a message that is not yet here.
    pub(super) fn insert(&mut self, held: Held, lane: u32) -> u32 {
        let id_chain = self.chain(held.id);
        let recipient_chain = self.chain(held.recipient);
        let waiting = Waiting {
            id: held.id,
            recipient: held.recipient,
            due_us: held.due_us,
            expires_us: held.expires_us,
            ordering: held.ordering,
            body: Some(held.body),
            lane,
            seq: held.seq,
            flags: held.flags,
            recipe: held.recipe,
            lane_next: NIL,
            lane_prev: NIL,
            timer_next: NIL,
            timer_prev: NIL,
            id_next: self.ids[id_chain],
            recipient_next: self.recipients[recipient_chain],
            recipient_prev: NIL,
            segments: held.segments,
            attempt: held.attempt,
            generation: held.generation,
            counted: held.counted,
            bucket: NO_BUCKET,
            encoding: held.encoding,
            place: Place::Follower,
        };
        let next_of_recipient = waiting.recipient_next;
        let slot = if self.free == NIL {
            self.grow(waiting)
        } else {
            self.reuse(waiting)
        };
        if next_of_recipient != NIL {
            self.at_mut(next_of_recipient).recipient_prev = slot;
        }
        self.ids[id_chain] = slot;
        self.recipients[recipient_chain] = slot;
        self.len += 1;
        slot
    }

    fn grow(&mut self, waiting: Waiting) -> u32 {
        if self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.len() == CHUNK_SLOTS)
        {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        let before = (self.chunks.len() - 1) * CHUNK_SLOTS;
        let Some(chunk) = self.chunks.last_mut() else {
            return NIL;
        };
        chunk.push(waiting);
        u32::try_from(before + chunk.len() - 1).unwrap_or(NIL)
    }

    fn reuse(&mut self, waiting: Waiting) -> u32 {
        let slot = self.free;
        self.free = self.at(slot).id_next;
        *self.at_mut(slot) = waiting;
        slot
    }

    /// Takes a message out; it must be in no lane and no wheel any more.
    pub(super) fn remove(&mut self, slot: u32, key: &LaneKey) -> Held {
        self.unlink_id(slot);
        self.unlink_recipient(slot);
        let free = self.free;
        self.free = slot;
        self.len -= 1;
        let waiting = self.at_mut(slot);
        waiting.id_next = free;
        Held {
            id: waiting.id,
            tenant: key.tenant,
            campaign: key.campaign,
            sender: key.sender,
            recipient: waiting.recipient,
            class: key.class,
            kind: key.kind,
            encoding: waiting.encoding,
            segments: waiting.segments,
            seq: waiting.seq,
            attempt: waiting.attempt,
            generation: waiting.generation,
            counted: waiting.counted,
            flags: waiting.flags,
            due_us: waiting.due_us,
            expires_us: waiting.expires_us,
            ordering: waiting.ordering,
            recipe: waiting.recipe,
            body: waiting.body.take().unwrap_or_default(),
        }
    }

    fn unlink_id(&mut self, slot: u32) {
        let (id, next) = (self.at(slot).id, self.at(slot).id_next);
        let chain = self.chain(id);
        if self.ids[chain] == slot {
            self.ids[chain] = next;
            return;
        }
        let mut before = self.ids[chain];
        while before != NIL && self.at(before).id_next != slot {
            before = self.at(before).id_next;
        }
        if before != NIL {
            self.at_mut(before).id_next = next;
        }
    }

    /// Doubly linked: one number may have any count of messages waiting, and each must leave at the same cost.
    fn unlink_recipient(&mut self, slot: u32) {
        let waiting = self.at(slot);
        let (recipient, next, prev) = (
            waiting.recipient,
            waiting.recipient_next,
            waiting.recipient_prev,
        );
        if next != NIL {
            self.at_mut(next).recipient_prev = prev;
        }
        if prev == NIL {
            let chain = self.chain(recipient);
            self.recipients[chain] = next;
        } else {
            self.at_mut(prev).recipient_next = next;
        }
    }
}
