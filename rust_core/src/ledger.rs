//! Calendar limits: what a brand may send to a carrier on one day of that limit's own time zone.
//!
//! It knows no time zones: the caller names the day and when it ends. It keeps no rates (`quota.rs` does).
//!
//! Invariants: a reservation is granted only while reserved + spent + cost ≤ cap, and for classes below `reserved_class`
//! only within the share that is not kept for the urgent. Only a provider's correction can pass the cap, and then nothing
//! more goes that day. Without a day, and after its day ended, a ledger refuses: it never guesses which day it is.

use crate::message::{Class, Micros};
use crate::quota::Refusal;

/// The day on which clocks go forward.
const SHORTEST_DAY_US: Micros = 23 * 3600 * 1_000_000;

/// What one quota has reserved and spent on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Integer key of the quota.
    pub quota: u32,
    cap: u64,
    reserved_percent: u8,
    reserved_class: Class,
    day: Option<i32>,
    resets_at_us: Micros,
    stopped_until_us: Micros,
    reserved: u64,
    spent: u64,
}

impl Ledger {
    /// A ledger that refuses until it is told its day. `reserved_percent` of the cap (rounded up, at most all of it) is
    /// for `reserved_class` and more urgent ones.
    #[must_use]
    pub fn new(quota: u32, cap: u64, reserved_percent: u8, reserved_class: Class) -> Self {
        Self {
            quota,
            cap,
            reserved_percent: reserved_percent.min(100),
            reserved_class,
            day: None,
            resets_at_us: Micros::MIN,
            stopped_until_us: Micros::MIN,
            reserved: 0,
            spent: 0,
        }
    }

    /// The same day's counts under other terms: a quota was changed.
    #[must_use]
    pub fn with_terms_of(mut self, terms: &Self) -> Self {
        self.cap = terms.cap;
        self.reserved_percent = terms.reserved_percent;
        self.reserved_class = terms.reserved_class;
        self
    }

    /// The day it counts, an ordinal in its own zone.
    #[must_use]
    pub fn day(&self) -> Option<i32> {
        self.day
    }

    /// Reserved by attempts whose outcome is open.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Spent: taken, or unknown.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// The least time before one more passes behind so many of cost 1. 0 for a cap of 0, which says nothing of when.
    #[must_use]
    pub fn passing_us(&self, before: u64) -> Micros {
        // Two days' worth may pass around a midnight.
        let days = before.checked_div(self.cap).unwrap_or(0).saturating_sub(1);
        Micros::try_from(days).map_or(Micros::MAX, |days| days.saturating_mul(SHORTEST_DAY_US))
    }

    /// May `cost` be reserved at `now_us` (wall clock)? Changes nothing.
    ///
    /// # Errors
    ///
    /// When the day resets; `Never` for a cost that no day could hold.
    pub fn check(&self, cost: u64, class: Class, now_us: Micros) -> Result<(), Refusal> {
        let share = self.share(class);
        if cost > share {
            return Err(Refusal::Never);
        }
        if self.day.is_none() || now_us >= self.resets_at_us {
            // The caller owes the next day; `roll` wakes whoever waits.
            return Err(Refusal::Until(Micros::MAX));
        }
        if now_us < self.stopped_until_us {
            return Err(Refusal::Until(self.stopped_until_us));
        }
        if self.used().saturating_add(cost) > share {
            return Err(Refusal::Until(self.resets_at_us));
        }
        Ok(())
    }

    /// Reserves `cost` for an attempt that is about to be written down.
    ///
    /// # Errors
    ///
    /// As [`Ledger::check`]; nothing was reserved.
    pub fn reserve(&mut self, cost: u64, class: Class, now_us: Micros) -> Result<(), Refusal> {
        self.check(cost, class, now_us)?;
        self.reserved = self.reserved.saturating_add(cost);
        Ok(())
    }

    /// A reservation was taken, or nobody can know: it is spent.
    pub fn spend(&mut self, cost: u64) {
        self.release(cost);
        self.spent = self.spent.saturating_add(cost);
    }

    /// A reservation was proved not taken.
    pub fn release(&mut self, cost: u64) {
        self.reserved = self.reserved.saturating_sub(cost);
    }

    /// What the day has spent and reserved, as another count has it that is shared.
    pub fn seen(&mut self, spent: u64, reserved: u64) {
        self.spent = spent;
        self.reserved = reserved;
    }

    /// The provider counted otherwise. May pass the cap: then nothing more goes that day.
    pub fn correct(&mut self, delta: i64) {
        self.spent = self.spent.saturating_add_signed(delta);
    }

    /// The provider says that the cap is reached: nothing passes before this time.
    pub fn stop_until(&mut self, until_us: Micros) {
        self.stopped_until_us = self.stopped_until_us.max(until_us);
    }

    /// Starts `day`, which ends at `resets_at_us`, with what was already spent and reserved on it. The same day again
    /// only moves its end; an earlier day is ignored and `false` comes back: a day that is over is not reopened.
    pub fn roll(&mut self, day: i32, resets_at_us: Micros, spent: u64, reserved: u64) -> bool {
        if self.day.is_some_and(|current| day < current) {
            return false;
        }
        if self.day != Some(day) {
            self.day = Some(day);
            self.spent = 0;
            self.reserved = 0;
        }
        self.resets_at_us = resets_at_us;
        self.spent = self.spent.saturating_add(spent);
        self.reserved = self.reserved.saturating_add(reserved);
        true
    }

    fn used(&self) -> u64 {
        self.reserved.saturating_add(self.spent)
    }

    /// How far this class may fill the cap.
    #[must_use]
    pub fn share(&self, class: Class) -> u64 {
        if class <= self.reserved_class {
            return self.cap;
        }
        let kept = (u128::from(self.cap) * u128::from(self.reserved_percent)).div_ceil(100);
        self.cap
            .saturating_sub(u64::try_from(kept).unwrap_or(u64::MAX))
    }
}
