//! Rate limits as exact arithmetic: a bucket that never lets more than its amount through in any window.
//!
//! It reads no clock and knows nothing of lanes or days (`ledger.rs` counts days). Calendar time never comes in: `mono`
//! is a monotonic clock in microseconds.
//!
//! Invariants: the generic cell rate algorithm on integers scaled by `amount - burst`, so nothing is rounded in favour of
//! the sender; burst + rate × window = amount, so every half-open window of that length holds at most `amount`. All
//! arithmetic saturates towards refusal. Nothing is ever given back: a token returned after its window has moved on would
//! let a later window overshoot, so what was taken and not used is lost.

use crate::message::Micros;

/// When a refused cost could pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not before this time of the clock that was given.
    Until(Micros),
    /// Never: it is above what can pass at once.
    Never,
}

/// So many at once when nothing else is said: a twentieth of the amount, at least 10, at most half of it, never 0.
#[must_use]
pub fn default_burst(amount: u64) -> u64 {
    (amount / 20).max(10).min(amount / 2).max(1)
}

/// A rate limit and how far it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Units of scaled time in a microsecond: amount − burst, or 1 where one passes per window.
    scale: u64,
    /// Scaled time that one token takes to come back: the window.
    token: u64,
    /// Tokens at once.
    burst: u64,
    /// Scaled time at which the bucket is full again (the algorithm's theoretical arrival time).
    full_at: i128,
    /// The latest `mono` seen: time going back brings no tokens.
    latest_us: Micros,
    /// Refuses everything: an amount of 0.
    closed: bool,
}

impl Bucket {
    /// A full bucket of `amount` per `window_us`, `burst` of them at once. A burst outside 1 ≤ burst < amount is moved
    /// into it; an amount of 1 passes once per full window; an amount of 0 never passes; a window of 0 counts as 1 µs.
    #[must_use]
    pub fn new(amount: u64, burst: u64, window_us: u64) -> Self {
        let burst = burst.clamp(1, amount.saturating_sub(1).max(1));
        let scale = amount.saturating_sub(burst).max(1);
        Self {
            scale,
            token: window_us.max(1),
            burst,
            full_at: i128::MIN,
            latest_us: Micros::MIN,
            closed: amount == 0,
        }
    }

    /// The same bucket with nothing in it at `mono`: what a start must assume of the window before it.
    #[must_use]
    pub fn empty_at(mut self, mono: Micros) -> Self {
        self.raise(mono, self.burst);
        self
    }

    /// The least time before one more passes behind so many of cost 1, were the bucket full now. 0 for a closed one, which
    /// says nothing of when.
    #[must_use]
    pub fn passing_us(&self, before: u64) -> Micros {
        if self.closed {
            return 0;
        }
        let tokens = u128::from(before.saturating_sub(self.burst));
        let us = tokens * u128::from(self.token) / u128::from(self.scale);
        Micros::try_from(us).unwrap_or(Micros::MAX)
    }

    /// May `cost` pass at `mono`? Changes nothing.
    ///
    /// # Errors
    ///
    /// When it could pass, in the same clock.
    pub fn check(&self, cost: u64, mono: Micros) -> Result<(), Refusal> {
        if self.closed || cost > self.burst {
            return Err(Refusal::Never);
        }
        let now = self.scaled(mono.max(self.latest_us));
        let slack = self.tokens(self.burst - cost);
        if self.full_at <= now.saturating_add(slack) {
            return Ok(());
        }
        let ready = self.full_at.saturating_sub(slack);
        // Rounded up: a whole microsecond later is never too early.
        let scale = i128::from(self.scale);
        let ready_us = ready.div_euclid(scale) + i128::from(ready.rem_euclid(scale) != 0);
        Err(Refusal::Until(
            Micros::try_from(ready_us).unwrap_or(Micros::MAX),
        ))
    }

    /// Takes `cost` at `mono` if it may pass. There is no way to put it back, see the head of this file.
    ///
    /// # Errors
    ///
    /// As [`Bucket::check`]; nothing was taken.
    pub fn take(&mut self, cost: u64, mono: Micros) -> Result<(), Refusal> {
        self.check(cost, mono)?;
        self.latest_us = mono.max(self.latest_us);
        self.full_at = self
            .full_at
            .max(self.scaled(self.latest_us))
            .saturating_add(self.tokens(cost));
        Ok(())
    }

    /// How many pass at once at `mono`.
    #[must_use]
    pub fn available(&self, mono: Micros) -> u64 {
        if self.closed {
            return 0;
        }
        let missing = self
            .full_at
            .saturating_sub(self.scaled(mono.max(self.latest_us)));
        let token = i128::from(self.token);
        let missing = missing.max(0);
        let missing = missing / token + i128::from(missing % token != 0);
        self.burst
            .saturating_sub(u64::try_from(missing).unwrap_or(u64::MAX))
    }

    /// So many at once at most.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// How far it is used, in three integers: full again at this microsecond and so many parts of one, and the latest
    /// time it saw.
    #[must_use]
    pub fn parts(&self) -> (Micros, u64, Micros) {
        let scale = i128::from(self.scale);
        let full_us = self.full_at.div_euclid(scale);
        let rest = self.full_at.rem_euclid(scale);
        let limit = if full_us < 0 {
            Micros::MIN
        } else {
            Micros::MAX
        };
        (
            Micros::try_from(full_us).unwrap_or(limit),
            u64::try_from(rest).unwrap_or(0),
            self.latest_us,
        )
    }

    /// The same bucket, used as [`Bucket::parts`] said.
    #[must_use]
    pub fn restored(mut self, full_us: Micros, rest: u64, latest_us: Micros) -> Self {
        self.full_at = self.scaled(full_us).saturating_add(i128::from(rest));
        self.latest_us = latest_us;
        self
    }

    /// Nothing passes before `mono`, and then one token: after "too fast" a full burst would be the same mistake again.
    pub fn park_until(&mut self, mono: Micros) {
        self.raise(mono, self.burst - 1);
    }

    fn raise(&mut self, mono: Micros, missing: u64) {
        self.full_at = self
            .full_at
            .max(self.scaled(mono).saturating_add(self.tokens(missing)));
    }

    fn scaled(&self, mono: Micros) -> i128 {
        // At most 2^63 × 2^64: fits.
        i128::from(mono) * i128::from(self.scale)
    }

    fn tokens(&self, count: u64) -> i128 {
        // Two of 64 bits make 128 without a sign.
        i128::try_from(u128::from(count) * u128::from(self.token)).unwrap_or(i128::MAX)
    }
}
