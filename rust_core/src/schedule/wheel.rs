//! Timers of waiting messages: a hierarchy of wheels linked through the slots, on the wall clock.
//!
//! It does not know what a timer means. A timer never fires early and at most one tick late; what fires may have been
//! moved by a clock that went back, so the owner looks again and may put it back.
//!
//! Layout: nine levels of 64 buckets, six bits of the tick each, cover every 64-bit time. A timer lies at the level of the
//! highest six bits in which it differs from now, so all timers of a level are later than all of lower levels. What ends
//! in a tick that has passed already, as after a clock that went back a little, lies in 64 more buckets: the last 64 ticks.
//! Work is counted: every step moves or fires one timer and costs one of the caller's budget.

use super::slab::{NIL, NO_BUCKET, Slab};
use crate::message::Micros;

/// 2^13 µs = 8.2 ms: finer than a message's way, coarse enough to skip idle time in a few steps.
const TICK_BITS: u32 = 13;
const LEVELS: usize = 9;
/// After the levels: the ticks that have passed.
const PASSED: usize = LEVELS;
const BUCKETS: usize = 64;
/// Buckets of one wheel; the second wheel's numbers begin here.
pub(super) const WHEEL_BUCKETS: u16 = 640;
/// A clock that went back by more than about half a second, or while a bucket was being emptied, re-sorts the wheel.
const BACK_TICKS_MAX: u64 = BUCKETS as u64 - 1;

/// One wheel. `first_bucket` keeps the bucket numbers of two wheels apart in the slots they share.
pub(super) struct Wheel {
    first_bucket: u16,
    now: u64,
    occupied: [u64; LEVELS + 1],
    heads: [[u32; BUCKETS]; LEVELS + 1],
    tails: [[u32; BUCKETS]; LEVELS + 1],
    /// A bucket whose time has come and that is not empty yet.
    draining: Option<(usize, usize)>,
}

fn tick_before(at_us: Micros) -> u64 {
    at_us.max(0).cast_unsigned() >> TICK_BITS
}

fn tick_after(at_us: Micros) -> u64 {
    tick_before(at_us.saturating_add((1 << TICK_BITS) - 1))
}

impl Wheel {
    pub(super) fn new(first_bucket: u16) -> Self {
        Self {
            first_bucket,
            now: 0,
            occupied: [0; LEVELS + 1],
            heads: [[NIL; BUCKETS]; LEVELS + 1],
            tails: [[NIL; BUCKETS]; LEVELS + 1],
            draining: None,
        }
    }

    /// Moves an empty wheel to this time, so that the first timers are sorted relative to it.
    pub(super) fn start_at(&mut self, now_us: Micros) {
        if self.draining.is_none() && self.occupied.iter().all(|&bits| bits == 0) {
            self.now = tick_before(now_us);
        }
    }

    /// Sets the timer of a slot that has none.
    pub(super) fn insert(&mut self, slab: &mut Slab, slot: u32, at_us: Micros) {
        let deadline = tick_after(at_us);
        let (level, index) = if deadline <= self.now {
            let oldest = self.now.saturating_sub(BACK_TICKS_MAX);
            (PASSED, deadline.max(oldest) % BUCKETS as u64)
        } else {
            let level = (63 - (deadline ^ self.now).leading_zeros() as usize) / 6;
            (level, (deadline >> (6 * level)) % BUCKETS as u64)
        };
        let index = usize::try_from(index).unwrap_or(0);
        let tail = self.tails[level][index];
        let waiting = slab.at_mut(slot);
        waiting.timer_next = NIL;
        waiting.timer_prev = tail;
        waiting.bucket = self.first_bucket + u16::try_from(level * BUCKETS + index).unwrap_or(0);
        if tail == NIL {
            self.heads[level][index] = slot;
        } else {
            slab.at_mut(tail).timer_next = slot;
        }
        self.tails[level][index] = slot;
        self.occupied[level] |= 1 << index;
    }

    /// True if this slot's timer is in this wheel.
    pub(super) fn holds(&self, slab: &Slab, slot: u32) -> bool {
        let bucket = slab.at(slot).bucket;
        bucket != NO_BUCKET
            && bucket >= self.first_bucket
            && bucket - self.first_bucket < WHEEL_BUCKETS
    }

    /// Clears the timer of a slot that is in this wheel.
    pub(super) fn remove(&mut self, slab: &mut Slab, slot: u32) {
        let waiting = slab.at_mut(slot);
        let (next, prev) = (waiting.timer_next, waiting.timer_prev);
        let bucket = usize::from(waiting.bucket.wrapping_sub(self.first_bucket));
        waiting.bucket = NO_BUCKET;
        let (level, index) = (bucket / BUCKETS, bucket % BUCKETS);
        if next == NIL {
            self.tails[level][index] = prev;
        } else {
            slab.at_mut(next).timer_prev = prev;
        }
        if prev == NIL {
            self.heads[level][index] = next;
        } else {
            slab.at_mut(prev).timer_next = next;
        }
        if self.heads[level][index] == NIL {
            self.occupied[level] &= !(1 << index);
        }
    }

    /// The next slot whose time has come by `now_us`, its timer cleared; `None` when there is none or the budget is used.
    /// `time_of` says when a slot's timer ends.
    pub(super) fn fire(
        &mut self,
        slab: &mut Slab,
        now_us: Micros,
        budget: &mut usize,
        time_of: impl Fn(&Slab, u32) -> Micros,
    ) -> Option<u32> {
        let target = tick_before(now_us);
        let far = target.saturating_add(BACK_TICKS_MAX) < self.now;
        if far || (target < self.now && self.is_draining()) {
            self.turn_back(slab, target, &time_of);
        }
        while *budget > 0 {
            if let Some((level, index)) = self.draining {
                let slot = self.heads[level][index];
                if slot == NIL {
                    self.draining = None;
                    continue;
                }
                *budget -= 1;
                self.remove(slab, slot);
                if tick_after(time_of(slab, slot)) <= self.now {
                    return Some(slot);
                }
                self.insert(slab, slot, time_of(slab, slot));
                continue;
            }
            match self.next_bucket() {
                Some((level, index, start)) if start <= target => {
                    self.now = self.now.max(start);
                    self.draining = Some((level, index));
                }
                _ => {
                    self.now = self.now.max(target);
                    return None;
                }
            }
        }
        None
    }

    /// When `fire` may next have something to do; `Micros::MIN` for at once.
    pub(super) fn next_us(&self) -> Option<Micros> {
        if self.is_draining() {
            return Some(Micros::MIN);
        }
        let (_, _, start) = self.next_bucket()?;
        Some(Micros::try_from(start << TICK_BITS).unwrap_or(Micros::MAX))
    }

    fn is_draining(&self) -> bool {
        let left = |(level, index): (usize, usize)| self.heads[level][index] != NIL;
        self.draining.is_some_and(left)
    }

    fn next_bucket(&self) -> Option<(usize, usize, u64)> {
        let passed = self.occupied[PASSED];
        if passed != 0 {
            let oldest = self.now.saturating_sub(BACK_TICKS_MAX);
            let first = u32::try_from(oldest % BUCKETS as u64).unwrap_or(0);
            let tick = oldest + u64::from(passed.rotate_right(first).trailing_zeros());
            let index = usize::try_from(tick % BUCKETS as u64).unwrap_or(0);
            return Some((PASSED, index, tick));
        }
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let index = self.occupied[level].trailing_zeros() as usize;
        let low = 6 * level;
        let above = (self.now >> low) >> 6;
        Some((level, index, ((above << 6) | index as u64) << low))
    }

    /// The wall clock was set back: all timers are sorted again, once, relative to it.
    fn turn_back(&mut self, slab: &mut Slab, target: u64, time_of: &impl Fn(&Slab, u32) -> Micros) {
        let mut all = Vec::new();
        for level in 0..=PASSED {
            for index in 0..BUCKETS {
                let mut slot = self.heads[level][index];
                while slot != NIL {
                    all.push(slot);
                    slot = slab.at(slot).timer_next;
                }
            }
        }
        *self = Self::new(self.first_bucket);
        self.now = target;
        for slot in all {
            self.insert(slab, slot, time_of(slab, slot));
        }
    }
}
