//! Where the slot of an id is written down: a table of lines, one line a cache line.
//!
//! It keeps no ids; an entry is a slot and some bits of its id's hash, so a look-up asks whether the slot is the right one.
//! Four ids that follow each other share a line: ids rise, so neighbours in time are neighbours here, and a batch touches
//! few lines.
//!
//! Layout of a line: 15 entries, 0 for none, then how many entries that belong to this line or one before it had to pass
//! it because it was full. A look-up ends at the first line that nobody passed. There is room for 1.5 entries a message.

use super::hash::Seeded;

/// Words of a line.
const LINE: usize = 16;
const ENTRIES: usize = LINE - 1;
/// Messages for which a line is laid out at least: two thirds of its entries.
const MESSAGES_A_LINE: usize = 10;
/// Low bits of an id that do not choose its line.
const GROUP_BITS: u32 = 2;

pub(super) struct Ids {
    words: Vec<u32>,
    /// The first word that begins a cache line.
    start: usize,
    /// Lines, a power of two, minus one.
    mask: usize,
    /// Low bits of an entry: slot + 1.
    slot_mask: u32,
    seeded: Seeded,
}

impl Ids {
    pub(super) fn new(messages_max: usize, seeded: Seeded) -> Self {
        let lines = messages_max.div_ceil(MESSAGES_A_LINE).next_power_of_two();
        // Zeroes: the kernel lays out what is used.
        let words = vec![0_u32; (lines + 1) * LINE];
        let start = words.as_ptr().align_offset(LINE * size_of::<u32>());
        let slots = u32::try_from(messages_max).unwrap_or(u32::MAX);
        Self {
            start: if start < LINE { start } else { 0 },
            words,
            mask: lines - 1,
            slot_mask: u32::MAX >> slots.leading_zeros().min(31),
            seeded,
        }
    }

    /// The line of an id, and the upper bits of its entry.
    fn place(&self, id: u64) -> (usize, u32) {
        let mixed = self.seeded.of(id >> GROUP_BITS);
        let line = usize::try_from(mixed & u64::from(u32::MAX)).unwrap_or(0) & self.mask;
        let in_group = id & ((1 << GROUP_BITS) - 1);
        // The tag is what the slot leaves of 32 bits: ids of a group differ in its lowest bits.
        let tag = u32::try_from(((mixed >> 40) ^ in_group) & 0xff_ffff).unwrap_or(0);
        let shift = self.slot_mask.count_ones();
        (line, tag.checked_shl(shift).unwrap_or(0))
    }

    fn line(&self, line: usize) -> &[u32] {
        let at = self.start + line * LINE;
        &self.words[at..at + LINE]
    }

    fn line_mut(&mut self, line: usize) -> &mut [u32] {
        let at = self.start + line * LINE;
        &mut self.words[at..at + LINE]
    }

    /// Reads a word of the id's line, so that it is near when it is needed. The caller must use what comes back.
    pub(super) fn touch(&self, id: u64) -> u32 {
        self.line(self.place(id).0)[0]
    }

    /// The slot for which `is` holds among those that may be this id's.
    pub(super) fn find(&self, id: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (mut line, tag) = self.place(id);
        for _ in 0..=self.mask {
            let words = self.line(line);
            for &entry in &words[..ENTRIES] {
                let slot = entry & self.slot_mask;
                if slot != 0 && entry & !self.slot_mask == tag && is(slot - 1) {
                    return Some(slot - 1);
                }
            }
            if words[ENTRIES] == 0 {
                return None;
            }
            line = (line + 1) & self.mask;
        }
        None
    }

    /// Writes down the slot of an id that has none.
    pub(super) fn insert(&mut self, id: u64, slot: u32) {
        let (mut line, tag) = self.place(id);
        for _ in 0..=self.mask {
            let words = self.line_mut(line);
            if let Some(free) = words[..ENTRIES].iter_mut().find(|entry| **entry == 0) {
                *free = tag | (slot + 1);
                return;
            }
            words[ENTRIES] += 1;
            line = (line + 1) & self.mask;
        }
    }

    /// Forgets the slot of an id that has it.
    pub(super) fn remove(&mut self, id: u64, slot: u32) {
        let (mut line, tag) = self.place(id);
        let entry = tag | (slot + 1);
        for _ in 0..=self.mask {
            let words = self.line_mut(line);
            if let Some(found) = words[..ENTRIES].iter_mut().find(|other| **other == entry) {
                *found = 0;
                return;
            }
            words[ENTRIES] = words[ENTRIES].saturating_sub(1);
            line = (line + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that a look-up of this id reads.
    fn lines_read(ids: &Ids, id: u64) -> usize {
        let first = ids.place(id).0;
        let passed =
            (0..=ids.mask).take_while(|step| ids.line((first + step) & ids.mask)[ENTRIES] != 0);
        passed.count() + 1
    }

    fn filled(messages: u32, id_of: impl Fn(u64) -> u64) -> (Ids, Vec<u64>) {
        let mut ids = Ids::new(messages as usize, Seeded::new(1));
        let all: Vec<u64> = (0..u64::from(messages)).map(id_of).collect();
        for (&id, slot) in all.iter().zip(0..) {
            ids.insert(id, slot);
        }
        (ids, all)
    }

    #[test]
    fn a_full_table_finds_each_in_few_lines_whatever_the_shape_of_ids() {
        let shapes: [fn(u64) -> u64; 4] = [
            |n| n,
            // One a millisecond: the sequence is always 0.
            |n| n << 22 | 7 << 12,
            // Batches of 500 in a millisecond.
            |n| (n / 500) << 22 | 7 << 12 | (n % 500),
            |n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ];
        for (number, shape) in shapes.into_iter().enumerate() {
            // The worst of sizes: one message less and half the lines would do.
            let (ids, all) = filled(40_960, shape);
            let mut read = 0;
            for (&id, slot) in all.iter().zip(0_u32..) {
                assert_eq!(ids.find(id, |found| all[found as usize] == id), Some(slot));
                read += lines_read(&ids, id);
            }
            assert!(
                read < 2 * all.len(),
                "shape {number}: {read} lines for {}",
                all.len()
            );
        }
    }

    #[test]
    fn what_left_is_not_found_and_leaves_no_trace() {
        let (mut ids, all) = filled(40_960, |n| n);
        for (&id, slot) in all.iter().zip(0_u32..).filter(|(id, _)| **id % 3 != 0) {
            ids.remove(id, slot);
        }
        for &id in &all {
            let found = ids.find(id, |slot| all[slot as usize] == id);
            assert_eq!(found.is_some(), id % 3 == 0);
        }
        for (&id, slot) in all.iter().zip(0_u32..).filter(|(id, _)| **id % 3 == 0) {
            ids.remove(id, slot);
        }
        assert!(ids.words.iter().all(|&word| word == 0));
    }

    #[test]
    fn as_many_slots_as_there_may_be_fit_an_entry() {
        for messages_max in [0, 1, 2, 1 << 26] {
            let slots = Ids::new(messages_max, Seeded::new(1)).slot_mask;
            assert!(slots as usize >= messages_max, "{messages_max}");
        }
    }
}
