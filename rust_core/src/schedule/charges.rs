//! What attempts in flight owe the day ledgers, and the rows that the store is to keep.
//!
//! It grants nothing (`ledger.rs` does). A reservation is made before the attempt is written down, moves to spent when the
//! attempt was taken or nobody can know, and goes back only when it was proved not taken. A charge names its day: a day
//! that is over is settled on its own row.
//!
//! Where other nodes charge the same days, the store's row is everybody's: attempts are *told* to it as they are written
//! down, and what becomes of told ones is told as differences (`take_deltas`); the ledger here follows the row.
//!
//! Invariant: sums of a day change only through `post`, and every change is told by `take_changes`; those of told attempts
//! by `take_deltas`.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::hash::Seeded;
use super::meters::{DayCharge, Meters};
use super::recipients::{CHUNK_SLOTS, Recipients};
use super::table::Table;
use crate::ledger::Ledger;
use crate::message::Carrier;
use crate::settle::Fate;

/// What an attempt reserved. One ledger is the rule, so that one needs no memory of its own.
#[derive(Default)]
pub(super) struct Days {
    first: Option<DayCharge>,
    more: Vec<DayCharge>,
}

impl Days {
    pub(super) fn push(&mut self, day: DayCharge) {
        if self.first.is_none() {
            self.first = Some(day);
        } else {
            self.more.push(day);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn iter(&self) -> impl Iterator<Item = &DayCharge> {
        self.first.iter().chain(&self.more)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut DayCharge> {
        self.first.iter_mut().chain(&mut self.more)
    }
}

/// A slot: a cache line.
#[repr(align(64))]
#[derive(Default)]
struct Charge {
    id: u64,
    recipient: u64,
    days: Days,
    /// The slot is used.
    open: bool,
    /// Spent already, but evidence may still correct it.
    spent: bool,
    /// Spent for good: only its carrier is open.
    taken: bool,
    /// Reserved from several carriers.
    carrier_unknown: bool,
    mms: bool,
    /// The shared row has what it reserved.
    told: bool,
}

/// Slots that were laid out together, and those of them whose carrier is unknown by recipient.
struct Chunk {
    slots: Vec<Charge>,
    recipients: Recipients,
}

/// Four ids that follow each other share a line of their table.
const ID_GROUP_BITS: u32 = 2;
/// Attempts in flight beside the remembered for which the table of ids is laid out at first; it doubles when they are more.
const IN_FLIGHT: usize = 4_096;
/// However many are to be remembered, so many slots are laid out for at first.
const SLOTS_FIRST_MAX: usize = 1 << 20;

fn place(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS)
}

#[derive(Clone, Copy, Default)]
struct Sums {
    spent: u64,
    reserved: u64,
}

/// As in `slab.rs`, what came together lies together.
pub(super) struct Charges {
    chunks: Vec<Chunk>,
    /// Unused slots; those used last are used again first.
    free: Vec<u32>,
    ids: Table,
    /// Slots that `ids` can tell apart.
    slots_max: usize,
    /// Spent charges by age: the oldest are forgotten, and stay spent.
    remembered: VecDeque<u64>,
    remembered_max: usize,
    rows: Rows,
    seeded: Seeded,
}

/// Sums that no ledger counts now, and what changed.
struct Rows {
    other_days: BTreeMap<(u32, i32), Sums>,
    changed: HashSet<(u32, i32), Seeded>,
    /// What became of told attempts: spent and reserved that the shared rows do not have.
    deltas: BTreeMap<(u32, i32), (i64, i64)>,
}

impl Charges {
    pub(super) fn new(remembered_max: usize, seeded: Seeded) -> Self {
        let slots_max = remembered_max
            .saturating_add(IN_FLIGHT)
            .min(SLOTS_FIRST_MAX);
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            ids: Table::new(slots_max, ID_GROUP_BITS, seeded),
            slots_max,
            remembered: VecDeque::new(),
            remembered_max,
            rows: Rows {
                other_days: BTreeMap::new(),
                changed: HashSet::with_hasher(seeded),
                deltas: BTreeMap::new(),
            },
            seeded,
        }
    }

    fn at(&self, slot: u32) -> &Charge {
        let (chunk, at) = place(slot);
        &self.chunks[chunk].slots[at]
    }

    fn at_mut(&mut self, slot: u32) -> &mut Charge {
        let (chunk, at) = place(slot);
        &mut self.chunks[chunk].slots[at]
    }

    fn find(&self, id: u64) -> Option<u32> {
        self.ids.find(id, |slot| self.at(slot).id == id)
    }

    /// Remembers what the ledgers just reserved for an attempt of this message.
    pub(super) fn opened(
        &mut self,
        id: u64,
        recipient: u64,
        carrier: Carrier,
        mms: bool,
        days: Days,
    ) {
        // A former attempt of unknown outcome stays spent: this one is charged like a first.
        self.forget(id);
        for charge in days.iter() {
            self.rows.changed.insert((charge.quota, charge.day));
        }
        let carrier_unknown = carrier == Carrier::Unknown;
        let slot = self.free.pop().unwrap_or_else(|| self.grow());
        *self.at_mut(slot) = Charge {
            id,
            recipient,
            days,
            open: true,
            spent: false,
            taken: false,
            carrier_unknown,
            mms,
            told: false,
        };
        self.ids.insert(id, slot);
        if carrier_unknown {
            let (chunk, at) = place(slot);
            let Chunk { slots, recipients } = &mut self.chunks[chunk];
            recipients.insert(recipient, at, |other| slots[other].recipient == recipient);
        }
    }

    /// One slot more.
    fn grow(&mut self) -> u32 {
        let full = |chunk: &Chunk| chunk.slots.len() == CHUNK_SLOTS;
        if self.chunks.last().is_none_or(full) {
            self.chunks.push(Chunk {
                slots: Vec::with_capacity(CHUNK_SLOTS),
                recipients: Recipients::new(self.seeded),
            });
        }
        let mut slots = (self.chunks.len() - 1) * CHUNK_SLOTS;
        if let Some(chunk) = self.chunks.last_mut() {
            slots += chunk.slots.len();
            chunk.slots.push(Charge::default());
        }
        if slots >= self.slots_max {
            self.slots_max = slots * 2;
            let mut ids = Table::new(self.slots_max, ID_GROUP_BITS, self.seeded);
            let all = self.chunks.iter().flat_map(|chunk| &chunk.slots);
            for (slot, charge) in (0..).zip(all).filter(|(_, charge)| charge.open) {
                ids.insert(charge.id, slot);
            }
            self.ids = ids;
        }
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// What the attempts of these messages have reserved, by row.
    pub(super) fn reserved_by(&self, ids: impl Iterator<Item = u64>) -> BTreeMap<(u32, i32), u64> {
        let mut sums = BTreeMap::new();
        for charge in ids.filter_map(|id| self.find(id)).map(|slot| self.at(slot)) {
            for day in charge.days.iter().filter(|_| !charge.spent) {
                *sums.entry((day.quota, day.day)).or_default() += u64::from(day.cost);
            }
        }
        sums
    }

    /// What the attempt of this message has reserved, if its outcome is open.
    pub(super) fn open_days(&self, id: u64) -> impl Iterator<Item = &DayCharge> {
        let charge = self.find(id).map(|slot| self.at(slot));
        let open = charge.filter(|charge| !charge.spent);
        open.into_iter().flat_map(|charge| charge.days.iter())
    }

    /// The shared row has so much of this attempt: (row, units). What was given back meanwhile is owed to it.
    pub(super) fn told(&mut self, id: u64, rows: &[((u32, i32), u64)]) {
        let Some(slot) = self.find(id) else {
            return;
        };
        let (chunk, at) = place(slot);
        let charge = &mut self.chunks[chunk].slots[at];
        if charge.told {
            return;
        }
        charge.told = true;
        for &(row, units) in rows {
            let here = charge.days.iter().any(|day| (day.quota, day.day) == row);
            if !here {
                self.rows.owe(row, 0, -signed(units));
            }
        }
    }

    /// What became of told attempts since the last call: quota, day, what is to be added to spent and to reserved.
    pub(super) fn take_deltas(&mut self, meters: &Meters) -> Vec<(u32, i32, i64, i64)> {
        // Nobody asks for absolute rows where they are shared.
        self.rows.changed.clear();
        self.prune(meters);
        let deltas = std::mem::take(&mut self.rows.deltas).into_iter();
        deltas
            .map(|((quota, day), (spent, reserved))| (quota, day, spent, reserved))
            .collect()
    }

    /// The transaction that told these came to nothing.
    pub(super) fn owe_again(&mut self, rows: &[(u32, i32, i64, i64)]) {
        for &(quota, day, spent, reserved) in rows {
            self.rows.owe((quota, day), spent, reserved);
        }
    }

    /// The shared row as it was read, and what this node has reserved beside it. Returns the meter if its ledger counts
    /// that day now.
    pub(super) fn seen(
        &mut self,
        meters: &mut Meters,
        row: (u32, i32),
        spent: u64,
        reserved: u64,
    ) -> Option<u32> {
        let (ledger, meter) = meters.ledger_mut(row.0)?;
        if ledger.day() == Some(row.1) {
            ledger.seen(spent, reserved);
            return Some(meter);
        }
        if ledger.day().is_none_or(|day| day < row.1) {
            // For when the day begins here.
            self.rows.other_days.insert(row, Sums { spent, reserved });
        }
        None
    }

    /// Settles the attempt of this message. Returns the meters that have room again.
    pub(super) fn settle(&mut self, meters: &mut Meters, id: u64, fate: Fate) -> Vec<u32> {
        let Some(slot) = self.find(id) else {
            return Vec::new();
        };
        let (chunk, at) = place(slot);
        let charge = &mut self.chunks[chunk].slots[at];
        if charge.taken {
            return Vec::new();
        }
        let mut freed = Vec::new();
        for day in charge.days.iter() {
            let (before, reserved) = if charge.spent {
                (i64::from(day.cost), 0)
            } else {
                (0, u64::from(day.cost))
            };
            let after = match fate {
                Fate::Taken(Some(parts)) if day.in_segments && !charge.mms && parts > 0 => {
                    i64::from(parts)
                }
                Fate::Taken(_) | Fate::Unknown => i64::from(day.cost),
                Fate::NotTaken => 0,
            };
            let row = (day.quota, day.day);
            let meter = self
                .rows
                .post(meters, row, after - before, reserved, charge.told);
            if after < i64::from(day.cost) {
                freed.extend(meter);
            }
        }
        if fate == Fate::Unknown || (fate != Fate::NotTaken && charge.carrier_unknown) {
            if charge.remember(fate) {
                self.remembered.push_back(id);
                self.forget_oldest();
            }
        } else {
            self.close(slot);
        }
        in_order(freed)
    }

    fn forget_oldest(&mut self) {
        while self.remembered.len() > self.remembered_max {
            if let Some(oldest) = self.remembered.pop_front()
                && let Some(slot) = self.find(oldest)
                && self.at(slot).spent
            {
                self.close(slot);
            }
        }
    }

    /// The recipient's carrier is known: the other carriers get back what attempts reserved from them.
    pub(super) fn learn(
        &mut self,
        meters: &mut Meters,
        recipient: u64,
        carrier: Carrier,
    ) -> Vec<u32> {
        let mut freed = Vec::new();
        for Chunk { slots, recipients } in &mut self.chunks {
            for at in recipients.of(recipient, |other| slots[other].recipient == recipient) {
                recipients.remove(recipient, at);
                let charge = &mut slots[at];
                charge.carrier_unknown = false;
                for day in std::mem::take(&mut charge.days).iter() {
                    if day.carrier == carrier || day.carrier == Carrier::Unknown {
                        charge.days.push(*day);
                        continue;
                    }
                    let (spent, released) = if charge.spent {
                        (-i64::from(day.cost), 0)
                    } else {
                        (0, u64::from(day.cost))
                    };
                    let row = (day.quota, day.day);
                    let told = charge.told;
                    freed.extend(self.rows.post(meters, row, spent, released, told));
                }
            }
        }
        in_order(freed)
    }

    /// False if no attempt ever charged a ledger.
    pub(super) fn any(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// Nothing that is told of this message changes a ledger, until its next attempt.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(slot) = self.find(id) {
            self.close(slot);
        }
    }

    fn close(&mut self, slot: u32) {
        let charge = std::mem::take(self.at_mut(slot));
        self.ids.remove(charge.id, slot);
        if charge.carrier_unknown {
            let (chunk, at) = place(slot);
            self.chunks[chunk].recipients.remove(charge.recipient, at);
        }
        self.free.push(slot);
    }

    /// A row of the store at start. What was reserved is spent now: its attempts are unknown.
    pub(super) fn restore(
        &mut self,
        meters: &mut Meters,
        row: (u32, i32),
        spent: u64,
        reserved: u64,
    ) {
        let total = spent.saturating_add(reserved);
        if reserved > 0 {
            self.rows.changed.insert(row);
        }
        if let Some((ledger, _)) = meters.ledger_mut(row.0)
            && ledger.day() == Some(row.1)
        {
            ledger.correct(signed(total));
        } else {
            let sums = self.rows.other_days.entry(row).or_default();
            sums.spent = sums.spent.saturating_add(total);
        }
    }

    /// Moves a ledger to its day; returns its meter.
    pub(super) fn roll(
        &mut self,
        meters: &mut Meters,
        row: (u32, i32),
        resets_at_us: i64,
    ) -> Option<u32> {
        let (ledger, meter) = meters.ledger_mut(row.0)?;
        let before = ledger.day().map(|day| {
            (
                day,
                Sums {
                    spent: ledger.spent(),
                    reserved: ledger.reserved(),
                },
            )
        });
        let sums = if before.is_none_or(|(day, _)| day < row.1) {
            self.rows.other_days.remove(&row).unwrap_or_default()
        } else {
            Sums::default()
        };
        ledger.roll(row.1, resets_at_us, sums.spent, sums.reserved);
        if let Some((day, sums)) = before
            && day < row.1
        {
            self.rows.other_days.insert((row.0, day), sums);
        }
        Some(meter)
    }

    /// A quota was removed: its open charges are settled on its row.
    pub(super) fn retire(&mut self, ledger: &Ledger) {
        if let Some(day) = ledger.day() {
            let sums = Sums {
                spent: ledger.spent(),
                reserved: ledger.reserved(),
            };
            self.rows.other_days.insert((ledger.quota, day), sums);
        }
    }

    /// Rows that changed since the last call: quota, day, spent, reserved.
    pub(super) fn take_changes(&mut self, meters: &Meters) -> Vec<(u32, i32, u64, u64)> {
        let mut changed: Vec<_> = self.rows.changed.drain().collect();
        changed.sort_unstable();
        let rows = changed.into_iter().map(|(quota, day)| {
            let sums = match meters.ledger(quota) {
                Some(ledger) if ledger.day() == Some(day) => Sums {
                    spent: ledger.spent(),
                    reserved: ledger.reserved(),
                },
                _ => self
                    .rows
                    .other_days
                    .get(&(quota, day))
                    .copied()
                    .unwrap_or_default(),
            };
            (quota, day, sums.spent, sums.reserved)
        });
        let rows = rows.collect();
        self.prune(meters);
        rows
    }

    /// Days that are over and have nothing open are the store's alone.
    fn prune(&mut self, meters: &Meters) {
        if self.rows.other_days.is_empty() {
            return;
        }
        let newest = meters.newest_day();
        self.rows.other_days.retain(|&(quota, day), sums| {
            let current = meters.ledger(quota).and_then(Ledger::day).or(newest);
            // Yesterday stays: zones differ, and an unknown outcome may still be corrected on it.
            sums.reserved > 0 || current.is_none_or(|current| day >= current.saturating_sub(1))
        });
    }
}

impl Charge {
    /// Keeps a spent charge for evidence that may come: a count, a carrier, or that it was not taken after all. True if it
    /// was not kept before.
    fn remember(&mut self, fate: Fate) -> bool {
        if let Fate::Taken(Some(parts)) = fate
            && parts > 0
            && !self.mms
        {
            for day in self.days.iter_mut().filter(|day| day.in_segments) {
                day.cost = parts;
            }
        }
        self.taken = fate != Fate::Unknown;
        !std::mem::replace(&mut self.spent, true)
    }
}

impl Rows {
    /// The shared row lacks so much.
    fn owe(&mut self, row: (u32, i32), spent: i64, reserved: i64) {
        if (spent, reserved) == (0, 0) {
            return;
        }
        let owed = self.deltas.entry(row).or_default();
        owed.0 = owed.0.saturating_add(spent);
        owed.1 = owed.1.saturating_add(reserved);
        if *owed == (0, 0) {
            self.deltas.remove(&row);
        }
    }

    /// Moves the sums of a row; returns the meter if its ledger counts that day now. A row that was given up (over, with
    /// nothing open) stays as the store has it.
    fn post(
        &mut self,
        meters: &mut Meters,
        row: (u32, i32),
        spent: i64,
        released: u64,
        told: bool,
    ) -> Option<u32> {
        if told {
            self.owe(row, spent, -signed(released));
        }
        if let Some((ledger, meter)) = meters.ledger_mut(row.0)
            && ledger.day() == Some(row.1)
        {
            ledger.correct(spent);
            ledger.release(released);
            self.changed.insert(row);
            return Some(meter);
        }
        if let Some(sums) = self.other_days.get_mut(&row) {
            sums.spent = sums.spent.saturating_add_signed(spent);
            sums.reserved = sums.reserved.saturating_sub(released);
            self.changed.insert(row);
        }
        None
    }
}

/// Each once.
fn in_order(mut freed: Vec<u32>) -> Vec<u32> {
    freed.sort_unstable();
    freed.dedup();
    freed
}

fn signed(cost: u64) -> i64 {
    i64::try_from(cost).unwrap_or(i64::MAX)
}
