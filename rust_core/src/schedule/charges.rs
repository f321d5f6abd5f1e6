//! What attempts in flight owe the day ledgers, and the rows that the store is to keep.
//!
//! It grants nothing (`ledger.rs` does). A reservation is made before the attempt is written down, moves to spent when the
//! attempt was taken or nobody can know, and goes back only when it was proved not taken. A charge names its day: a day
//! that is over is settled on its own row.
//!
//! Invariant: sums of a day change only through `post`, and every change is told by `take_changes`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::hash::Seeded;
use super::meters::{DayCharge, Meters};
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

struct Charge {
    recipient: u64,
    days: Days,
    /// Messages to the same recipient, charged before and after, while the carrier is unknown; the own id at the end.
    older: u64,
    newer: u64,
    /// Spent already, but evidence may still correct it.
    spent: bool,
    /// Reserved from several carriers.
    carrier_unknown: bool,
    mms: bool,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    spent: u64,
    reserved: u64,
}

pub(super) struct Charges {
    open: HashMap<u64, Charge, Seeded>,
    /// The newest message to an unknown carrier in `open`; the others are linked to it.
    by_recipient: HashMap<u64, u64, Seeded>,
    /// Spent charges by age: the oldest are forgotten, and stay spent.
    remembered: VecDeque<u64>,
    remembered_max: usize,
    rows: Rows,
}

/// Sums that no ledger counts now, and what changed.
struct Rows {
    other_days: BTreeMap<(u32, i32), Sums>,
    changed: HashSet<(u32, i32), Seeded>,
}

impl Charges {
    pub(super) fn new(remembered_max: usize, seeded: Seeded) -> Self {
        Self {
            open: HashMap::with_hasher(seeded),
            by_recipient: HashMap::with_hasher(seeded),
            remembered: VecDeque::new(),
            remembered_max,
            rows: Rows {
                other_days: BTreeMap::new(),
                changed: HashSet::with_hasher(seeded),
            },
        }
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
        for charge in days.iter() {
            self.rows.changed.insert((charge.quota, charge.day));
        }
        let carrier_unknown = carrier == Carrier::Unknown;
        let charge = Charge {
            recipient,
            days,
            older: id,
            newer: id,
            spent: false,
            carrier_unknown,
            mms,
        };
        // A former attempt of unknown outcome stays spent: this one is charged like a first.
        if let Some(former) = self.open.insert(id, charge) {
            self.unlink_recipient(id, &former);
        }
        if carrier_unknown && let Some(older) = self.by_recipient.insert(recipient, id) {
            self.link(older, id);
        }
    }

    fn link(&mut self, older: u64, newer: u64) {
        if let Some(charge) = self.open.get_mut(&older) {
            charge.newer = newer;
        }
        if let Some(charge) = self.open.get_mut(&newer) {
            charge.older = older;
        }
    }

    /// Settles the attempt of this message. Returns the meters that have room again.
    pub(super) fn settle(&mut self, meters: &mut Meters, id: u64, fate: Fate) -> Vec<u32> {
        let Some(charge) = self.open.get_mut(&id) else {
            return Vec::new();
        };
        let mut freed = Vec::new();
        for day in charge.days.iter() {
            let (before, reserved) = if charge.spent {
                (signed(day.cost), 0)
            } else {
                (0, day.cost)
            };
            let after = match fate {
                Fate::Taken(Some(parts)) if day.in_segments && !charge.mms && parts > 0 => {
                    i64::from(parts)
                }
                Fate::Taken(_) | Fate::Unknown => signed(day.cost),
                Fate::NotTaken => 0,
            };
            let meter = self
                .rows
                .post(meters, (day.quota, day.day), after - before, reserved);
            if after < signed(day.cost) {
                freed.extend(meter);
            }
        }
        if fate == Fate::Unknown || (fate != Fate::NotTaken && charge.carrier_unknown) {
            if charge.remember(fate) {
                self.remembered.push_back(id);
                self.forget_oldest();
            }
        } else {
            self.forget(id);
        }
        in_order(freed)
    }

    fn forget_oldest(&mut self) {
        while self.remembered.len() > self.remembered_max {
            if let Some(oldest) = self.remembered.pop_front()
                && self.open.get(&oldest).is_some_and(|charge| charge.spent)
            {
                self.forget(oldest);
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
        let mut next = self.by_recipient.remove(&recipient);
        while let Some(id) = next
            && let Some(charge) = self.open.get_mut(&id)
        {
            next = Some(charge.older).filter(|&older| older != id);
            charge.carrier_unknown = false;
            let days = std::mem::take(&mut charge.days);
            for &day in days.iter() {
                if day.carrier == carrier || day.carrier == Carrier::Unknown {
                    charge.days.push(day);
                    continue;
                }
                let (spent, released) = if charge.spent {
                    (-signed(day.cost), 0)
                } else {
                    (0, day.cost)
                };
                let row = (day.quota, day.day);
                freed.extend(self.rows.post(meters, row, spent, released));
            }
        }
        in_order(freed)
    }

    fn forget(&mut self, id: u64) {
        if let Some(charge) = self.open.remove(&id) {
            self.unlink_recipient(id, &charge);
        }
    }

    /// One number may have any count of charges, and each leaves at the same cost.
    fn unlink_recipient(&mut self, id: u64, charge: &Charge) {
        if !charge.carrier_unknown {
            return;
        }
        let (is_oldest, is_newest) = (charge.older == id, charge.newer == id);
        if is_newest && is_oldest {
            self.by_recipient.remove(&charge.recipient);
        } else if is_newest {
            self.by_recipient.insert(charge.recipient, charge.older);
            if let Some(older) = self.open.get_mut(&charge.older) {
                older.newer = charge.older;
            }
        } else if is_oldest {
            if let Some(newer) = self.open.get_mut(&charge.newer) {
                newer.older = charge.newer;
            }
        } else {
            self.link(charge.older, charge.newer);
        }
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
                day.cost = u64::from(parts);
            }
        }
        !std::mem::replace(&mut self.spent, true)
    }
}

impl Rows {
    /// Moves the sums of a row; returns the meter if its ledger counts that day now. A row that was given up (over, with
    /// nothing open) stays as the store has it.
    fn post(
        &mut self,
        meters: &mut Meters,
        row: (u32, i32),
        spent: i64,
        released: u64,
    ) -> Option<u32> {
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
