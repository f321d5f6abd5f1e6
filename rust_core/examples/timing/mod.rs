//! How the speed examples measure and print: a time is that of one batch, each figure one line of JSON.
//!
//! It judges nothing; `loadtest.benchmarks` reads the lines. A figure's `median` and `best` are of one item of the batch.

use std::time::{Duration, Instant};

/// Rounds asked for by the first argument, else `usual`; at least 1.
///
/// # Panics
///
/// When the argument is not a number.
pub fn rounds(usual: u32) -> u32 {
    let asked = std::env::args().nth(1);
    asked
        .map_or(usual, |text| text.parse().expect("rounds: a number"))
        .max(1)
}

/// Prints the figure of these batches, in nanoseconds an item.
///
/// # Panics
///
/// Without a single batch.
pub fn print_ns(name: &str, batch_items: u32, mut times: Vec<Duration>) {
    times.sort_unstable();
    let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(batch_items);
    let (median, best) = (each(times[times.len() / 2]), each(times[0]));
    let rounds = times.len();
    println!(
        "{{\"figure\":\"{name}\",\"unit\":\"ns\",\"median\":{median:.1},\"best\":{best:.1},\"rounds\":{rounds},\
         \"batch_items\":{batch_items}}}"
    );
}

/// How long `work` takes, with what it made, so that nothing of it is optimised away.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let made = std::hint::black_box(work());
    (start.elapsed(), made)
}
