//! What is known of recipients' carriers: a bounded memory of the recently used.
//!
//! It does not look anything up; the store keeps more than it does. Two generations instead of a list by age: when the
//! young one is full it becomes the old one, and what is asked for again moves back.

use std::collections::HashMap;

use crate::message::Carrier;

pub(super) struct Carriers {
    young: HashMap<u64, Carrier>,
    old: HashMap<u64, Carrier>,
    /// Half of what may be remembered, at least one.
    generation_max: usize,
}

impl Carriers {
    pub(super) fn new(recipients_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: (recipients_max / 2).max(1),
        }
    }

    pub(super) fn learn(&mut self, recipient: u64, carrier: Carrier) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&recipient) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(recipient, carrier);
    }

    pub(super) fn get(&mut self, recipient: u64) -> Carrier {
        if let Some(&carrier) = self.young.get(&recipient) {
            return carrier;
        }
        let Some(carrier) = self.old.remove(&recipient) else {
            return Carrier::Unknown;
        };
        self.learn(recipient, carrier);
        carrier
    }
}
