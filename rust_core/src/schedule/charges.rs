//! What attempts in flight owe the day ledgers, and the rows that the store is to keep.
//!
//! It grants nothing (`ledger.rs` does). A reservation is made before the attempt is written down, moves to spent when the
//! attempt was taken or nobody can know, and goes back only when it was proved not taken. A charge names its day: a day
//! that is over is settled on its own row.
//!
//! Invariant: sums of a day change only through `post`, and every change is told by `take_changes`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::meters::{DayCharge, Meters};
use crate::ledger::Ledger;
use crate::message::Carrier;
use crate::settle::Fate;

struct Charge {
    recipient: u64,
    days: Vec<DayCharge>,
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
    open: HashMap<u64, Charge>,
    /// Messages to an unknown carrier in `open`.
    by_recipient: HashMap<u64, Vec<u64>>,
    /// Spent charges by age: the oldest are forgotten, and stay spent.
    remembered: VecDeque<u64>,
    remembered_max: usize,
    /// Rows of days that no ledger counts now.
    other_days: BTreeMap<(u32, i32), Sums>,
    changed: BTreeSet<(u32, i32)>,
}

impl Charges {
    pub(super) fn new(remembered_max: usize) -> Self {
        Self {
            open: HashMap::new(),
            by_recipient: HashMap::new(),
            remembered: VecDeque::new(),
            remembered_max,
            other_days: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Remembers what the ledgers just reserved for an attempt of this message.
    pub(super) fn opened(
        &mut self,
        id: u64,
        recipient: u64,
        carrier: Carrier,
        mms: bool,
        days: Vec<DayCharge>,
    ) {
        // A former attempt of unknown outcome stays spent: this one is charged like a first.
        self.forget(id);
        self.changed
            .extend(days.iter().map(|charge| (charge.quota, charge.day)));
        let carrier_unknown = carrier == Carrier::Unknown;
        if carrier_unknown {
            self.by_recipient.entry(recipient).or_default().push(id);
        }
        self.open.insert(
            id,
            Charge {
                recipient,
                days,
                spent: false,
                carrier_unknown,
                mms,
            },
        );
    }

    /// What the attempts of these messages have reserved, by row.
    pub(super) fn reserved_by(&self, ids: impl Iterator<Item = u64>) -> BTreeMap<(u32, i32), u64> {
        let mut sums = BTreeMap::new();
        for charge in ids.filter_map(|id| self.open.get(&id)) {
            for day in charge.days.iter().filter(|_| !charge.spent) {
                *sums.entry((day.quota, day.day)).or_default() += day.cost;
            }
        }
        sums
    }

    /// Settles the attempt of this message. Returns the meters that have room again.
    pub(super) fn settle(&mut self, meters: &mut Meters, id: u64, fate: Fate) -> Vec<u32> {
        let Some(charge) = self.open.remove(&id) else {
            return Vec::new();
        };
        let mut freed = BTreeSet::new();
        for day in &charge.days {
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
            let meter = self.post(meters, (day.quota, day.day), after - before, reserved);
            if after < signed(day.cost) {
                freed.extend(meter);
            }
        }
        if fate == Fate::Unknown || (fate != Fate::NotTaken && charge.carrier_unknown) {
            self.remember(id, charge, fate);
        } else {
            self.unlink_recipient(id, &charge);
        }
        freed.into_iter().collect()
    }

    /// Keeps a spent charge for evidence that may come: a count, a carrier, or that it was not taken after all.
    fn remember(&mut self, id: u64, mut charge: Charge, fate: Fate) {
        if let Fate::Taken(Some(parts)) = fate
            && parts > 0
            && !charge.mms
        {
            for day in charge.days.iter_mut().filter(|day| day.in_segments) {
                day.cost = u64::from(parts);
            }
        }
        let known = charge.spent;
        charge.spent = true;
        self.open.insert(id, charge);
        if !known {
            self.remembered.push_back(id);
        }
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
        let mut freed = BTreeSet::new();
        for id in self.by_recipient.remove(&recipient).unwrap_or_default() {
            let Some(mut charge) = self.open.remove(&id) else {
                continue;
            };
            let (kept, others): (Vec<_>, Vec<_>) = charge
                .days
                .drain(..)
                .partition(|day| day.carrier == carrier || day.carrier == Carrier::Unknown);
            for day in others {
                let (spent, released) = if charge.spent {
                    (-signed(day.cost), 0)
                } else {
                    (0, day.cost)
                };
                freed.extend(self.post(meters, (day.quota, day.day), spent, released));
            }
            charge.days = kept;
            charge.carrier_unknown = false;
            self.open.insert(id, charge);
        }
        freed.into_iter().collect()
    }

    fn forget(&mut self, id: u64) {
        if let Some(charge) = self.open.remove(&id) {
            self.unlink_recipient(id, &charge);
        }
    }

    fn unlink_recipient(&mut self, id: u64, charge: &Charge) {
        if charge.carrier_unknown
            && let Some(ids) = self.by_recipient.get_mut(&charge.recipient)
        {
            ids.retain(|&other| other != id);
            if ids.is_empty() {
                self.by_recipient.remove(&charge.recipient);
            }
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
            self.changed.insert(row);
        }
        if let Some((ledger, _)) = meters.ledger_mut(row.0)
            && ledger.day() == Some(row.1)
        {
            ledger.correct(signed(total));
        } else {
            let sums = self.other_days.entry(row).or_default();
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
            self.other_days.remove(&row).unwrap_or_default()
        } else {
            Sums::default()
        };
        ledger.roll(row.1, resets_at_us, sums.spent, sums.reserved);
        if let Some((day, sums)) = before
            && day < row.1
        {
            self.other_days.insert((row.0, day), sums);
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
            self.other_days.insert((ledger.quota, day), sums);
        }
    }

    /// Rows that changed since the last call: quota, day, spent, reserved.
    pub(super) fn take_changes(&mut self, meters: &Meters) -> Vec<(u32, i32, u64, u64)> {
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.into_iter().map(|(quota, day)| {
            let sums = match meters.ledger(quota) {
                Some(ledger) if ledger.day() == Some(day) => Sums {
                    spent: ledger.spent(),
                    reserved: ledger.reserved(),
                },
                _ => self
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
        if self.other_days.is_empty() {
            return;
        }
        let newest = meters.newest_day();
        self.other_days.retain(|&(quota, day), sums| {
            let current = meters.ledger(quota).and_then(Ledger::day).or(newest);
            // Yesterday stays: zones differ, and an unknown outcome may still be corrected on it.
            sums.reserved > 0 || current.is_none_or(|current| day >= current.saturating_sub(1))
        });
    }
}

fn signed(cost: u64) -> i64 {
    i64::try_from(cost).unwrap_or(i64::MAX)
}
