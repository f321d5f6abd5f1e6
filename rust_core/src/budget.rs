//! Limits wider than a shard, shared by nodes: what the store leases out, and what a node does with its leases.
//!
//! It reads no clock and no store. A lease is a *block* of tokens that its holder may spend for a short time; what it did
//! not spend by then is lost. The store's side counts on the store's clock, the holder's on its own monotonic one.
//!
//! Invariant: in every half-open window at most the amount is spent, by all holders together. A block may be spent for
//! `block_us` after it was leased, so what is spent in a window was leased in a window longer by that: the store's bucket
//! runs over the longer one. The holder counts its time from before it asked, so a block ends with it first. Time never
//! goes back in the store's bucket: a clock that does brings no tokens.

use std::collections::VecDeque;

use crate::message::Micros;
use crate::quota::{Bucket, Refusal};
use crate::registry::Quota;

/// A block's life is a fiftieth of the window: a bucket over 51/50 of the window loses two percent.
const WINDOW_PARTS: u64 = 50;
/// Of a short window it is a twenty-fifth, up to this: a turn to the database and back fits several times.
const BLOCK_FAIR_US: u64 = 40_000;
const SHORT_WINDOW_PARTS: u64 = 25;
/// And never less.
const BLOCK_MIN_US: u64 = 20_000;
/// So long at most a pause or a lost holder keeps tokens.
const BLOCK_MAX_US: u64 = 2_000_000;

/// What is counted by: `amount` per window, `burst` at once, as in [`Quota`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// So many per window.
    pub amount: u64,
    /// So many at once.
    pub burst: u64,
    /// Window in microseconds.
    pub window_us: u64,
}

impl Terms {
    /// Those of a quota.
    #[must_use]
    pub fn of(quota: &Quota) -> Self {
        Self {
            amount: quota.amount,
            burst: quota.burst,
            window_us: quota.window_us,
        }
    }

    /// How long a block may be spent after it was leased.
    #[must_use]
    pub fn block_us(&self) -> u64 {
        let fair_us = BLOCK_FAIR_US.min(self.window_us / SHORT_WINDOW_PARTS);
        (self.window_us / WINDOW_PARTS)
            .max(fair_us)
            .clamp(BLOCK_MIN_US, BLOCK_MAX_US)
    }

    fn bucket(&self) -> Bucket {
        let window_us = self.window_us.max(1).saturating_add(self.block_us());
        Bucket::new(self.amount, self.burst, window_us)
    }
}

/// The store's side: a row that whoever leases reads, changes and writes under its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    terms: Terms,
    bucket: Bucket,
}

/// A [`Shared`] as the store keeps it: amount, burst, window, and three integers of the bucket.
pub type SharedRow = (u64, u64, u64, Micros, u64, Micros);

impl Shared {
    /// With nothing in it at `now_us`: who sent in the window before is not known.
    #[must_use]
    pub fn new(terms: Terms, now_us: Micros) -> Self {
        Self {
            terms,
            bucket: terms.bucket().empty_at(now_us),
        }
    }

    /// As a row says. Under other terms than its own it starts anew, and empty: at `now_us`, or the latest that the row
    /// saw.
    #[must_use]
    pub fn restored(terms: Terms, row: SharedRow, now_us: Micros) -> Self {
        let (amount, burst, window_us, full_us, rest, latest_us) = row;
        let of_row = Terms {
            amount,
            burst,
            window_us,
        };
        if of_row != terms {
            return Self::new(terms, now_us.max(latest_us));
        }
        Self {
            terms,
            bucket: terms.bucket().restored(full_us, rest, latest_us),
        }
    }

    /// The row to write.
    #[must_use]
    pub fn row(&self) -> SharedRow {
        let Terms {
            amount,
            burst,
            window_us,
        } = self.terms;
        let (full_us, rest, latest_us) = self.bucket.parts();
        (amount, burst, window_us, full_us, rest, latest_us)
    }

    /// Leases as many of `wanted` tokens as there are, if those are `least` at least; both count as one at least. They may
    /// be spent for [`Terms::block_us`] from `now_us` on.
    ///
    /// # Errors
    ///
    /// When to come back for `least`, on the same clock; never, where it is above what passes at once.
    pub fn lease(&mut self, wanted: u64, least: u64, now_us: Micros) -> Result<u64, Refusal> {
        let least = least.max(1);
        let tokens = self.bucket.available(now_us).min(wanted.max(least));
        self.bucket.take(tokens.max(least), now_us)?;
        Ok(tokens)
    }
}

/// One of the budgets that a node asks for together.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The store's bucket.
    pub shared: Shared,
    /// Everything that goes needs it: the provider's.
    pub by_all: bool,
    /// As [`Wanted`] says.
    pub tokens: u64,
    /// As [`Wanted`] says.
    pub least: u64,
}

/// Leases what a node asks for together: nothing where what all need is not to be had, and nothing of that where nobody
/// could use it. Each alone, a message that needs two would often hold one while it waits for the other.
///
/// Each answer as of [`Shared::lease`].
pub fn lease_together(asks: &mut [Ask], now_us: Micros) -> Vec<Result<u64, Refusal>> {
    let when = |ask: &Ask| ask.shared.bucket.check(ask.least.max(1), now_us).err();
    let of_all = asks.iter().filter(|ask| ask.by_all).filter_map(when);
    let closed = of_all.max_by_key(late);
    let of_some = asks.iter().filter(|ask| !ask.by_all);
    let any = of_some.clone().next().is_none() || of_some.clone().any(|ask| when(ask).is_none());
    // Until one of them can use it.
    let idle = of_some.filter_map(when).min_by_key(late).filter(|_| !any);
    let stops = [closed, idle];
    asks.iter_mut()
        .map(|ask| {
            let others = if ask.by_all { stops[1] } else { stops[0] };
            match [when(ask), others].into_iter().flatten().max_by_key(late) {
                Some(refusal) => Err(refusal),
                None => ask.shared.lease(ask.tokens, ask.least, now_us),
            }
        })
        .collect()
}

fn late(refusal: &Refusal) -> Micros {
    match refusal {
        Refusal::Until(at_us) => *at_us,
        Refusal::Never => Micros::MAX,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    tokens: u64,
    until_us: Micros,
}

/// What a node is to ask the store for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Key of the quota.
    pub quota: u32,
    /// So many, if there are.
    pub tokens: u64,
    /// Fewer would let nobody pass.
    pub least: u64,
}

/// The holder's side: blocks that may be spent now, and when more are wanted. Its clock never goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    terms: Terms,
    /// Tokens at once at most.
    burst: u64,
    block_us: Micros,
    /// The one that ends first is in front.
    blocks: VecDeque<Block>,
    /// The store was asked and has not answered.
    asked: bool,
    /// The store has nothing before.
    again_us: Micros,
    /// The dearest cost that was refused since tokens came; 0 if none was.
    short: u64,
    /// What was spent in this period of a block's length, which began then, and in the one before.
    period_us: Micros,
    spent: u64,
    spent_before: u64,
    /// Refuses everything: an amount of 0.
    closed: bool,
}

impl Budget {
    /// Without tokens.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            burst: terms.bucket().burst(),
            block_us: Micros::try_from(terms.block_us()).unwrap_or(Micros::MAX),
            blocks: VecDeque::new(),
            asked: false,
            again_us: Micros::MIN,
            short: 0,
            period_us: Micros::MIN,
            spent: 0,
            spent_before: 0,
            closed: terms.amount == 0,
        }
    }

    /// The least time before one more passes behind so many of cost 1, as if every token were this node's.
    #[must_use]
    pub fn passing_us(&self, before: u64) -> Micros {
        self.terms.bucket().passing_us(before)
    }

    fn live(&self, mono_us: Micros) -> impl Iterator<Item = &Block> {
        self.blocks
            .iter()
            .filter(move |block| mono_us < block.until_us)
    }

    fn left(&self, mono_us: Micros) -> u64 {
        self.live(mono_us).map(|block| block.tokens).sum()
    }

    /// May `cost` pass at `mono_us`? Changes nothing.
    ///
    /// # Errors
    ///
    /// When the store may have more, `Micros::MAX` if it is to be asked or asked already; never for what is above the burst.
    pub fn check(&self, cost: u64, mono_us: Micros) -> Result<(), Refusal> {
        if self.closed || cost > self.burst {
            return Err(Refusal::Never);
        }
        if cost <= self.left(mono_us) {
            return Ok(());
        }
        let known = !self.asked && mono_us < self.again_us;
        Err(Refusal::Until(if known {
            self.again_us
        } else {
            Micros::MAX
        }))
    }

    /// Spends `cost`, which ends first, if it may pass.
    ///
    /// # Errors
    ///
    /// As [`Budget::check`]; nothing was spent.
    pub fn take(&mut self, cost: u64, mono_us: Micros) -> Result<(), Refusal> {
        self.check(cost, mono_us)?;
        self.turn(mono_us);
        self.spent = self.spent.saturating_add(cost);
        let mut rest = cost;
        for block in &mut self.blocks {
            let spent = rest.min(block.tokens);
            block.tokens -= spent;
            rest -= spent;
        }
        Ok(())
    }

    /// Somebody waits for so much.
    pub fn refused(&mut self, cost: u64) {
        self.short = self.short.max(cost);
    }

    /// What to ask the store for now, and not again before its answer: (tokens, least). What somebody waits for, or what
    /// half a block from now will be missing at the pace of late.
    pub fn wanted(&mut self, mono_us: Micros) -> Option<(u64, u64)> {
        if self.closed || self.asked || mono_us < self.again_us {
            return None;
        }
        self.turn(mono_us);
        let pace = self.spent.max(self.spent_before);
        let lasts_us = self.lasts_us(pace, mono_us);
        // What ends within half a block may have ended before the other budgets that its head needs are there.
        let fresh_us = mono_us.saturating_add(self.block_us / 2);
        let (tokens, least) = if self.short > self.left(fresh_us) {
            // Whoever waits for tokens could spend more than it has: twice as much, until there is enough.
            (self.short.max(pace.saturating_mul(2)), self.short)
        } else if lasts_us < self.block_us / 2 {
            // No more than the new block can be spent of beside what is left: the rest would end unspent.
            let left = u128::from(pace) * u128::from(lasts_us.unsigned_abs())
                / u128::from(self.block_us.unsigned_abs());
            (pace - u64::try_from(left).unwrap_or(pace), 1)
        } else {
            return None;
        };
        self.asked = true;
        Some((tokens.min(self.burst), least))
    }

    /// How long what is left will do at this pace, as tokens are spent and as they end.
    fn lasts_us(&self, pace: u64, mono_us: Micros) -> Micros {
        if pace == 0 {
            return Micros::MAX;
        }
        let spent_us = u128::from(self.left(mono_us)) * u128::from(self.block_us.unsigned_abs())
            / u128::from(pace);
        let ends_us = self.live(mono_us).map(|block| block.until_us - mono_us);
        let ends_us = ends_us.max().unwrap_or(0);
        Micros::try_from(spent_us)
            .unwrap_or(Micros::MAX)
            .min(ends_us)
    }

    /// The store's answer, or that there was none: so many tokens until then, and nothing to be had before `again_us`.
    pub fn grant(&mut self, tokens: u64, until_us: Micros, again_us: Micros, mono_us: Micros) {
        self.asked = false;
        self.again_us = again_us;
        self.blocks
            .retain(|block| block.tokens > 0 && mono_us < block.until_us);
        if tokens > 0 {
            self.short = 0;
            let place = self
                .blocks
                .partition_point(|block| block.until_us <= until_us);
            self.blocks.insert(place, Block { tokens, until_us });
        }
    }

    /// Nothing passes before `mono_us`.
    pub fn park_until(&mut self, mono_us: Micros) {
        self.blocks.clear();
        self.again_us = self.again_us.max(mono_us);
    }

    /// Begins the period of this time.
    fn turn(&mut self, mono_us: Micros) {
        let passed_us = mono_us.saturating_sub(self.period_us);
        if passed_us < self.block_us {
            return;
        }
        let is_next = passed_us < self.block_us.saturating_mul(2);
        self.spent_before = if is_next { self.spent } else { 0 };
        self.spent = 0;
        self.period_us = if is_next {
            self.period_us.saturating_add(self.block_us)
        } else {
            mono_us
        };
    }
}
