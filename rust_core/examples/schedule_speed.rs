//! Measures the scheduler with few and with many waiting: push, pop, settle and memory a message, and an opt-out.
//!
//! It proves nothing. Run it with `cargo run --release --example schedule_speed [rounds [waiting ...]]`. Each message
//! passes six limits that never bind, in one of 100 lanes, so that what is measured is the walk and not a refusal.
//!
//! What is measured is a scheduler in use: everything that waited at first was replaced once before, so its places are used
//! for the second time, and it remembers as many attempts as it may. Bodies are made before the push and dropped after the
//! settling, outside what is timed.

mod scheduling;
mod timing;

use _core::message::Held;
use _core::settle::Fate;

use scheduling::{BATCH_MESSAGES, BODY_BYTES, START_US, batch, full, held};

const ROUNDS: u32 = 400;
/// As many attempts as are remembered for late evidence, and some.
const CYCLED_MESSAGES: u64 = 100_000;
const WAITING: [u64; 3] = [1_000, 100_000, 1_000_000];
const PAGE_BYTES: u64 = 4096;

/// Memory of this process, by the kernel's count.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).expect("the second is resident");
    pages.parse::<u64>().expect("a number") * PAGE_BYTES
}

fn measure(waiting: u64, rounds: u32) {
    let mut now_us = START_US;
    let before_bytes = resident_bytes();
    let mut scheduler = full(waiting, &mut now_us);
    let each_bytes = (resident_bytes() - before_bytes) / waiting;
    let (mut pushing, mut popping, mut settling) = (Vec::new(), Vec::new(), Vec::new());
    let room = BATCH_MESSAGES as usize;
    let cycled = waiting.max(CYCLED_MESSAGES).div_ceil(BATCH_MESSAGES.into());
    for round in 0..cycled + u64::from(rounds) {
        let messages = batch(
            waiting + 1 + round * u64::from(BATCH_MESSAGES),
            BATCH_MESSAGES.into(),
            now_us,
        );
        let (push_time, rest) = timing::timed(|| scheduler.push(messages, now_us));
        assert!(rest.is_empty(), "there is room");
        now_us += 10_000;
        let (pop_time, popped) = timing::timed(|| scheduler.pop(now_us, now_us - START_US, room));
        assert_eq!(popped.ready.len(), room, "no limit binds");
        let settle = || {
            for message in &popped.ready {
                scheduler.settled(message.id, Fate::Taken(Some(1)));
            }
        };
        let (settle_time, ()) = timing::timed(settle);
        if round >= cycled {
            pushing.push(push_time);
            popping.push(pop_time);
            settling.push(settle_time);
        }
    }
    // To numbers that hardly anybody else has, from the newest: one message each.
    let newest = waiting + (cycled + u64::from(rounds)) * u64::from(BATCH_MESSAGES);
    let mut opting_out = Vec::new();
    for back in 0..u64::from(rounds).min(waiting) {
        let Held {
            tenant, recipient, ..
        } = held(newest - back, now_us);
        opting_out.push(timing::timed(|| scheduler.remove_recipient(tenant, recipient)).0);
    }
    timing::print_ns(
        &format!("schedule opt-out, {waiting} waiting"),
        1,
        opting_out,
    );
    for (name, times) in [("push", pushing), ("pop", popping), ("settled", settling)] {
        timing::print_ns(
            &format!("schedule {name}, {waiting} waiting"),
            BATCH_MESSAGES,
            times,
        );
    }
    println!(
        "{{\"figure\":\"schedule memory, {waiting} waiting, body of {BODY_BYTES} included\",\"unit\":\"bytes\",\
         \"median\":{each_bytes},\"best\":{each_bytes},\"rounds\":1,\"batch_items\":{waiting}}}"
    );
}

fn main() {
    let rounds = timing::rounds(ROUNDS);
    let asked: Vec<u64> = std::env::args()
        .skip(2)
        .map(|text| text.parse().expect("waiting: a number above 0"))
        .collect();
    let sizes = if asked.is_empty() {
        &WAITING[..]
    } else {
        &asked
    };
    for &waiting in sizes {
        assert!(waiting > 0, "waiting: a number above 0");
        measure(waiting, rounds);
    }
}
