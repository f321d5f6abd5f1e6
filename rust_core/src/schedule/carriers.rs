//! What is known of recipients' carriers: a bounded memory of the recently used.
//!
//! It does not look anything up; the store keeps more than it does. Two generations instead of a list by age: when the
//! young one is full it becomes the old one, and what is asked for again moves back.

use std::collections::HashMap;

use super::hash::Seeded;
use crate::message::Carrier;

pub(super) struct Carriers {
    young: HashMap<u64, Carrier, Seeded>,
    old: HashMap<u64, Carrier, Seeded>,
    /// Half of what may be remembered, at least one.
    generation_max: usize,
}

impl Carriers {
    pub(super) fn new(recipients_max: usize, seeded: Seeded) -> Self {
        Self {
            young: HashMap::with_hasher(seeded),
            old: HashMap::with_hasher(seeded),
            generation_max: (recipients_max / 2).max(1),
        }
    }

    pub(super) fn learn(&mut self, recipient: u64, carrier: Carrier) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&recipient) {
            let next = HashMap::with_hasher(*self.young.hasher());
            self.old = std::mem::replace(&mut self.young, next);
        }
        self.young.insert(recipient, carrier);
    }

    /// As `get`, and remembers no better for it.
    pub(super) fn peek(&self, recipient: u64) -> Carrier {
        let known = self
            .young
            .get(&recipient)
            .or_else(|| self.old.get(&recipient));
        known.copied().unwrap_or(Carrier::Unknown)
    }

    pub(super) fn get(&mut self, recipient: u64) -> Carrier {
        if let Some(&carrier) = self.young.get(&recipient) {
            return carrier;
        }
        if self.old.is_empty() {
            return Carrier::Unknown;
        }
        let Some(carrier) = self.old.remove(&recipient) else {
            return Carrier::Unknown;
        };
        self.learn(recipient, carrier);
        carrier
    }
}
