//! Which slots of a chunk are a recipient's.
//!
//! It keeps no numbers: the owner of the slots says whose one is. A chunk has an index of its own, so that what came in
//! together is found together; whoever looks for a recipient looks into every chunk.
//!
//! Invariants: the table holds the first slot of each recipient; the others are linked to it. So one number may have any
//! count of slots, and each comes and leaves at the same cost.

use super::hash::Seeded;
use super::table::Table;

/// Slots of a chunk. Few enough that a link takes 16 bits and a chunk's index (212 KiB) stays in a cache, and many enough
/// that there are few chunks to look into: 611 for ten million messages.
pub(super) const CHUNK_SLOTS: usize = 1 << 14;

const NIL: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Link {
    next: u16,
    prev: u16,
}

const ALONE: Link = Link {
    next: NIL,
    prev: NIL,
};

pub(super) struct Recipients {
    table: Table,
    links: Vec<Link>,
}

/// A slot of the table as a link: slots of a chunk fit.
fn link_of(slot: u32) -> u16 {
    u16::try_from(slot).unwrap_or(NIL)
}

impl Recipients {
    pub(super) fn new(seeded: Seeded) -> Self {
        Self {
            table: Table::new(CHUNK_SLOTS, 0, seeded),
            links: vec![ALONE; CHUNK_SLOTS],
        }
    }

    fn link(&mut self, at: u16) -> &mut Link {
        &mut self.links[usize::from(at)]
    }

    /// Reads what `remove` will. The caller must use what comes back.
    pub(super) fn touch(&self, recipient: u64, at: usize) -> u32 {
        self.table.touch(recipient) ^ u32::from(self.links[at].next)
    }

    fn first(&self, recipient: u64, is_of: impl Fn(usize) -> bool) -> Option<u16> {
        let found = self.table.find(recipient, |slot| is_of(slot as usize));
        found.map(link_of)
    }

    /// A slot that is not here becomes this recipient's. `is_of` says of other slots here whether they are.
    pub(super) fn insert(&mut self, recipient: u64, at: usize, is_of: impl Fn(usize) -> bool) {
        let own = u16::try_from(at).unwrap_or(NIL);
        let Some(first) = self.first(recipient, is_of) else {
            self.links[at] = ALONE;
            self.table.insert(recipient, own.into());
            return;
        };
        let next = std::mem::replace(&mut self.link(first).next, own);
        if next != NIL {
            self.link(next).prev = own;
        }
        self.links[at] = Link { next, prev: first };
    }

    /// A slot of this recipient is nobody's any more.
    pub(super) fn remove(&mut self, recipient: u64, at: usize) {
        let Link { next, prev } = self.links[at];
        if next != NIL {
            self.link(next).prev = prev;
        }
        if prev != NIL {
            self.link(prev).next = next;
            return;
        }
        self.table
            .remove(recipient, u16::try_from(at).unwrap_or(NIL).into());
        if next != NIL {
            self.table.insert(recipient, next.into());
        }
    }

    /// All slots of this recipient.
    pub(super) fn of(&self, recipient: u64, is_of: impl Fn(usize) -> bool) -> Vec<usize> {
        let first = self.first(recipient, is_of);
        let next = |at: &u16| Some(self.links[usize::from(*at)].next).filter(|&next| next != NIL);
        std::iter::successors(first, next)
            .map(usize::from)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// One number with all slots of a chunk, and each slot a number: however many are here, an insertion asks about as
    /// many others.
    #[test]
    fn a_slot_comes_at_the_same_cost_whoever_it_belongs_to() {
        let owners: [fn(usize) -> u64; 3] = [|_| 7, |at| at as u64, |at| at as u64 % 100];
        for owner in owners {
            let mut recipients = Recipients::new(Seeded::new(3));
            let asked = Cell::new(0);
            for at in 0..CHUNK_SLOTS {
                recipients.insert(owner(at), at, |other| {
                    asked.set(asked.get() + 1);
                    owner(other) == owner(at)
                });
            }
            assert!(asked.get() <= CHUNK_SLOTS + CHUNK_SLOTS / 100);
        }
    }

    #[test]
    fn whoever_leaves_the_others_stay() {
        let owner = |at: usize| at as u64 % 5;
        let mut recipients = Recipients::new(Seeded::new(3));
        for at in 0..100 {
            recipients.insert(owner(at), at, |other| owner(other) == owner(at));
        }
        let mut here: Vec<usize> = (0..100).collect();
        // From the front, the middle and the back in turn.
        for step in 0..100 {
            let at = here.remove([0, here.len() / 2, here.len() - 1][step % 3]);
            recipients.remove(owner(at), at);
            for number in 0..5 {
                let mut of = recipients.of(number, |other| owner(other) == number);
                of.sort_unstable();
                let left: Vec<usize> = here
                    .iter()
                    .copied()
                    .filter(|&at| owner(at) == number)
                    .collect();
                assert_eq!(of, left);
            }
        }
    }
}
