//! Measures decisions on one limit: a bucket that lets everything pass, and one that refuses nearly everything.
//!
//! It proves nothing. Run it with `cargo run --release --example quota_speed [rounds]`.

mod timing;

use std::hint::black_box;

use _core::quota::Bucket;

const DECISIONS: u32 = 1_000_000;
const ROUNDS: u32 = 20;
const MINUTE_US: u64 = 60_000_000;

/// Asks `DECISIONS` times, so many microseconds apart, and returns how many passed.
fn decide(bucket: &mut Bucket, mono_us: &mut i64, step_us: i64) -> u32 {
    let mut passed = 0;
    for _ in 0..DECISIONS {
        *mono_us += step_us;
        passed += u32::from(black_box(&mut *bucket).take(1, *mono_us).is_ok());
    }
    passed
}

fn main() {
    let rounds = timing::rounds(ROUNDS);
    // 4,500 a minute is one in 13,333 µs: every 20 ms always passes, every microsecond hardly ever.
    for (name, step_us, lowest, highest) in [
        ("quota decision, passed", 20_000, DECISIONS, DECISIONS),
        ("quota decision, refused", 1, 0, DECISIONS / 100),
    ] {
        let mut bucket = Bucket::new(4_500, 225, MINUTE_US);
        let mut mono_us = 0;
        let round = |_| {
            let (time, passed) = timing::timed(|| decide(&mut bucket, &mut mono_us, step_us));
            assert!((lowest..=highest).contains(&passed), "{passed} passed");
            time
        };
        timing::print_ns(name, DECISIONS, (0..rounds).map(round).collect());
    }
}
