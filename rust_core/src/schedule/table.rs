//! Numbers → slots: a table of lines, one line a cache line.
//!
//! It keeps no numbers; an entry is a slot and some bits of its number's hash, so a look-up asks whether the slot is the
//! right one. Numbers that differ in their last `group_bits` only share a line, and eight such groups a page: where numbers
//! rise, as ids do, neighbours in time are neighbours here, and a batch touches few lines and fewer pages.
//!
//! Layout of a line, in words: 12 slots; 12 bytes of tags, 0 for a free place; how many entries that belong to this line or
//! one before it had to pass it because it was full. A look-up ends at the first line that nobody passed.

use super::hash::Seeded;

/// Words of a line.
const LINE: usize = 16;
const ENTRIES: usize = 12;
const PASSED: usize = 15;
/// Lines of a page of memory.
const PAGE_LINES: usize = 64;
/// Slots for which a line is laid out: seven of its twelve places, so that few lines are passed.
const SLOTS_A_LINE: usize = 7;
/// Numbers that differ in three bits more than those of a group lie in the same page.
const PAGE_BITS: u32 = 3;

type Line = [u32; LINE];

pub(super) struct Table {
    words: Vec<u32>,
    /// The first word that begins a cache line.
    start: usize,
    pages: usize,
    group_bits: u32,
    seeded: Seeded,
}

/// A bit in the byte of each place that may have this tag: all that have it, and sometimes one above such a place.
fn matches(line: &Line, tag: u8) -> u128 {
    const ONES: u128 = u128::MAX / 0xff;
    const TOPS: u128 = (ONES << 7) & (u128::MAX >> 32);
    let tags = u128::from(line[12]) | u128::from(line[13]) << 32 | u128::from(line[14]) << 64;
    let differ = tags ^ (ONES * u128::from(tag));
    differ.wrapping_sub(ONES) & !differ & TOPS
}

/// The places of these bits.
fn places(mut bits: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = (bits != 0).then(|| bits.trailing_zeros() as usize / 8);
        bits &= bits.wrapping_sub(1);
        place
    })
}

fn set_tag(line: &mut Line, place: usize, tag: u8) {
    let (word, shift) = (ENTRIES + place / 4, place % 4 * 8);
    line[word] = line[word] & !(0xff << shift) | u32::from(tag) << shift;
}

impl Table {
    /// For at most so many slots.
    pub(super) fn new(slots_max: usize, group_bits: u32, seeded: Seeded) -> Self {
        let lines = slots_max.div_ceil(SLOTS_A_LINE);
        let pages = lines.div_ceil(PAGE_LINES).max(1);
        // Zeroes: the kernel lays out what is used.
        let words = vec![0_u32; (pages * PAGE_LINES + 1) * LINE];
        let start = words.as_ptr().align_offset(LINE * size_of::<u32>());
        Self {
            start: if start < LINE { start } else { 0 },
            words,
            pages,
            group_bits,
            seeded,
        }
    }

    /// The line of a number, and its tag.
    fn place(&self, number: u64) -> (usize, u8) {
        let group = number >> self.group_bits;
        let mixed = self.seeded.of(group);
        // Upper bits of the product: as likely each page, however many there are.
        let page = (self.seeded.of(group >> PAGE_BITS) & u64::from(u32::MAX)) * self.pages as u64;
        let line = (page >> 32) * PAGE_LINES as u64 + mixed % PAGE_LINES as u64;
        // Numbers of a group differ in the lowest bits of their tags.
        let in_group = number & ((1 << self.group_bits) - 1);
        let tag = u8::try_from((mixed >> 56) ^ in_group).unwrap_or(0) | 0x80;
        (usize::try_from(line).unwrap_or(0), tag)
    }

    fn line(&self, line: usize) -> &Line {
        &self.words[self.start..].as_chunks().0[line]
    }

    fn line_mut(&mut self, line: usize) -> &mut Line {
        &mut self.words[self.start..].as_chunks_mut().0[line]
    }

    fn lines(&self) -> usize {
        self.pages * PAGE_LINES
    }

    fn after(&self, line: usize) -> usize {
        if line + 1 == self.lines() {
            0
        } else {
            line + 1
        }
    }

    /// Reads a word of the number's line, so that it is near when it is needed. The caller must use what comes back.
    pub(super) fn touch(&self, number: u64) -> u32 {
        self.line(self.place(number).0)[0]
    }

    /// The slot for which `is` holds among those that may be this number's.
    pub(super) fn find(&self, number: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let (mut at, tag) = self.place(number);
        for _ in 0..self.lines() {
            let line = self.line(at);
            let slots = places(matches(line, tag)).map(|place| line[place]);
            let found = slots.into_iter().find(|&slot| is(slot));
            if found.is_some() || line[PASSED] == 0 {
                return found;
            }
            at = self.after(at);
        }
        None
    }

    /// Writes down the slot of a number that has none.
    pub(super) fn insert(&mut self, number: u64, slot: u32) {
        let (mut at, tag) = self.place(number);
        for _ in 0..self.lines() {
            let line = self.line_mut(at);
            if let Some(free) = places(matches(line, 0)).next() {
                line[free] = slot;
                set_tag(line, free, tag);
                return;
            }
            line[PASSED] += 1;
            at = self.after(at);
        }
    }

    /// Forgets the slot of a number that has it.
    pub(super) fn remove(&mut self, number: u64, slot: u32) {
        let (mut at, tag) = self.place(number);
        for _ in 0..self.lines() {
            let line = self.line_mut(at);
            let found = places(matches(line, tag)).find(|&place| line[place] == slot);
            if let Some(place) = found {
                set_tag(line, place, 0);
                return;
            }
            line[PASSED] = line[PASSED].saturating_sub(1);
            at = self.after(at);
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
        let passed = |step: &usize| table.line((first + step) % table.lines())[PASSED] != 0;
        (0..table.lines()).take_while(passed).count() + 1
    }

    /// A full one.
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
        let lines = (0..table.lines()).map(|line| table.line(line));
        let traces = lines.flat_map(|line| &line[ENTRIES..]);
        assert!(traces.into_iter().all(|&word| word == 0));
    }

    #[test]
    fn a_table_for_nothing_or_one_holds_as_many() {
        for slots_max in [0_u32, 1, 2] {
            let mut table = Table::new(slots_max as usize, 2, Seeded::new(1));
            for slot in 0..slots_max {
                table.insert(slot.into(), slot);
            }
            for number in 0..4 {
                let found = table.find(number, |slot| u64::from(slot) == number);
                assert_eq!(
                    found.map(u64::from),
                    Some(number).filter(|_| number < slots_max.into())
                );
            }
        }
    }
}
