//! Numbers → slots: a table of lines, one line a cache line.
//!
//! It keeps no numbers; an entry is a slot and some bits of its number's hash, so a look-up asks whether the slot is the
//! right one. Numbers that differ in their last `group_bits` only share a line: where numbers rise, as ids do, neighbours in
//! time are neighbours here, and a batch touches few lines.
//!
//! Layout of a line: 15 entries, 0 for none, then how many entries that belong to this line or one before it had to pass
//! it because it was full. A look-up ends at the first line that nobody passed. There is room for 1.5 entries a slot.

use super::hash::Seeded;

/// Words of a line.
const LINE: usize = 16;
const ENTRIES: usize = LINE - 1;
/// Slots for which a line is laid out at least: two thirds of its entries.
const SLOTS_A_LINE: usize = 10;

type Line = [u32; LINE];

pub(super) struct Table {
    words: Vec<u32>,
    /// The first word that begins a cache line.
    start: usize,
    /// Lines, a power of two, minus one.
    mask: usize,
    /// Low bits of an entry: slot + 1.
    slot_mask: u32,
    group_bits: u32,
    seeded: Seeded,
}

/// One bit for each entry whose bits `within` are `wanted`.
fn matches(line: &Line, wanted: u32, within: u32) -> u32 {
    let mut found = 0;
    for (at, entry) in line[..ENTRIES].iter().enumerate() {
        found |= u32::from(entry & within == wanted) << at;
    }
    found
}

impl Table {
    /// For slots 0 to `slots_max` - 1.
    pub(super) fn new(slots_max: usize, group_bits: u32, seeded: Seeded) -> Self {
        let lines = slots_max.div_ceil(SLOTS_A_LINE).next_power_of_two();
        // Zeroes: the kernel lays out what is used.
        let words = vec![0_u32; (lines + 1) * LINE];
        let start = words.as_ptr().align_offset(LINE * size_of::<u32>());
        let slots = u32::try_from(slots_max).unwrap_or(u32::MAX);
        Self {
            start: if start < LINE { start } else { 0 },
            words,
            mask: lines - 1,
            slot_mask: u32::MAX >> slots.leading_zeros().min(31),
            group_bits,
            seeded,
        }
    }

    /// The line of a number, and the upper bits of its entry.
    fn place(&self, number: u64) -> (usize, u32) {
        let mixed = self.seeded.of(number >> self.group_bits);
        let line = usize::try_from(mixed & u64::from(u32::MAX)).unwrap_or(0) & self.mask;
        let in_group = number & ((1 << self.group_bits) - 1);
        // The tag is what the slot leaves of 32 bits: numbers of a group differ in its lowest bits.
        let tag = u32::try_from(((mixed >> 40) ^ in_group) & 0xff_ffff).unwrap_or(0);
        let shift = self.slot_mask.count_ones();
        (line, tag.checked_shl(shift).unwrap_or(0))
    }

    fn line(&self, line: usize) -> &Line {
        &self.words[self.start..].as_chunks().0[line]
    }

    fn line_mut(&mut self, line: usize) -> &mut Line {
        &mut self.words[self.start..].as_chunks_mut().0[line]
    }

    /// Reads a word of the number's line, so that it is near when it is needed. The caller must use what comes back.
    pub(super) fn touch(&self, number: u64) -> u32 {
        self.line(self.place(number).0)[0]
    }

    /// The slot for which `is` holds among those that may be this number's.
    pub(super) fn find(&self, number: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (mut at, tag) = self.place(number);
        for _ in 0..=self.mask {
            let line = self.line(at);
            let mut found = matches(line, tag, !self.slot_mask);
            while found != 0 {
                let slot = line[found.trailing_zeros() as usize] & self.slot_mask;
                if slot != 0 && is(slot - 1) {
                    return Some(slot - 1);
                }
                found &= found - 1;
            }
            if line[ENTRIES] == 0 {
                return None;
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// Writes down the slot of a number that has none.
    pub(super) fn insert(&mut self, number: u64, slot: u32) {
        let (mut at, tag) = self.place(number);
        for _ in 0..=self.mask {
            let line = self.line_mut(at);
            let free = matches(line, 0, u32::MAX);
            if free != 0 {
                line[free.trailing_zeros() as usize] = tag | (slot + 1);
                return;
            }
            line[ENTRIES] += 1;
            at = (at + 1) & self.mask;
        }
    }

    /// Forgets the slot of a number that has it.
    pub(super) fn remove(&mut self, number: u64, slot: u32) {
        let (mut at, tag) = self.place(number);
        for _ in 0..=self.mask {
            let line = self.line_mut(at);
            let found = matches(line, tag | (slot + 1), u32::MAX);
            if found != 0 {
                line[found.trailing_zeros() as usize] = 0;
                return;
            }
            line[ENTRIES] = line[ENTRIES].saturating_sub(1);
            at = (at + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u32 = 40_960;

    /// Lines that a look-up of this number may read.
    fn lines_read(table: &Table, number: u64) -> usize {
        let first = table.place(number).0;
        let passed = |step: &usize| table.line((first + step) & table.mask)[ENTRIES] != 0;
        (0..=table.mask).take_while(passed).count() + 1
    }

    /// A full one, of the worst size: with one line less a slot, half the lines would do.
    fn filled(group_bits: u32, number_of: impl Fn(u64) -> u64) -> (Table, Vec<u64>) {
        let mut table = Table::new(SLOTS as usize, group_bits, Seeded::new(1));
        let all: Vec<u64> = (0..u64::from(SLOTS)).map(number_of).collect();
        for (&number, slot) in all.iter().zip(0..) {
            table.insert(number, slot);
        }
        (table, all)
    }

    #[test]
    fn a_full_table_finds_each_in_few_lines_whatever_the_shape_of_numbers() {
        let shapes: [fn(u64) -> u64; 5] = [
            |n| n,
            // One a millisecond: the sequence is always 0.
            |n| n << 22 | 7 << 12,
            // Batches of 500 in a millisecond.
            |n| (n / 500) << 22 | 7 << 12 | (n % 500),
            |n| 12_025_550_100 + n * 1_000,
            |n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ];
        for (shape, group_bits) in shapes
            .into_iter()
            .flat_map(|shape| [(shape, 0), (shape, 2)])
        {
            let (table, all) = filled(group_bits, shape);
            let mut read = 0;
            for (&number, slot) in all.iter().zip(0_u32..) {
                let is = |found: u32| all[found as usize] == number;
                assert_eq!(table.find(number, is), Some(slot));
                read += lines_read(&table, number);
            }
            assert!(read < 2 * all.len(), "{read} lines, {group_bits} bits");
        }
    }

    #[test]
    fn what_left_is_not_found_and_leaves_no_trace() {
        let (mut table, all) = filled(2, |n| n);
        let stays = |number: u64| number.is_multiple_of(3);
        for (&number, slot) in all.iter().zip(0..).filter(|&(&number, _)| !stays(number)) {
            table.remove(number, slot);
        }
        for &number in &all {
            let found = table.find(number, |slot| all[slot as usize] == number);
            assert_eq!(found.is_some(), stays(number));
        }
        for (&number, slot) in all.iter().zip(0..).filter(|&(&number, _)| stays(number)) {
            table.remove(number, slot);
        }
        assert!(table.words.iter().all(|&word| word == 0));
    }

    #[test]
    fn as_many_slots_as_there_may_be_fit_an_entry() {
        for slots_max in [0, 1, 2, 1 << 26] {
            let slots = Table::new(slots_max, 2, Seeded::new(1)).slot_mask;
            assert!(slots as usize >= slots_max, "{slots_max}");
        }
    }
}
