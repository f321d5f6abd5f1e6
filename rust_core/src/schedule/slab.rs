//! Where waiting messages lie: fixed slots, linked through each other, found by id and by recipient.
//!
//! It decides nothing about order or time; lanes and wheels own their links, this file owns slots and the two indexes.
//!
//! What came in together lies together: slots, the lines of ids (`ids.rs`) and the recipients of a chunk, so a message that
//! comes or goes touches memory its neighbours touched, however much waits. The price is paid by an opt-out, which looks
//! into each chunk: one a 16,384 messages.
//!
//! Bytes a message beside its body: slot 128, its entry by id 4 to 13, by recipient 2, the body's reference counts 16 and
//! some 16 of the allocator: 166 to 175; an ordering key adds a tree entry (about 35), a late arrival in a lane another
//! (about 24).

use std::sync::Arc;

use super::hash::Seeded;
use super::ids::Ids;
use super::lanes::LaneKey;
use crate::message::{Held, Micros, flags};

/// No slot.
pub(super) const NIL: u32 = u32::MAX;
/// Not in a wheel.
pub(super) const NO_BUCKET: u16 = u16::MAX;
/// Slots are allocated by so many, so that growing never copies: 2^14 × 128 bytes are 2 MiB, touched only when used. Few
/// enough that links and heads of recipients take 16 bits and stay in a cache, and that the last chunk wastes little.
const CHUNK_SLOTS: usize = 1 << 14;
/// No slot of the chunk.
const NIL_IN_CHUNK: u16 = u16::MAX;

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

/// A slot: two cache lines. What the lane knows (tenant, campaign, sender, class, kind) is not repeated.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Waiting {
    // The first line: what turns read and neighbours write.
    pub id: u64,
    pub recipient: u64,
    pub expires_us: Micros,
    pub lane: u32,
    pub lane_next: u32,
    pub lane_prev: u32,
    pub timer_next: u32,
    pub timer_prev: u32,
    seq: u32,
    flags: u32,
    /// Slots of the same chunk whose recipients share a head.
    recipient_next: u16,
    recipient_prev: u16,
    pub segments: u16,
    pub bucket: u16,
    pub place: Place,
    ordered: bool,
    encoding: u8,
    // The second: what is read when it leaves, or is due.
    pub due_us: Micros,
    pub ordering: u64,
    body: Option<Arc<[u8]>>,
    recipe: u32,
    attempt: u16,
    generation: u16,
    counted: u16,
}

impl Waiting {
    /// An attempt of unknown outcome came before.
    pub(super) fn maybe_sent(&self) -> bool {
        self.flags & flags::MAYBE_SENT != 0
    }

    /// Has an ordering key. Said in the first line, so that a turn does not wait for the second.
    pub(super) fn is_ordered(&self) -> bool {
        self.ordered
    }
}

/// Slots that were laid out together.
struct Chunk {
    slots: Vec<Waiting>,
    /// First slot of each chain of recipients; as many as slots, so chains stay short.
    recipients: Vec<u16>,
}

/// All slots and their indexes.
pub(super) struct Slab {
    chunks: Vec<Chunk>,
    /// First of the free slots, linked by `lane_next`.
    free: u32,
    len: usize,
    ids: Ids,
    /// No id above it ever came in.
    newest: Option<u64>,
    seeded: Seeded,
}

/// The chunk of a slot, and its place there.
fn place(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS)
}

impl Slab {
    pub(super) fn new(messages_max: usize, seeded: Seeded) -> Self {
        Self {
            chunks: Vec::new(),
            free: NIL,
            len: 0,
            ids: Ids::new(messages_max, seeded),
            newest: None,
            seeded,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn at(&self, slot: u32) -> &Waiting {
        let (chunk, at) = place(slot);
        &self.chunks[chunk].slots[at]
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Waiting {
        let (chunk, at) = place(slot);
        &mut self.chunks[chunk].slots[at]
    }

    pub(super) fn find(&self, id: u64) -> Option<u32> {
        if self.newest.is_none_or(|newest| id > newest) {
            return None;
        }
        self.ids.find(id, |slot| self.at(slot).id == id)
    }

    /// Slots of this recipient, of every tenant.
    pub(super) fn of_recipient(&self, recipient: u64) -> Vec<u32> {
        let mut found = Vec::new();
        let head = self.head(recipient);
        for (number, chunk) in self.chunks.iter().enumerate() {
            let mut at = chunk.recipients[head];
            while at != NIL_IN_CHUNK {
                let waiting = &chunk.slots[usize::from(at)];
                if waiting.recipient == recipient {
                    let slot = number * CHUNK_SLOTS + usize::from(at);
                    found.extend(u32::try_from(slot));
                }
                at = waiting.recipient_next;
            }
        }
        found
    }

    /// Which chain of its chunk a recipient is in.
    fn head(&self, recipient: u64) -> usize {
        usize::try_from(self.seeded.of(recipient) >> 32).unwrap_or(0) % CHUNK_SLOTS
    }

    /// Reads what `insert` will, of all these: side by side that takes little longer than one.
    pub(super) fn touch_ids(&self, messages: &[Held]) {
        let words = messages.iter().map(|held| self.ids.touch(held.id));
        std::hint::black_box(words.fold(0, |all, word| all ^ word));
    }

    /// Reads what `remove` will, of all these.
    pub(super) fn touch(&self, slots: &[u32]) {
        let words = slots.iter().map(|&slot| {
            let waiting = self.at(slot);
            let head = self.chunks[place(slot).0].recipients[self.head(waiting.recipient)];
            self.ids.touch(waiting.id) ^ waiting.recipe ^ u32::from(head)
        });
        std::hint::black_box(words.fold(0, |all, word| all ^ word));
    }

    /// Stores a message that is not yet here.
    pub(super) fn insert(&mut self, held: Held, lane: u32) -> u32 {
        let id = held.id;
        let waiting = Waiting {
            id,
            recipient: held.recipient,
            expires_us: held.expires_us,
            lane,
            lane_next: NIL,
            lane_prev: NIL,
            timer_next: NIL,
            timer_prev: NIL,
            seq: held.seq,
            flags: held.flags,
            recipient_next: NIL_IN_CHUNK,
            recipient_prev: NIL_IN_CHUNK,
            segments: held.segments,
            bucket: NO_BUCKET,
            place: Place::Follower,
            ordered: held.ordering != 0,
            encoding: held.encoding,
            attempt: held.attempt,
            due_us: held.due_us,
            ordering: held.ordering,
            body: Some(held.body),
            recipe: held.recipe,
            generation: held.generation,
            counted: held.counted,
        };
        let slot = if self.free == NIL {
            self.grow(waiting)
        } else {
            self.reuse(waiting)
        };
        self.link_recipient(slot);
        self.ids.insert(id, slot);
        self.newest = self.newest.max(Some(id));
        self.len += 1;
        slot
    }

    fn grow(&mut self, waiting: Waiting) -> u32 {
        let full = |chunk: &Chunk| chunk.slots.len() == CHUNK_SLOTS;
        if self.chunks.last().is_none_or(full) {
            self.chunks.push(Chunk {
                slots: Vec::with_capacity(CHUNK_SLOTS),
                recipients: vec![NIL_IN_CHUNK; CHUNK_SLOTS],
            });
        }
        let before = (self.chunks.len() - 1) * CHUNK_SLOTS;
        let Some(chunk) = self.chunks.last_mut() else {
            return NIL;
        };
        chunk.slots.push(waiting);
        u32::try_from(before + chunk.slots.len() - 1).unwrap_or(NIL)
    }

    fn reuse(&mut self, waiting: Waiting) -> u32 {
        let slot = self.free;
        let place = self.at_mut(slot);
        let next = place.lane_next;
        *place = waiting;
        self.free = next;
        slot
    }

    /// Takes a message out; it must be in no lane and no wheel any more.
    pub(super) fn remove(&mut self, slot: u32, key: &LaneKey) -> Held {
        self.unlink_recipient(slot);
        self.ids.remove(self.at(slot).id, slot);
        let free = self.free;
        self.free = slot;
        self.len -= 1;
        let waiting = self.at_mut(slot);
        waiting.lane_next = free;
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

    /// Doubly linked: one number may have any count of messages waiting, and each must leave at the same cost.
    fn link_recipient(&mut self, slot: u32) {
        let (number, at) = place(slot);
        let head = self.head(self.at(slot).recipient);
        let chunk = &mut self.chunks[number];
        let own = u16::try_from(at).unwrap_or(NIL_IN_CHUNK);
        let next = std::mem::replace(&mut chunk.recipients[head], own);
        chunk.slots[at].recipient_next = next;
        if next != NIL_IN_CHUNK {
            chunk.slots[usize::from(next)].recipient_prev = own;
        }
    }

    fn unlink_recipient(&mut self, slot: u32) {
        let (number, _) = place(slot);
        let waiting = self.at(slot);
        let (recipient, next, prev) = (
            waiting.recipient,
            waiting.recipient_next,
            waiting.recipient_prev,
        );
        let head = self.head(recipient);
        let chunk = &mut self.chunks[number];
        if next != NIL_IN_CHUNK {
            chunk.slots[usize::from(next)].recipient_prev = prev;
        }
        if prev == NIL_IN_CHUNK {
            chunk.recipients[head] = next;
        } else {
            chunk.slots[usize::from(prev)].recipient_next = next;
        }
    }
}
