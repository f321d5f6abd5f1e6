//! Where waiting messages lie: fixed slots, linked through each other, found by id and by recipient.
//!
//! It decides nothing about order or time; lanes and wheels own their links, this file owns slots and the two indexes.
//!
//! What came in together lies together: slots, the lines of ids (`table.rs`) and the recipients of a chunk
//! (`recipients.rs`), so a message that comes or goes touches memory its neighbours touched, however much waits. The price
//! is paid by an opt-out, which looks into each chunk: one for 16,384 messages.
//!
//! Bytes a message beside its body: slot 128, its entry by id 9, by recipient 9 and a link 4, the body's reference counts 16
//! and some 16 of the allocator: 182; an ordering key adds a tree entry (about 35), a late arrival in a lane another
//! (about 24).

use std::sync::Arc;

use super::hash::Seeded;
use super::lanes::LaneKey;
use super::recipients::{CHUNK_SLOTS, Recipients};
use super::table::Table;
use crate::message::{Held, Micros, flags};

/// No slot.
pub(super) const NIL: u32 = u32::MAX;
/// Not in a wheel.
pub(super) const NO_BUCKET: u16 = u16::MAX;
/// Four ids that follow each other share a line of their table.
const ID_GROUP_BITS: u32 = 2;

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

    /// An attempt was made before.
    pub(super) fn is_again(&self) -> bool {
        self.attempt > 0
    }

    /// Has an ordering key. Said in the first line, so that a turn does not wait for the second.
    pub(super) fn is_ordered(&self) -> bool {
        self.ordered
    }
}

/// Slots that were laid out together: 2 MiB, touched only when used, so that growing never copies.
struct Chunk {
    slots: Vec<Waiting>,
    recipients: Recipients,
}

/// Says of slots of a chunk whether they are this recipient's.
fn is_of(slots: &[Waiting], recipient: u64) -> impl Fn(usize) -> bool {
    move |at| slots[at].recipient == recipient
}

/// All slots and their indexes.
pub(super) struct Slab {
    chunks: Vec<Chunk>,
    /// First of the free slots, linked by `lane_next`.
    free: u32,
    len: usize,
    ids: Table,
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
            ids: Table::new(messages_max, ID_GROUP_BITS, seeded),
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
        for (number, chunk) in self.chunks.iter().enumerate() {
            let is_of = is_of(&chunk.slots, recipient);
            let of = chunk.recipients.of(recipient, is_of).into_iter();
            found.extend(of.filter_map(|at| u32::try_from(number * CHUNK_SLOTS + at).ok()));
        }
        found
    }

    /// Slots of messages in some lanes, whatever they wait in. Looks at every slot.
    pub(super) fn of_lanes(&self, is_one: impl Fn(u32) -> bool) -> Vec<u32> {
        let slots = self.chunks.iter().flat_map(|chunk| &chunk.slots);
        let found = (0..).zip(slots).filter(|(_, waiting)| {
            // A free slot has no body.
            waiting.body.is_some() && is_one(waiting.lane)
        });
        found.map(|(slot, _)| slot).collect()
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
            let (chunk, at) = place(slot);
            let recipients = &self.chunks[chunk].recipients;
            self.ids.touch(waiting.id) ^ waiting.recipe ^ recipients.touch(waiting.recipient, at)
        });
        std::hint::black_box(words.fold(0, |all, word| all ^ word));
    }

    /// Stores a message that is not yet here.
    pub(super) fn insert(&mut self, held: Held, lane: u32) -> u32 {
        let (id, recipient) = (held.id, held.recipient);
        let waiting = Waiting {
            id,
            recipient,
            expires_us: held.expires_us,
            lane,
            lane_next: NIL,
            lane_prev: NIL,
            timer_next: NIL,
            timer_prev: NIL,
            seq: held.seq,
            flags: held.flags,
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
        let (chunk, at) = place(slot);
        let Chunk { slots, recipients } = &mut self.chunks[chunk];
        recipients.insert(recipient, at, is_of(slots, recipient));
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
                recipients: Recipients::new(self.seeded),
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
        let (id, recipient) = (self.at(slot).id, self.at(slot).recipient);
        let (chunk, at) = place(slot);
        self.chunks[chunk].recipients.remove(recipient, at);
        self.ids.remove(id, slot);
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
}
