//! How numbers are spread over tables: one multiplication a word, folded, under a seed.
//!
//! It keeps nothing. Recipients are chosen by callers, so whoever knew the seed could make numbers that meet in one place;
//! the seed is an argument ([`super::Config::seed`]) and nothing that is told depends on it.

use std::hash::{BuildHasher, Hasher};

/// Makes the hashers of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded {
    start: u64,
    /// Odd.
    factor: u64,
}

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        // Two words of the one, by the steps of splitmix64.
        let word = |step: u64| {
            let mixed = seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        Self {
            start: word(1),
            factor: word(2) | 1,
        }
    }

    /// The hash of one number.
    pub(super) fn of(self, value: u64) -> u64 {
        folded(self.start ^ value, self.factor)
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding {
            state: self.start,
            factor: self.factor,
        }
    }
}

/// See the head of this file.
pub(super) struct Folding {
    state: u64,
    factor: u64,
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.state = folded(self.state ^ value, self.factor);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// Both halves of the product, one over the other.
fn folded(value: u64, factor: u64) -> u64 {
    let product = u128::from(value) * u128::from(factor);
    value.wrapping_mul(factor) ^ u64::try_from(product >> 64).unwrap_or(0)
}
